"""The read-back of moments as a multilinear form, computed chunk by chunk in the processor's cache.

    T = sum_i sum_(h t p d v)  E_i[t, p] A[h, t, p] Q_i[h, d] M_g(i)[p, h, d, v] O_i[h, t, v]

T is linear in each argument, so the read-back is T without O, and all derivatives are T without
another argument (``moments.py``). Arguments by their names in the code:

    factor   E  (nodes, rows t, moments p)      target factors, or what they are built from
    scale    A  (heads h, rows, moments)        radial coefficients
    query    Q  (nodes, heads, features d)
    moment   M  (graphs, moments, heads, features, values v)
    out      O  (nodes, heads, rows, values)    output, or the gradient by it

Every contraction goes through two products, ``E A`` and ``Q M``, in blocks of moments. Nothing of
size (nodes, heads, rows, moments) exists for more than one chunk of nodes and one block.

Cost: nodes x moments x heads x (features + rows) x values multiply-adds for each argument left out,
less where several are left out together, because they share products.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from farfield.models.kernels.node_chunks import (
    MAX_ATOMS_PER_CHUNK,
    VALUES_PER_TEMPORARY,
    ChunkSum,
    GraphRun,
    Scratch,
    Sizes,
    graph_runs,
)
from farfield.models.kernels.target_factors import TargetFactors

MOMENT_VALUES_PER_BLOCK = 4608  # moments x values that are read back together
ATOMS_PER_GROUP = 256  # atoms whose factors are built together


class _Work(NamedTuple):
    """What all chunks of one contraction share.

    needed, given, result: as in :meth:`ReadForm.contract`. blocks: ranges of moments. scale_sums:
    one for each block.
    """

    needed: set[str]
    given: dict[str, Tensor]
    result: dict[str, Tensor]
    blocks: list[slice]
    scale_sums: list[ChunkSum]
    scratch: Scratch


class _RunMoments:
    """Moments of the graphs of a run, (k h, d, p v) for each block, and the sums of their gradient.

    k: graphs of the run.
    """

    def __init__(self, run: GraphRun, work: _Work):
        self.run = run
        self.sums = [ChunkSum() for _ in work.blocks]
        self.blocks = [None] * len(work.blocks)
        if "moment" in work.given:
            parts = (work.given["moment"][run.graphs, block] for block in work.blocks)
            self.blocks = [part.permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1) for part in parts]

    def store(self, work: _Work) -> None:
        """Write the sums into the result."""
        result = work.result["moment"]
        heads, values = result.shape[2], result.shape[4]
        for block, gradient in zip(work.blocks, self.sums, strict=True):
            # (k h, d, p v) -> (k, h, d, p, v) -> (k, p, h, d, v)
            summed = gradient.result(result.dtype).unflatten(0, (-1, heads))
            summed = summed.unflatten(-1, (-1, values))
            result[self.run.graphs, block] = summed.permute(0, 3, 1, 2, 4)


class ReadForm:
    """The form T for graphs of the given sizes.

    shape: (rows, moments) of the factors. target_factors: how they are built from what a node
    gives. budget: values in the largest temporary of a chunk.
    """

    arguments = ("factor", "scale", "query", "moment", "out")

    def __init__(
        self,
        sizes: Sizes,
        shape: tuple[int, int],
        target_factors: TargetFactors | None = None,
        budget: int = VALUES_PER_TEMPORARY,
    ):
        self.sizes, self.shape, self.budget = sizes, shape, budget
        self.target_factors = target_factors or TargetFactors()

    def contract(self, needed: set[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        """T without each of the ``needed`` arguments, by name.

        given: the arguments by name; those that no result reads may be missing.
        """
        like = next(iter(given.values()))
        shapes = self._shapes(given)
        result = {name: like.new_empty(shapes[name]) for name in needed}
        if not any(self.sizes):
            return {name: part.zero_() for name, part in result.items()}

        blocks, most = self._plan(shapes)
        work = _Work(needed, given, result, blocks, [ChunkSum() for _ in blocks], Scratch(like))
        moments = None
        for nodes, chunks in _groups(self.sizes, most):
            factor = by_factor = None
            if "factor" in given:
                factor = self.target_factors.spread(given["factor"][nodes], work.scratch)
            if "factor" in needed:
                count = nodes.stop - nodes.start
                by_factor = work.scratch("by_factor", count, *self.shape)

            for run, chunk in chunks:
                if moments is None or moments.run is not run:
                    moments = _RunMoments(run, work)
                inside = slice(chunk.start - nodes.start, chunk.stop - nodes.start)
                _contract_chunk(
                    work, moments, chunk, _rows_of(factor, inside), _rows_of(by_factor, inside)
                )
                if "moment" in needed and chunk is run.chunks[-1]:
                    moments.store(work)

            if "factor" in needed:
                result["factor"][nodes] = self.target_factors.collect(by_factor, work.scratch)
        self._finish(work)
        return result

    def _plan(self, shapes: dict[str, tuple[int, ...]]) -> tuple[list[slice], int]:
        """Blocks of moments, and the largest number of nodes in a chunk."""
        heads, _, moments = shapes["scale"]
        values = shapes["out"][-1]
        step = max(16, MOMENT_VALUES_PER_BLOCK // max(1, values))

        # a block is read three times, so it is better that it stays in the cache
        block_size = 4 * heads * min(moments, step) * values
        most = max(16, min(MAX_ATOMS_PER_CHUNK, self.budget // max(1, block_size)))
        return _blocks(moments, step), most

    def _finish(self, work: _Work) -> None:
        """Complete the results that no chunk writes: sums over all nodes, and empty graphs."""
        if "moment" in work.needed and not all(self.sizes):
            empty = [graph for graph, size in enumerate(self.sizes) if not size]
            work.result["moment"][empty] = 0
        if "scale" in work.needed:
            dtype = work.result["scale"].dtype
            work.result["scale"] = torch.cat([part.result(dtype) for part in work.scale_sums], -1)

    def _shapes(self, given: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes of all arguments, one of which may be missing."""
        rows, moments = self.shape
        nodes, graphs = sum(self.sizes), len(self.sizes)

        # the sizes that the argument which is missing does not tell
        have = {name: tuple(tensor.shape) for name, tensor in given.items()}
        heads = have["query"][1] if "query" in have else have["out"][1]
        features = have["query"][2] if "query" in have else have["moment"][3]
        values = have["out"][3] if "out" in have else have["moment"][4]

        return {
            "factor": (nodes, *self.target_factors.shape(rows, moments)),
            "scale": (heads, rows, moments),
            "query": (nodes, heads, features),
            "moment": (graphs, moments, heads, features, values),
            "out": (nodes, heads, rows, values),
        }


def _rows_of(values: Tensor | None, rows: slice) -> Tensor | None:
    return None if values is None else values[rows]


def _blocks(moments: int, most: int) -> list[slice]:
    """All moments in ranges of nearly equal length, at most ``most``."""
    count = -(-moments // most)
    cuts = (moments * k // count for k in range(count + 1))
    return [slice(low, high) for low, high in pairwise(cuts)]


def _groups(sizes: Sizes, most: int) -> Iterator[tuple[slice, list[tuple[GraphRun, slice]]]]:
    """Chunks of at most ``most`` nodes in groups of about ``ATOMS_PER_GROUP`` nodes.

    Yields (nodes of the group, its chunks with their runs).
    """
    gathered: list[tuple[GraphRun, slice]] = []
    for run in graph_runs(sizes, most):
        for chunk in run.chunks:
            if gathered and chunk.stop - gathered[0][1].start > max(ATOMS_PER_GROUP, most):
                yield slice(gathered[0][1].start, gathered[-1][1].stop), gathered
                gathered = []
            gathered.append((run, chunk))
    if gathered:
        yield slice(gathered[0][1].start, gathered[-1][1].stop), gathered


class _Chunk:
    """Queries and outputs of one chunk, m nodes of each of k graphs, and products with them.

    query (k h, m, d) and out (k h m, t, v), None where they are not given.
    """

    def __init__(self, work: _Work, count: int, nodes: slice):
        self.scratch = work.scratch
        by_head = {
            name: work.given[name][nodes].unflatten(0, (count, -1)).transpose(1, 2)
            for name in ("query", "out")
            if name in work.given
        }
        self.shape = next(iter(by_head.values())).shape[:3]  # k, h, m
        self.query = by_head["query"].flatten(0, 1) if "query" in by_head else None
        self.out = by_head["out"].flatten(0, 2) if "out" in by_head else None

    def weighted(self, factor: Tensor, scale: Tensor) -> Tensor:
        """``E[t, p] A[h, t, p]`` of factor (k, 1, m, t, p), scale (h, 1, t, p): (k h m, t, p)."""
        out = self.scratch("weighted", *self.shape, *factor.shape[3:])
        return torch.mul(factor, scale, out=out).flatten(0, 2)

    def read(self, moment: Tensor, moments: int) -> Tensor:
        """``sum_d Q[h, d] M[p, h, d, v]`` of moment (k h, d, p v): (k h m, p, v)."""
        out = self.scratch("read", *self.query.shape[:2], moment.shape[2])
        return torch.bmm(self.query, moment, out=out).flatten(0, 1).unflatten(1, (moments, -1))

    def overlap(self, read: Tensor) -> Tensor:
        """``sum_v O[h, t, v] read[h, p, v]``: (k, h, m, t, p)."""
        out = self.scratch("overlap", *self.out.shape[:2], read.shape[1])
        return torch.bmm(self.out, read.transpose(1, 2), out=out).unflatten(0, self.shape)

    def spread(self, weighted: Tensor) -> Tensor:
        """``sum_t weighted[h, t, p] O[h, t, v]``: (k h, m, p v)."""
        out = self.scratch("spread", self.out.shape[0], weighted.shape[2], self.out.shape[2])
        product = torch.bmm(weighted.transpose(1, 2), self.out, out=out)
        return product.flatten(1).unflatten(0, (-1, self.shape[2]))


def _contract_chunk(
    work: _Work,
    moments: _RunMoments,
    nodes: slice,
    factor: Tensor | None,
    by_factor: Tensor | None,
) -> None:
    """Add what one chunk gives to all results.

    factor: its factors, (k m, t, p of all blocks). by_factor: where their gradient is written.
    """
    needed, count = work.needed, moments.run.count
    chunk = _Chunk(work, count, nodes)
    out = by_query = None  # sums over the blocks
    for block, moment, moment_sum, scale_sum in zip(
        work.blocks, moments.blocks, moments.sums, work.scale_sums, strict=True
    ):
        scale = work.given["scale"][:, None, :, block] if "scale" in work.given else None
        part = None  # (k, 1, m, t, p)
        if factor is not None:
            part = factor[:, :, block].unflatten(0, (count, 1, -1))

        # the two products that everything shares
        if needed & {"out", "query", "moment"}:
            weighted = chunk.weighted(part, scale)
        if needed & {"out", "factor", "scale"}:
            read = chunk.read(moment, block.stop - block.start)

        if "out" in needed:
            out = _add_product(out, weighted, read)

        if needed & {"factor", "scale"}:
            overlap = chunk.overlap(read)
        if "factor" in needed:
            by_factor[:, :, block] = _by_factor(overlap, scale)
        if "scale" in needed:
            scale_sum.add(overlap.mul_(part).sum((0, 2)))

        if needed & {"query", "moment"}:
            spread = chunk.spread(weighted)
        if "query" in needed:
            by_query = _add_product(by_query, spread, moment.transpose(1, 2))
        if "moment" in needed:
            moment_sum.add_product(chunk.query.transpose(1, 2), spread)

    # back from (k, h, m, ...) to (nodes, h, ...)
    if "out" in needed:
        work.result["out"][nodes] = out.unflatten(0, chunk.shape).transpose(1, 2).flatten(0, 1)
    if "query" in needed:
        by_node = by_query.unflatten(0, (count, -1)).transpose(1, 2)
        work.result["query"][nodes] = by_node.flatten(0, 1)


def _by_factor(overlap: Tensor, scale: Tensor) -> Tensor:
    """``sum_h A[h, t, p] overlap[h, t, p]`` of overlap (k, h, m, t, p): (k m, t, p)."""
    total = overlap[:, 0] * scale[0]
    for head in range(1, overlap.shape[1]):
        total.addcmul_(overlap[:, head], scale[head])
    return total.flatten(0, 1)


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """``total + left @ right``, written over ``total``; the product alone where it is None."""
    return left @ right if total is None else total.baddbmm_(left, right)
