"""Weights that a run keeps as they are: parts of a network by name.

    embedding            what an atom and an edge start with, the radial functions included
    layers               all layers
    layers:0             the first layer; layers:0-1: the first two
    clusters             the layers of clusters
    heads                what predictions are read with
    backbone             everything but the heads

Several are joined by commas. A network says which weights belong to a part (``Network.parts``).
Frozen weights get no gradient, so a step costs less. Cost: at the start alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from farfield.models.choices import check_choice

BACKBONE, HEADS, LAYERS = "backbone", "heads", "layers"
Parts = Mapping[str, Sequence[str]]  # part -> first words of the names of its weights


def freeze(network: nn.Module, text: str | None) -> list[str]:
    """Freeze the parts that ``text`` names, and return the names of their weights.

    ``ValueError`` in one line for a part that the network does not have, and where no weight is
    left to train.
    """
    if text is None:
        return []
    weights = dict(network.named_parameters())
    frozen = frozen_names(list(weights), network.weight_parts(), text)
    if len(frozen) == len(weights):
        raise ValueError(
            f"--freeze {text} freezes all {len(weights)} weights of the network; leave a part to "
            "train"
        )
    for name in frozen:
        weights[name].requires_grad_(False)
    return frozen


def frozen_names(weights: Sequence[str], parts: Parts, text: str) -> list[str]:
    """Names among ``weights`` that belong to the parts in ``text``; errors as in :func:`freeze`."""
    chosen: set[str] = set()
    for word in text.split(","):
        chosen |= _of_part(weights, parts, word.strip())
    return [name for name in weights if name in chosen]


def _of_part(weights: Sequence[str], parts: Parts, word: str) -> set[str]:
    """Weights of one part."""
    part, colon, numbers = word.partition(":")
    known = [*parts, *([BACKBONE] if HEADS in parts else [])]
    if not known:
        raise ValueError("--freeze: this network names no parts; leave --freeze out")
    check_choice("--freeze", part, known)

    if part == BACKBONE:
        return set(weights) - _starting_with(weights, parts[HEADS])
    found = _starting_with(weights, parts[part])
    if not found:
        raise ValueError(f"--freeze {word}: this network has no weights there; leave {part} out")
    if not colon:
        return found
    if part != LAYERS:
        raise ValueError(f"--freeze {word}: only layers have numbers; write {part}")
    return _numbered(found, parts[LAYERS], word, numbers)


def _starting_with(weights: Sequence[str], beginnings: Sequence[str]) -> set[str]:
    """Names that are one of the beginnings, or go on behind it with a dot."""
    return {
        name for name in weights if any(f"{name}.".startswith(f"{word}.") for word in beginnings)
    }


def _numbered(found: set[str], beginnings: Sequence[str], word: str, numbers: str) -> set[str]:
    """The weights among ``found`` of the layers that ``numbers`` ("1" or "0-2") name."""
    layer_of = {}
    for name in found:
        beginning = next(one for one in beginnings if name.startswith(f"{one}."))
        layer_of[name] = int(name.removeprefix(f"{beginning}.").split(".")[0])
    last = max(layer_of.values())

    # one number stands for both ends
    first_text, _, last_text = numbers.partition("-")
    try:
        low, high = int(first_text), int(last_text or first_text)
    except ValueError:
        low, high = 0, -1
    if not 0 <= low <= high <= last:
        raise ValueError(
            f"--freeze {word}: layers have the numbers 0 .. {last}; write layers:0 or "
            f"layers:0-{last}"
        )
    return {name for name, layer in layer_of.items() if low <= layer <= high}
