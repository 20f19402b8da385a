"""A potential: an energy network, its reference energies, and forces and stress as derivatives.

    E = sum_i ( reference[Z_i] + shift + scale e_i ) + E_graph,
    F_i = -dE/dr_i,        sigma = (1 / V) dE/dstrain

with e_i what the network says of an atom and E_graph what it says of the whole structure. Total
energies of quantum chemistry are large (ethanol -4e3 eV, a carbon atom -1e3 eV) compared with what
is learned (0.01 eV): float32 would lose their last digits. So the constants live in float64,
whatever type the network is cast to, the sum over atoms is taken in float64, and energies leave as
float64. Forces and stress leave in the type of the positions.

Strain acts as r -> r (1 + strain) on positions and cell vectors alike (rows); its derivative is
taken for the symmetric part, so the stress is symmetric. Positive stress is tension, as in ASE.
Cost: one backward pass gives forces and stress together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_choices
from farfield.models.edges import check_reach
from farfield.models.elements import check_elements, refuse_unknown
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, sum_nodes
from farfield.models.heads.energy import AtomicReference
from farfield.models.heads.per_set import SetReferences, head_names, heads_of_structures
from farfield.models.network import POTENTIAL, EnergyNetwork, Network, Output
from farfield.models.option_fields import MAIN, Alias
from farfield.models.published_words import published_forces
from farfield.models.tracing import is_tracing

OptionalText = str | None

# what a network gives and a potential makes energies and forces of
CONSUMED = ("atomic_energy", "graph_energy", "direct_forces")

TINY = 1e-12  # Angstrom^3, below every volume

FORCES = {
    "conservative": "the negative slope of the energy",
    "direct": "read from the features: faster, and energy is not conserved",
    "none": "energies alone",
}


@dataclasses.dataclass(frozen=True)
class PotentialOptions:
    """What a potential predicts; the base class of the options of every energy network.

    forces: name in ``FORCES``. stress: predict it too, from the cells of the batch; only with
    conservative forces. energy_heads: names joined by commas, each has a readout and constants of
    its own (``heads/per_set.py``); None: one head.
    """

    forces: Annotated[
        str,
        "forces: the slope of the energy, read directly from the features, or none",
        FORCES,
        MAIN,
        Alias("direct_force", bool, published_forces),
    ] = "conservative"
    stress: Annotated[bool, "predict the stress of periodic structures", MAIN] = False
    energy_heads: Annotated[
        OptionalText, "names of energy heads, one for each data set (set by --heads-per-set)"
    ] = None

    def __post_init__(self):
        check_choices(self, {"forces": FORCES})
        if head_names(self.energy_heads) and self.forces == "direct":
            raise ValueError(
                "direct forces have one readout for all sets: several energy_heads need forces "
                "'conservative' or 'none'"
            )
        if self.stress and self.forces != "conservative":
            raise ValueError(
                "stress is a derivative of the energy: it needs forces 'conservative', got "
                f"{self.forces!r}"
            )


class Potential(Network):
    """Energy (graphs,) float64, forces (nodes, 3) and stress (graphs, 3, 3) of structures.

    In eV, eV/Angstrom and eV/Angstrom^3. Further outputs of the network, such as ``charges``
    (nodes,) in e and ``dipole`` (graphs, 3) in e Angstrom, are passed on as they are. Arguments
        network  :class:`EnergyNetwork`
        forces   "conservative", "direct" (the network gives ``direct_forces``) or "none"
        stress   whether there is a stress
        energy_heads  names of several heads joined by commas (None: one head); ``heads`` has them

    Derivatives are taken inside, also under ``torch.no_grad()``. They can be differentiated again
    in training mode, and in evaluation mode if the positions ask for a gradient; otherwise
    evaluation gives plain values without a graph.
    """

    predicts = POTENTIAL

    def __init__(
        self,
        network: EnergyNetwork,
        forces: str = "conservative",
        stress: bool = False,
        energy_heads: str | None = None,
    ):
        super().__init__()
        choices = PotentialOptions(forces, stress, energy_heads)  # refuses what does not fit
        self.network = network
        self.forces, self.stress = choices.forces, choices.stress
        self.heads = head_names(energy_heads)
        if self.heads and not network.several_heads:
            raise ValueError(
                f"{type(network).__name__} has one energy head; leave --heads-per-set out, or "
                "choose another network"
            )
        self.reference = SetReferences(self.heads) if self.heads else AtomicReference()

    @property
    def options(self):
        """Options of the network inside."""
        return self.network.options

    def weight_parts(self) -> dict[str, tuple[str, ...]]:
        """Parts of the network inside, by the names that the weights have here."""
        return {
            part: tuple(f"network.{words}" for words in names)
            for part, names in self.network.parts.items()
        }

    @property
    def inputs(self) -> list[str]:
        """Inputs of the network inside."""
        return self.network.inputs

    @property
    def remarks(self) -> list[str]:
        """Remarks of the network inside."""
        return self.network.remarks

    @property
    def energy_steps(self) -> str | None:
        """Why the energy of the network inside is a staircase, or None."""
        return self.network.energy_steps

    def check_slope(self) -> None:
        """Raise ValueError for forces that are to be the slope of an energy with steps.

        Training asks; a checkpoint of such a network is still evaluated.
        """
        if self.forces == "conservative" and self.energy_steps is not None:
            raise ValueError(
                f"forces cannot be the slope of this energy: {self.energy_steps}; type "
                "--near-kernel-implementation memory_efficient, or --forces direct"
            )

    def round_products(self) -> None:
        """As every network; ValueError for forces that are to be the slope of the energy."""
        if self.forces == "conservative":
            raise ValueError(
                "--precision bf16-mixed: forces cannot be the slope of this energy, whose rounded "
                "products make it a staircase; type --forces direct, or --precision float32"
            )
        super().round_products()

    @property
    def optional_inputs(self) -> list[str]:
        """Optional inputs of the network inside."""
        return self.network.optional_inputs

    @property
    def _passed_on(self) -> dict[str, Output]:
        """Outputs of the network that are no part of the energy or the forces."""
        return {
            name: output for name, output in self.network.outputs().items() if name not in CONSUMED
        }

    def outputs(self) -> dict[str, Output]:
        """Energy, forces and stress where they are asked for, and what the network adds."""
        found = {"energy": Output("graph", "scalar", "eV")}
        if self.forces != "none":
            found["forces"] = Output("node", "vector", "eV/Angstrom")
        if self.stress:
            found["stress"] = Output("graph", "tensor", "eV/Angstrom^3")
        return found | self._passed_on

    def set_reference(
        self, energies: Mapping[int, float], scale: float = 1.0, shift: float = 0.0
    ) -> None:
        """Set the energy of each element (eV, by atomic number), and scale and shift of the learned
        energy of an atom.

        From then on structures of other elements are refused. Direct forces are in units of the
        scale as well. Errors: see :meth:`AtomicReference.set`.
        """
        self.reference.set(energies, scale, shift)

    def reference_energy(self, batch: AtomBatch) -> Tensor:
        """Constant part of the energies (graphs,) float64; the network learns labels minus this."""
        if not self.heads:
            return self.reference(batch.graph, batch.atomic_numbers)
        chosen = heads_of_structures(batch, len(self.heads))
        return self.reference.of_graphs(batch.graph, batch.atomic_numbers, chosen)

    def check(self, batch: AtomBatch) -> None:
        """Raise ValueError for values of a batch that ``forward`` refuses.

        A compiled potential asks here: its trace holds no question about values.
        """
        check_elements(batch.atomic_numbers)
        refuse_unknown(batch.atomic_numbers, self.reference.known)
        if self.network.cutoff is not None:
            check_reach(batch.cutoff, self.network.cutoff)
        if self.stress and batch.cell is not None:
            check_volume_of_stress(batch.cell, batch.periodic)

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Predictions for a batch; see :meth:`outputs`."""
        if self.forces == "conservative":
            return self._with_derivatives(batch)

        energy, found = self._energy(batch)
        out = {"energy": energy}
        if self.forces == "direct":
            if "direct_forces" not in found:
                raise ValueError(
                    f"{type(self.network).__name__} gives no direct_forces; choose forces "
                    "'conservative' or 'none'"
                )
            forces = found["direct_forces"]
            out["forces"] = forces * self.reference.scale.to(forces.dtype)
        return out | {name: found[name] for name in self._passed_on if name in found}

    def _energy(self, batch: AtomBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Energy (graphs,) float64, and all that the network says."""
        found = self.network(batch)
        learned = self._learned(batch, found["atomic_energy"].double())
        energy = sum_nodes(batch.graph, learned) + self.reference_energy(batch)
        if "graph_energy" in found:
            energy = energy + found["graph_energy"].double()
        return energy, found

    def _learned(self, batch: AtomBatch, atomic_energy: Tensor) -> Tensor:
        """Learned energy of every node (nodes,), eV; atomic_energy: (nodes,) or (nodes, heads)."""
        if not self.heads:
            return self.reference.scale * atomic_energy
        chosen = heads_of_structures(batch, len(self.heads))
        head = chosen.index_select(0, batch.graph.graph_of_node)  # (nodes,)
        own = atomic_energy.gather(1, head.unsqueeze(1)).squeeze(1)
        return self.reference.scale_of(head) * own

    def _with_derivatives(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Energy, its derivatives by positions and, if there is a stress, by strain."""
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "forces are derivatives, which torch.inference_mode() forbids; use torch.no_grad()"
            )
        positions = batch.positions
        differentiable = torch.is_grad_enabled() and (self.training or positions.requires_grad)

        with torch.enable_grad():
            if not positions.requires_grad:
                positions = positions.detach().requires_grad_(True)
            inputs, changes = [positions], {"positions": positions}
            if self.stress:
                if batch.cell is None:
                    raise ValueError(
                        "stress needs a cell: give the batch its cell (graphs, 3, 3), or set "
                        "stress to false"
                    )
                strain, moved, cell = strained(batch.graph, positions, batch.cell, batch.periodic)
                inputs.append(strain)
                changes = {"positions": moved, "cell": cell}
            energy, found = self._energy(dataclasses.replace(batch, **changes))
            gradients = torch.autograd.grad(energy.sum(), inputs, create_graph=differentiable)

        out = {"energy": energy, "forces": -gradients[0]}
        out |= {name: found[name] for name in self._passed_on if name in found}
        if not differentiable:
            out = {name: value.detach() for name, value in out.items()}
        if self.stress:
            # open structures of a mixed batch have no volume, and no stress
            volume = volumes(batch).view(-1, 1, 1)
            per_volume = torch.where(volume > 0, 1 / volume.clamp(min=TINY), 0.0)
            out["stress"] = gradients[1] * per_volume
        return out


def volumes(batch: AtomBatch) -> Tensor:
    """Volume of the cell of every structure (graphs,), Angstrom^3; 0 of open structures."""
    if batch.cell is None:
        return batch.positions.new_zeros(batch.num_graphs)
    volume = torch.linalg.det(batch.cell).abs()
    return volume if batch.periodic is None else volume * batch.periodic.any(1)


def check_volume_of_stress(cell: Tensor, periodic: Tensor | None = None) -> None:
    """Raise ValueError for a cell (graphs, 3, 3) without volume of a structure that repeats.

    periodic (graphs, 3): which vectors repeat (None: all).
    """
    if is_tracing():  # Potential.check has looked
        return
    volume = torch.linalg.det(cell).abs()
    repeats = torch.ones_like(volume, dtype=torch.bool) if periodic is None else periodic.any(1)
    if not bool((volume[repeats] > 0).all()):
        raise ValueError(
            f"stress needs cells with a volume > 0 Angstrom^3, got {float(volume[repeats].min())}; "
            "ask for no stress of open systems"
        )


def strained(
    graph: GraphIndex, positions: Tensor, cell: Tensor, periodic: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A strain of zeros (graphs, 3, 3) that asks for a gradient, and the positions and cells under
    its symmetric part.

    periodic and errors: see :func:`check_volume_of_stress`.
    """
    check_volume_of_stress(cell, periodic)
    strain = torch.zeros_like(cell).requires_grad_(True)
    symmetric = (strain + strain.transpose(1, 2)) / 2
    moved = positions + (positions.unsqueeze(1) @ broadcast_nodes(graph, symmetric)).squeeze(1)
    return strain, moved, cell + cell @ symmetric
