"""A yaml file of the published E2Former programs, option by option.

``read_published`` finds the parts of a file, ``translate`` says of every option what becomes of it,
and gives the sections of an options file. The network starts from the preset ``paper``, so
choices without a published option are as in the published networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from farfield.common.yaml_files import read_yaml
from farfield.models.choices import check_choice
from farfield.models.factory import default_config, network_class
from farfield.models.networks.blocks import ATTENTIONS, parse_schedule
from farfield.models.networks.e2former_options import parse_irreps
from farfield.models.option_fields import canonical, option_fields
from farfield.models.published_names import ABSENT
from farfield.train import published_training
from farfield.train.published_training import REFUSED_UNLESS_OFF, SETTINGS

MAPPED, IGNORED, REFUSED = "mapped", "ignored", "refused"
NETWORK, PRESET = "e2former", "paper"
OPTIONS = network_class(NETWORK).Options
FIELDS = option_fields(OPTIONS)
ALIASES = {alias.name: field for field in FIELDS.values() for alias in field.aliases}

# what tells a backbone from other parts of a file
MARKS = ("irreps_node_embedding", "num_attn_heads", "attn_type", "tp_type")
OFF = (False, None, 0, "")

# what the published programs take where a file names nothing
DEFAULTS = {
    "irreps_node_embedding": "128x0e+128x1e+128x2e",
    "num_layers": 6,
    "max_radius": 15.0,
    "max_neighbors": 20,
    "basis_type": "gaussiansmear",
    "number_of_basis": 128,
    "num_attn_heads": 4,
    "attn_scalar_head": 32,
    "norm_layer": "rms_norm_sh",
    "alpha_drop": 0.1,
    "drop_path_rate": 0.1,
    "attn_type": "first-order",
    "tp_type": "QK_alpha",
    "ffn_type": "default",
}

# sizes of the encoder in front and of clusters
SIZES = {
    "encoder_embed_dim": "encoder_width",
    "num_attention_heads": "encoder_heads",
    "num_encoder_layers": "encoder_depth",
    "long_range_layers": "cluster_layers",
    "long_cutoff_upper": "cluster_cutoff",
}
NO_ENCODER = ("default", "none", None)

NOTES = {
    "encoder": "default is none",
    "with_cluster": "clusters are smooth, forces are slopes",
    **dict.fromkeys(list(SIZES)[:3], "left out with encoder: default"),
    "max_neighbors": "the neighbour behind the limit fades out, no energy jumps",
    "irreps_node_embedding": "all even in the files, true parity here",
    "alpha_drop": "dropout of attention weights while training",
    "fmm_radial_init_scale": "of standing waves",
}


class Published(NamedTuple):
    """A file in two parts: options of the backbone, and all others with dots where nested."""

    backbone: dict[str, Any]
    others: dict[str, Any]


class Line(NamedTuple):
    """What becomes of one option. outcome: ``MAPPED``, ``IGNORED`` or ``REFUSED``."""

    name: str
    value: Any
    outcome: str
    text: str

    @property
    def published(self) -> str:
        """The option as the file has it."""
        return f"{self.name}: {self.value}"


def read_published(path: Path) -> Published:
    """The parts of the file ``path``; FileNotFoundError or ValueError in one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a yaml file of a published program")
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold option names with values; give another file")

    found = list(_backbones(content, ()))
    if len(found) != 1:
        raise ValueError(
            f"{path} has {len(found)} parts that describe an E2Former; one must name "
            f"{MARKS[0]}, under model.backbone or backbone_config"
        )
    place, backbone = found[0]
    return Published(dict(backbone), dict(_others(content, (), place)))


def _backbones(content: Mapping, place: tuple[str, ...]) -> Iterator[tuple[tuple, Mapping]]:
    """All mappings that look like a backbone, with the keys that lead there."""
    if any(mark in content for mark in MARKS):
        yield place, content
        return
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _backbones(value, (*place, str(key)))


def _others(
    content: Mapping, here: tuple[str, ...], backbone: tuple[str, ...]
) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything outside the backbone."""
    for key, value in content.items():
        place = (*here, str(key))
        if here == backbone or place == backbone:
            continue
        if key == "loss_functions" and isinstance(value, list):
            value = {name: part for entry in value for name, part in dict(entry).items()}
        if isinstance(value, Mapping) and _is_entered(place, backbone):
            yield from _others(value, place, backbone)
        else:
            yield ".".join(place), value


def _is_entered(place: tuple[str, ...], backbone: tuple[str, ...]) -> bool:
    """Whether names below ``place`` are told apart: the backbone or known options are there."""
    dotted = ".".join(place)
    known = [*SETTINGS, *REFUSED_UNLESS_OFF, *published_training.IGNORED]
    return backbone[: len(place)] == place or any(name.startswith(f"{dotted}.") for name in known)


def translate(published: Published) -> tuple[list[Line], dict[str, Any]]:
    """What becomes of every option, and the sections of the options file."""
    lines: list[Line] = []
    sections: dict[str, Any] = {
        "task": "energy_forces",
        "model": {"name": NETWORK, "preset": PRESET},
    }

    base = default_config(NETWORK, PRESET)
    backbone = DEFAULTS | published.backbone
    for name, value in backbone.items():
        line, found = _of_network(name, value, backbone, base)
        unnamed = name not in published.backbone
        lines.append(line._replace(text=f"{line.text} (published default)") if unnamed else line)
        if line.outcome == REFUSED and name in DEFAULTS:  # where it is left out
            _, found = _of_network(name, DEFAULTS[name], backbone, base)
        sections["model"] |= found
    lines = _with_counted_layers(lines, sections["model"], published.backbone)
    if found := _far_field(sections["model"], backbone):
        sections["model"] |= found
        text = ", ".join(f"model.{name}: {value}" for name, value in found.items())
        lines.append(Line("attn_type", "heads of the far field", MAPPED, f"-> {text}"))

    for name, value in published.others.items():
        line, setting = _of_training(name, value)
        lines.append(line)
        for section, options in setting.items():
            sections.setdefault(section, {}).update(options)
    if published.others.get("optim.scheduler_params.lr_min_factor") is not None:
        lines = _with_smallest_rate(lines, published.others, sections)
    return lines, sections


def _of_network(
    name: str, value: Any, backbone: Mapping, base: Mapping
) -> tuple[Line, dict[str, Any]]:
    """One option of the backbone."""
    try:
        here, given = _in_our_words(name, value, backbone)
        known = here in FIELDS or here in ALIASES
        found = canonical(OPTIONS, {here: given}, base) if known else None
        _check_choices(found or {})
    except (ValueError, AttributeError) as error:
        return Line(name, value, REFUSED, str(error)), {}
    if found is not None:
        text = ", ".join(f"model.{key}: {one}" for key, one in found.items())
        note = _note(name, value)
        return Line(name, value, MAPPED, f"-> {text}" + (f" ({note})" if note else "")), found

    absent = ABSENT.get(name)
    if absent is None:
        return Line(name, value, REFUSED, "is not a known option of E2Former"), {}
    if name == "irreps_head" and (odd := _odd_heads(value, backbone)):
        return Line(name, value, REFUSED, odd), {}
    if absent.is_harmless(value):
        return Line(name, value, IGNORED, absent.why), {}
    return Line(name, value, REFUSED, f"{absent.why}; {absent.instead}"), {}


def _check_choices(found: Mapping[str, Any]) -> None:
    """ValueError for a value that is none of the names of its option."""
    for name, value in found.items():
        if FIELDS[name].choices is not None:
            check_choice(name, value, FIELDS[name].choices)


def _in_our_words(name: str, value: Any, backbone: Mapping) -> tuple[str, Any]:
    """Name and value of an option whose translation depends on others; else unchanged."""
    if name == "fmm_value_head_dim" and value == 0:
        return name, _channels(backbone) // backbone["num_attn_heads"]
    if name == "encoder" and value in NO_ENCODER:
        return name, "none"
    without = backbone.get("encoder") in NO_ENCODER and SIZES.get(name, "").startswith("encoder")
    return (name if without else SIZES.get(name, name)), value


def _note(name: str, value: Any) -> str:
    """What else a user should know of a translated option."""
    aliases = ALIASES[name].aliases if name in ALIASES else ()
    said = [alias.note(value) for alias in aliases if alias.name == name]
    return next(filter(None, said), NOTES.get(name, ""))


def _channels(backbone: Mapping) -> int:
    return parse_irreps(backbone["irreps_node_embedding"])[0]


def _odd_heads(value: Any, backbone: Mapping) -> str | None:
    """Why the channels of the heads do not make the channels of the features; None if they do."""
    try:
        width, channels = parse_irreps(value)[0], _channels(backbone)
    except ValueError as error:
        return str(error)
    heads = backbone["num_attn_heads"]
    if width * heads == channels:
        return None
    return (
        f"{heads} heads of {width} channels are not the {channels} channels of the features, "
        f"which heads share here; give {channels // heads} channels"
    )


def _far_field(model: Mapping, backbone: Mapping) -> dict[str, Any]:
    """Published heads serve both fields: sizes of the far field, where the schedule has one."""
    if not any(ATTENTIONS[name].far for name in parse_schedule(model["schedule"], 1)):
        return {}
    return {
        "far_heads": backbone["num_attn_heads"],
        "far_key_features": backbone["attn_scalar_head"],
    }


def _with_counted_layers(lines: list[Line], model: dict, named: Mapping) -> list[Line]:
    """A schedule that counts all its layers says how many there are: ``layers`` is left out."""
    schedule = model["schedule"]
    counted = parse_schedule(schedule, 1)
    if counted != parse_schedule(schedule, 2):
        return lines
    del model["layers"]

    number, name = len(counted), "num_layers"
    if named.get(name, number) == number:
        line = Line(name, number, MAPPED, f"-> in model.schedule: {schedule}")
    else:
        text = f"attn_type {schedule} has {number} layers; give {number}"
        line = Line(name, named[name], REFUSED, text)
    return [line if one.name == name else one for one in lines]


def _of_training(name: str, value: Any) -> tuple[Line, dict[str, dict[str, Any]]]:
    """One option outside the backbone."""
    if name in SETTINGS:
        setting = SETTINGS[name]
        try:
            found = setting.convert(value)
        except ValueError as error:
            return Line(name, value, REFUSED, str(error)), {}
        if found is None:
            return Line(name, value, IGNORED, f"{setting.option} is left out"), {}
        text = f"-> {setting.section}.{setting.option}: {found}"
        return Line(name, value, MAPPED, text), {setting.section: {setting.option: found}}

    if name in REFUSED_UNLESS_OFF:
        if any(value is one or (value == one and value is not True) for one in OFF):
            return Line(name, value, IGNORED, "it is off"), {}
        return Line(name, value, REFUSED, REFUSED_UNLESS_OFF[name]), {}

    # a name stands for all below it
    parts = name.split(".")
    whole = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    why = next(
        (published_training.IGNORED[one] for one in whole if one in published_training.IGNORED),
        None,
    )
    return Line(name, _short(value), IGNORED, why or "no option of a network or of a training"), {}


def _short(value: Any) -> Any:
    return "{...}" if isinstance(value, (Mapping, list)) else value


def _with_smallest_rate(lines: list[Line], others: Mapping, sections: dict) -> list[Line]:
    """fairchem's smallest learning rate is a share of the largest one."""
    name = "optim.scheduler_params.lr_min_factor"
    largest = sections.get("training", {}).get("lr")
    if largest is None:
        return lines
    smallest = largest * published_training.number(others[name])
    sections["training"]["min_lr"] = smallest
    line = Line(name, others[name], MAPPED, f"-> training.min_lr: {smallest:g}")
    return [line if one.name == name else one for one in lines]
