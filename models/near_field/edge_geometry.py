"""What all attention layers of a network share about the edges of a batch; made once per forward
pass.

Direction. A kernel of degree l is a spherical harmonic of the direction of the edge, which has no
limit at length zero. The direction is therefore softened, ``u = v / sqrt(|v|^2 + s^2)``, and the
kernel is the solid harmonic ``S_l(u)`` (``harmonics.py``, "norm": sum_m S_lm(u)^2 = |u|^(2 l)). It
is smooth everywhere, zero at coincident atoms, 0.1 % below a unit vector's at twenty times s, and a
homogeneous polynomial of v times a scalar, so that it can be moved from edges to nodes
(``wigner6j.py``).

Cost: linear in edges; the harmonics are computed once for all layers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from farfield.models.edges import edge_vectors, safe_length
from farfield.models.graph_ops import GraphIndex, sum_edges
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import num_rows

CUBE_SIDE = 4.0  # side of the cubes of local origins, Angstrom: a power of two
# Angstrom: far below any distance between atoms, large enough for float32 derivatives at zero
# length
SOFTENING = 0.05


@dataclasses.dataclass
class NearFieldGeometry:
    """Edges of a batch as the near field reads them.

    Attributes
        graph        topology
        positions    (nodes, 3)
        vectors      (edges, 3), x_dst - x_src (+ images)
        length       (edges,), zero length has zero gradient
        envelope     (edges, 1), 1 at length zero, 0 at the cutoff with two continuous derivatives
                     ("cosine": with one)
        invariants   (edges, hidden), radial basis and elements of both ends through the trunk that
                     all layers share
        images       (edges, 3) displacement of the receiving atom by lattice vectors, or None
        softening    s of the softened direction, in the unit of the positions
    """

    graph: GraphIndex
    positions: Tensor
    vectors: Tensor
    length: Tensor
    envelope: Tensor
    invariants: Tensor
    images: Tensor | None = None
    softening: float = SOFTENING
    _harmonics: Tensor | None = dataclasses.field(default=None, init=False, repr=False)

    @classmethod
    def from_positions(
        cls,
        graph: GraphIndex,
        positions: Tensor,
        *,
        envelope: Callable[[Tensor], Tensor],
        invariants: Callable[[Tensor], Tensor],
        images: Tensor | None = None,
    ) -> NearFieldGeometry:
        """Geometry from positions (nodes, 3); ``envelope`` and ``invariants`` are functions of the
        lengths (edges,).

        images (edges, 3): :func:`models.near_field.edge_frames.image_vectors` of every edge, or
        None in open space. ``envelope`` gives (edges,), ``invariants`` (edges, hidden).
        """
        vectors = edge_vectors(positions, graph, images)
        length = safe_length(vectors)
        return cls(
            graph,
            positions,
            vectors,
            length,
            envelope(length).view(-1, 1),
            invariants(length),
            images,
        )

    @functools.cached_property
    def softened_length(self) -> Tensor:
        """``sqrt(|v|^2 + s^2)`` (edges, 1)."""
        return (self.vectors.square().sum(-1, keepdim=True) + self.softening**2).sqrt()

    def harmonics(self, lmax: int) -> Tensor:
        """Solid harmonics of the softened direction for degrees 0 .. lmax: (edges, (lmax + 1)^2);
        computed once, cut to size.
        """
        rows = num_rows(lmax)
        if self._harmonics is None or self._harmonics.shape[1] < rows:
            self._harmonics = solid_harmonics(self.vectors / self.softened_length, lmax)
        return self._harmonics[:, :rows]

    @functools.cached_property
    def surroundings(self) -> Tensor:
        """Invariants summed over the edges that end in a node, each with its envelope: (nodes,
        hidden).
        """
        return sum_edges(self.graph, self.invariants * self.envelope)

    @functools.cached_property
    def local_origins(self) -> LocalOrigins:
        """Sources and targets about origins near to them, for the node form of the Wigner
        convolution.
        """
        return LocalOrigins.of(self.graph, self.positions, self.images)

    @functools.cached_property
    def edge_slots(self) -> EdgeSlots:
        """The edges grouped by the node they end in, for the sums of messages."""
        return EdgeSlots(self.graph.src, self.graph.dst, self.graph.num_nodes, self.graph.num_nodes)


@dataclasses.dataclass
class LocalOrigins:
    """Edges between sources about the centres of their cubes and pairs of a target and a cube.

    A source is a node, or a periodic image of one. Space is cut into cubes of side ``CUBE_SIDE``;
    centres are multiples of a power of two, so differences to them are exact in floating point,
    however far from zero the positions are.

    node (sources,), source_position (sources, 3) from the centre of its cube; target (pairs,),
    target_position (pairs, 3) from the centre of the cube of the pair; edges: from sources to
    pairs.
    """

    node: Tensor
    source_position: Tensor
    target: Tensor
    target_position: Tensor
    edges: EdgeSlots

    @classmethod
    def of(cls, graph: GraphIndex, positions: Tensor, images: Tensor | None) -> LocalOrigins:
        """Origins of a graph with positions (nodes, 3) and displacements (edges, 3) of the
        receiving atoms, if periodic.
        """
        node, source, place = _image_sources(graph, positions, images)
        cube = (place.detach() / CUBE_SIDE).round()  # (sources, 3) whole numbers
        cubes, cube_of_source = cube.unique(dim=0, return_inverse=True)
        pairs, pair_of_edge = (
            graph.dst * cubes.shape[0] + cube_of_source.index_select(0, source)
        ).unique(return_inverse=True)
        target = pairs.div(max(cubes.shape[0], 1), rounding_mode="floor")
        centre = cubes.index_select(0, pairs - target * cubes.shape[0]) * CUBE_SIDE
        edges = EdgeSlots(source, pair_of_edge, node.shape[0], target.shape[0])
        return cls(
            node,
            place - cube * CUBE_SIDE,
            target,
            positions.index_select(0, target) - centre,
            edges,
        )


def _image_sources(
    graph: GraphIndex, positions: Tensor, images: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Node of each different source (sources,), source of each edge (edges,), position of each
    source (sources, 3).
    """
    if images is None:
        return torch.arange(graph.num_nodes, device=graph.src.device), graph.src, positions
    key = torch.cat(
        [graph.src.unsqueeze(1).to(torch.float64), images.detach().to(torch.float64)], 1
    )
    different, source = key.unique(dim=0, return_inverse=True)
    edge = source.new_empty(different.shape[0]).index_copy(
        0, source, torch.arange(graph.num_edges, device=source.device)
    )
    node = graph.src.index_select(0, edge)
    return node, source, positions.index_select(0, node) - images.index_select(0, edge)
