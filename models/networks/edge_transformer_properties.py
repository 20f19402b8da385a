"""EdgeTransformer for properties of molecules, the dipole among them.

    elements, positions -> pairs -> features x_i of atoms (edge_transformer.py)
                        -> [x_i, v_i], v_i = MLP(x_i) (3, width)    (heads/node_mlp.py)
                        -> one number or vector of each molecule and target (property_networks.py)

The readouts are those of the equivariant networks, with v_i in the place of features of degree 1.
No equivariance is built in: a property is the same for turned molecules as far as training taught
it (``--augment orthogonal``). Without waves of the direction v_i is zero and the network sees
distances alone: then numbers are invariant, and a dipole, of charges alone, turns with the
molecule. All pairs are seen at any distance, whatever graph the data have. Cost: n^3 width a
structure and layer.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.heads.node_mlp import DegreesOfNode
from farfield.models.heads.property_heads import choose_readouts
from farfield.models.network import NETWORKS
from farfield.models.networks.edge_transformer import (
    BACKBONE_PARTS,
    PRESETS,
    EdgeTransformerBackbone,
    EdgeTransformerInputs,
    EdgeTransformerOptions,
)
from farfield.models.networks.property_networks import PropertyNetwork, Readouts, Targets


@dataclasses.dataclass(frozen=True)
class EdgeTransformerPropertyOptions(EdgeTransformerOptions):
    """Options of :class:`EdgeTransformerProperties`: those of its backbone and what it predicts."""

    targets: Targets = "homo"
    readouts: Readouts = None

    def __post_init__(self):
        super().__post_init__()
        choose_readouts(self.targets, self.readouts)


@NETWORKS.register("edge_transformer_properties")
class EdgeTransformerProperties(EdgeTransformerInputs, PropertyNetwork):
    """Reads what :class:`models.networks.edge_transformer.EdgeTransformerBackbone` reads."""

    Options = EdgeTransformerPropertyOptions
    presets = PRESETS
    parts = {**BACKBONE_PARTS, "heads": ("degrees", "heads")}

    def __init__(self, options: EdgeTransformerPropertyOptions):
        super().__init__(options, options.width)
        self.backbone = EdgeTransformerBackbone(options)
        self.degrees = DegreesOfNode(options.width, directed=options.waves > 0)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom (nodes, 4, width) after all layers, of degrees 0 and 1."""
        return self.degrees(self.backbone.features(batch))
