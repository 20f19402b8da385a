"""Sums of weighted messages without the messages, and distances to keys in the frame of the edge.

A message of the factorised convolution (``fiber_convolution.py``) is v_l = sum_m D_l,m^T p_m W_m,l:
narrow inputs p_m, the rows |m| of the rotation into the frame of the edge, and a mixing that all
edges share. So for weights a of heads h

    sum_j a_ij,h v_ij,l = sum_m [ sum_j a_ij,h D_ij,l,m^T p_ij,m ] W_m,l,h,

and the bracket is one matrix product for each receiver, over its edges and the rows of m. Nothing
of the size of the messages, (edges, 2l + 1, channels), is made. A distance |q - k| is the same in
every frame, so keys stay in that of the edge, order by order, and the query is turned into it.

Cost per edge: heads sum_l (2l + 1) sum_(m <= l) (1 or 2) S_m multiply-adds for the sums, S_m inputs
of order m, and (2l + 1)^2 C for the queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from farfield.models.graph_ops import gather_dst
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.near_field.fiber_convolution import Mixing, PointGeometry

VALUES_PER_EDGE = 32  # sizes the chunks of receivers: 16,000 edges on a CPU


def order_rows(m: int) -> slice:
    """Rows of order m of a frame, whose rows are m = 0, -1, 1, -2, 2, ..."""
    return slice(2 * m - 1, 2 * m + 1) if m else slice(0, 1)


def weighted_messages(
    geometry: PointGeometry,
    parts: Sequence[Tensor],
    mixing: Mixing,
    weights: Sequence[Tensor],
    heads: Sequence[int],
) -> list[Tensor]:
    """``sum_j a_ij,h v_ij`` of every degree: (nodes, 2l + 1, channels of all weights).

    parts: inputs of every order m, (edges, 1 or 2, inputs). weights: a for each degree, (edges,
    weights). heads: for each degree, over how many heads the channels of a value are divided: as
    many as there are weights, or 1, whose channels all weights share.
    """
    heard = []
    for l, (weight, groups) in enumerate(zip(weights, heads, strict=True)):
        total = 0.0
        for m in range(min(l, len(parts) - 1) + 1):
            frame = geometry.frames[l - 1][:, order_rows(m)] if l else None
            sums = _sums_in_space(geometry.slots, frame, parts[m], weight)
            matrix = mixing[m][l - m].unflatten(-1, (groups, -1)).transpose(0, 1)
            total = total + torch.matmul(sums, matrix)
        # (weights, nodes rows, width) -> (nodes, rows, weights width)
        total = total.unflatten(1, (-1, 2 * l + 1))
        heard.append(total.permute(1, 2, 0, 3).flatten(2))
    return heard


def _sums_in_space(slots: EdgeSlots, frame: Tensor | None, part: Tensor, weights: Tensor) -> Tensor:
    """``sum_j a_ij,h D_ij^T p_ij`` of every receiver: (weights, nodes (2l + 1), inputs).

    frame D (edges, rows, 2l + 1), None for scalars; part p (edges, rows, inputs); weights a (edges,
    weights).
    """
    rows, inputs = part.shape[1:]
    left = weights[:, None, :, None]
    if frame is not None:
        left = left * frame.unsqueeze(2)  # (edges, rows, weights, 2l + 1)
    size = left.shape[3]
    width = weights.shape[1] * size

    layout = slots.layout(VALUES_PER_EDGE)
    left = layout.spread_filled(left.flatten(1))
    part = layout.spread(part.flatten(1))

    # one product for each receiver, over its slots and rows
    targets, found = [], []
    for chunk in layout.chunks:
        receivers = chunk.targets.shape[0]
        ours = left[chunk.slots].view(receivers, chunk.size * rows, width)
        theirs = part[chunk.slots].view(receivers, chunk.size * rows, inputs)
        targets.append(chunk.targets)
        found.append(torch.bmm(ours.transpose(1, 2), theirs))
    sums = part.new_zeros(slots.num_targets, width, inputs)
    if found:
        sums = sums.index_copy(0, torch.cat(targets), torch.cat(found))
    by_weight = sums.unflatten(1, (weights.shape[1], size)).transpose(0, 1)
    return by_weight.flatten(1, 2)


def squared_distances(
    geometry: PointGeometry,
    parts: Sequence[Tensor],
    mixing: Mixing,
    queries: Sequence[Tensor],
    heads: Sequence[int],
    key_heads: Sequence[int],
) -> list[Tensor]:
    """``sum_m (q_i,lmc - k_ij,lmc)^2`` of every degree: (edges, heads, width).

    queries: (nodes, 2l + 1, channels) for each degree. parts, mixing: of the keys. heads,
    key_heads: of queries and keys for each degree.
    """
    keys = [
        (part @ torch.cat(list(matrices), -1)).split([matrix.shape[1] for matrix in matrices], -1)
        for part, matrices in zip(parts, mixing, strict=True)
    ]
    found = []
    for l, (query, asking, told) in enumerate(zip(queries, heads, key_heads, strict=True)):
        asked = gather_dst(geometry.graph, query)
        if l:
            asked = torch.bmm(geometry.frames[l - 1], asked)
        total = 0.0
        for m, rows in enumerate(asked.split([1] + [2] * l, 1)):
            apart = rows.unflatten(-1, (asking, -1))
            # keys have no rows of orders that no input has
            if m < len(keys):
                apart = apart - keys[m][l - m].unflatten(-1, (told, -1))
            total = total + apart.square().sum(1)
        found.append(total)
    return found
