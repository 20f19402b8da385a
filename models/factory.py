"""From a configuration to a network.

A configuration names a network and its options by flat name (``far_heads``), by published name
(``fmm_kappa_max``) or in groups:

    build_model({"name": "e2former"})                                   # what train_md17 trains
    build_model({"name": "e2former", "preset": "base", "far": {"heads": 2}})

Options that are left out take the values of the preset (default "small"), then the defaults of the
options class. ``model.config`` gives the complete configuration back, so that a checkpoint can
rebuild its model.
"""

from __future__ import annotations

from collections.abc import Mapping

from farfield.models.choices import check_choice
from farfield.models.network import NETWORKS, EnergyNetwork, Network
from farfield.models.option_fields import canonical, flat_values, make_options
from farfield.models.potential import Potential

DEFAULT_PRESET = "small"


def network_names(predicts: str | None = None) -> list[str]:
    """Names of all networks, or of those that predict ``predicts`` ("potential", "properties",
    "nbody").
    """
    return [name for name, entry in NETWORKS.items() if predicts in (None, entry.predicts)]


def network_class(name: str) -> type[Network]:
    """The network called ``name``; ValueError with a guess where there is none."""
    return NETWORKS.find(name)


def preset_values(name: str, preset: str = DEFAULT_PRESET) -> dict[str, object]:
    """What a preset of the network ``name`` sets, by flat name; ValueError for an unknown one."""
    presets = network_class(name).presets
    check_choice(f"preset of {name}", preset, presets)
    return dict(presets[preset])


def default_config(name: str, preset: str = DEFAULT_PRESET) -> dict[str, object]:
    """All options of the network ``name`` by flat name, with the values of a preset."""
    return flat_values(network_class(name).Options()) | preset_values(name, preset)


def build_model(config: Mapping[str, object]) -> Network:
    """Build the network that a configuration names.

    Energy networks come as a :class:`Potential`. Raises ValueError in one line for a missing or
    unknown name, an unknown option (with a guess), a value of the wrong type, or a value that the
    network refuses.
    """
    if "name" not in config:
        raise ValueError(f"model config has no 'name'; add one of {', '.join(NETWORKS)}")
    name = config["name"]
    entry = network_class(name)
    preset = preset_values(name, config.get("preset", DEFAULT_PRESET))
    given = {key: value for key, value in config.items() if key not in ("name", "preset")}

    try:
        options = make_options(entry.Options, preset | canonical(entry.Options, given, preset))
    except ValueError as error:
        raise ValueError(f"model {name}: {error}") from None
    model = entry(options)
    if not isinstance(getattr(model, "options", None), entry.Options):
        raise ValueError(f"model {name}: its constructor must set self.options to its options")
    if isinstance(model, EnergyNetwork):
        heads = getattr(options, "energy_heads", None)
        try:
            model = Potential(model, options.forces, options.stress, heads)
        except ValueError as error:
            raise ValueError(f"model {name}: {error}") from None
    model.config = {"name": name, **flat_values(options)}
    return model
