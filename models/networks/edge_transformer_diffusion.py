"""EdgeTransformer of a diffusion: the noise and the time of noised atoms, without geometry algebra.

    elements, noised positions -> pairs -> features x_i of atoms (edge_transformer.py)
                               -> eps_i = MLP([x_i, t]),    t_i = MLP(x_i)    (heads/node_mlp.py)

No equivariance is built in: the noise turns with the molecule as far as training taught it, so it
is trained with ``--augment orthogonal``. All pairs are seen at any distance; there is no cutoff.
Sources: Kahouli et al. 2024, MoreRed (arXiv:2404.10935), for the diffusion, Bergen et al. 2021
(arXiv:2112.00578) for the network that stands in the place of PaiNN. Cost: n^3 width a structure
and layer.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.heads.diffusion_heads import DiffusionHeadOptions
from farfield.models.heads.node_mlp import NodeNoise, NodeTime
from farfield.models.network import NETWORKS
from farfield.models.networks.diffusion_networks import DiffusionNetwork
from farfield.models.networks.edge_transformer import (
    BACKBONE_PARTS,
    PRESETS,
    EdgeTransformerBackbone,
    EdgeTransformerInputs,
    EdgeTransformerOptions,
)


@dataclasses.dataclass(frozen=True)
class EdgeTransformerDiffusionOptions(EdgeTransformerOptions, DiffusionHeadOptions):
    """Options of :class:`EdgeTransformerDiffusion`: those of its backbone and of its heads.

    Raises ValueError in one line for a noise head without waves of the direction: distances alone
    point nowhere.
    """

    def __post_init__(self):
        EdgeTransformerOptions.__post_init__(self)
        DiffusionHeadOptions.__post_init__(self)
        if self.noise_head and not self.waves:
            raise ValueError(
                "noise needs directions: set waves to 1 or more, or noise_head to false"
            )


@NETWORKS.register("edge_transformer_diffusion")
class EdgeTransformerDiffusion(EdgeTransformerInputs, DiffusionNetwork):
    """Reads what :class:`models.networks.edge_transformer.EdgeTransformerBackbone` reads, and the
    time.
    """

    Options = EdgeTransformerDiffusionOptions
    presets = PRESETS
    parts = {**BACKBONE_PARTS, "heads": ("heads",)}
    noise_module, time_module = NodeNoise, NodeTime

    def __init__(self, options: EdgeTransformerDiffusionOptions):
        super().__init__(options, options.width)
        self.backbone = EdgeTransformerBackbone(options)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom (nodes, width) after all layers."""
        return self.backbone.features(batch)
