"""Checkpoints of earlier formats, read as if they had been written today.

    format 2    an E2Former held its head, its references and its backbone at one level, and its
                options had names without a group (``heads``, ``fmm_num_kappa``, ``long_scale``)
    format 3    ``Potential`` holds references and network, the network holds its backbone; options
                have the name of their group in front (``near_heads``, ``far_num_kappa``)
    format 4    the kernel of the far field is an option
    format 5    the smoothing of norms is an option
    format 6    the file has a checksum over all of it

Of options that did not exist before ``former_values.py`` says what they were.

Only names differ: every weight keeps its value and its place in the order of the parameters, so the
state of an optimiser fits as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from farfield.common.former_values import former_values
from farfield.models.network import NETWORKS, Network
from farfield.models.option_fields import canonical, option_fields

FORMAT = 6
READABLE = (2, 3, 4, 5, 6)
FIRST_SEALED = 6

AVERAGED = "module."  # in front of the weights that are averaged
COUNT = "n_averaged"


def current_model_options(model: Mapping) -> dict:
    """The section ``model`` of a configuration with the option names of today.

    What is not known comes back as it is: whoever reads it says so.
    """
    network = _network_of(model)
    if network is None:
        return dict(model)

    kept = {key: model[key] for key in ("name", "preset") if key in model}
    options = {key: value for key, value in model.items() if key not in kept}
    try:
        flat = canonical(network.Options, options)
    except ValueError:
        return dict(model)
    return kept | former_values(option_fields(network.Options), flat) | flat


def _network_of(model: Mapping) -> type[Network] | None:
    """The network that a section ``model`` names, None where it is not registered."""
    name = model.get("name")
    return NETWORKS.get(name) if isinstance(name, str) else None


def converted(content: dict) -> dict:
    """The content of a checkpoint of any readable format, in the present one."""
    content_format = content["format"]
    if content_format == FORMAT:
        return content
    config = dict(content.get("config") or {})
    content = {**content, "format": FORMAT, "config": config}
    model = config.get("model")
    if not isinstance(model, Mapping):
        return content

    config["model"] = current_model_options(model)
    if content_format != 2:
        return content
    network = _network_of(model)
    for part in ("weights", "averaged"):
        if network is not None and isinstance(content.get(part), Mapping):
            content[part] = {
                _present_name(network, name): value for name, value in content[part].items()
            }
    return content


def _present_name(network: type[Network], name: str) -> str:
    """Name of a weight today; weights that are averaged have a word in front."""
    if name == COUNT:
        return name
    front = AVERAGED if name.startswith(AVERAGED) else ""
    return front + network.present_weight_name(name.removeprefix(front))
