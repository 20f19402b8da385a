"""Attention over all atoms of a graph through an equivariant kernel.

For each head h, with invariant weights and values of every degree,

    out_i[h, l m, lam mu, c] = (1 / Z_i) sum_j <phi(q_ih), phi(k_jh)>
                               f_lh(r_ij) Y_lm(r^_ij) v_j[h, lam mu, c]
    message_i[L M, h, c]     = sum_(l, lam) W[l lam L, h, c]
                               sum_(m mu) C(l m, lam mu; L M) out_i[h, l m, lam mu, c],
                               l + lam + L even,

then a linear map of the channels. ``q`` and ``k`` are linear in the scalars of the atom. This is
the linear attention of E2Former-FMM, section 3, with the exact expansions of ``expansions/``,
learned weights for every path, and only the paths that keep parity.

Z is a constant by default: the message of a molecule does not change when a copy of it appears far
away, beyond the tail of the kernel. ``normalisation="attention"`` is the published form,
``Z_i = sum_j <phi(q_i), phi(k_j)>``: a far copy halves every message.

Cost: see the expansion; values are narrowed to ``value_channels`` a head first, keys to
``key_features``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry, check_at_least, check_choices
from farfield.models.far_field.expansion import ExpansionOptions
from farfield.models.far_field.expansions import EXPANSIONS
from farfield.models.far_field.expansions.lattice import periodic_cell
from farfield.models.far_field.kernels import KERNELS, KernelOptions
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, sum_nodes
from farfield.models.layers.linear import EquivariantLinear
from farfield.models.option_fields import MAIN, Alias
from farfield.models.so3.coupling import KernelCoupling
from farfield.models.so3.irreps import num_rows
from farfield.models.tracing import is_tracing


class FeatureMap(NamedTuple):
    """phi of queries and keys; ``positive``: its values are, so their sum may divide messages."""

    function: Callable[[Tensor], Tensor]
    positive: bool


FEATURE_MAPS: Registry[FeatureMap] = Registry("feature map")
FEATURE_MAPS.register("elu")(FeatureMap(lambda x: nn.functional.elu(x) + 1, positive=True))
FEATURE_MAPS.register("softplus")(FeatureMap(nn.functional.softplus, positive=True))
# With one key feature, queries and keys are learned charges.
FEATURE_MAPS.register("identity")(FeatureMap(lambda x: x, positive=False))

# (graph, queries, keys, coefficients of the kernel, constant) -> queries, coefficients
Normalise = Callable[[GraphIndex, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
NORMALISATIONS: Registry[Normalise] = Registry("normalisation")


@NORMALISATIONS.register("none")
def constant_normalisation(
    graph: GraphIndex, queries: Tensor, keys: Tensor, coefficients: Tensor, constant: float
) -> tuple[Tensor, Tensor]:
    """Z is ``constant`` for every atom of every graph, size-consistent: the kernel carries it."""
    return queries, coefficients / constant


@NORMALISATIONS.register("attention")
def attention_normalisation(
    graph: GraphIndex, queries: Tensor, keys: Tensor, coefficients: Tensor, constant: float
) -> tuple[Tensor, Tensor]:
    """Z is the sum of the weights <q_i, k_j> of the graph, at least 1e-8: the query carries it."""
    total = broadcast_nodes(graph, sum_nodes(graph, keys))
    return queries / (queries * total).sum(-1, keepdim=True).clamp_min(1e-8), coefficients


@dataclasses.dataclass(frozen=True)
class FarFieldOptions(KernelOptions, ExpansionOptions):
    """Choices of a :class:`FarFieldAttention`, with its radial functions and its expansion.

    kernel_lmax, value_lmax: highest degree of the kernel and of the values (None: the degree of the
    features; 0: charges that make potentials and fields). key_features, value_channels: per head.
    feature_map, normalisation, expansion: names in ``FEATURE_MAPS``, ``NORMALISATIONS``,
    ``EXPANSIONS``. Raises ValueError in one line for sizes < 1, unknown names, and "attention" with
    "identity".
    """

    heads: Annotated[int, "attention heads of the far field"] = 4
    key_features: Annotated[int, "width of a query and a key in a head of the far field"] = 1
    value_channels: Annotated[
        int, "channels of a value in a head of the far field", Alias("fmm_value_head_dim")
    ] = 4
    kernel_lmax: Annotated[int, "highest degree of the far field's kernel"] = 0
    value_lmax: Annotated[
        int | None, "highest degree of the far field's values; none: the degree of the features"
    ] = 0
    feature_map: Annotated[str, "function of queries and keys of the far field", FEATURE_MAPS] = (
        "identity"
    )
    normalisation: Annotated[
        str, "divisor of a far message: a constant, or the sum of its weights", NORMALISATIONS
    ] = "none"
    expansion: Annotated[str, "method of the sum over all atoms", EXPANSIONS, MAIN] = "auto"
    weight: Annotated[
        float,
        "factor of the far field in a hybrid layer at the start",
        Alias("long_scale"),
        Alias("hybrid_long_scale_init"),
    ] = 1.0

    def __post_init__(self):
        of = "of the far field"
        KernelOptions.__post_init__(self)
        ExpansionOptions.__post_init__(self)
        check_at_least(self, 1, ["heads", "key_features", "value_channels"], of)
        check_at_least(self, 0, ["kernel_lmax"], of)

        if self.value_lmax is not None:
            check_at_least(self, 0, ["value_lmax"], of)
        check_choices(
            self,
            {
                "feature_map": FEATURE_MAPS,
                "normalisation": NORMALISATIONS,
                "expansion": EXPANSIONS,
            },
            of,
        )

        if self.normalisation == "attention" and not FEATURE_MAPS[self.feature_map].positive:
            raise ValueError(
                f"normalisation 'attention' {of} divides by a sum of positive weights, which "
                f"feature_map {self.feature_map!r} does not give; choose 'elu' or 'softplus'"
            )
        if not math.isfinite(self.weight):
            raise ValueError(f"weight {of} must be finite, got {self.weight}")

    def unextensive(self) -> list[str]:
        """Why energies of pieces far apart do not add up, a line each; none by default."""
        found = []
        if self.kernel != "screened":
            found.append(
                f"far_kernel {self.kernel}: atoms at any distance change an energy, so energies of "
                "pieces far apart do not add up; far_kernel screened ends at its range"
            )
        if self.normalisation != "none":
            found.append(
                f"far_normalisation {self.normalisation}: every further atom of a structure "
                "weakens its far messages, so energies of pieces far apart do not add up"
            )
        return found

    def degree_of_values(self, lmax: int) -> int:
        """Highest degree of the values on features of degrees up to ``lmax``.

        Raises ValueError for a ``value_lmax`` above it.
        """
        if self.value_lmax is None:
            return lmax
        if self.value_lmax > lmax:
            raise ValueError(
                f"value_lmax of the far field must be in 0 .. {lmax}, the degrees of the features, "
                f"got {self.value_lmax}; leave it out for all of them"
            )
        return self.value_lmax


def is_mixed(periodic: Tensor) -> bool:
    """Whether a batch has structures that repeat and others that do not; never of a traced one.

    periodic: (graphs, 3) bool.
    """
    repeats = periodic.any(1)
    return not is_tracing() and bool(repeats.any()) and not bool(repeats.all())


class FarFieldAttention(nn.Module):
    """Messages from all atoms of the graph: ``forward(graph, positions, x)`` -> the shape of x.

    Open boundaries, or with ``cell`` periodic ones (expansion "lattice" or "auto"). All expansions
    use the same parameters. E(3)-equivariant up to rounding, with "planewave" only up to its
    tolerance. Graphs of a batch never see each other. Differentiable to any order in positions and
    features, with cells also in the cell (twice).
    """

    def __init__(
        self, channels: int, lmax: int, options: FarFieldOptions, typical_atoms: float = 20.0
    ):
        super().__init__()
        if not (math.isfinite(typical_atoms) and typical_atoms > 0):
            raise ValueError(f"typical_atoms must be > 0 and finite, got {typical_atoms}")
        self.options = options
        self.constant = options.key_features * typical_atoms
        heads, width = options.heads, options.heads * options.value_channels
        value_lmax = options.degree_of_values(lmax)
        self.width, self.value_rows = width, num_rows(value_lmax)
        self.reach = options.kernel_lmax + value_lmax  # highest degree of a message

        # From the features of an atom to what the kernel acts on.
        self.queries = nn.Linear(channels, heads * options.key_features)
        self.keys = nn.Linear(channels, heads * options.key_features)
        self.values = EquivariantLinear(value_lmax, channels, width)

        # The kernel and the sum over all atoms.
        self.radial = KERNELS[options.kernel](options.kernel_lmax, heads, options)
        self.expansion = self.radial.sum_by(EXPANSIONS[options.expansion], options)

        # Back to features: kernel degree x value degree -> degree of the message.
        self.coupling = KernelCoupling(
            options.kernel_lmax, value_lmax, lmax, heads, options.value_channels
        )
        self.output = EquivariantLinear(lmax, width, channels)

    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        x: Tensor,
        cell: Tensor | None = None,
        periodic: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Features -> messages, both (nodes, (lmax + 1)^2, channels).

        positions: (nodes, 3), Angstrom. cell: (graphs, 3, 3), rows are lattice vectors. periodic:
        (graphs, 3) bool, None for all directions wherever there is a cell; if all are False the
        cell is ignored. weight: (), a factor of all messages. With normalisation "none" a
        supercell gets its cell's messages; "attention" counts the atoms of the cell, so a doubled
        cell halves them. Open and periodic structures of one batch are served one kind after the
        other. Raises ValueError for slabs and wires.
        """
        if periodic is not None and is_mixed(periodic):
            return self._kind_by_kind(graph, positions, x, cell, periodic, weight)
        cell = periodic_cell(graph.num_graphs, cell, periodic)
        queries, keys, values = self.send(x)

        # A factor of the sum is cheapest on the few coefficients of the kernel.
        coefficients = self.radial() if weight is None else self.radial() * weight
        normalise = NORMALISATIONS[self.options.normalisation]
        queries, coefficients = normalise(graph, queries, keys, coefficients, self.constant)

        heard = self.expansion(graph, positions, queries, keys, values, coefficients, cell)
        return self.receive(heard, x.shape[1])

    def _kind_by_kind(
        self,
        graph: GraphIndex,
        positions: Tensor,
        x: Tensor,
        cell: Tensor,
        periodic: Tensor,
        weight: Tensor | None,
    ) -> Tensor:
        """Messages of a batch of open and periodic structures; no edge takes part."""
        repeats = periodic.any(1)
        nodes, messages = [], []
        for kind in (repeats, ~repeats):
            own = kind.index_select(0, graph.graph_of_node).nonzero().flatten()
            none = own.new_zeros(0)
            part = GraphIndex(none, none, graph.nodes_per_graph[kind])
            messages.append(self(part, positions[own], x[own], cell[kind], periodic[kind], weight))
            nodes.append(own)

        # back to the order of the batch
        return torch.cat(messages).index_select(0, torch.cat(nodes).argsort())

    def send(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the sum over all atoms reads of features (nodes, rows, channels).

        Queries and keys (nodes, heads, features), values (nodes, heads, rows x channels).
        """
        heads = self.options.heads
        scalars = x[:, 0]

        # Values of degree 0 come out of one product with the queries and keys.
        if self.value_rows == 1:
            weight = [self.queries.weight, self.keys.weight, self.values.weight[0].T]
            bias = [self.queries.bias, self.keys.bias, self.values.weight.new_zeros(self.width)]
            found = nn.functional.linear(scalars, torch.cat(weight), torch.cat(bias))
            found = found.split([len(part) for part in weight], 1)
            queries, keys, values = (part.unflatten(1, (heads, -1)) for part in found)
        else:
            queries = self.queries(scalars).unflatten(1, (heads, -1))
            keys = self.keys(scalars).unflatten(1, (heads, -1))
            # Values of all degrees side by side.
            values = self.values(x[:, : self.value_rows]).unflatten(2, (heads, -1))
            values = values.transpose(1, 2).flatten(2)

        phi = FEATURE_MAPS[self.options.feature_map].function
        return phi(queries), phi(keys), values

    def receive(self, heard: Tensor, rows: int) -> Tensor:
        """Messages (nodes, rows, channels) of what the sum gives, ``Expansion.forward``."""
        if self.reach:
            return self.output(self.coupling(heard))

        # Scalars alone: coupling and output are one matrix, and the other rows are zero.
        matrix = self.coupling.weight.view(-1, 1) * self.output.weight[0]
        message = (heard.flatten(1) @ matrix).unsqueeze(1)
        return nn.functional.pad(message, (0, 0, 0, rows - 1))
