"""EdgeTransformer: attention among all pairs of atoms, without geometry algebra.

    elements, charge, spin, positions -> pairs x_ij -> [attention, feed-forward] x layers -> atoms

    x <- x + Attention(LN x),      x <- x + FFN(LN x)           (graphs, n, n, width)

Sources: Bergen et al. 2021 (arXiv:2112.00578) and its use as a force field that learns to turn with
the molecule from turned copies of its data. What differs from the published force field, each by
choice: energies whose derivatives are forces as well as direct forces; directions by waves of
direction cosines, which have derivatives everywhere (``layers/pair_embedding.py``); norms before
each branch only; no part of it looks at the order of the atoms.

Structures are padded inside, in groups of like size, and padding has no part in any value. Where
the pairs of a batch are many, each layer keeps its input alone and is computed again for every
derivative. Cost: n^3 width a structure and layer; memory n^2 width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_choices, check_positive
from farfield.models.elements import check_elements
from farfield.models.heads.node_mlp import DegreesOfNode, NodeMLP
from farfield.models.heads.per_set import energy_readout
from farfield.models.heads.property_readouts import DipoleReadout
from farfield.models.kernels.padding import Padding
from farfield.models.kernels.recomputation import recomputed_module, weight_views
from farfield.models.kernels.size_groups import Sizes, size_groups
from farfield.models.layers.conditioning import parse_inputs
from farfield.models.layers.edge_attention import PairAttention
from farfield.models.layers.layer_norm import LayerNorm
from farfield.models.layers.pair_decomposers import DECOMPOSERS
from farfield.models.layers.pair_embedding import AtomEmbedding, PairEmbedding, state_inputs
from farfield.models.layers.unit_linear import unit_perceptron
from farfield.models.network import NETWORKS, EnergyNetwork, Output
from farfield.models.option_fields import MAIN
from farfield.models.potential import PotentialOptions

VALUES_PER_GROUP = 2**20  # of the pair features of structures that are padded together
VALUES_KEPT = 2**22  # of the pair features of all layers; above, layers are computed again


@dataclasses.dataclass(frozen=True)
class EdgeTransformerOptions:
    """Sizes of an EdgeTransformer; the base class of the options of every network with one.

    waves: see ``layers/pair_embedding.py``. Raises ValueError in one line for values out of range.
    """

    width: Annotated[int, "features of a pair of atoms", MAIN] = 64
    layers: Annotated[int, "layers of attention and feed-forward network", MAIN] = 4
    heads: Annotated[int, "attention heads", MAIN] = 4
    feed_forward_multiple: Annotated[int, "hidden width of the feed-forward network / width"] = 2
    gaussians: Annotated[int, "Gaussians of the distance"] = 32
    waves: Annotated[
        int, "wave lengths of the direction, 0 for none: invariant, and no direct forces", MAIN
    ] = 8
    decomposer: Annotated[str, "how atoms are read from pairs", DECOMPOSERS] = "pooling"
    avg_atoms: Annotated[float, "mean number of atoms in the training data"] = 20.0
    max_atoms: Annotated[
        int, "atoms of the largest structure that is taken; time grows with their cube"
    ] = 256
    condition: Annotated[
        str | None,
        "numbers of a structure that the network reads besides its geometry, joined by commas",
    ] = None

    def __post_init__(self):
        sizes = ["width", "layers", "heads", "feed_forward_multiple", "gaussians", "max_atoms"]
        check_at_least(self, 1, sizes)
        check_at_least(self, 0, ["waves"])
        check_positive(self, ["avg_atoms"])
        check_choices(self, {"decomposer": DECOMPOSERS})
        parse_inputs(self.condition)
        if self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads = {self.heads}, got {self.width}; set width to "
                f"{self.heads * max(round(self.width / self.heads), 1)}"
            )

    def remarks(self) -> list[str]:
        """What a user of these choices should know, a line each."""
        if not self.waves:
            return []
        return [
            "not equivariant: predictions turn with the molecule only as far as training taught it"
        ]


class EdgeTransformerLayer(nn.Module):
    """Attention among pairs and a feed-forward network, each added to what came in.

    ``forward(x (graphs, n, n, width), real (graphs, n) bool or None)`` gives the shape of x.
    """

    def __init__(self, options: EdgeTransformerOptions):
        super().__init__()
        width, hidden = options.width, options.width * options.feed_forward_multiple
        self.attention_norm = LayerNorm(width)
        self.attention = PairAttention(width, options.heads)
        self.feed_forward = nn.Sequential(LayerNorm(width), *unit_perceptron(width, hidden, width))

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), real)
        return x + self.feed_forward(x)


class EdgeTransformerBackbone(nn.Module):
    """Features of every atom: ``features(batch) -> (nodes, width)``.

    Reads ``batch.graph`` for the sizes of its structures, not for its edges; ``positions``,
    ``atomic_numbers``, ``periodic``; ``total_charge`` and ``spin`` of a structure where the batch
    has them, and the inputs that ``options.condition`` names. ValueError in one line for periodic
    structures and for those with more than ``options.max_atoms`` atoms.
    """

    def __init__(self, options: EdgeTransformerOptions):
        super().__init__()
        self.options = options
        self.atoms = AtomEmbedding(options.width, options.condition)
        self.pairs = PairEmbedding(options.width, options.gaussians, options.waves)
        self.layers = nn.ModuleList(EdgeTransformerLayer(options) for _ in range(options.layers))
        self.decomposer = DECOMPOSERS[options.decomposer](options.width, options.avg_atoms)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom after all layers (nodes, width)."""
        check_elements(batch.atomic_numbers)
        self._check_structures(batch)
        width, sizes = self.options.width, batch.graph.sizes
        groups = size_groups(sizes, VALUES_PER_GROUP // width)
        if not groups.groups:
            return batch.positions[:, :1].expand(-1, width)  # no rows

        steps = self._steps(groups.places * width * len(self.layers) > VALUES_KEPT)
        rows = zip(groups.split(batch.positions), groups.split(self.atoms(batch)), strict=True)
        found = [
            self._of_group(steps, sizes, positions, atoms)
            for sizes, (positions, atoms) in zip(groups.groups, rows, strict=True)
        ]
        return groups.join(found)

    def _steps(self, economical: bool) -> list[Callable[..., Tensor]]:
        """Embedding, layers and decomposer; economical: each is run again for every derivative."""
        modules = [self.pairs, *self.layers, self.decomposer]
        if not economical:
            return modules
        return [
            functools.partial(recomputed_module, module, weight_views(module)) for module in modules
        ]

    def _of_group(
        self, steps: list[Callable[..., Tensor]], sizes: Sizes, positions: Tensor, atoms: Tensor
    ) -> Tensor:
        """Features of the atoms of structures that are padded together."""
        padding = Padding.of_counts(torch.tensor(sizes, device=positions.device))
        real = None if sizes[0] == sizes[-1] else padding.mask

        embed, *layers, decompose = steps
        x = embed(padding.padded(positions), padding.padded(atoms))
        for layer in layers:
            x = layer(x, real=real)
        return padding.ragged(decompose(x, real=real))

    def _check_structures(self, batch: AtomBatch) -> None:
        """Raise ValueError for structures that this network cannot take."""
        directions = batch.periodic
        if batch.cell is not None if directions is None else bool(directions.any()):
            raise ValueError(
                "the EdgeTransformer sees no periodic images; leave periodic structures out, or "
                "choose another network"
            )

        largest = max(batch.graph.sizes, default=0)
        if largest > self.options.max_atoms:
            raise ValueError(
                f"a structure has {largest} atoms, the EdgeTransformer takes at most max_atoms = "
                f"{self.options.max_atoms}; leave it out, or raise max_atoms (time grows with the "
                "cube of the atoms)"
            )


# parts of a network with this backbone, for ``Network.parts``
BACKBONE_PARTS: dict[str, tuple[str, ...]] = {
    "embedding": ("backbone.atoms", "backbone.pairs"),
    "layers": ("backbone.layers",),
}


class EdgeTransformerInputs:
    """What a network with this backbone reads besides the geometry, and says of its options."""

    @property
    def remarks(self) -> list[str]:
        """What a user of a network with these options should know, a line each."""
        return self.options.remarks()

    @property
    def optional_inputs(self) -> list[str]:
        """Total charge and spin, unless ``condition`` names them."""
        return state_inputs(self.options.condition)


@dataclasses.dataclass(frozen=True)
class EdgeTransformerPotentialOptions(EdgeTransformerOptions, PotentialOptions):
    """Options of :class:`EdgeTransformerPotential`."""

    dipole: Annotated[bool, "predict the dipole as well: read from charges and atoms", MAIN] = False

    def __post_init__(self):
        EdgeTransformerOptions.__post_init__(self)
        PotentialOptions.__post_init__(self)
        if self.stress:
            raise ValueError(
                "stress belongs to periodic structures, which the EdgeTransformer does not take; "
                "set stress to false"
            )
        if self.forces == "direct" and not self.waves:
            raise ValueError(
                "direct forces need directions: set waves to 1 or more, or forces to conservative"
            )

    def remarks(self) -> list[str]:
        """What a user of these choices should know, a line each."""
        return [
            "atoms at any distance change an energy, so energies of pieces far apart do not add up",
            *super().remarks(),
        ]


# "small" is the defaults and trains in minutes on a CPU; "published" has the sizes of the paper.
# Ethanol, 1 CPU minute: force errors of 79 meV/Angstrom with 16 Gaussians, 62 with 32, 101 with 64
PRESETS: dict[str, dict[str, object]] = {
    "small": {},
    "base": {"width": 128, "layers": 6, "heads": 8},
    "published": {"width": 192, "layers": 12, "heads": 12, "gaussians": 128, "waves": 16},
}


@NETWORKS.register("edge_transformer")
class EdgeTransformerPotential(EdgeTransformerInputs, EnergyNetwork):
    """Energies of atoms, and forces and dipoles read from their features where the options ask for
    them.

    Reads what :class:`EdgeTransformerBackbone` reads.
    """

    Options = EdgeTransformerPotentialOptions
    presets = PRESETS
    parts = {**BACKBONE_PARTS, "heads": ("energy", "vectors", "degrees", "dipole")}
    several_heads = True

    def __init__(self, options: EdgeTransformerPotentialOptions):
        super().__init__()
        self.options = options
        self.backbone = EdgeTransformerBackbone(options)
        self.energy = energy_readout(options.energy_heads, lambda: NodeMLP(options.width, 1))
        self.vectors = NodeMLP(options.width, 3) if options.forces == "direct" else None
        self.degrees, self.dipole = None, None
        if options.dipole:
            self.degrees = DegreesOfNode(options.width, directed=options.waves > 0)
            self.dipole = DipoleReadout(options.width, options.avg_atoms)

    def outputs(self) -> dict[str, Output]:
        """Outputs by name; direct forces and dipole where the options ask for them."""
        found = super().outputs()
        if self.vectors is not None:
            found["direct_forces"] = Output("node", "vector")
        if self.dipole is not None:
            found["dipole"] = Output("graph", "vector", "e Angstrom", open_only=True)
        return found

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """``atomic_energy`` (nodes,) and, as the options say, ``direct_forces`` (nodes, 3) and
        ``dipole`` (graphs, 3) about the centroid.
        """
        x = self.backbone.features(batch)
        energy = self.energy(x)
        out = {"atomic_energy": energy if self.options.energy_heads else energy.squeeze(-1)}
        if self.vectors is not None:
            out["direct_forces"] = self.vectors(x)
        if self.dipole is not None:
            where = (batch.positions, batch.atomic_numbers)
            out["dipole"] = self.dipole(batch.graph, self.degrees(x), *where)
        return out
