"""Networks that benchmarks compare, as data, and options of the installed network.

The rows of :data:`DEFAULT_ROWS` are the default network of the training scripts with the near field
alone, with a far field, and with charges.
"""

from __future__ import annotations

from collections.abc import Mapping

from easydict import EasyDict

from farfield.dataloader.label_statistics import Statistics
from farfield.models.factory import network_class
from farfield.models.option_fields import OptionField, option_fields
from farfield.train.tasks.near_far_comparison import near_only

NETWORK = "e2former"

# The far field of the default network up to version 0.1.
FORMER_FAR_FIELD = {
    "far_kernel": "standing_waves",
    "far_heads": 2,
    "far_key_features": 8,
    "far_value_channels": 8,
    "far_value_lmax": None,
    "far_feature_map": "elu",
    "far_radial_scale": 0.05,
    "far_weight": 0.1,
}

# Name -> what differs from the default network; NEAR_ONLY: the default schedule without far field.
NEAR_ONLY = "near only"
DEFAULT_ROWS = {
    "near": {"schedule": NEAR_ONLY, "charges": "none"},
    "hybrid": {**FORMER_FAR_FIELD, "charges": "none"},
    "screened": {"far_kernel": "screened", "charges": "none"},
    "near_charges": {"schedule": NEAR_ONLY, "charges": "latent"},
    "screened_charges": {"far_kernel": "screened", "charges": "latent"},
}


def known_options() -> dict[str, OptionField]:
    """Options of the installed network, by flat name."""
    return option_fields(network_class(NETWORK).Options)


def typed_options(text: str | None) -> dict[str, object]:
    """Options "name=value,name=value" of a command line, each of the type of its option.

    Raises ValueError for an unknown name, a missing value, or a value of another type.
    """
    known, found = known_options(), {}
    for part in (text or "").split(","):
        name, sign, value = part.partition("=")
        if not part:
            continue
        if not sign or name not in known:
            raise ValueError(
                f"--option must be name=value with an option of {NETWORK}, got {part!r}; "
                "--help-all of train.train_potential lists them"
            )
        found[name] = _typed(known[name], value)
    return found


def _typed(field: OptionField, text: str) -> object:
    """A text as a value of an option."""
    if field.optional and text.lower() == "none":
        return None
    if field.kind is bool:
        words = {"true": True, "false": False}
        if text.lower() not in words:
            raise ValueError(f"--option {field.name} must be true or false, got {text!r}")
        return words[text.lower()]

    try:
        return field.kind(text)
    except ValueError:
        raise ValueError(
            f"--option {field.name} must be of type {field.kind.__name__}, got {text!r}"
        ) from None


def default_value(name: str) -> object:
    """Default of an option of the network."""
    return known_options()[name].default


def default_options(
    model: str, found: Statistics, extra: Mapping[str, object]
) -> dict[str, object]:
    """Options of a network; averages and radius are those of the training frames.

    extra: options of the command line, which have the last word.
    """
    chosen = {**DEFAULT_ROWS[model], **extra}
    if chosen.get("schedule") == NEAR_ONLY:
        usual = {"name": NETWORK, "layers": default_value("layers")}
        chosen["schedule"] = near_only(
            EasyDict(model=usual | {"schedule": default_value("schedule")})
        )

    measured = {
        "avg_degree": found.average_neighbors or 1.0,
        "avg_atoms": found.average_atoms,
        "far_design_radius": max(1.0, found.design_radius),
    }
    return measured | chosen
