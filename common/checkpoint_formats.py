"""Checkpoints of earlier formats, read as if they had been written today.

    format 2    an E2Former held its head, its references and its backbone at one level, and its
                options had names without a group (``heads``, ``fmm_num_kappa``, ``long_scale``)
    format 3    ``Potential`` holds references and network, the network holds its backbone; options
                have the name of their group in front (``near_heads``, ``far_num_kappa``)

Only names differ: every weight keeps its value and its place in the order of the parameters, so the
state of an optimiser fits as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import farfield.models.networks  # noqa: F401 - registers the networks of the package
from farfield.models.choices import Registry
from farfield.models.network import NETWORKS
from farfield.models.option_fields import canonical

FORMAT = 3
READABLE = (2, 3)

# first part of a weight's name in format 2 -> in format 3, for energy networks
BACKBONE = "network.backbone."
MOVED = {
    "energy.reference.": "reference.",
    "energy.network.": "network.energy.network.",
    "vectors.": "network.vectors.",
}
AVERAGED = "module."  # in front of the weights that are averaged


def current_model_options(model: Mapping) -> dict:
    """The section ``model`` of a configuration with the option names of today.

    What is not known comes back as it is: whoever reads it says so.
    """
    options = {key: value for key, value in model.items() if key not in ("name", "preset")}
    kept = {key: value for key, value in model.items() if key in ("name", "preset")}
    network = _find(NETWORKS, model.get("name"))
    if network is None:
        return dict(model)
    try:
        return kept | canonical(network.Options, options)
    except ValueError:
        return dict(model)


def _find(registry: Registry, name: object):
    return registry[name] if isinstance(name, str) and name in registry else None


def converted(content: dict) -> dict:
    """The content of a checkpoint of any readable format, in the present one."""
    if content["format"] == FORMAT:
        return content
    config = dict(content.get("config") or {})
    model = config.get("model")
    if isinstance(model, Mapping):
        config["model"] = current_model_options(model)
    content = {**content, "format": FORMAT, "config": config}
    if isinstance(model, Mapping) and model.get("name") == "e2former":
        for part in ("weights", "averaged"):
            if isinstance(content.get(part), Mapping):
                content[part] = _renamed(content[part])
    return content


def _renamed(weights: Mapping) -> dict:
    """Weights of an E2Former of format 2 by their names of format 3."""
    return {_present_name(name): value for name, value in weights.items()}


def _present_name(name: str) -> str:
    if name == "n_averaged":
        return name
    front = AVERAGED if name.startswith(AVERAGED) else ""
    rest = name.removeprefix(front)
    for old, new in MOVED.items():
        if rest.startswith(old):
            return front + new + rest.removeprefix(old)
    return front + BACKBONE + rest
