"""Properties of whole molecules: how the features of atoms become one number or one vector, and its
unit.

    property = scale raw(features, positions) + constant + reference(elements)

A readout makes ``raw`` (about as large as 1). Which one is right depends on how a property grows
with the molecule and how it turns:

    sum             sum_i s_i                                                     energies, alpha,
                    Cv: two molecules far apart add up
    mean, max,      decode(pool_i h_i)                                            homo, lumo, gap,
                    A, B, C: independent of the size
    attention
    dipole          sum_i (q_i - mean q) r_i + v_i                                vector; odd under
                    inversion, independent of the origin
    dipole_norm     | dipole |                                                    mu
    spatial_extent  sum_i q_i |r_i - c|^2 + 2 (r_i - c) . v_i + t_i              r2; c is the centre
                    of nuclear charge

s, h, q, t are small networks of an atom's scalars, v its degree-1 features with weights from its
scalars. The last line is the second moment of a charge cloud written about the atoms, as the dipole
is the first (charge, dipole and extent of each atom).

Scale, constant and references are fitted to training data in float64 (least squares over the
elements; the standard deviation that is left is the scale) and stay float64 whatever type the
network is cast to, since total energies (-1e4 eV) do not fit float32. References are summed over
atoms for a sum, averaged for other scalars, and absent where they would spoil the law of the
readout.

Source of the dipole and extent forms: Schuett et al. 2021 (PaiNN), sec. 3.3. Cost: linear in atoms.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from farfield.models.edges import safe_length
from farfield.models.elements import MAX_ATOMIC_NUMBER, refuse_unknown, unknown_element
from farfield.models.graph_ops import (
    GraphIndex,
    broadcast_nodes,
    max_nodes,
    mean_nodes,
    node_softmax,
    sum_nodes,
)
from farfield.models.heads.scaling import ExactBuffers


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 2 * inputs), nn.SiLU(), nn.Linear(2 * inputs, outputs))


class Readout(nn.Module):
    """``forward(graph, x (nodes, rows, channels), positions (nodes, 3), atomic_numbers (nodes,)) ->
    (graphs,)`` or ``(graphs, 3)``.

    channels: of the features. avg_atoms: mean number of atoms of a molecule; keeps sums near 1.
    ``kind`` says what the references of a property read this way are: "sum" or "mean" over atoms,
    or none for a "scalar" and a "vector" that must vanish by symmetry.
    """

    kind: str

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__()
        self.channels, self.avg_atoms = channels, avg_atoms


class SumReadout(Readout):
    """Sum of one number per atom."""

    kind = "sum"

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.network = _network(channels, 1)

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        return sum_nodes(graph, self.network(x[:, 0]).squeeze(-1)) / self.avg_atoms**0.5


class MeanReadout(Readout):
    """Scalars of atoms, encoded, averaged over the molecule and decoded."""

    kind = "mean"

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.encode = nn.Sequential(nn.Linear(channels, 2 * channels), nn.SiLU())
        self.decode = _network(2 * channels, 1)

    def pool(self, graph: GraphIndex, hidden: Tensor) -> Tensor:
        """(nodes, 2 channels) -> (graphs, 2 channels)."""
        return mean_nodes(graph, hidden)

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        return self.decode(self.pool(graph, self.encode(x[:, 0]))).squeeze(-1)


class MaxReadout(MeanReadout):
    """Likewise with the largest value of every hidden number (the pooling of the published
    SE(3)-Transformer on QM9).
    """

    def pool(self, graph: GraphIndex, hidden: Tensor) -> Tensor:
        return max_nodes(graph, hidden)


class AttentionReadout(MeanReadout):
    """Likewise with a learned weight of every atom for every hidden number, a softmax over the
    molecule.
    """

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.logits = nn.Linear(2 * channels, 2 * channels)

    def pool(self, graph: GraphIndex, hidden: Tensor) -> Tensor:
        return sum_nodes(graph, node_softmax(graph, self.logits(hidden)) * hidden)


class DipoleReadout(Readout):
    """Dipole vector (graphs, 3) of charges that sum to zero and of atomic dipoles."""

    kind = "vector"

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.network = _network(channels, 1 + channels)

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        charge, weights = self.network(x[:, 0]).split([1, self.channels], -1)
        place = positions - broadcast_nodes(
            graph, mean_nodes(graph, positions)
        )  # the same as charges less their mean, at any origin
        return sum_nodes(graph, charge * place + _atomic_dipole(x, weights)) / self.avg_atoms**0.5


class DipoleNormReadout(DipoleReadout):
    """Length of the dipole vector; zero with zero gradient for a dipole that vanishes by
    symmetry.
    """

    kind = "scalar"

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        return safe_length(super().forward(graph, x, positions, atomic_numbers))


class SpatialExtentReadout(Readout):
    """Second moment of the charge about the centre of nuclear charge."""

    kind = "scalar"

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.network = _network(channels, 2 + channels)

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        """(graphs,)."""
        charge, extent, weights = self.network(x[:, 0]).split([1, 1, self.channels], -1)
        nuclear = atomic_numbers.to(positions.dtype).unsqueeze(-1)
        place = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
        centre = sum_nodes(graph, nuclear * place) / sum_nodes(graph, nuclear).clamp_min(1)
        place = place - broadcast_nodes(graph, centre)
        inner = (place * (charge * place + 2 * _atomic_dipole(x, weights))).sum(-1)
        return sum_nodes(graph, inner + extent.squeeze(-1)) / self.avg_atoms


def _atomic_dipole(x: Tensor, weights: Tensor) -> Tensor:
    """Degree 1 of features (nodes, rows, channels), mixed by weights (nodes, channels): (nodes,
    3).
    """
    return torch.einsum("nmc,nc->nm", x[:, 1:4], weights) / weights.shape[-1] ** 0.5


READOUTS: dict[str, type[Readout]] = {
    "sum": SumReadout,
    "mean": MeanReadout,
    "max": MaxReadout,
    "attention": AttentionReadout,
    "dipole": DipoleReadout,
    "dipole_norm": DipoleNormReadout,
    "spatial_extent": SpatialExtentReadout,
}
EXTENSIVE = ("alpha", "zpve", "U0", "U", "H", "G", "Cv", "U0_atom", "U_atom", "H_atom", "G_atom")
PROPERTIES: dict[str, str] = {  # name -> standard readout
    "mu": "dipole_norm",
    **{name: "sum" for name in EXTENSIVE},
    **{name: "attention" for name in ("homo", "lumo", "gap", "A", "B", "C")},
    "r2": "spatial_extent",
    "dipole": "dipole",
}


def choose_readouts(targets: str, readouts: str | None = None) -> dict[str, str]:
    """Readout of each target: ``("homo,alpha", "alpha=mean") -> {"homo": "attention", "alpha":
    "mean"}``.

    Raises ValueError in one line for no, repeated and unknown targets, unknown readouts, readouts
    of what is no target, and a readout that gives a vector for a number or a number for a vector.
    """
    names = _listed(targets)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            "targets must be one or more different properties joined by commas, got "
            f"{targets!r}; write e.g. homo,gap,mu"
        )
    chosen = {name: PROPERTIES[_known(name, PROPERTIES, "target")] for name in names}
    for part in _listed(readouts or ""):
        name, equals, readout = (word.strip() for word in part.partition("="))
        if not equals or name not in chosen:
            raise ValueError(
                f"readouts must be target=readout for targets among {', '.join(chosen)}, got "
                f"{part!r}; write e.g. alpha=mean"
            )
        vector = READOUTS[_known(readout, READOUTS, "readout")].kind == "vector"
        if vector != (READOUTS[PROPERTIES[name]].kind == "vector"):
            fitting = [other for other in READOUTS if (READOUTS[other].kind == "vector") != vector]
            raise ValueError(
                f"readout {readout!r} does not fit {name!r}, {_shape(not vector)}; choose one of "
                f"{', '.join(fitting)}"
            )
        chosen[name] = readout
    return chosen


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _shape(vector: bool) -> str:
    return "which is a vector" if vector else "which is one number"


def _known(name: str, table: Mapping, what: str) -> str:
    if name not in table:
        near = difflib.get_close_matches(name, table, 1)
        raise ValueError(
            f"unknown {what} {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(table)}")
        )
    return name


def fit_scaling(
    numbers: np.ndarray,
    counts: np.ndarray,
    values: Mapping[str, np.ndarray],
    readouts: Mapping[str, str],
) -> dict[str, dict[str, object]]:
    """Scale, constant and element references of every target, from training data alone.

    numbers (atoms,) atomic numbers of all structures end to end, counts (structures,) atoms of
    each; values: target -> (structures,) or (structures, 3); readouts: target -> name in
    ``READOUTS``. Returns what json can hold, ``{target: {"kind", "scale", "constant", "elements":
    [Z, ...], "references": [...]}}``, for :meth:`PropertyHeads.set_scaling` and :func:`references`.
    Raises ValueError for an empty set, wrong shapes and numbers that are not finite.
    """
    numbers, counts = np.asarray(numbers), np.asarray(counts)
    if not len(counts) or counts.min() < 1 or counts.sum() != len(numbers):
        raise ValueError(
            f"a scaling needs structures of >= 1 atoms, {len(counts)} counts must sum to the "
            f"{len(numbers)} atoms"
        )
    elements = np.unique(numbers)
    composition = compositions(numbers, counts, elements)
    return {
        target: _fit(target, READOUTS[readout].kind, composition, elements, values[target])
        for target, readout in readouts.items()
    }


def _fit(
    target: str, kind: str, composition: np.ndarray, elements: np.ndarray, values: np.ndarray
) -> dict[str, object]:
    values = np.asarray(values, dtype=np.float64)
    wanted = (len(composition), 3) if kind == "vector" else (len(composition),)
    if values.shape != wanted or not np.isfinite(values).all():
        raise ValueError(
            f"values of {target} must be finite and of shape {wanted}, got {values.shape}; leave "
            "structures without one out"
        )
    atoms = composition.sum(1)
    constant, reference = 0.0, np.zeros(len(elements))
    if kind == "sum":  # next to "every atom alike" where compositions do not tell elements apart
        alike = values.sum() / atoms.sum()
        reference = alike + np.linalg.lstsq(composition, values - alike * atoms, rcond=1e-9)[0]
        values = values - composition @ reference
    elif kind == "mean":
        share = composition / atoms[:, None]
        constant = values.mean()
        reference = np.linalg.lstsq(share, values - constant, rcond=1e-9)[0]
        values = values - constant - share @ reference
    spread = np.sqrt(np.square(values).mean()) if kind == "vector" else values.std()
    scale = (
        float(spread) if spread > 1e-9 else 1.0
    )  # one structure, or values that elements explain
    entry = {"kind": kind, "scale": scale, "constant": float(constant)}
    return entry | {
        "elements": [int(number) for number in elements],
        "references": [float(value) for value in reference],
    }


def compositions(numbers: np.ndarray, counts: np.ndarray, elements: Sequence[int]) -> np.ndarray:
    """Number of atoms of each of the sorted ``elements`` in every structure (structures, elements)
    float64.

    Raises ValueError for an atom of another element.
    """
    elements = np.asarray(elements)
    unknown = np.setdiff1d(numbers, elements)
    if len(unknown):
        raise ValueError(unknown_element(int(unknown[0]), elements))
    structure = np.repeat(np.arange(len(counts)), counts)
    cell = structure * len(elements) + np.searchsorted(elements, numbers)
    return (
        np.bincount(cell, minlength=len(counts) * len(elements))
        .reshape(len(counts), len(elements))
        .astype(np.float64)
    )


def references(
    numbers: np.ndarray, counts: np.ndarray, scaling: Mapping[str, Mapping], target: str
) -> np.ndarray:
    """Constant part of a target for every structure, float64: (structures,), or (structures, 1)
    zeros for a vector.

    Labels are ``(value - references) / scaling[target]["scale"]``. Raises ValueError for a target
    or element that the scaling has not.
    """
    entry = scaling[_known(target, scaling, "target")]
    composition = compositions(numbers, counts, entry["elements"])
    if entry["kind"] == "vector":
        return np.zeros((len(counts), 1))
    total = composition @ np.asarray(entry["references"], dtype=np.float64)
    return entry["constant"] + (total / np.maximum(counts, 1) if entry["kind"] == "mean" else total)


class TargetScaling(ExactBuffers):
    """From raw outputs to units, as float64 buffers of the checkpoint.

    ``forward(graph, atomic_numbers, raw {target: (graphs,) or (graphs, 3)}) -> {target: ...}``
    float64. Without :meth:`set` raw numbers pass. Raises ValueError for atoms of elements that the
    scaling was not fitted to.
    """

    def __init__(self, kinds: Mapping[str, str]):
        super().__init__()
        self.kinds = dict(kinds)
        count = len(self.kinds)
        self.register_buffer("scale", torch.ones(count, dtype=torch.float64))
        self.register_buffer("constant", torch.zeros(count, dtype=torch.float64))
        self.register_buffer(
            "reference", torch.zeros(count, MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
        )
        self.register_buffer("known", torch.arange(MAX_ATOMIC_NUMBER + 1) > 0)

    def set(self, scaling: Mapping[str, Mapping]) -> None:
        """Take what :func:`fit_scaling` gave; targets that are not read here are passed over.

        Raises ValueError for a missing target, one fitted for another readout, and numbers that are
        not finite or a scale <= 0.
        """
        known = torch.zeros_like(self.known)
        numbers = torch.zeros(
            len(self.kinds), MAX_ATOMIC_NUMBER + 3, dtype=torch.float64
        )  # scale, constant, references from 0 on
        for row, (target, kind) in zip(numbers, self.kinds.items(), strict=True):
            entry = scaling[_known(target, scaling, "target")]
            if entry["kind"] != kind:
                raise ValueError(
                    f"the scaling of {target} is of kind {entry['kind']!r}, its readout of kind "
                    f"{kind!r}; fit it anew"
                )
            elements = torch.as_tensor(entry["elements"], dtype=torch.long)
            row[0], row[1] = entry["scale"], entry["constant"]
            row[2 + elements] = torch.as_tensor(entry["references"], dtype=torch.float64)
            known[elements] = True
            if not torch.isfinite(row).all() or row[0] <= 0:
                raise ValueError(
                    f"scaling of {target} must be finite with scale > 0, got scale "
                    f"{entry['scale']}, {entry['constant']}"
                )
        self.scale.copy_(numbers[:, 0])
        self.constant.copy_(numbers[:, 1])
        self.reference.copy_(numbers[:, 2:])
        self.known.copy_(known)

    def values(self) -> dict[str, dict[str, object]]:
        """What was set, as :func:`fit_scaling` gives it."""
        elements = self.known.nonzero().flatten()
        rows = zip(
            self.kinds.items(),
            self.scale.tolist(),
            self.constant.tolist(),
            self.reference[:, elements].tolist(),
            strict=True,
        )
        return {
            target: {
                "kind": kind,
                "scale": scale,
                "constant": constant,
                "elements": elements.tolist(),
                "references": reference,
            }
            for (target, kind), scale, constant, reference in rows
        }

    def forward(
        self, graph: GraphIndex, atomic_numbers: Tensor, raw: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Raw outputs in their units."""
        refuse_unknown(atomic_numbers, self.known)
        each = self.reference[:, atomic_numbers].T  # (nodes, targets)
        pooled = {"sum": sum_nodes(graph, each), "mean": mean_nodes(graph, each)}
        out = {}
        for column, (target, kind) in enumerate(self.kinds.items()):
            value = self.scale[column] * raw[target].double()
            if kind in pooled:
                value = value + self.constant[column] + pooled[kind][:, column]
            out[target] = value
        return out


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
