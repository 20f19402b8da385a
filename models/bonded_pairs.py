"""Bonds between the points of a batch, and the pairs that a few bonds separate.

A bond joins two points of one graph. The graph distance of a pair is the smallest number of bonds
on a path between both. Pairs at distance h are found from those at h - 1, by one bond more:

    B_1 = A,    B_h = (B_(h-1) A) without B_1 .. B_(h-1) and the diagonal,

with sparse boolean products, A the adjacency. (The PyTorch Equiformer squares the adjacency at each
step instead, so that its distances beyond 2 are wrong.)

Cost: linear in the pairs found times the bonds of a point.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from farfield.models.kernels.padding import Padding

Bonds = tuple[Tensor, Tensor]  # src and dst, (k,) int64 over the nodes of all graphs


class BondedPairs(NamedTuple):
    """Ordered pairs some bonds apart, ascending in their code ``dst * nodes + src``.

    code (pairs,) int64. hops (pairs,) int64: graph distance, 1 or more.
    """

    code: np.ndarray
    hops: np.ndarray

    def hops_of(self, code: np.ndarray) -> np.ndarray:
        """Graph distance of the pairs ``code``; 0 for a pair that is not here."""
        if not len(self.code):
            return np.zeros(len(code), np.int64)
        place = np.searchsorted(self.code, code).clip(max=len(self.code) - 1)
        return np.where(self.code[place] == code, self.hops[place], 0)


def bonds_of_adjacency(adj_mat: Tensor, padding: Padding) -> Bonds:
    """Bonds of padded adjacency matrices, as pairs of the ragged nodes.

    adj_mat: (longest, longest), the same for all graphs, or (graphs, longest, longest); bool or
    numbers, where all but 0 is a bond. The pairs come in both directions, sorted by (dst, src);
    the diagonal and pairs with padding are left out. ValueError in one line for another shape and
    for a bond that has no way back.
    """
    graphs, longest = padding.mask.shape
    if tuple(adj_mat.shape) not in ((longest, longest), (graphs, longest, longest)):
        raise ValueError(
            f"adj_mat must have shape {(longest, longest)} or {(graphs, longest, longest)}, as the "
            f"mask has, got {tuple(adj_mat.shape)}"
        )

    # graph, receiving and sending place of every bond (bonds,); a shared matrix is read once
    if adj_mat.dim() == 3:
        graph, to, at = adj_mat.nonzero(as_tuple=True)
    else:
        to, at = adj_mat.nonzero(as_tuple=True)
        graph = torch.arange(graphs, device=adj_mat.device).repeat_interleave(len(to))
        to, at = to.repeat(graphs), at.repeat(graphs)

    # node at each place, -1 at padding
    node = padding.padded(torch.arange(padding.num_nodes, device=padding.mask.device), fill=-1)
    dst, src = node[graph, to], node[graph, at]
    real = (dst >= 0) & (src >= 0) & (dst != src)
    graph, to, at, dst, src = (ends[real] for ends in (graph, to, at, dst, src))

    one_way = ~torch.isin(dst * padding.num_nodes + src, src * padding.num_nodes + dst)
    if one_way.any():
        g, i, j = (int(ends[one_way][0]) for ends in (graph, to, at))
        raise ValueError(
            f"adj_mat is not symmetric: graph {g} has a bond [{i}, {j}] but none [{j}, {i}]; "
            "give adj_mat | adj_mat.transpose(-1, -2)"
        )
    return src, dst


def chain_bonds(counts: Tensor) -> Bonds:
    """Bonds of every point to the next one of its graph, in both directions.

    counts (graphs,) int64: points of each graph. The pairs are sorted by (dst, src).
    """
    graph_of_node = torch.repeat_interleave(counts)
    (first,) = (graph_of_node[1:] == graph_of_node[:-1]).nonzero(as_tuple=True)

    src, dst = torch.cat([first + 1, first]), torch.cat([first, first + 1])
    order = (dst * len(graph_of_node) + src).argsort()
    return src[order], dst[order]


def pairs_within(bonds: Bonds | None, counts: np.ndarray, hops: int) -> BondedPairs:
    """All ordered pairs 1 .. ``hops`` bonds apart; none without ``bonds``.

    bonds: each in one direction or in both, once or more; a bond of a point with itself does not
    count. counts (graphs,): points of each graph. ValueError in one line for ends that are no
    point, and for a bond between two graphs.
    """
    nodes = int(counts.sum())
    if bonds is None:
        return BondedPairs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    src, dst = _checked_bonds(bonds, counts)

    # every bond once in each direction
    src, dst = src[src != dst], dst[src != dst]
    both = np.sort(np.concatenate([src * nodes + dst, dst * nodes + src]))
    step = both[np.diff(both, prepend=-1) > 0]

    adjacency, levels = _boolean_matrix(step, nodes), [step]
    for _ in range(hops - 1):
        # a path to the pairs of the last level, and one bond more
        further = (_boolean_matrix(levels[-1], nodes) @ adjacency).tocoo()
        row, column = further.row.astype(np.int64), further.col.astype(np.int64)
        code = (row * nodes + column)[row != column]
        levels.append(np.setdiff1d(code, np.concatenate(levels), assume_unique=True))

    code = np.concatenate(levels)
    distance = np.repeat(np.arange(1, hops + 1), [len(level) for level in levels])
    order = code.argsort()
    return BondedPairs(code[order], distance[order])


def _boolean_matrix(code: np.ndarray, nodes: int):
    """The matrix (nodes, nodes) that is True at the pairs ``code``."""
    from scipy import sparse  # 0.2 s, when bonds are first walked

    ends = np.divmod(code, max(nodes, 1))
    return sparse.csr_array((np.ones(len(code), bool), ends), shape=(nodes, nodes))


def _checked_bonds(bonds: Bonds, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    src, dst = (np.asarray(ends.detach().cpu(), dtype=np.int64) for ends in bonds)
    if src.shape != dst.shape or src.ndim != 1:
        raise ValueError(
            "bonds must be two lists of the same length, src and dst, got shapes "
            f"{src.shape} and {dst.shape}"
        )

    ends, nodes = np.concatenate([src, dst]), int(counts.sum())
    if len(ends) and not 0 <= ends.min() <= ends.max() < nodes:
        raise ValueError(
            f"bonds must join points 0 .. {nodes - 1}, got {ends.min()} .. {ends.max()}"
        )

    graph = np.repeat(np.arange(len(counts)), counts)
    (crossing,) = (graph[src] != graph[dst]).nonzero()
    if len(crossing):
        j, i = src[crossing[0]], dst[crossing[0]]
        raise ValueError(
            f"bond {crossing[0]} joins point {j} of graph {graph[j]} and point {i} of graph "
            f"{graph[i]}: leave it out, or count both graphs as one"
        )
    return src, dst
