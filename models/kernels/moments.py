"""Moments of every graph in a ragged batch, and the way back: the node readout of the far field.

    M_g[p, h, d, v] = sum_(j in g) B_j[p] K_j[h, d] V_j[h, v]                          moments
    O_i[h, t, v]    = sum_(p, d)   E_i[t, p] A[h, t, p] Q_i[h, d] M_g(i)[p, h, d, v]   read-back

B and E are what geometry gives an atom (source and target factors of an expansion), K and Q key and
query features, V values, A the radial coefficients. Each is linear in every one of its arguments:
with a further argument that is contracted against the result it becomes one value, ``<M, moments(B,
K, V)>``, whose derivatives are the contractions that leave one argument out. So all derivatives of
every order are contractions of the same form (``multilinear.py``), and nothing but the arguments is
kept for them.

Sums run as matrix products over whole graphs: consecutive graphs of one size together, large graphs
in chunks. The products (key x value) or (moment x value) of an atom exist for one chunk at a time,
and (atom x moment x key x value) never. Nothing is padded. float32 adds up a few chunks; the sums
of those are added in float64.

Cost: atoms x moments x heads x keys x values multiply-adds for each of the two maps; five times as
many for the gradient of both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.moment_read import ReadForm
from farfield.models.kernels.multilinear import contraction
from farfield.models.kernels.node_chunks import (
    MAX_ATOMS_PER_CHUNK,
    VALUES_PER_TEMPORARY,
    ChunkSum,
    Sizes,
    graph_runs,
)
from farfield.models.kernels.target_factors import TargetFactors


class MomentForm:
    """``T = sum_j sum_(p h d v) B_j[p] K_j[h, d] V_j[h, v] M_g(j)[p, h, d, v]``.

    sizes: nodes of each graph. budget: values in the largest temporary of a chunk. Arguments by
    their names in the code: factor B (nodes, moments p), key K (nodes, heads h, features d), value
    V (nodes, heads, values v), moment M (graphs, moments, heads, features, values).
    """

    arguments = ("factor", "key", "value", "moment")

    def __init__(self, sizes: Sizes, budget: int = VALUES_PER_TEMPORARY):
        self.sizes, self.budget = sizes, budget

    def contract(self, needed: set[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        """T without each of the ``needed`` arguments, by name.

        given: the arguments by name; those that no result reads may be missing.
        """
        shapes = self._shapes(given)
        shape = shapes["moment"][2:]  # h, d, v
        like = next(iter(given.values()))
        result = {name: like.new_zeros(shapes[name]) for name in needed}
        most = max(16, min(MAX_ATOMS_PER_CHUNK, self.budget // max(1, shape.numel())))

        for run in graph_runs(self.sizes, most):
            moment = None  # (k graphs, p, h d v)
            if "moment" in given:
                moment = given["moment"][run.graphs].flatten(2)

            moment_sum = ChunkSum()
            for nodes in run.chunks:
                parts = {
                    name: given[name][nodes].unflatten(0, (run.count, -1))
                    for name in given
                    if name != "moment"
                }
                into = {name: result[name][nodes] for name in needed - {"moment"}}
                _add_chunk(needed, parts, moment, shape, moment_sum, into)

            if "moment" in needed:
                summed = moment_sum.result(like.dtype)
                result["moment"][run.graphs] = summed.unflatten(2, shape)
        return result

    def _shapes(self, given: dict[str, Tensor]) -> dict[str, torch.Size]:
        """Shapes of all arguments, one of which may be missing."""
        moments = given["factor"].shape[1] if "factor" in given else given["moment"].shape[1]
        heads, keys = given["key"].shape[1:] if "key" in given else given["moment"].shape[2:4]
        values = given["value"].shape[2] if "value" in given else given["moment"].shape[4]
        nodes = sum(self.sizes)
        return {
            "factor": torch.Size((nodes, moments)),
            "key": torch.Size((nodes, heads, keys)),
            "value": torch.Size((nodes, heads, values)),
            "moment": torch.Size((len(self.sizes), moments, heads, keys, values)),
        }


def _add_chunk(
    needed: set[str],
    parts: dict[str, Tensor],
    moment: Tensor | None,
    shape: torch.Size,
    moment_sum: ChunkSum,
    into: dict[str, Tensor],
) -> None:
    """Add what the nodes of one chunk, m of each of k graphs, give to the results.

    parts: arguments of these nodes, (k, m, ...). moment (k, p, h d v). shape: h, d, v. into: rows
    of the results that belong to these nodes, (k m, ...).
    """
    # K V of each node, (k, m, h d v):  by M: sum_m B (K V),  by B: <K V, M>
    if needed & {"moment", "factor"}:
        pair = (parts["key"].unsqueeze(-1) * parts["value"].unsqueeze(-2)).flatten(2)
    if "moment" in needed:
        moment_sum.add_product(parts["factor"].transpose(1, 2), pair)
    if "factor" in needed:
        into["factor"].copy_((pair @ moment.transpose(1, 2)).flatten(0, 1))

    # sum_p B M at each node, (k, m, h, d, v):  by K: sum_v (B M) V,  by V: sum_d K (B M)
    if needed & {"key", "value"}:
        back = (parts["factor"] @ moment).unflatten(2, shape)
    if "key" in needed:
        into["key"].copy_((back @ parts["value"].unsqueeze(-1)).squeeze(-1).flatten(0, 1))
    if "value" in needed:
        into["value"].copy_((parts["key"].unsqueeze(-2) @ back).squeeze(-2).flatten(0, 1))


class MomentReadout(nn.Module):
    """Moments of every graph, and their read-back at the atoms.

    Formulas: see the module. Differentiable to any order in all arguments. budget: values in the
    largest temporary of a chunk, at least 1; results do not depend on it beyond rounding.
    """

    def __init__(self, budget: int = VALUES_PER_TEMPORARY):
        super().__init__()
        if budget < 1:
            raise ValueError(f"budget of the readout must be >= 1 value, got {budget}")
        self.budget = budget

    def forward(
        self, graph: GraphIndex | Sizes, factors: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Moments (graphs, moments, heads, features, V).

        graph: topology, or the node counts of the graphs alone. factors: source factors (nodes,
        moments). keys (nodes, heads, features). values (nodes, heads, V).
        """
        sizes = _checked_sizes(graph, factors=factors, keys=keys, values=values)
        return contraction(MomentForm(sizes, self.budget), "moment", factors, keys, values)

    def read_back(
        self,
        graph: GraphIndex | Sizes,
        factors: Tensor,
        scale: Tensor,
        queries: Tensor,
        moments: Tensor,
        target_factors: TargetFactors | None = None,
    ) -> Tensor:
        """Read-back at the atoms (nodes, heads, rows, V).

        factors: target factors (nodes, rows, moments), or the compact values (nodes, ...) that
        ``target_factors`` builds them from. scale (heads, rows, moments). queries (nodes, heads,
        features). moments: from :meth:`forward`.
        """
        sizes = _checked_sizes(graph, factors=factors, queries=queries)
        form = ReadForm(sizes, tuple(scale.shape[1:]), target_factors, self.budget)
        return contraction(form, "out", factors, scale, queries, moments)


def _checked_sizes(graph: GraphIndex | Sizes, **nodes: Tensor) -> Sizes:
    """Nodes of each graph; ValueError where a tensor has not one row for each node."""
    sizes = graph if isinstance(graph, tuple) else graph.sizes
    for name, tensor in nodes.items():
        if tensor.shape[0] != sum(sizes):
            raise ValueError(
                f"a batch of {sum(sizes)} nodes needs as many rows of {name}, got {tensor.shape[0]}"
            )
    return sizes
