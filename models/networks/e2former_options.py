"""Options of an E2Former and their presets: sizes and choices as data, refused in one line where
they cannot be.

What a name means stands next to the registry it comes from: attentions and schedules in
``networks/blocks.py``, the near field in ``near_field/e2former_attention.py``, the far field in
``far_field/attention.py``, ``kernels.py``, ``spectrum.py``, ``expansion.py`` and ``charges.py``.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated

from farfield.models.choices import check_at_least, check_choices, check_positive
from farfield.models.far_field.attention import FarFieldOptions
from farfield.models.far_field.charges import CHARGES, ChargeOptions
from farfield.models.heads.experts import ExpertOptions
from farfield.models.layers.conditioning import parse_inputs
from farfield.models.layers.element_start import ELEMENT_STARTS
from farfield.models.layers.feed_forward import FEED_FORWARDS
from farfield.models.layers.norms import NORMS
from farfield.models.layers.radial import (
    RADIAL_BASES,
    SMOOTH_ENVELOPES,
    RadialBasisName,
    RadialHidden,
    RadialSize,
)
from farfield.models.near_field.atom_clusters import ClusterOptions
from farfield.models.near_field.e2former_attention import NearFieldOptions, NearFieldShape
from farfield.models.networks.blocks import ATTENTIONS, BlockOptions, parse_schedule
from farfield.models.networks.encoder import EncoderOptions
from farfield.models.option_fields import MAIN, Alias
from farfield.models.potential import PotentialOptions
from farfield.models.published_words import (
    published_basis,
    published_feed_forward,
    published_norm,
    published_schedule,
)


def parse_irreps(text: str) -> tuple[int, int]:
    """Channels and lmax of "32x0e+32x1o+32x2e" or, as the papers write it, "32x0e+32x1e+32x2e".

    Raises ValueError in one line for unreadable text, unequal channel counts, missing or repeated
    degrees and other parities.
    """
    example = "write e.g. 32x0e+32x1o+32x2e"
    parts = [re.fullmatch(r"(?:(\d+)x)?(\d+)([eo])", part.strip()) for part in str(text).split("+")]
    if not all(parts):
        raise ValueError(f"irreps {text!r} cannot be read; {example}")

    channels = [int(part[1] or 1) for part in parts]
    degrees = [int(part[2]) for part in parts]
    parities = [part[3] for part in parts]
    if degrees != list(range(len(degrees))):
        raise ValueError(
            f"irreps must name every degree from 0 once and in order, got {text!r}; {example}"
        )
    if len(set(channels)) != 1 or channels[0] < 1:
        raise ValueError(
            f"irreps must have equally many channels >= 1 of every degree, got {text!r}; {example}"
        )
    true_parities = ["eo"[degree % 2] for degree in degrees]
    if parities not in (true_parities, ["e"] * len(degrees)):
        raise ValueError(
            f"irreps must have parity (-1)^l, or all even as in the papers, got {text!r}; {example}"
        )
    return channels[0], degrees[-1]


def write_irreps(channels: int, lmax: int) -> str:
    """The inverse of :func:`parse_irreps`: 32, 2 -> "32x0e+32x1o+32x2e"."""
    return "+".join(f"{channels}x{degree}{'eo'[degree % 2]}" for degree in range(lmax + 1))


def irreps_with_lmax(lmax: int, irreps: str) -> str:
    """``irreps`` up to degree ``lmax``: what the published option ``lmax`` asks for."""
    if lmax < 1:
        raise ValueError(f"lmax must be >= 1, got {lmax}")
    return write_irreps(parse_irreps(irreps)[0], lmax)


@dataclasses.dataclass(frozen=True)
class BackboneOptions:
    """Options of an :class:`E2FormerBackbone`, with the field's names; lengths in Angstrom.

    irreps: "32x0e+32x1o+32x2e" with the true parity (-1)^l. The papers write the same features
    "32x0e+32x1e+32x2e" (all even) and let mirror images differ; that spelling is accepted, the
    parity is true all the same. schedule: see ``networks/blocks.py``. near, far: see
    ``NearFieldOptions`` and ``FarFieldOptions``. encoder: see ``networks/encoder.py``.
    with_cluster, cluster: see ``near_field/atom_clusters.py``. condition: see
    ``layers/conditioning.py``.
    """

    irreps: Annotated[
        str,
        "features: channels x degree and parity, as many channels of every degree",
        MAIN,
        Alias("lmax", int, irreps_with_lmax),
        Alias("irreps_node_embedding"),
    ] = "32x0e+32x1o+32x2e"
    schedule: Annotated[
        str,
        "attentions of the layers: name and number, joined by +",
        MAIN,
        Alias("attn_type", str, published_schedule),
    ] = "hybrid-first-order1+second-order1"
    layers: Annotated[
        int, "repeat count for schedule entries that give none", Alias("num_layers")
    ] = 2
    cutoff: Annotated[float, "cutoff of the near field, Angstrom", MAIN, Alias("max_radius")] = 4.0
    max_neighbors: Annotated[
        int | None,
        "nearest neighbours that an atom hears, farther ones fade out; none: all inside the cutoff",
    ] = None
    envelope: Annotated[str, "function that fades edges towards the cutoff", SMOOTH_ENVELOPES] = (
        "polynomial"
    )
    radial_basis: Annotated[RadialBasisName, Alias("basis_type", str, published_basis)] = "gaussian"
    radial_size: Annotated[RadialSize, Alias("number_of_basis")] = 32
    radial_hidden: RadialHidden = 64
    element_size: Annotated[int, "width of the embedding of an element on an edge"] = 16
    element_start: Annotated[
        str, "start of the embeddings of elements: random, or alike in a group", ELEMENT_STARTS
    ] = "random"
    encoder: EncoderOptions = EncoderOptions()
    near: NearFieldOptions = NearFieldOptions()
    far: FarFieldOptions = FarFieldOptions()
    with_cluster: Annotated[
        bool, "let atoms hear clusters of atoms from afar, after the layers of the schedule"
    ] = False
    cluster: ClusterOptions = ClusterOptions()
    norm: Annotated[
        str,
        "norm before attention and feed-forward network",
        NORMS,
        Alias("norm_layer", str, published_norm),
    ] = "layer_norm"
    norm_epsilon: Annotated[
        float, "smoothing of norms: rounding of features that vanish grows by 1 / sqrt of it"
    ] = 0.3
    feed_forward: Annotated[
        str,
        "feed-forward network of a layer",
        FEED_FORWARDS,
        Alias("ffn_type", str, published_feed_forward),
    ] = "sphere_grid"
    ffn_ratio: Annotated[int, "width of the feed-forward network in units of the channels"] = 1
    drop_path: Annotated[
        float, "probability that a structure skips a branch while training", Alias("drop_path_rate")
    ] = 0.0
    avg_degree: Annotated[float, "mean number of neighbours in the training data"] = 16.0
    avg_atoms: Annotated[float, "mean number of atoms in the training data"] = 20.0
    condition: Annotated[
        str | None,
        "numbers of a structure that the network reads besides its geometry, joined by commas, "
        "e.g. total_charge,spin: names in the comment line of its xyz file (atoms.info), each in "
        "the meaning that the file gives it",
    ] = None

    def __post_init__(self):
        check_at_least(
            self, 1, ["layers", "radial_size", "radial_hidden", "element_size", "ffn_ratio"]
        )
        check_positive(self, ["cutoff", "avg_degree", "avg_atoms"])
        if self.max_neighbors is not None:
            check_at_least(self, 1, ["max_neighbors"])
        check_choices(
            self,
            {
                "envelope": SMOOTH_ENVELOPES,
                "radial_basis": RADIAL_BASES,
                "element_start": ELEMENT_STARTS,
            },
        )
        parse_inputs(self.condition)

        if self.lmax < 1:
            raise ValueError(
                f"irreps must hold at least degrees 0 and 1, got {self.irreps!r}; write e.g. "
                "32x0e+32x1o"
            )
        for name in set(self.attentions()):
            self.block(name)  # refuses sizes that do not divide
        if self.with_cluster:
            self._check_clusters()

    def _check_clusters(self) -> None:
        """ValueError for sizes that do not divide, and members that no edge reaches."""
        self.cluster_block()
        if self.cluster_radius > self.cutoff:
            raise ValueError(
                f"radius of the clusters must be at most the cutoff {self.cutoff:g} of the near "
                f"field, whose edges find their members, got {self.cluster_radius:g}; leave it out"
            )

    @property
    def channels(self) -> int:
        """Channels of every degree."""
        return parse_irreps(self.irreps)[0]

    @property
    def lmax(self) -> int:
        """Largest degree of the features."""
        return parse_irreps(self.irreps)[1]

    def attentions(self) -> list[str]:
        """Name of the attention in every layer."""
        return parse_schedule(self.schedule, self.layers)

    def near_shape(self, order: str) -> NearFieldShape:
        """Near-field attention of the given order."""
        return NearFieldShape(
            **dataclasses.asdict(self.near),
            attention_order=order,
            lmax=self.lmax,
            channels=self.channels,
            hidden=self.radial_hidden,
            typical_neighbours=self.avg_degree,
        )

    def block(self, attention: str) -> BlockOptions:
        """A block with the given attention."""
        order = ATTENTIONS[attention].near_order
        return self._block(None if order is None else self.near_shape(order))

    @property
    def cluster_radius(self) -> float:
        """Distance up to which an atom belongs to a cluster, Angstrom."""
        return self.cutoff if self.cluster.radius is None else self.cluster.radius

    def cluster_block(self) -> BlockOptions:
        """A block whose atoms hear clusters."""
        shape = self.near_shape(self.cluster.order)
        typical = self.cluster.neighbours
        return self._block(dataclasses.replace(shape, typical_neighbours=typical))

    def _block(self, near: NearFieldShape | None) -> BlockOptions:
        """A block with the given near field."""
        return BlockOptions(
            lmax=self.lmax,
            channels=self.channels,
            near=near,
            far=self.far,
            typical_atoms=self.avg_atoms,
            ffn_channels=self.ffn_ratio * self.channels,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            feed_forward=self.feed_forward,
            drop_path=self.drop_path,
        )


@dataclasses.dataclass(frozen=True)
class E2FormerOptions(BackboneOptions, PotentialOptions):
    """Options of an :class:`E2Former`: those of its backbone, of a potential, of its charges and of
    its experts.

    charges, charge: see ``far_field/charges.py``. experts: see ``heads/experts.py``.
    """

    charges: Annotated[
        str,
        "charges of atoms that carry the Coulomb tail: none, read from the features, or of lowest "
        "energy",
        CHARGES,
        MAIN,
    ] = "none"
    charge: ChargeOptions = ChargeOptions()
    experts: ExpertOptions = ExpertOptions()

    def __post_init__(self):
        BackboneOptions.__post_init__(self)
        PotentialOptions.__post_init__(self)
        if self.energy_heads and self.experts.number:
            raise ValueError(
                "experts read one energy head: several energy_heads (--heads-per-set) need "
                "experts 0"
            )
        check_choices(self, {"charges": CHARGES})


# "small" is the defaults: they learned the forces of ethanol fastest, with a cutoff chosen on
# ethanol and aspirin. "paper" has the sizes and choices of the published large models.
PRESETS: dict[str, dict[str, object]] = {
    "small": {},
    "base": {
        "irreps": "64x0e+64x1o+64x2e",
        "schedule": "first-order1+hybrid-second-order1+hybrid-first-order1",
        "radial_hidden": 96,
        "far_kernel_lmax": 2,
        "drop_path": 0.05,
    },
    "paper": {
        "irreps": "128x0e+128x1o+128x2e",
        "schedule": "first-order6+fmm-node2",
        "cutoff": 6.0,
        "radial_size": 128,
        "radial_hidden": 128,
        "element_size": 128,
        "near_score_width": 32,
        "near_weights": "softmax",
        "norm": "rms_norm_sh",
        "feed_forward": "gate",
        "avg_degree": 23.4,
        "far_heads": 4,
        "far_kernel_lmax": 2,
        "far_kernel": "standing_waves",
        "far_kappa_max": 0.8,
        "far_key_features": 8,
        "far_value_channels": 32,
        "far_value_lmax": None,
        "far_feature_map": "elu",
        "far_radial_scale": 0.05,
        "far_weight": 0.1,
        "drop_path": 0.1,
    },
}
