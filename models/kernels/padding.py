"""Padded tensors of a batch and the ragged rows in them, exact both ways.

A padded batch is one tensor (graphs, longest, ...) and a mask (graphs, longest) that is True where
a node stands. Inside the house nodes lie end to end, (nodes, ...), graph after graph, each graph in
the order of its places. With row r at place p(r) of the flattened batch,

    ragged(x)[r] = x[p(r)],        padded(y)[p(r)] = y[r],  fill elsewhere.

Neither changes a value, so both ways hold to the last digit, and the gradient at padding is zero.
The mask may have holes; only a full one copies nothing.

Cost: one copy of the rows.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Padding:
    """Which places of a padded batch hold nodes; made by :meth:`of` or :meth:`of_counts`.

    mask    (graphs, longest) bool, True where a node stands
    counts  (graphs,) int64, nodes of each graph
    places  (nodes,) int64, place of each node in the flattened batch, ascending

    Example: two graphs of two nodes and of one, and their rows end to end.

        padding = Padding.of(torch.tensor([[True, True], [False, True]]))
        rows = padding.ragged(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # 1, 2, 4
        padding.padded(rows, fill=-1)  # [[1, 2], [-1, 4]]
    """

    mask: Tensor
    counts: Tensor
    places: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Padding:
        """From a mask (graphs, longest) bool with any pattern; ValueError for another tensor."""
        if mask.dim() != 2 or mask.dtype != torch.bool:
            raise ValueError(
                "mask must be a bool tensor (graphs, longest), got "
                f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}; "
                "give True where a node stands"
            )
        places = mask.flatten().nonzero().squeeze(1)
        return cls(mask=mask, counts=mask.sum(1), places=places)

    @classmethod
    def of_counts(cls, nodes_per_graph: Tensor) -> Padding:
        """From sizes (graphs,) int64: the nodes of a graph take its first places.

        ``longest`` is the largest size. ValueError for another shape and for negative sizes.
        """
        if nodes_per_graph.dim() != 1 or (nodes_per_graph < 0).any():
            raise ValueError(
                "nodes_per_graph must be one number >= 0 a graph, got "
                f"{nodes_per_graph.tolist()} of shape {tuple(nodes_per_graph.shape)}"
            )
        longest = int(nodes_per_graph.max()) if len(nodes_per_graph) else 0
        place = torch.arange(longest, device=nodes_per_graph.device)
        return cls.of(place < nodes_per_graph.unsqueeze(1))

    @property
    def num_nodes(self) -> int:
        """Number of nodes of all graphs."""
        return len(self.places)

    def ragged(self, values: Tensor) -> Tensor:
        """The rows of a padded tensor (graphs, longest, ...) that are nodes: (nodes, ...)."""
        if values.shape[:2] != self.mask.shape:
            raise ValueError(
                f"a padded tensor must begin with the shape {tuple(self.mask.shape)} of the mask, "
                f"got shape {tuple(values.shape)}"
            )
        rows = values.flatten(0, 1)
        return rows if self._is_full else rows.index_select(0, self.places)

    def padded(self, rows: Tensor, fill: float = 0) -> Tensor:
        """Rows (nodes, ...) at their places, ``fill`` at padding: (graphs, longest, ...)."""
        if rows.dim() == 0 or rows.shape[0] != self.num_nodes:
            raise ValueError(
                f"the mask has {self.num_nodes} nodes, which need as many rows, got shape "
                f"{tuple(rows.shape)}"
            )
        shape = (*self.mask.shape, *rows.shape[1:])
        if self._is_full:
            return rows.reshape(shape)
        flat = rows.new_full((self.mask.numel(), *rows.shape[1:]), fill)
        return flat.index_copy(0, self.places, rows).reshape(shape)

    @property
    def _is_full(self) -> bool:
        """Whether no place is padding, known without a look at the mask."""
        return self.num_nodes == self.mask.numel()
