"""Sources and targets about origins near to them, for the node form of the Wigner convolution.

The node form writes harmonics of a difference of positions as products of harmonics of each
position (``wigner_convolution.py``), which cancels digits wherever positions are large. Space is
therefore cut into cubes of side ``CUBE_SIDE``. A source is seen from the centre of its cube; a
target is seen from the centre of every cube that holds one of its sources. Centres are multiples of
a power of two, so that differences to them are exact in floating point, however far from zero the
positions are.

Cost: a sort of the edges, once for a batch.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.edge_slots import EdgeSlots

CUBE_SIDE = 4.0  # Angstrom, a power of two


@dataclasses.dataclass
class LocalOrigins:
    """Edges from sources to pairs of a target and a cube.

    A source is a node, or a periodic image of one.

    Attributes
        node              (sources,) int64: the node of each source
        source_position   (sources, 3), from the centre of its cube
        target            (pairs,) int64: the node of each pair
        target_position   (pairs, 3), from the centre of the cube of the pair
        edges             from sources to pairs, in the order of the edges of the graph
    """

    node: Tensor
    source_position: Tensor
    target: Tensor
    target_position: Tensor
    edges: EdgeSlots

    @classmethod
    def of(
        cls, graph: GraphIndex, positions: Tensor, images: Tensor | None, dtype: torch.dtype
    ) -> LocalOrigins:
        """Origins of a graph.

        positions (nodes, 3). images (edges, 3): displacements of the receiving atoms, or None in
        open space. dtype: type of the positions from the centres.
        """
        node, source, place = _image_sources(graph, positions, images)

        # (sources, 3) whole numbers, and the different ones among them
        cube = (place.detach() / CUBE_SIDE).round()
        cubes, cube_of_source = cube.unique(dim=0, return_inverse=True)
        count = cubes.shape[0]

        # a pair is one number: target x count + cube
        key = graph.dst * count + cube_of_source.index_select(0, source)
        pairs, pair_of_edge = key.unique(return_inverse=True)
        target = pairs.div(max(count, 1), rounding_mode="floor")
        centre = cubes.index_select(0, pairs - target * count) * CUBE_SIDE

        return cls(
            node=node,
            source_position=(place - cube * CUBE_SIDE).to(dtype),
            target=target,
            target_position=(positions.index_select(0, target) - centre).to(dtype),
            edges=EdgeSlots(source, pair_of_edge, node.shape[0], target.shape[0]),
        )


def _image_sources(
    graph: GraphIndex, positions: Tensor, images: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The different sources: (node of each, source of each edge, position of each).

    (sources,), (edges,), (sources, 3). In open space the sources are the nodes.
    """
    if images is None:
        return torch.arange(graph.num_nodes, device=graph.src.device), graph.src, positions

    # edges with the same sender and the same displacement have the same source
    node_column = graph.src.unsqueeze(1).to(torch.float64)
    key = torch.cat([node_column, images.detach().to(torch.float64)], 1)
    different, source = key.unique(dim=0, return_inverse=True)

    # any edge of a source tells its node and its displacement
    every = torch.arange(graph.num_edges, device=source.device)
    edge = source.new_empty(different.shape[0]).index_copy(0, source, every)
    node = graph.src.index_select(0, edge)
    return node, source, positions.index_select(0, node) - images.index_select(0, edge)
