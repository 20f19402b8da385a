"""Moments of every graph in a ragged batch, and the way back: the node readout of the far field.

    M_g[p, h, d, v] = sum_(j in g) B_j[p] K_j[h, d] V_j[h, v]                        moments
    O_i[h, t, v]    = sum_(p, d)   E_i[t, p] A[h, t, p] Q_i[h, d] M_g(i)[p, h, d, v]  read-back

B and E are what geometry gives an atom (source and target factors of an expansion), K and Q key and query features, V values, A the
radial coefficients. Each is linear in every one of its arguments: with a further argument that is contracted against the result it
becomes one number, ``<M, moments(B, K, V)>``, whose derivatives are the contractions that leave one argument out. So all derivatives
of every order are contractions of the same form (:class:`_Contraction`), and nothing but the arguments is ever kept for them.

Sums run as matrix products over whole graphs, consecutive graphs of one size together, large graphs in pieces: the products
(key x value) or (moment x value) of an atom exist for one piece at a time, and (atom x moment x key x value) never. Nothing is padded.
float32 adds up a few pieces; the sums of those are made in float64.

Cost: atoms x moments x heads x keys x values multiply-adds for each of the two maps; five times that for the gradient of both.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from models.graph_ops import GraphIndex

BUDGET = 2**21  # numbers in a temporary of one piece
MOST_ATOMS = 512  # atoms in one piece
TOGETHER = 4  # pieces in one float32 sum
BLOCK = 64  # moments that are read back together


class Run(NamedTuple):
    """Consecutive graphs of one size, or one graph that is cut: ``pieces`` are ranges of nodes, the same ``graphs`` in all of them."""

    graphs: slice
    pieces: tuple[slice, ...]

    @property
    def count(self) -> int:
        return self.graphs.stop - self.graphs.start


@functools.lru_cache(maxsize=256)
def graph_runs(sizes: tuple[int, ...], most: int) -> tuple[Run, ...]:
    """Cut a batch of graphs with ``sizes`` nodes into runs of at most ``most`` nodes a piece; empty graphs are left out."""
    runs, node, graph = [], 0, 0
    while graph < len(sizes):
        size, end = sizes[graph], graph + 1
        while end < len(sizes) and sizes[end] == size and (end + 1 - graph) * size <= most:
            end += 1
        stop = node + (end - graph) * size
        if end > graph + 1 or size <= most:
            pieces = (slice(node, stop),)
        else:
            count = -(-size // most)
            cuts = [node + size * k // count for k in range(count + 1)]
            pieces = tuple(slice(low, high) for low, high in zip(cuts[:-1], cuts[1:], strict=True))
        if size:
            runs.append(Run(slice(graph, end), pieces))
        node, graph = stop, end
    return tuple(runs)


class _Sum:
    """Sum of parts: up to ``TOGETHER`` in the dtype of the parts, those sums in float64."""

    def __init__(self):
        self.recent, self.count, self.total = None, 0, None

    def add(self, part: Tensor) -> None:
        """Add a tensor that nobody else holds."""
        self.recent = part if self.recent is None else self.recent.add_(part)
        self._counted()

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right``, both (batch, ., .), without making it first."""
        self.recent = left @ right if self.recent is None else self.recent.baddbmm_(left, right)
        self._counted()

    def _counted(self) -> None:
        self.count += 1
        if self.count == TOGETHER:
            self.total, self.recent, self.count = self.result(torch.float64), None, 0

    def result(self, dtype: torch.dtype) -> Tensor:
        if self.total is None:
            return self.recent.to(dtype)
        return (self.total if self.recent is None else self.total + self.recent).to(dtype)


class MomentForm:
    """``sum_j sum_(p, h, d, v) wave_j[p] key_j[h, d] value_j[h, v] moment_g(j)[p, h, d, v]`` for graphs of the given sizes."""

    slots = ("wave", "key", "value", "moment")

    def __init__(self, sizes: tuple[int, ...], budget: int = BUDGET):
        self.sizes, self.budget = sizes, budget

    def contract(self, wanted: set[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The form with each ``wanted`` argument left out; arguments not needed for it may be missing."""
        shapes = self._shapes(given)
        _, _, heads, keys, values = shapes["moment"]
        like = next(iter(given.values()))
        result = {name: like.new_zeros(shapes[name]) for name in wanted}
        most = max(16, min(MOST_ATOMS, self.budget // max(1, heads * keys * values)))
        for run in graph_runs(self.sizes, most):
            moment = given["moment"][run.graphs].flatten(2) if "moment" in given else None  # (k, p, h d v)
            total = _Sum()
            for nodes in run.pieces:
                parts = {name: given[name][nodes].unflatten(0, (run.count, -1)) for name in given if name != "moment"}
                into = {name: result[name][nodes] for name in wanted - {"moment"}}
                self._piece(wanted, parts, moment, (heads, keys, values), total, into)
            if "moment" in wanted:
                result["moment"][run.graphs] = total.result(like.dtype).unflatten(2, (heads, keys, values))
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
    def _piece(wanted: set[str], parts: dict, moment: Tensor | None, shape: tuple[int, ...], total: _Sum, into: dict) -> None:
        """Nodes of one piece, (k graphs, m nodes each, ...); moment (k, p, h d v), shape (h, d, v)."""
        if wanted & {"moment", "wave"}:
            pair = (parts["key"].unsqueeze(-1) * parts["value"].unsqueeze(-2)).flatten(2)  # (k, m, h d v)
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


class ReadForm:
    """``sum_i sum wave_i[t, p] scale[h, t, p] query_i[h, d] moment_g(i)[p, h, d, v] out_i[h, t, v]`` for graphs of the given sizes."""

    slots = ("wave", "scale", "query", "moment", "out")

    def __init__(self, sizes: tuple[int, ...], budget: int = BUDGET):
        self.sizes, self.budget = sizes, budget

    def contract(self, wanted: set[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The form with each ``wanted`` argument left out; arguments not needed for it may be missing."""
        like = next(iter(given.values()))
        shapes = self._shapes(given)
        heads, _, waves = shapes["scale"]
        values = shapes["out"][-1]
        result = {name: like.new_zeros(shapes[name]) for name in wanted}
        step = min(waves, BLOCK)
        most = max(16, min(MOST_ATOMS, self.budget // max(1, 4 * heads * step * values)))  # read three times: better in the cache
        scale_sum = [_Sum() for _ in range(0, waves, step)]
        for run in graph_runs(self.sizes, most):
            for number, start in enumerate(range(0, waves, step)):
                block = slice(start, min(start + step, waves))
                self._block(wanted, given, result, run, block, scale_sum[number])
        if "scale" in wanted and any(size > 0 for size in self.sizes):
            result["scale"] = torch.cat([part.result(like.dtype) for part in scale_sum], -1)
        return result

    def _shapes(self, given: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes of all arguments, one of which may be missing."""
        have = {name: tuple(tensor.shape) for name, tensor in given.items()}
        scale = have.get("scale") or (have["out"][1], *have["wave"][1:])
        heads, rows, waves = scale
        keys = have["query"][-1] if "query" in have else have["moment"][3]
        values = have["out"][-1] if "out" in have else have["moment"][4]
        nodes, graphs = sum(self.sizes), len(self.sizes)
        return {
            "wave": (nodes, rows, waves),
            "scale": (heads, rows, waves),
            "query": (nodes, heads, keys),
            "moment": (graphs, waves, heads, keys, values),
            "out": (nodes, heads, rows, values),
        }

    def _block(self, wanted: set[str], given: dict, result: dict, run: Run, block: slice, scale_sum: _Sum) -> None:
        """All atoms of one run, for one block of moments; a block of the moments is laid out (graphs, h, d, p v)."""
        if "moment" in given:
            part = given["moment"][run.graphs, block].permute(0, 2, 3, 1, 4)
            values, moment = part.shape[-1], part.flatten(3)
        total = _Sum()
        for nodes in run.pieces:
            split = {name: given[name][nodes].unflatten(0, (run.count, -1)).transpose(1, 2) for name in ("query", "out") if name in given}
            query, out = split.get("query"), split.get("out")  # (k, h, m, d), (k, h, m, t, v)
            scale = given["scale"][:, None, :, block] if "scale" in given else None
            wave = given["wave"][nodes, :, block].unflatten(0, (run.count, 1, -1)) if "wave" in given else None  # (k, 1, m, t, p)
            if wanted & {"out", "wave", "scale"}:
                read = (query @ moment).unflatten(-1, (-1, values))  # (k, h, m, p, v)
            if "out" in wanted:
                result["out"][nodes].add_(((wave * scale) @ read).transpose(1, 2).flatten(0, 1))
            if wanted & {"wave", "scale"}:
                inner = out @ read.transpose(-1, -2)  # (k, h, m, t, p)
            if "wave" in wanted:
                result["wave"][nodes, :, block] = (inner * scale).sum(1).flatten(0, 1)
            if "scale" in wanted:
                scale_sum.add((inner * wave).sum((0, 2)))
            if wanted & {"query", "moment"}:
                spread = ((wave * scale).transpose(-1, -2) @ out).flatten(-2)  # (k, h, m, p v)
            if "query" in wanted:
                result["query"][nodes].add_((spread @ moment.transpose(-1, -2)).transpose(1, 2).flatten(0, 1))
            if "moment" in wanted:
                total.add_product(query.transpose(-1, -2).flatten(0, 1), spread.flatten(0, 1))  # (k h, d, p v)
        if "moment" in wanted:
            _, _, heads, _, values = result["moment"].shape
            summed = total.result(result["moment"].dtype).unflatten(0, (-1, heads)).unflatten(-1, (-1, values))
            result["moment"][run.graphs, block] = summed.permute(0, 3, 1, 2, 4)


class _Contraction(Function):
    """A multilinear form with one argument left out; its derivatives are the same form with another one left out."""

    @staticmethod
    def forward(ctx, form: MomentForm | ReadForm, left_out: str, *arguments: Tensor) -> Tensor:
        """``arguments`` in the order of ``form.slots``, without the one left out."""
        ctx.form, ctx.left_out = form, left_out
        ctx.save_for_backward(*arguments)
        names = [name for name in form.slots if name != left_out]
        return form.contract({left_out}, dict(zip(names, arguments, strict=True)))[left_out]

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """All gradients in one sweep that shares its products, or each as a contraction of its own if they shall have derivatives."""
        form = ctx.form
        names = [name for name in form.slots if name != ctx.left_out]
        every = dict(zip(names, ctx.saved_tensors, strict=True)) | {ctx.left_out: cotangent}
        wanted = {name for name, needed in zip(names, ctx.needs_input_grad[2:], strict=True) if needed}
        if torch.is_grad_enabled():
            gradients = {name: _Contraction.apply(form, name, *_others(form, name, every)) for name in wanted}
        else:
            gradients = form.contract(wanted, every)
        return None, None, *(gradients.get(name) for name in names)


def _others(form: MomentForm | ReadForm, left_out: str, every: dict[str, Tensor]) -> Iterator[Tensor]:
    return (every[name] for name in form.slots if name != left_out)


class MomentReadout(nn.Module):
    """Moments of every graph, and their read-back at the atoms (formulas above); differentiable to any order in all arguments.

    ``budget``: numbers in a temporary of one piece; results do not depend on it beyond rounding.
    """

    def __init__(self, budget: int = BUDGET):
        super().__init__()
        if budget < 1:
            raise ValueError(f"budget of the readout must be >= 1 number, got {budget}")
        self.budget = budget

    def forward(self, graph: GraphIndex, waves: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """waves (nodes, moments), keys (nodes, heads, features), values (nodes, heads, V) -> (graphs, moments, heads, features, V)."""
        self._check(graph, waves=waves, keys=keys, values=values)
        return _Contraction.apply(MomentForm(_sizes(graph), self.budget), "moment", waves, keys, values)

    def read_back(self, graph: GraphIndex, waves: Tensor, scale: Tensor, queries: Tensor, moments: Tensor) -> Tensor:
        """waves (nodes, rows, moments), scale (heads, rows, moments), queries (nodes, heads, features) -> (nodes, heads, rows, V)."""
        self._check(graph, waves=waves, queries=queries)
        return _Contraction.apply(ReadForm(_sizes(graph), self.budget), "out", waves, scale, queries, moments)

    @staticmethod
    def _check(graph: GraphIndex, **nodes: Tensor) -> None:
        for name, tensor in nodes.items():
            if tensor.shape[0] != graph.num_nodes:
                raise ValueError(f"a batch of {graph.num_nodes} nodes needs as many rows of {name}, got {tensor.shape[0]}")


def _sizes(graph: GraphIndex) -> tuple[int, ...]:
    return tuple(graph.nodes_per_graph.tolist())
