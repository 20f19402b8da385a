"""Options of an E2Former and their presets: sizes and choices as data, refused in one line where
they cannot be.

What a name means stands beside the registry it comes from: attentions and schedules in
``blocks.py``, the near field in ``near_field/e2former_attention.py``, the far field in
``far_field/attention.py``, ``options.py`` and ``radial.py``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from farfield.models.far_field.attention import FEATURE_MAPS, NORMALISATIONS, FarFieldOptions
from farfield.models.far_field.expansion import ExpansionOptions
from farfield.models.far_field.expansions import EXPANSIONS
from farfield.models.far_field.spectrum import RadialOptions
from farfield.models.kernels.harmonic_sum import KERNELS
from farfield.models.layers.feed_forward import FEED_FORWARDS
from farfield.models.layers.norms import NORMS
from farfield.models.layers.radial import (
    RADIAL_BASES,
    SMOOTH_ENVELOPES,
    RadialBasisName,
    RadialHidden,
    RadialSize,
)
from farfield.models.near_field.e2former_attention import WEIGHTS, NearFieldOptions
from farfield.models.near_field.scores import SCORES
from farfield.models.near_field.wigner_convolution import FORMS
from farfield.models.networks.blocks import ATTENTIONS, BlockOptions, parse_schedule
from farfield.models.potential import FORCES
from farfield.models.so3.quadrature import RULES


@dataclasses.dataclass(frozen=True)
class BackboneOptions(RadialOptions):
    """Options of an :class:`E2FormerBackbone`, with the field's names; lengths in Angstrom.

    irreps: "32x0e+32x1o+32x2e" with the true parity (-1)^l. The papers write the same features
    "32x0e+32x1e+32x2e" (all even) and let mirror images differ; that spelling is accepted, the
    parity is true all the same. schedule: see ``blocks.py``. More on the near field in
    ``NearFieldOptions``, on the far field in ``FarFieldOptions``, ``ExpansionOptions`` and
    ``RadialOptions``.
    """

    irreps: Annotated[
        str, "features: channels x degree and parity, as many channels of every degree"
    ] = "32x0e+32x1o+32x2e"
    schedule: Annotated[str, "attentions of the layers: name and number, joined by +"] = (
        "hybrid-first-order1+hybrid-second-order1"
    )
    layers: Annotated[int, "layers of every part of the schedule without a number"] = 2
    cutoff: Annotated[float, "reach of the near field, Angstrom"] = 4.0
    envelope: Annotated[str, "how edges fade towards the cutoff", SMOOTH_ENVELOPES] = "polynomial"
    radial_basis: RadialBasisName = "gaussian"
    radial_size: RadialSize = 32
    radial_hidden: RadialHidden = 64
    element_size: Annotated[int, "numbers of an element on an edge"] = 16
    heads: Annotated[int, "heads of the near field"] = 4
    score: Annotated[str, "what the weight of an edge is computed from", SCORES] = "QK_alpha"
    score_width: Annotated[int, "numbers of a query and a key in a head of the near field"] = 8
    attention_weights: Annotated[
        str, "scores to weights: sum to one, or each on its own", WEIGHTS
    ] = "softplus"
    convolution_form: Annotated[
        str, "tensor products on edges or on nodes, the same numbers", FORMS
    ] = "edge"
    kernel_implementation: Annotated[str, "of the sum over neighbours", KERNELS] = (
        "memory_efficient"
    )
    avg_degree: Annotated[float, "mean number of neighbours in the data"] = 16.0
    avg_atoms: Annotated[float, "mean number of atoms in the data"] = 20.0
    far_heads: Annotated[int, "heads of the far field"] = 4
    far_key_features: Annotated[int, "numbers of a query and a key in a head of the far field"] = 8
    far_value_channels: Annotated[int, "channels of a value in a head of the far field"] = 4
    far_kernel_lmax: Annotated[int, "highest degree of the far field's kernel"] = 2
    far_value_lmax: Annotated[
        int | None, "highest degree of the far field's values; none: that of the features"
    ] = None
    far_feature_map: Annotated[str, "of queries and keys of the far field", FEATURE_MAPS] = "elu"
    far_normalisation: Annotated[
        str,
        "messages of the far field are divided by a constant or the sum of weights",
        NORMALISATIONS,
    ] = "none"
    far_expansion: Annotated[str, "how the sum over all atoms is taken", EXPANSIONS] = "auto"
    far_tolerance: Annotated[float, "relative error of the expansions multipole and planewave"] = (
        1e-4
    )
    far_design_radius: Annotated[float, "radius of a structure up to which it holds, Angstrom"] = (
        10.0
    )
    far_rule: Annotated[str, "directions of the expansion planewave", RULES] = "lebedev"
    far_directions: Annotated[int | None, "how many, if not as many as the tolerance asks for"] = (
        None
    )
    long_scale: Annotated[float, "weight of the far field in a hybrid at the start"] = 0.1
    norm: Annotated[str, "in front of attention and feed-forward network", NORMS] = "layer_norm"
    feed_forward: Annotated[str, "non-linear part of a layer", FEED_FORWARDS] = "sphere_grid"
    ffn_ratio: Annotated[int, "its width in units of the channels"] = 1
    drop_path: Annotated[float, "probability that a structure skips a branch while training"] = 0.0

    def __post_init__(self):
        super().__post_init__()
        _, lmax = parse_irreps(self.irreps)
        if lmax < 1:
            raise ValueError(
                f"irreps must hold at least degrees 0 and 1, got {self.irreps!r}; write e.g. "
                "32x0e+32x1o"
            )
        for name in ("layers", "radial_size", "radial_hidden", "element_size", "ffn_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("cutoff", "avg_degree", "avg_atoms"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {getattr(self, name)}")
        for name, known in (("envelope", SMOOTH_ENVELOPES), ("radial_basis", RADIAL_BASES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for name in set(self.attentions()):
            self.block(name)  # refuses sizes that do not divide

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

    def near(self, order: str) -> NearFieldOptions:
        """Near-field attention of the given order."""
        return NearFieldOptions(
            lmax=self.lmax,
            channels=self.channels,
            heads=self.heads,
            hidden=self.radial_hidden,
            attention_order=order,
            score=self.score,
            score_width=self.score_width,
            weights=self.attention_weights,
            typical_neighbours=self.avg_degree,
            convolution_form=self.convolution_form,
            kernel_implementation=self.kernel_implementation,
        )

    def far(self) -> FarFieldOptions:
        """Far-field attention of any layer."""
        names = [field.name for field in dataclasses.fields(RadialOptions)]
        return FarFieldOptions(
            channels=self.channels,
            lmax=self.lmax,
            kernel_lmax=self.far_kernel_lmax,
            value_lmax=self.far_value_lmax,
            heads=self.far_heads,
            key_features=self.far_key_features,
            value_channels=self.far_value_channels,
            feature_map=self.far_feature_map,
            normalisation=self.far_normalisation,
            typical_atoms=self.avg_atoms,
            expansion=self.far_expansion,
            accuracy=self.far_accuracy(),
            radial=RadialOptions(**{name: getattr(self, name) for name in names}),
        )

    def far_accuracy(self) -> ExpansionOptions:
        """Accuracy of the far field's expansion."""
        return ExpansionOptions(
            tolerance=self.far_tolerance,
            design_radius=self.far_design_radius,
            rule=self.far_rule,
            directions=self.far_directions,
        )

    def block(self, attention: str) -> BlockOptions:
        """A block with the given attention."""
        order = ATTENTIONS[attention].near_order
        return BlockOptions(
            near=None if order is None else self.near(order),
            far=self.far(),
            ffn_channels=self.ffn_ratio * self.channels,
            norm=self.norm,
            feed_forward=self.feed_forward,
            drop_path=self.drop_path,
            long_scale=self.long_scale,
        )


@dataclasses.dataclass(frozen=True)
class E2FormerOptions(BackboneOptions):
    """Options of an :class:`E2Former`: those of its backbone, and what it says beside the energy.

    forces: "conservative" (-dE/dx), "direct" (read from degree 1: faster, no energy conservation)
    or "none". stress: predict it as well, from the cells of the batch; only with conservative
    forces.
    """

    forces: Annotated[str, "derivative of the energy, read from vectors, or none", FORCES] = (
        "conservative"
    )
    stress: Annotated[bool, "predict the stress as well"] = False

    def __post_init__(self):
        super().__post_init__()
        if self.forces not in FORCES:
            raise ValueError(f"forces must be one of {', '.join(FORCES)}, got {self.forces!r}")
        if self.stress and self.forces != "conservative":
            raise ValueError(
                "stress is a derivative of the energy: it needs forces 'conservative', got "
                f"{self.forces!r}"
            )


def parse_irreps(text: str) -> tuple[int, int]:
    """Channels and lmax of "32x0e+32x1o+32x2e" or, in the papers' spelling, "32x0e+32x1e+32x2e".

    Raises ValueError in one line for unreadable text, unequal channel counts, missing or repeated
    degrees and other parities.
    """
    example = "write e.g. 32x0e+32x1o+32x2e"
    try:
        from e3nn import o3  # here, because the import takes 2 s and few options need it

        irreps = o3.Irreps(text)
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"irreps {text!r} cannot be read; {example}") from None
    if not len(irreps) or [ir.l for _, ir in irreps] != list(range(len(irreps))):
        raise ValueError(
            f"irreps must name every degree from 0 once and in order, got {text!r}; {example}"
        )
    if len({channels for channels, _ in irreps}) != 1 or irreps[0].mul < 1:
        raise ValueError(
            f"irreps must have equally many channels >= 1 of every degree, got {text!r}; {example}"
        )
    if {ir.p * (-1) ** ir.l for _, ir in irreps} != {1} and {ir.p for _, ir in irreps} != {1}:
        raise ValueError(
            f"irreps must have parity (-1)^l, or all even as in the papers, got {text!r}; {example}"
        )
    return irreps[0].mul, len(irreps) - 1


# The defaults are what learned the forces of ethanol fastest, but for the cutoff, which was chosen
# on ethanol and aspirin (README). "small" has the far field that did best on MD22's
# buckyball-catcher (validation forces after 40 epochs), "paper" the sizes and choices of the
# published large models.
PRESETS: dict[str, dict[str, object]] = {
    "small": {
        "irreps": "32x0e+32x1o+32x2e",
        "schedule": "hybrid-first-order1+second-order1",
        "radial_hidden": 64,
        "far_kernel_lmax": 0,
        "far_heads": 2,
        "far_value_channels": 8,
        "fmm_kappa_max": 1.6,
    },
    "base": {
        "irreps": "64x0e+64x1o+64x2e",
        "schedule": "first-order1+hybrid-second-order1+hybrid-first-order1",
        "radial_hidden": 96,
        "far_value_channels": 8,
        "drop_path": 0.05,
    },
    "paper": {
        "irreps": "128x0e+128x1o+128x2e",
        "schedule": "first-order6+fmm-node2",
        "cutoff": 6.0,
        "radial_basis": "gaussian",
        "radial_size": 128,
        "radial_hidden": 128,
        "element_size": 128,
        "score_width": 32,
        "attention_weights": "softmax",
        "norm": "rms_norm_sh",
        "feed_forward": "gate",
        "avg_degree": 23.4,
        "far_value_channels": 32,
        "drop_path": 0.1,
    },
}
