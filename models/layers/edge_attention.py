"""Attention among the pairs of a structure (the EdgeTransformer).

    S_ilj   = <q_il, k_lj> / sqrt(d)                      pair (i, j) looks at every way i, l, j
    a_ilj   = exp S_ilj / sum_m exp S_imj
    out_ij  = sum_l a_ilj (v1_il * v2_lj)                 element by element

for each head; i, l, j are atoms. q, k, v1, v2 are linear in the features of pairs. Source: Bergen
et al. 2021, Systematic generalization with edge transformers (arXiv:2112.00578), eqs. 2 to 5.

Fused attention (``scaled_dot_product_attention``) has one query that meets all keys. Here the query
itself changes with l, so for fixed (i, j) there is no such query, and the value is a product of a
factor of (i, l) and one of (l, j). Scores are one matrix product, (i, d) x (d, j), for each l and
head; the sum over values is no matrix product, since the weights depend on all three indices.

Cost: n^3 width multiply-adds a structure and layer. Memory: chunks of i, whose temporaries are made
again for every derivative (``kernels/recomputation.py``), so that it grows as n^2 width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.kernels.recomputation import recomputed
from farfield.models.layers.unit_linear import unit_linear

VALUES_PER_CHUNK = 2**20  # of the largest temporary


def triangle_sum(q: Tensor, k: Tensor, v1: Tensor, v2: Tensor, real: Tensor | None) -> Tensor:
    """``sum_l softmax_l(<q_il, k_lj>) (v1_il * v2_lj)``, without the scale of the scores.

    q, v1 (graphs, heads, l, i, d) and k, v2 (graphs, heads, l, j, d). real (graphs, l) bool: the
    atoms that are no padding, None for all. Result (graphs, heads, i, j, d).
    """
    scores = q @ k.transpose(-1, -2)  # (graphs, heads, l, i, j)
    if real is not None:
        # a structure has an atom, so every column keeps a finite score
        scores = scores.masked_fill(~real[:, None, :, None, None], -torch.inf)
    weights = scores.softmax(2).unsqueeze(-1)
    return (weights * v1.unsqueeze(4) * v2.unsqueeze(3)).sum(2)


def edge_attention(
    q: Tensor,
    k: Tensor,
    v1: Tensor,
    v2: Tensor,
    real: Tensor | None = None,
    most: int = VALUES_PER_CHUNK,
) -> Tensor:
    """:func:`triangle_sum` with scores over sqrt(d), in chunks of i and of heads.

    most: values in the largest temporary of a chunk, which has one i and one head at least.
    """
    q = q * q.shape[-1] ** -0.5
    graphs, heads, atoms, queries, width = q.shape
    of_query = max(graphs * atoms * k.shape[3] * width, 1)
    if of_query * queries * heads <= most:
        return triangle_sum(q, k, v1, v2, real)

    # many i of one head: keys and values are then read again least often
    rows = min(max(most // of_query, 1), queries)
    some = min(max(most // (of_query * rows), 1), heads)

    def chunk(*tensors: Tensor) -> Tensor:
        return triangle_sum(*tensors, real)

    found = []
    of_heads = zip(*(tensor.split(some, 1) for tensor in (q, k, v1, v2)), strict=True)
    for first, key, second, value in of_heads:
        parts = zip(first.split(rows, 3), second.split(rows, 3), strict=True)
        found.append(torch.cat([recomputed(chunk, one, key, two, value) for one, two in parts], 2))
    return torch.cat(found, 1)


class PairAttention(nn.Module):
    """``forward(x (graphs, n, n, width), real (graphs, n) bool or None) -> (graphs, n, n, width)``.

    Rows and columns of padding get finite values, and give nothing to the others. width: a multiple
    of the number of heads.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.read = unit_linear(width, 4 * width, bias=False)
        self.write = unit_linear(width, width)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """x (graphs, n, n, width), real (graphs, n) or None -> (graphs, n, n, width)."""
        # each (graphs, first, second, heads, d)
        parts = self.read(x).unflatten(-1, (4, self.heads, -1)).unbind(3)
        q, v1 = (parts[place].permute(0, 3, 2, 1, 4) for place in (0, 1))  # l is the second
        k, v2 = (parts[place].permute(0, 3, 1, 2, 4) for place in (2, 3))  # l is the first
        out = edge_attention(q, k, v1, v2, real)
        return self.write(out.permute(0, 2, 3, 1, 4).flatten(3))
