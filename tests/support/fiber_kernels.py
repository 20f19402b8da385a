"""The convolutions of the Equiformer as explicit kernels: harmonics x Clebsch-Gordan.

Slow and obviously right; see ``kernel_convolution.py`` for the formula. And geometry for them:
graphs whose nodes have few, many and no neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.near_field.fiber_convolution import (
    FactorisedConvolution,
    FiberConvolution,
    PairwiseConvolution,
    PointGeometry,
    RadialSizes,
)
from farfield.models.so3.fibers import Fiber, fiber_width, split_fiber
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_slice
from tests.support.draws import draw
from tests.support.kernel_convolution import message_of_kernel
from tests.support.turns import turn_matrix

RADIAL = RadialSizes(invariants=3, hidden=4)

# name -> receivers and senders of seven nodes: unequal degrees, nodes without edges, a repeated
# edge, nothing at all
TOPOLOGIES = {
    "ragged": ([5, 0, 0, 0, 0, 2, 2, 3, 3], [0, 1, 2, 3, 4, 0, 5, 2, 2]),
    "one-edge": ([4], [6]),
    "no-edges": ([], []),
}
NODES = 7


def ragged_geometry(
    topology: str = "ragged", degree: int = 3, vectors: Tensor | None = None, seed: int = 0
) -> PointGeometry:
    """Random edges of two graphs in one, the first along the negative pole; float64."""
    dst, src = (torch.tensor(ends, dtype=torch.long) for ends in TOPOLOGIES[topology])
    count = len(dst)
    if vectors is None:
        vectors = draw(count, 3, seed=seed)
        vectors[:1] = torch.tensor([0.0, -1.5, 0.0])
    return PointGeometry(
        graph=GraphIndex(src, dst, torch.tensor([6, 1] if topology == "ragged" else [NODES])),
        slots=EdgeSlots(src, dst, NODES, NODES),
        frames=EdgeBasis.from_vectors(vectors, degree).matrices() if degree else (),
        envelope=draw(count, 1, seed=seed + 1).sigmoid(),
        invariants=draw(count, RADIAL.invariants, seed=seed + 2),
        hidden=draw(count, RADIAL.hidden, seed=seed + 3),
        positions=draw(NODES, 3, seed=seed + 4),
    )


def random_fiber(fiber: Fiber, seed: int, nodes: int = NODES) -> Tensor:
    """Features (nodes, width) in float64."""
    return draw(nodes, fiber_width(fiber), seed=seed)


def turned_fiber(x: Tensor, matrix: Tensor, fiber: Fiber) -> Tensor:
    """Features (nodes, width) under an orthogonal matrix (3, 3)."""
    turn = turn_matrix(matrix, len(fiber) - 1)
    parts = [
        torch.einsum("pq,nqc->npc", turn[degree_slice(l), degree_slice(l)], part)
        for l, part in enumerate(split_fiber(x, fiber))
    ]
    return torch.cat([part.flatten(1) for part in parts], 1)


def explicit_messages(
    layer: FiberConvolution, x: Tensor, geometry: PointGeometry, vectors: Tensor
) -> list[Tensor]:
    """What ``layer`` computes, by kernels in space: (edges, 2l + 1, C_l) for each degree."""
    graph = geometry.graph
    ends = layer.sender(x)[graph.src] + layer.receiver(x)[graph.dst]
    parts = split_fiber(ends, layer.fiber_in)
    harmonics = spherical_harmonics(vectors, len(layer.fiber_in) + len(layer.fiber_out) - 2)

    kernels = _factorised if isinstance(layer, FactorisedConvolution) else _pairwise
    found = []
    for l_out in range(len(layer.fiber_out)):
        made = [kernels(layer, geometry, l_out, l_in) for l_in in range(len(parts))]
        pairs = zip(made, parts, strict=True)
        found.append(sum(message_of_kernel(kernel, part, harmonics) for kernel, part in pairs))
    return found


def _factorised(
    layer: FactorisedConvolution, geometry: PointGeometry, l_out: int, l_in: int
) -> Tensor:
    """``A_m[l' c', l c] = R_m[l' c'](edge) W_m[l' c', l c]`` on the polar axis."""
    ins, outs = layer.fiber_in, layer.fiber_out
    radial = layer.radial(geometry.hidden).split(layer.widths, -1)
    kernel = geometry.hidden.new_zeros(
        len(geometry.hidden), 2 * l_out + 1, 2 * l_in + 1, ins[l_in], outs[l_out]
    )
    for m in range(min(l_out, l_in) + 1):
        rows = slice(sum(ins[m:l_in]), sum(ins[m : l_in + 1]))
        columns = slice(sum(outs[m:l_out]), sum(outs[m : l_out + 1]))
        factor = radial[m][:, rows].unsqueeze(-1)
        even = factor * layer.mixing[m][rows, columns]
        kernel[:, l_out + m, l_in + m] = kernel[:, l_out - m, l_in - m] = even
        if layer.handed and m:
            odd = factor * layer.mixing[m][layer.widths[m] :][rows, columns]
            kernel[:, l_out + m, l_in - m], kernel[:, l_out - m, l_in + m] = odd, -odd
    return kernel


def _pairwise(layer: PairwiseConvolution, geometry: PointGeometry, l_out: int, l_in: int) -> Tensor:
    """``A_m[l' c', l c] = a_m R[l' c', l c](edge)`` on the channels of this pair, then the map."""
    pairs = layer.pairs[l_out]
    pair, before = pairs[l_in], sum(other.shape[0] for other in pairs[:l_in])
    radial = pair.radial(geometry.invariants).view(-1, *pair.shape)  # (edges, C', C)
    weight = layer.out[l_out][before : before + pair.shape[0]]
    mixed = torch.einsum("eoc,op->ecp", radial, weight)
    kernel = mixed.new_zeros(len(mixed), 2 * l_out + 1, 2 * l_in + 1, *mixed.shape[1:])
    for m in range(pair.order + 1):
        kernel[:, l_out + m, l_in + m] = kernel[:, l_out - m, l_in - m] = pair.even[m] * mixed
        if pair.odd is not None and m:
            kernel[:, l_out + m, l_in - m] = pair.odd[m - 1] * mixed
            kernel[:, l_out - m, l_in + m] = -pair.odd[m - 1] * mixed
    return kernel
