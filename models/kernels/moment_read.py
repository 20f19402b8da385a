"""The read-back of moments as a multilinear form (formula: ``readout.py``), computed piece by piece
in the processor's cache.

The target factors of an atom, (kernel components x moments) numbers, are the widest thing about it.
Where they are a constant linear map of fewer numbers, as in the multipole expansion, only those are
kept, and the factors are made for a few atoms at a time whenever they are needed
(:class:`MappedFactors`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from farfield.models.kernels.node_chunks import (
    BUDGET,
    MOST_ATOMS,
    PieceSum,
    Run,
    Scratch,
    Sizes,
    graph_runs,
)

BLOCK = 4608  # moments x values that are read back together
CHUNK = 256  # atoms whose factors are mapped together


class Factors:
    """Target factors as they are given, (nodes, rows, moments)."""

    def shape(self, rows: int, moments: int) -> tuple[int, ...]:
        """What is given of each node."""
        return rows, moments

    def spread(self, given: Tensor, scratch: Scratch) -> Tensor:
        """The factors (nodes, rows, moments) of what is given (nodes, ...)."""
        return given

    def collect(self, factors: Tensor, scratch: Scratch) -> Tensor:
        """The transpose of :meth:`spread`."""
        return factors


class MappedFactors(Factors):
    """Target factors as a constant sparse ``matrix`` (rows x moments, width) times ``width``
    numbers of each node; and its transpose.
    """

    def __init__(self, matrix: Tensor, transposed: Tensor, rows: int):
        self.matrix, self.transposed, self.rows = matrix, transposed, rows

    def shape(self, rows: int, moments: int) -> tuple[int, ...]:
        return (self.matrix.shape[1],)

    def spread(self, given: Tensor, scratch: Scratch) -> Tensor:
        """given (nodes, width); best laid out with the nodes next to each other."""
        columns = scratch("columns", self.matrix.shape[0], given.shape[0])
        torch.addmm(columns, self.matrix, given.T.contiguous(), beta=0, out=columns)
        return scratch("factors", *columns.T.shape).copy_(columns.T).unflatten(1, (self.rows, -1))

    def collect(self, factors: Tensor, scratch: Scratch) -> Tensor:
        flat = factors.flatten(1).T
        return torch.sparse.mm(self.transposed, scratch("columns", *flat.shape).copy_(flat)).T


class _Work(NamedTuple):
    """What all pieces of one contraction share: ``wanted``, ``given``, ``result`` as in
    ``contract``, ranges of moments, temporaries.
    """

    wanted: set[str]
    given: dict[str, Tensor]
    result: dict[str, Tensor]
    blocks: list[slice]
    scale_sums: list[PieceSum]
    scratch: Scratch


class _RunMoments:
    """The moments of the graphs of a run, laid out (k h, d, p v) for each block, and the sums of
    their gradient.
    """

    def __init__(self, run: Run, work: _Work):
        self.run, self.sums = run, [PieceSum() for _ in work.blocks]
        self.blocks = [None] * len(work.blocks)
        if "moment" in work.given:
            parts = (work.given["moment"][run.graphs, block] for block in work.blocks)
            self.blocks = [part.permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1) for part in parts]

    def store(self, work: _Work) -> None:
        """Write the sums into the result."""
        result = work.result["moment"]
        for block, total in zip(work.blocks, self.sums, strict=True):
            summed = (
                total.result(result.dtype)
                .unflatten(0, (-1, result.shape[2]))
                .unflatten(-1, (-1, result.shape[4]))
            )
            result[self.run.graphs, block] = summed.permute(0, 3, 1, 2, 4)


class ReadForm:
    """``sum_i sum wave_i[t, p] scale[h, t, p] query_i[h, d] moment_g(i)[p, h, d, v] out_i[h, t,
    v]`` for graphs of the given sizes.

    ``wave`` holds the target factors themselves or, with ``factors``, the compact tensor they are
    built from.
    """

    slots = ("wave", "scale", "query", "moment", "out")

    def __init__(
        self,
        sizes: Sizes,
        shape: tuple[int, int],
        factors: Factors | None = None,
        budget: int = BUDGET,
    ):
        self.sizes, self.shape, self.factors, self.budget = (
            sizes,
            shape,
            factors or Factors(),
            budget,
        )

    def contract(self, wanted: set[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The form with each ``wanted`` argument left out; arguments not needed for it may be
        missing.
        """
        like = next(iter(given.values()))
        shapes = self._shapes(given)
        heads, _, moments = shapes["scale"]
        result = {name: like.new_empty(shapes[name]) for name in wanted}
        if not any(self.sizes):
            return {name: part.zero_() for name, part in result.items()}
        step = max(16, BLOCK // max(1, shapes["out"][-1]))
        blocks = _blocks(moments, step)
        work = _Work(wanted, given, result, blocks, [PieceSum() for _ in blocks], Scratch(like))
        block_size = (
            4 * heads * min(moments, step) * shapes["out"][-1]
        )  # read three times: better in the cache
        run_moments = None
        for nodes, pieces in _chunks(
            self.sizes, max(16, min(MOST_ATOMS, self.budget // max(1, block_size)))
        ):
            wave = (
                self.factors.spread(given["wave"][nodes], work.scratch) if "wave" in given else None
            )
            slope = (
                work.scratch("slope", nodes.stop - nodes.start, *shapes["scale"][1:])
                if "wave" in wanted
                else None
            )
            for run, piece in pieces:
                if run_moments is None or run_moments.run is not run:
                    run_moments = _RunMoments(run, work)
                inside = slice(piece.start - nodes.start, piece.stop - nodes.start)
                _piece(
                    work,
                    run_moments,
                    piece,
                    *(None if part is None else part[inside] for part in (wave, slope)),
                )
                if "moment" in wanted and piece is run.pieces[-1]:
                    run_moments.store(work)
            if "wave" in wanted:
                result["wave"][nodes] = self.factors.collect(slope, work.scratch)
        if "moment" in wanted and not all(self.sizes):
            result["moment"][[number for number, size in enumerate(self.sizes) if not size]] = 0
        if "scale" in wanted:
            result["scale"] = torch.cat([part.result(like.dtype) for part in work.scale_sums], -1)
        return result

    def _shapes(self, given: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes of all arguments, one of which may be missing."""
        rows, waves = self.shape
        have = {name: tuple(tensor.shape) for name, tensor in given.items()}
        heads = have["query"][1] if "query" in have else have["out"][1]
        keys = have["query"][2] if "query" in have else have["moment"][3]
        values = have["out"][3] if "out" in have else have["moment"][4]
        nodes, graphs = sum(self.sizes), len(self.sizes)
        return {
            "wave": (nodes, *self.factors.shape(rows, waves)),
            "scale": (heads, rows, waves),
            "query": (nodes, heads, keys),
            "moment": (graphs, waves, heads, keys, values),
            "out": (nodes, heads, rows, values),
        }


def _blocks(moments: int, most: int) -> list[slice]:
    """All moments in ranges of equal length, at most ``most``."""
    count = -(-moments // most)
    return [
        slice(low, high) for low, high in pairwise(moments * k // count for k in range(count + 1))
    ]


def _chunks(sizes: Sizes, most: int) -> Iterator[tuple[slice, list[tuple[Run, slice]]]]:
    """Pieces of at most ``most`` nodes in chunks of about ``CHUNK`` nodes: (nodes of the chunk, its
    pieces with their runs).
    """
    gathered: list[tuple[Run, slice]] = []
    for run in graph_runs(sizes, most):
        for piece in run.pieces:
            if gathered and piece.stop - gathered[0][1].start > max(CHUNK, most):
                yield slice(gathered[0][1].start, gathered[-1][1].stop), gathered
                gathered = []
            gathered.append((run, piece))
    if gathered:
        yield slice(gathered[0][1].start, gathered[-1][1].stop), gathered


def _piece(
    work: _Work, moments: _RunMoments, nodes: slice, wave: Tensor | None, slope: Tensor | None
) -> None:
    """The nodes of one piece, m of each of k graphs; their factors and the place of the factors'
    gradient, (k m, t, P).
    """
    wanted, given, count = work.wanted, work.given, moments.run.count
    split = {
        name: given[name][nodes].unflatten(0, (count, -1)).transpose(1, 2)
        for name in ("query", "out")
        if name in given
    }
    shape = next(iter(split.values())).shape[:3]  # k, h, m
    query = split["query"].flatten(0, 1) if "query" in split else None  # (k h, m, d)
    out = split["out"].flatten(0, 2) if "out" in split else None  # (k h m, t, v)
    heard = asked = None  # sums over the blocks
    for block, moment, total, scale_sum in zip(
        work.blocks, moments.blocks, moments.sums, work.scale_sums, strict=True
    ):
        scale = given["scale"][:, None, :, block] if "scale" in given else None
        part = (
            wave[:, :, block].unflatten(0, (count, 1, -1)) if wave is not None else None
        )  # (k, 1, m, t, p)
        if wanted & {"out", "query", "moment"}:
            weighted = torch.mul(
                part, scale, out=work.scratch("weighted", *shape, *part.shape[3:])
            ).flatten(0, 2)  # (k h m, t, p)
        if wanted & {"out", "wave", "scale"}:
            read = torch.bmm(
                query, moment, out=work.scratch("read", *query.shape[:2], moment.shape[2])
            )
            read = read.flatten(0, 1).unflatten(1, (block.stop - block.start, -1))  # (k h m, p, v)
        if "out" in wanted:
            heard = weighted @ read if heard is None else heard.baddbmm_(weighted, read)
        if wanted & {"wave", "scale"}:
            inner = torch.bmm(
                out, read.transpose(1, 2), out=work.scratch("inner", *out.shape[:2], read.shape[1])
            ).unflatten(0, shape)
        if "wave" in wanted:
            sloped = inner[:, 0] * scale[0]  # (k, m, t, p)
            for head in range(1, inner.shape[1]):
                sloped.addcmul_(inner[:, head], scale[head])
            slope[:, :, block] = sloped.flatten(0, 1)
        if "scale" in wanted:
            scale_sum.add(inner.mul_(part).sum((0, 2)))  # of (k, h, m, t, p)
        if wanted & {"query", "moment"}:
            spread = torch.bmm(
                weighted.transpose(1, 2),
                out,
                out=work.scratch("spread", out.shape[0], weighted.shape[2], out.shape[2]),
            )
            spread = spread.flatten(1).unflatten(0, (-1, shape[2]))  # (k h, m, p v)
        if "query" in wanted:
            asked = (
                spread @ moment.transpose(1, 2)
                if asked is None
                else asked.baddbmm_(spread, moment.transpose(1, 2))
            )
        if "moment" in wanted:
            total.add_product(query.transpose(1, 2), spread)
    if "out" in wanted:
        work.result["out"][nodes] = heard.unflatten(0, shape).transpose(1, 2).flatten(0, 1)
    if "query" in wanted:
        work.result["query"][nodes] = asked.unflatten(0, (count, -1)).transpose(1, 2).flatten(0, 1)
