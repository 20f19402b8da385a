"""Config -> model: the one place that knows all networks by name.

A config is a flat dict, ``{"name": "se3_transformer_nbody", "layers": 2, "channels": 16}``; keys
that are left out take the defaults of the network's options class. ``model.config`` gives the
complete dict back, so that a checkpoint can rebuild its model.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing

from torch import nn

from farfield.models.networks.e2former import E2Former
from farfield.models.networks.e2former_options import E2FormerOptions
from farfield.models.networks.nbody_transformer import NBodyOptions, SE3TransformerNBody
from farfield.models.networks.property_networks import (
    E2FormerProperties,
    E2FormerPropertyOptions,
    SE3PropertyOptions,
    SE3TransformerProperties,
)

MODELS = {
    "se3_transformer_nbody": (SE3TransformerNBody, NBodyOptions),
    "e2former": (E2Former, E2FormerOptions),
    "se3_transformer_properties": (SE3TransformerProperties, SE3PropertyOptions),
    "e2former_properties": (E2FormerProperties, E2FormerPropertyOptions),
}

# set by the network from its inputs, not by the user
DERIVED = {"edge_scalars", "edge_vectors"}


def model_options(name: str) -> dict[str, object]:
    """Option names of the network ``name`` and their defaults. Raises ValueError for an unknown
    network.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    _, options = MODELS[name]
    return {
        field.name: field.default
        for field in dataclasses.fields(options)
        if field.name not in DERIVED
    }


def build_model(config: dict) -> nn.Module:
    """Build the network a config dict names.

    Raises ValueError in one line for a missing or unknown name, an unknown key (with the nearest
    known one), a value of the wrong type, or a value the network refuses.
    """
    if "name" not in config:
        raise ValueError(f"model config has no 'name': add one of {', '.join(MODELS)}")
    name = config["name"]
    defaults = model_options(name)
    chosen = {key: value for key, value in config.items() if key != "name"}
    network, options = MODELS[name]
    kinds = typing.get_type_hints(options)
    for key, value in chosen.items():
        if key not in defaults:
            near = difflib.get_close_matches(str(key), defaults, 1)
            raise ValueError(
                f"unknown option {key!r} of model {name}"
                + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(defaults)}")
            )
        chosen[key] = _checked(key, value, kinds[key])
    model = network(options(**chosen))
    model.config = {"name": name, **defaults, **chosen}
    return model


def _checked(key: str, value, hint):
    """``value`` if it is of the type that the option says; integers pass as floats."""
    kinds = typing.get_args(hint) or (hint,)  # "int | None": both
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        raise ValueError(f"model option {key} must be of type {kinds[0].__name__}, got {value!r}")
    return value
