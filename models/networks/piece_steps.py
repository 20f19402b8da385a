"""The steps of an E2Former on a piece of a structure: some atoms, and the edges that end in them.

A piece has its own atoms and a halo, the senders of edges from outside. A step reads features of
both and gives features of its own atoms. Each is a function of tensors, so a vector-Jacobian
product of it is one call of torch.

Cost: that of the network on the atoms and edges of the piece; linear maps of values and scores are
computed for the halo too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.far_field.attention import FarFieldAttention
from farfield.models.far_field.divided_sum import Sent, Space
from farfield.models.graph_ops import GraphIndex
from farfield.models.networks.blocks import Block, FarLayer, HybridLayer, NearLayer
from farfield.models.networks.e2former import E2Former


class Piece(NamedTuple):
    """Some atoms of a structure, and all edges that end in them.

    own: places of the atoms in the structure. atoms (local,) int64: these places, then those of the
    halo. src, dst (edges,): ends of the edges, counted in ``atoms``. image_shift (edges, 3): of the
    edges, None in open space.
    """

    own: slice
    atoms: Tensor
    src: Tensor
    dst: Tensor
    image_shift: Tensor | None

    @property
    def size(self) -> int:
        """Number of atoms without the halo."""
        return self.own.stop - self.own.start


class Layer(NamedTuple):
    """A block by its parts: near and far field, None where it has none, and the weight of far."""

    block: Block
    near: NearLayer | None
    far: FarFieldAttention | None
    weight: Tensor | None

    @classmethod
    def of(cls, block: Block) -> Layer:
        """The parts of ``block``."""
        attention = block.attention
        if isinstance(attention, HybridLayer):
            return cls(block, attention.near, attention.far.attention, attention.far_weight)
        if isinstance(attention, FarLayer):
            return cls(block, None, attention.attention, None)
        return cls(block, attention, None, None)


class PieceSteps:
    """The steps of ``network`` on pieces of ``structure``, a batch of one graph without edges."""

    def __init__(self, network: E2Former, structure: AtomBatch):
        self.network, self.backbone, self.structure = network, network.backbone, structure
        self.layers = [Layer.of(block) for block in self.backbone.blocks]

    def start(self, piece: Piece, space: Space) -> Tensor:
        """Features before the first layer (own, rows, channels).

        space: positions of all atoms of the piece (local, 3), and the cell (3, 3) or None.
        """
        batch = self._batch(piece, space)
        return self.backbone.start(self.backbone.scene(batch), batch)[: piece.size]

    def heard_atoms(self, layer: Layer, piece: Piece) -> Tensor | slice:
        """Places of the atoms whose features a layer reads: the halo counts for a near field."""
        return piece.own if layer.near is None else piece.atoms

    def layer(
        self, layer: Layer, piece: Piece, space: Space, x: Tensor, heard: Tensor | None
    ) -> Tensor:
        """Features after a layer (own, rows, channels).

        x: features of :meth:`heard_atoms`. heard: what the far field hears (own, ...), None without
        one.
        """
        block, own = layer.block, x[: piece.size]
        x, message = block.attention_norm(x), 0.0
        if layer.near is not None:
            scene = self.backbone.scene(self._batch(piece, space))
            message = layer.near(x, scene)[: piece.size]
        if layer.far is not None:
            message = message + layer.far.receive(heard, x.shape[1])
        own = own + message
        return own + block.feed_forward(block.feed_forward_norm(own))

    def send(self, layer: Layer, x: Tensor) -> Sent:
        """What the sum over all atoms reads of features (atoms, rows, channels)."""
        return Sent(*layer.far.send(layer.block.attention_norm(x)))

    def energies(self, x: Tensor) -> Tensor:
        """Energies of atoms (own,) in units of the scale, of features after the last layer."""
        return self.network.read(self.backbone.norm(x))["atomic_energy"]

    def _batch(self, piece: Piece, space: Space) -> AtomBatch:
        """The piece as a structure of its own."""
        whole = self.structure
        remainder = whole.position_remainder

        # halo atoms have no edges of their own: they only send
        return AtomBatch(
            GraphIndex(piece.src, piece.dst, torch.tensor([len(piece.atoms)])),
            positions=space.positions,
            atomic_numbers=whole.atomic_numbers[piece.atoms],
            graph_features=whole.graph_features,
            cell=None if space.cell is None else space.cell.unsqueeze(0),
            image_shift=piece.image_shift,
            periodic=whole.periodic,
            cutoff=whole.cutoff,
            position_remainder=None if remainder is None else remainder[piece.atoms],
        )
