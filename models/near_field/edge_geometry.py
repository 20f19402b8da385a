"""What all attention layers of an E2Former share about the edges of a batch.

Made once per forward pass. A kernel of degree l is a spherical harmonic of the direction of the
edge, which has no limit at length zero. The direction is therefore softened,

    u = v / sqrt(|v|^2 + s^2),        kernel S_l(u), the solid harmonic (``so3/harmonics.py``)

with sum_m S_lm(u)^2 = |u|^(2 l). The kernel is smooth everywhere, zero at coincident atoms, and
0.1 % below the value of a unit vector at twenty times s. It is a homogeneous polynomial of v times
a scalar, so that it can be moved from edges to nodes (``wigner_convolution.py``).

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
from farfield.models.near_field.local_origins import LocalOrigins
from farfield.models.near_field.neighbour_limit import neighbour_limit
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import num_rows

# Angstrom: far below any distance between atoms, large enough for float32 derivatives at zero
# length
SOFTENING = 0.05


@dataclasses.dataclass
class NearFieldGeometry:
    """Edges of a batch as the near field reads them.

    Attributes
        graph        topology
        positions    (nodes, 3), maybe of a finer type than all others
        vectors      (edges, 3), x_dst - x_src (+ images)
        length       (edges,), with zero gradient at length zero
        envelope     (edges, 1), 1 at length zero, 0 at the cutoff with two continuous derivatives
                     ("cosine": with one); times the limit of the number of neighbours, if any
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
        max_neighbors: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> NearFieldGeometry:
        """Geometry from positions (nodes, 3).

        envelope: function of the lengths (edges,) -> (edges,). invariants: function of the lengths
        (edges,) -> (edges, hidden). images (edges, 3):
        :func:`farfield.models.edges.image_vectors`, or None in open space. max_neighbors: nearest
        neighbours of an atom whose edges count, None: all (``neighbour_limit.py``). dtype: type of
        the vectors and all that follows, None: that of the positions and images.
        """
        vectors = edge_vectors(positions, graph, images).to(dtype or positions.dtype)
        length = safe_length(vectors)
        fade = envelope(length)
        if max_neighbors is not None:
            fade = fade * neighbour_limit(graph, length, max_neighbors)
        return cls(
            graph=graph,
            positions=positions,
            vectors=vectors,
            length=length,
            envelope=fade.view(-1, 1),
            invariants=invariants(length),
            images=images,
        )

    @functools.cached_property
    def softened_length(self) -> Tensor:
        """``sqrt(|v|^2 + s^2)`` (edges, 1)."""
        return (self.vectors.square().sum(-1, keepdim=True) + self.softening**2).sqrt()

    def harmonics(self, lmax: int) -> Tensor:
        """Solid harmonics of the softened direction for degrees 0 .. lmax: (edges, (lmax + 1)^2).

        Computed once for the largest lmax, then cut to size.
        """
        rows = num_rows(lmax)
        if self._harmonics is None or self._harmonics.shape[1] < rows:
            self._harmonics = solid_harmonics(self.vectors / self.softened_length, lmax)
        return self._harmonics[:, :rows]

    @functools.cached_property
    def surroundings(self) -> Tensor:
        """``sum_j u_ij e_ij`` (nodes, hidden): envelope times invariants of the incoming edges."""
        return sum_edges(self.graph, self.invariants * self.envelope)

    @functools.cached_property
    def local_origins(self) -> LocalOrigins:
        """Sources and targets for the node form of the Wigner convolution."""
        return LocalOrigins.of(self.graph, self.positions, self.images, self.vectors.dtype)

    @functools.cached_property
    def edge_slots(self) -> EdgeSlots:
        """The edges grouped by the node they end in, for the sums of messages."""
        return EdgeSlots(self.graph.src, self.graph.dst, self.graph.num_nodes, self.graph.num_nodes)
