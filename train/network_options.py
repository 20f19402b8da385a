"""The section ``model`` of a training script: which network, its preset, its options.

The command line offers the options of one network: the network that it names, or the yaml file
of ``--config``, or the run that ``--resume`` continues.
"""

from __future__ import annotations

from pathlib import Path

from farfield.common.argument_parser import early_options
from farfield.common.command_line import OptionParser
from farfield.common.yaml_files import load_yaml
from farfield.models.factory import (
    DEFAULT_PRESET,
    default_config,
    network_class,
    network_names,
)
from farfield.models.networks.blocks import parse_schedule


def add_network_options(
    parser: OptionParser, task, network: str, preset: str = DEFAULT_PRESET
) -> None:
    """Add ``--model``, ``--preset`` and the options of ``network`` to the section ``model``.

    task: the class of the task that is trained. preset: the one whose values the help shows.
    """
    title = "the network; lengths in Angstrom; default values: --preset, then the data"
    section = parser.section("model", title)
    names = network_names(task.predicts)
    section.add("--model", str, network, key="name", choices=names, main=True, help="network")

    presets = network_class(network).presets
    section.add(
        "--preset",
        str,
        DEFAULT_PRESET,
        choices=list(presets),
        main=True,
        help="size of the network",
    )
    section.add_fields(
        network_class(network).Options,
        skip=task.fixed_options,
        decided=dict.fromkeys(task.measured_options, "the data"),
        presets=presets,
        preset=preset if preset in presets else DEFAULT_PRESET,
    )


def chosen_network(task, argv: list[str], run_dir: str, usual: str | None = None) -> str:
    """The network whose options a command line needs.

    run_dir: run folder that ``--resume`` continues unless ``--run-dir`` names another. usual: the
    network where nobody names one (None: the default of the task). A name that is unknown gives it
    too; the whole parser says what is wrong with the name.
    """
    usual = usual or task.default_network
    found = early_options(argv, ["--model", "--config", "--run-dir"], ["--resume"])
    if found is None:
        return usual

    # the command line wins over a yaml file, the file over the run that is resumed
    candidates = [found.model]
    if found.config:
        candidates.append(_name_in(Path(found.config)))
    if found.resume:
        candidates.append(_name_in(Path(found.run_dir or run_dir) / "config.yaml"))
    named = next((name for name in candidates if name is not None), None)
    return named if named in network_names(task.predicts) else usual


def chosen_preset(argv: list[str]) -> str:
    """The preset that a command line names; the whole parser says what is wrong with it."""
    found = early_options(argv, ["--preset"])
    return DEFAULT_PRESET if found is None or found.preset is None else found.preset


def _name_in(file: Path) -> str | None:
    """``model: {name: ...}`` or ``name: ...`` of a yaml file; None where it names no network."""
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the whole parser reads the file again and says what is wrong
    if not isinstance(content, dict):
        return None
    section = content.get("model")
    return section.get("name") if isinstance(section, dict) else content.get("name")


def check_layers(model) -> None:
    """``ValueError`` for a number of layers that the schedule of a network does not read."""
    schedule = model.get("schedule")
    if schedule is None or model.layers == default_config(model.name)["layers"]:
        return
    if parse_schedule(schedule, 1) == parse_schedule(schedule, 2):
        hint = "leave --layers out, or give a part without a count: --schedule hybrid-first-order"
        raise ValueError(
            f"--layers {model.layers} changes nothing: every part of --schedule {schedule} has "
            f"its count; {hint}"
        )
