"""Charges of atoms, read from their scalars, that carry the Coulomb tail into the energy.

    latent         q_ic = unit MLP_c(x_i), made to conserve the charge of the structure (below)
                   E = Coulomb energy of q, all channels (``coulomb.py``)
    equilibrated   E = min over q with sum q = Q of
                       sum_i (chi_i q_i + 1/2 J_i q_i^2) + 1/2 sum_ij q_i q_j k(r_ij)
                   chi = k(0) unit MLP_1(x_i), J = k(0) softplus(MLP_2(x_i)), one channel;
                   k(r) = k_e erf(r / (sqrt 2 sigma)) / r also for i = j: Gaussian charges

With ``inside`` = "subtract" the pairs inside the cutoff are taken off E again, faded like the
edges: charges act where the near field does not see, and do not disturb what it learns.
Equilibration goes by all pairs in both cases.

Messages of a far field pass norms and feed-forward networks, which lose the product q_i q_j; here
it enters the energy as it is, with a kernel that does not learn. One channel is charges as physics
has them: two ions that were never labelled come out with charges of 1.00 e. (Energies of neutral
structures do not know the sign of all charges together; a charged structure or a label fixes it.)
Of several channels the first is reported and learned where there are labels; all together make the
tail.

Conservation of latent charges, with positive weights w_i = softplus(MLP(x_i)), Q the total charge
for the first channel and 0 for the others:

    none    q_i = p_i
    total   q_i = p_i + (Q - sum_j p_j) w_i / sum_j w_j
    local   q_i = n^(-1/2) sum_(edges j -> i) u_ij w_i w_j (p_j - p_i) + Q v_i / sum_j v_j

p is ``unit MLP(x_i)``, u the envelope of the near field, n its mean number of neighbours. Charge
moves along edges under ``local``: every piece that no edge connects to others is neutral but for
its share of Q. Where Q is 0, pieces far apart add up, and ghosts change nothing. Two ions far
apart are beyond it: charge that moved between them is known to ``total`` alone, which in turn
is not extensive: it shares what one piece holds too much with all others.

Q is ``batch.graph_features["total_charge"]``, 0 for a batch that has none.

Sources: Cheng 2025, Latent Ewald summation (several channels, fixed kernel); Rappe & Goddard 1991
and Ko et al. 2021 (charge equilibration); Unke & Meuwly 2019, PhysNet (conservation).

Cost: one small MLP on nodes, and the Coulomb energy; equilibration solves one dense system a
structure, cubic in its atoms.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import Registry, check_at_least, check_choices, check_positive
from farfield.models.far_field.coulomb import (
    coulomb_at_zero,
    coulomb_energy,
    groups_of_one_size,
    near_coulomb_energy,
    repeating,
    smeared_kernel,
)
from farfield.models.far_field.ewald import Crystals, ewald_matrix
from farfield.models.graph_ops import (
    GraphIndex,
    broadcast_nodes,
    mean_nodes,
    sum_nodes,
    weighted_sum,
)
from farfield.models.own_draws import own_draws

TOTAL_CHARGE = "total_charge"
MAX_EQUILIBRATED_ATOMS = 2000
SMALLEST_SMEARING = 0.2  # Angstrom


class NearEdges(NamedTuple):
    """Edges of the near field. length, envelope: (edges,)."""

    length: Tensor
    envelope: Tensor


class Charged(NamedTuple):
    """Charges (nodes, channels), e, and their energy (graphs,) float64, eV."""

    charges: Tensor
    energy: Tensor


# (graph, envelope (edges,), values (nodes, width), Q (graphs, channels) or None for 0, unit, and
# the unit of what moves along an edge) -> charges (nodes, channels)
Conserve = Callable[[GraphIndex, Tensor, Tensor, Tensor | None, float, float], Tensor]


class Conservation(NamedTuple):
    """How raw charges become charges. width: channels -> values of an atom that it reads."""

    width: Callable[[int], int]
    apply: Conserve


CONSERVATIONS: Registry[Conservation] = Registry("charge conservation")


def free_charges(
    graph: GraphIndex,
    envelope: Tensor,
    values: Tensor,
    total: Tensor | None,
    unit: float,
    edge_unit: float,
) -> Tensor:
    """Charges as they are read: their sum is not fixed."""
    return unit * values


def totalled_charges(
    graph: GraphIndex,
    envelope: Tensor,
    values: Tensor,
    total: Tensor | None,
    unit: float,
    edge_unit: float,
) -> Tensor:
    """Charges with the sum ``total`` in every structure; the rest is shared by learned weights."""
    raw, weight = values.chunk(2, 1)
    raw, weight = unit * raw, nn.functional.softplus(weight)
    held, weights = sum_nodes(graph, torch.cat([raw, weight], 1)).chunk(2, 1)
    missing = -held if total is None else total - held
    return raw + weight * broadcast_nodes(graph, missing / _never_zero(weights))


def moved_charges(
    graph: GraphIndex,
    envelope: Tensor,
    values: Tensor,
    total: Tensor | None,
    unit: float,
    edge_unit: float,
) -> Tensor:
    """Charges moved along edges, and the total charge spread over the structure."""
    channels = values.shape[1] // 2
    raw, positive = values.split([channels, channels + 1], 1)
    weight, share = nn.functional.softplus(positive).split([channels, 1], 1)

    # w_i sum_j u_ij w_j (p_j - p_i), where the fluxes of an edge and of its opposite cancel; p_i
    # does not depend on j, so edges carry w_j p_j and w_j alone
    sent = torch.cat([weight * raw, weight], 1)
    gained, weights = weighted_sum(graph, sent, envelope.unsqueeze(1)).chunk(2, 1)
    moved = edge_unit * weight * (gained - raw * weights)
    if total is None:
        return moved
    return moved + share * broadcast_nodes(graph, total / _never_zero(sum_nodes(graph, share)))


def _never_zero(sums: Tensor) -> Tensor:
    """Sums of positive values, 1 where a structure has no atoms."""
    return torch.where(sums > 0, sums, 1.0)


CONSERVATIONS.register("none")(Conservation(lambda channels: channels, free_charges))
CONSERVATIONS.register("total")(Conservation(lambda channels: 2 * channels, totalled_charges))
CONSERVATIONS.register("local")(Conservation(lambda channels: 2 * channels + 1, moved_charges))

INSIDE = {
    "keep": "charges act at every distance",
    "subtract": "charges act beyond the cutoff alone, where the near field does not see",
}


# Defaults, by validation errors in meV and meV/Angstrom. A dimer of two ions (nine frames, 200
# epochs, one seed): 8.1, 1.5 with one channel; 12.3, 1.6 with four; 20.7, 2.0 with four, unit 1 and
# "keep". Forces of ethanol (950 frames, cutoff 4, 10 epochs): 27.7 against 27.5 without charges in
# the mean of four seeds, which differ by 1; at one of them (26.9) 32.3 with four channels, unit 1
# and "keep", 28.9 with "subtract" alone, 27.2 with unit 0.1 as well. Adam changes an energy by
# 14.4 eV Angstrom times what it changes of a charge: a small unit calms it.
@dataclasses.dataclass(frozen=True)
class ChargeOptions:
    """Choices of the charges; lengths in Angstrom.

    channels, conservation: of latent charges; equilibrated ones have one channel and conserve the
    total charge. conservation, inside: names in ``CONSERVATIONS`` and ``INSIDE``. Raises ValueError
    in one line for values out of range and unknown names.
    """

    channels: Annotated[int, "channels of latent charges"] = 1
    smearing: Annotated[float, "width of the Gaussian of a charge, Angstrom"] = 1.0
    unit: Annotated[float, "factor of a charge that the network reads, e"] = 0.1
    conservation: Annotated[
        str,
        "conservation of latent charges: none, the total charge, or along edges",
        CONSERVATIONS,
    ] = "local"
    inside: Annotated[
        str, "Coulomb energy of pairs inside the cutoff: kept, or left to the near field", INSIDE
    ] = "subtract"

    def __post_init__(self):
        of = "of the charges"
        check_at_least(self, 1, ["channels"], of)
        check_positive(self, ["smearing", "unit"], of)
        if self.smearing < SMALLEST_SMEARING:
            raise ValueError(
                f"smearing {of} must be at least {SMALLEST_SMEARING:g} Angstrom, got "
                f"{self.smearing:g}: narrower charges need too many waves in a crystal"
            )
        check_choices(self, {"conservation": CONSERVATIONS, "inside": INSIDE}, of)


class ChargeModel(nn.Module, abc.ABC):
    """Charges and their energy: ``forward(batch, scalars (nodes, features), near) -> Charged``.

    Made of the number of features, the options and the mean number of neighbours.
    """

    def __init__(self, features: int, options: ChargeOptions, typical_neighbours: float):
        super().__init__()
        self.options = options

    @abc.abstractmethod
    def forward(self, batch: AtomBatch, scalars: Tensor, near: NearEdges) -> Charged:
        """Charges of every atom, and their energy in every structure.

        Reads graph, positions, cell, periodic and the total charge of the batch.
        """

    def beyond(self, batch: AtomBatch, near: NearEdges, charges: Tensor, energy: Tensor) -> Tensor:
        """``energy`` (graphs,) of the charges, less the part inside the cutoff if the options say
        so.
        """
        if self.options.inside == "keep":
            return energy
        return energy - near_coulomb_energy(batch.graph, *near, charges, self.options.smearing)


CHARGES: Registry[type[ChargeModel] | None] = Registry("charges")
CHARGES.register("none")(None)


def charge_model(
    name: str, features: int, options: ChargeOptions, typical_neighbours: float
) -> ChargeModel | None:
    """The charges called ``name``, None for "none".

    What they draw for their weights changes no other weight of the network.
    """
    found = CHARGES.find(name)
    if found is None:
        return None
    with own_draws():
        return found(features, options, typical_neighbours)


def total_charge(batch: AtomBatch) -> Tensor:
    """Total charge of every structure (graphs,), e: 0 where the batch does not say it."""
    known = batch.graph_features.get(TOTAL_CHARGE)
    if known is None:
        return batch.positions.new_zeros(batch.num_graphs)
    return known.to(batch.positions).reshape(batch.num_graphs)


def dipole_of(graph: GraphIndex, positions: Tensor, charges: Tensor) -> Tensor:
    """``sum_i q_i (r_i - centroid)`` of every open structure (graphs, 3), e Angstrom.

    positions (nodes, 3), charges (nodes,).
    """
    away = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
    return sum_nodes(graph, charges.unsqueeze(1) * away)


def _read_out(features: int, width: int) -> nn.Sequential:
    """Scalars (nodes, features) -> (nodes, width)."""
    return nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, width))


@CHARGES.register("latent")
class LatentCharges(ChargeModel):
    """Charges in several channels, read from the scalars of an atom and then conserved."""

    def __init__(self, features: int, options: ChargeOptions, typical_neighbours: float):
        super().__init__(features, options, typical_neighbours)
        width = CONSERVATIONS[options.conservation].width(options.channels)
        self.network = _read_out(features, width)
        self.edge_scale = typical_neighbours**-0.5

    def forward(self, batch: AtomBatch, scalars: Tensor, near: NearEdges) -> Charged:
        """See :meth:`ChargeModel.forward`."""
        options, graph = self.options, batch.graph

        # the total charge belongs to the first channel: (graphs, channels)
        total = None
        if TOTAL_CHARGE in batch.graph_features:
            total = total_charge(batch).unsqueeze(1)
            total = nn.functional.pad(total, (0, options.channels - 1))

        units = (options.unit, options.unit * self.edge_scale)
        conserve = CONSERVATIONS[options.conservation].apply
        charges = conserve(graph, near.envelope, self.network(scalars), total, *units)

        space = (batch.cell, batch.periodic)
        energy = coulomb_energy(graph, batch.positions, charges, options.smearing, *space)
        return Charged(charges, self.beyond(batch, near, charges, energy))


@CHARGES.register("equilibrated")
class EquilibratedCharges(ChargeModel):
    """Charges of lowest energy under the total charge, with learned electronegativity and hardness.

    The matrix of the energy is positive definite whatever is learned: that of Gaussian charges, and
    a positive hardness on its diagonal. It is solved in float64.
    """

    def __init__(self, features: int, options: ChargeOptions, typical_neighbours: float):
        super().__init__(features, options, typical_neighbours)
        self.network = _read_out(features, 2)

    def forward(self, batch: AtomBatch, scalars: Tensor, near: NearEdges) -> Charged:
        """See :meth:`ChargeModel.forward`; ValueError for a structure that is too large."""
        graph, scale = batch.graph, coulomb_at_zero(self.options.smearing)
        largest = max(graph.sizes, default=0)
        if largest > MAX_EQUILIBRATED_ATOMS:
            raise ValueError(
                f"charges 'equilibrated' serve structures of at most {MAX_EQUILIBRATED_ATOMS} "
                f"atoms, got one of {largest}; train with --charges latent"
            )
        read, hardness = self.network(scalars).double().unbind(1)
        negativity = scale * self.options.unit * read
        hardness = scale * nn.functional.softplus(hardness)

        # graphs of one size together, open and periodic ones apart
        charges, total = torch.zeros_like(read), total_charge(batch).double()
        energy = charges.new_zeros(graph.num_graphs)
        repeats = repeating(graph.num_graphs, batch.cell, batch.periodic)
        for kind in (True, False):
            for graphs, nodes in groups_of_one_size(graph, [kind == one for one in repeats]):
                cell = batch.cell[graphs] if kind else None
                matrix = self._matrix(batch.positions[nodes], cell).double()
                matrix = matrix + torch.diag_embed(hardness[nodes])
                found = equilibrium(matrix, negativity[nodes], total[graphs])
                charges = charges.index_put((nodes,), found)
                turned = (matrix @ found.unsqueeze(2)).squeeze(2)
                least = (found * (negativity[nodes] + 0.5 * turned)).sum(1)
                energy = energy.index_copy(0, graphs, least)
        charges = charges.to(scalars.dtype).unsqueeze(1)
        return Charged(charges, self.beyond(batch, near, charges, energy))

    def _matrix(self, positions: Tensor, cell: Tensor | None) -> Tensor:
        """Coulomb energies of pairs of unit charges (B, n, n), positive semidefinite."""
        smearing = self.options.smearing
        if cell is not None:
            return ewald_matrix(Crystals.of(positions, cell, smearing, dense=True))
        squared = (positions.unsqueeze(2) - positions.unsqueeze(1)).square().sum(-1)
        return smeared_kernel(smearing)(squared)


def equilibrium(matrix: Tensor, negativity: Tensor, total: Tensor) -> Tensor:
    """The q (B, n) of sum Q that minimise ``chi . q + 1/2 q A q``.

    matrix: A (B, n, n), positive definite. negativity: chi (B, n). total: Q (B,).
    """
    both = torch.stack([-negativity, torch.ones_like(negativity)], 2)
    free, shared = torch.cholesky_solve(both, torch.linalg.cholesky(matrix)).unbind(2)
    missing = (total - free.sum(1)) / shared.sum(1)
    return free + missing.unsqueeze(1) * shared
