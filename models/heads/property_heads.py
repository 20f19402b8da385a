"""Properties of whole molecules: which there are, how each is read, and their units.

    property = scale raw(features, positions) + constant + reference(elements)

``raw`` (about as large as 1) comes from a readout (``property_readouts.py``), scale, constant and
references from training data (``target_scaling.py``). Cost: linear in atoms.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from farfield.models.choices import check_choice
from farfield.models.graph_ops import (
    GraphIndex,
)
from farfield.models.heads.property_readouts import READOUTS
from farfield.models.heads.target_scaling import TargetScaling

EXTENSIVE = ("alpha", "zpve", "U0", "U", "H", "G", "Cv", "U0_atom", "U_atom", "H_atom", "G_atom")


# name -> standard readout
PROPERTIES: dict[str, str] = {
    "mu": "dipole_norm",
    **{name: "sum" for name in EXTENSIVE},
    **{name: "attention" for name in ("homo", "lumo", "gap", "A", "B", "C")},
    "r2": "spatial_extent",
    "dipole": "dipole",
}


def choose_readouts(targets: str, readouts: str | None = None) -> dict[str, str]:
    """Readout of each target: ``("homo,alpha", "alpha=mean") -> {"homo": "attention", "alpha":
    "mean"}``.

    Raises ValueError in one line for no, repeated and unknown targets, unknown readouts, a readout
    of something that is not a target, and a readout of a vector for a number or the reverse.
    """
    names = _listed(targets)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            "targets must be one or more different properties joined by commas, got "
            f"{targets!r}; write e.g. homo,gap,mu"
        )
    for name in names:
        check_choice("target", name, PROPERTIES)
    chosen = {name: PROPERTIES[name] for name in names}

    for part in _listed(readouts or ""):
        name, equals, readout = (word.strip() for word in part.partition("="))
        if not equals or name not in chosen:
            raise ValueError(
                f"readouts must be target=readout for targets among {', '.join(chosen)}, got "
                f"{part!r}; write e.g. alpha=mean"
            )
        check_choice("readout", readout, READOUTS)
        _check_shape(name, readout)
        chosen[name] = readout
    return chosen


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_shape(target: str, readout: str) -> None:
    """Raise ValueError for a readout that gives a vector for a number, or a number for a vector."""
    vector = READOUTS[PROPERTIES[target]].kind == "vector"
    fitting = [name for name, entry in READOUTS.items() if (entry.kind == "vector") == vector]
    if readout not in fitting:
        shape = "a vector" if vector else "one number"
        raise ValueError(
            f"readout {readout!r} does not fit {target!r}, which is {shape}; choose one of "
            f"{', '.join(fitting)}"
        )


class PropertyHeads(nn.Module):
    """Readouts of all targets of a network on the features of its atoms, and their scaling.

    readouts: target -> name in ``READOUTS`` (:func:`choose_readouts`); channels: true ones of the
    features; avg_atoms: mean of a molecule. ``raw(graph, x (nodes, rows, channels), positions
    (nodes, 3), atomic_numbers) -> {target: (graphs,) or (graphs, 3)}`` normalised, the same call of
    the module in units (float64).
    """

    def __init__(self, readouts: Mapping[str, str], channels: int, avg_atoms: float):
        super().__init__()
        self.channels = channels
        self.readouts = nn.ModuleDict(
            {target: READOUTS[readout](channels, avg_atoms) for target, readout in readouts.items()}
        )
        self.scaling = TargetScaling(
            {target: READOUTS[readout].kind for target, readout in readouts.items()}
        )

    def raw(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> dict[str, Tensor]:
        """Normalised outputs in the type of the network."""
        x = x[..., : self.channels]
        return {
            target: readout(graph, x, positions, atomic_numbers)
            for target, readout in self.readouts.items()
        }

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> dict[str, Tensor]:
        return self.scaling(graph, atomic_numbers, self.raw(graph, x, positions, atomic_numbers))
