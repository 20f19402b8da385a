"""Moments of every graph in a ragged batch, and the way back: the node readout of the far field.

    M_g[p, h, d, v] = sum_(j in g) B_j[p] K_j[h, d] V_j[h, v]                        moments
    O_i[h, t, v]    = sum_(p, d)   E_i[t, p] A[h, t, p] Q_i[h, d] M_g(i)[p, h, d, v]  read-back

B and E are what geometry gives an atom (source and target factors of an expansion), K and Q key and
query features, V values, A the radial coefficients. Each is linear in every one of its arguments:
with a further argument that is contracted against the result it becomes one number, ``<M,
moments(B, K, V)>``, whose derivatives are the contractions that leave one argument out. So all
derivatives of every order are contractions of the same form (:class:`_Contraction`), and nothing
but the arguments is ever kept for them.

Sums run as matrix products over whole graphs, consecutive graphs of one size together, large graphs
in pieces: the products (key x value) or (moment x value) of an atom exist for one piece at a time,
and (atom x moment x key x value) never. Nothing is padded. float32 adds up a few pieces; the sums
of those are made in float64.

Cost: atoms x moments x heads x keys x values multiply-adds for each of the two maps; five times
that for the gradient of both.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd import Function

from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.moment_read import Factors, ReadForm
from farfield.models.kernels.needed_gradients import wanted_inputs
from farfield.models.kernels.node_chunks import BUDGET, MOST_ATOMS, PieceSum, Sizes, graph_runs


class MomentForm:
    """``sum_j sum_(p, h, d, v) wave_j[p] key_j[h, d] value_j[h, v] moment_g(j)[p, h, d, v]`` for
    graphs of the given sizes.
    """

    slots = ("wave", "key", "value", "moment")

    def __init__(self, sizes: tuple[int, ...], budget: int = BUDGET):
        self.sizes, self.budget = sizes, budget

    def contract(self, wanted: set[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The form with each ``wanted`` argument left out; arguments not needed for it may be
        missing.
        """
        shapes = self._shapes(given)
        _, _, heads, keys, values = shapes["moment"]
        like = next(iter(given.values()))
        result = {name: like.new_zeros(shapes[name]) for name in wanted}
        most = max(16, min(MOST_ATOMS, self.budget // max(1, heads * keys * values)))
        for run in graph_runs(self.sizes, most):
            moment = (
                given["moment"][run.graphs].flatten(2) if "moment" in given else None
            )  # (k, p, h d v)
            total = PieceSum()
            for nodes in run.pieces:
                parts = {
                    name: given[name][nodes].unflatten(0, (run.count, -1))
                    for name in given
                    if name != "moment"
                }
                into = {name: result[name][nodes] for name in wanted - {"moment"}}
                self._piece(wanted, parts, moment, (heads, keys, values), total, into)
            if "moment" in wanted:
                result["moment"][run.graphs] = total.result(like.dtype).unflatten(
                    2, (heads, keys, values)
                )
        return result

    def _shapes(self, given: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes of all arguments, one of which may be missing."""
        waves = given["wave"].shape[1] if "wave" in given else given["moment"].shape[1]
        heads, keys = given["key"].shape[1:] if "key" in given else given["moment"].shape[2:4]
        values = given["value"].shape[2] if "value" in given else given["moment"].shape[4]
        nodes = sum(self.sizes)
        return {
            "wave": (nodes, waves),
            "key": (nodes, heads, keys),
            "value": (nodes, heads, values),
            "moment": (len(self.sizes), waves, heads, keys, values),
        }

    @staticmethod
    def _piece(
        wanted: set[str],
        parts: dict,
        moment: Tensor | None,
        shape: tuple[int, ...],
        total: PieceSum,
        into: dict,
    ) -> None:
        """Nodes of one piece, (k graphs, m nodes each, ...); moment (k, p, h d v), shape (h, d,
        v).
        """
        if wanted & {"moment", "wave"}:
            pair = (parts["key"].unsqueeze(-1) * parts["value"].unsqueeze(-2)).flatten(
                2
            )  # (k, m, h d v)
        if "moment" in wanted:
            total.add_product(parts["wave"].transpose(1, 2), pair)
        if "wave" in wanted:
            into["wave"].copy_((pair @ moment.transpose(1, 2)).flatten(0, 1))
        if wanted & {"key", "value"}:
            back = (parts["wave"] @ moment).unflatten(2, shape)  # (k, m, h, d, v)
        if "key" in wanted:
            into["key"].copy_((back @ parts["value"].unsqueeze(-1)).squeeze(-1).flatten(0, 1))
        if "value" in wanted:
            into["value"].copy_((parts["key"].unsqueeze(-2) @ back).squeeze(-2).flatten(0, 1))


class _Contraction(Function):
    """A multilinear form with one argument left out; its derivatives are the same form with another
    one left out.
    """

    @staticmethod
    def forward(ctx, form: MomentForm | ReadForm, left_out: str, *arguments: Tensor) -> Tensor:
        """``arguments`` in the order of ``form.slots``, without the one left out."""
        ctx.form, ctx.left_out = form, left_out
        ctx.save_for_backward(*arguments)
        names = [name for name in form.slots if name != left_out]
        return form.contract({left_out}, dict(zip(names, arguments, strict=True)))[left_out]

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """All gradients in one sweep that shares its products, or each as a contraction of its own
        if they shall have derivatives.
        """
        form = ctx.form
        names = [name for name in form.slots if name != ctx.left_out]
        every = dict(zip(names, ctx.saved_tensors, strict=True)) | {ctx.left_out: cotangent}
        wanted = [
            name for name, needed in zip(names, wanted_inputs(ctx)[2:], strict=True) if needed
        ]  # a set has no order of its own
        if torch.is_grad_enabled():
            gradients = {
                name: _Contraction.apply(form, name, *_others(form, name, every)) for name in wanted
            }
        else:
            gradients = form.contract(set(wanted), every)
        return None, None, *(gradients.get(name) for name in names)


def _others(
    form: MomentForm | ReadForm, left_out: str, every: dict[str, Tensor]
) -> Iterator[Tensor]:
    return (every[name] for name in form.slots if name != left_out)


class MomentReadout(nn.Module):
    """Moments of every graph, and their read-back at the atoms (formulas above); differentiable to
    any order in all arguments.

    ``budget``: numbers in a temporary of one piece; results do not depend on it beyond rounding.
    """

    def __init__(self, budget: int = BUDGET):
        super().__init__()
        if budget < 1:
            raise ValueError(f"budget of the readout must be >= 1 number, got {budget}")
        self.budget = budget

    def forward(
        self, graph: GraphIndex | Sizes, waves: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """waves (nodes, moments), keys (nodes, heads, features), values (nodes, heads, V) ->
        (graphs, moments, heads, features, V).

        ``graph`` may be the node counts of the graphs alone.
        """
        sizes = _checked_sizes(graph, waves=waves, keys=keys, values=values)
        return _Contraction.apply(MomentForm(sizes, self.budget), "moment", waves, keys, values)

    def read_back(
        self,
        graph: GraphIndex | Sizes,
        waves: Tensor,
        scale: Tensor,
        queries: Tensor,
        moments: Tensor,
        factors: Factors | None = None,
    ) -> Tensor:
        """waves (nodes, rows, moments), scale (heads, rows, moments), queries (nodes, heads,
        features) -> (nodes, heads, rows, V).

        With ``factors``, ``waves`` (nodes, ...) is the compact input that ``factors.spread``
        expands to (nodes, rows, moments).
        """
        sizes = _checked_sizes(graph, waves=waves, queries=queries)
        form = ReadForm(sizes, tuple(scale.shape[1:]), factors, self.budget)
        return _Contraction.apply(form, "out", waves, scale, queries, moments)


def _checked_sizes(graph: GraphIndex | Sizes, **nodes: Tensor) -> Sizes:
    sizes = graph if isinstance(graph, tuple) else graph.sizes
    for name, tensor in nodes.items():
        if tensor.shape[0] != sum(sizes):
            raise ValueError(
                f"a batch of {sum(sizes)} nodes needs as many rows of {name}, got {tensor.shape[0]}"
            )
    return sizes
