"""A run that starts from the weights of another one: fine-tuning on new data.

The network is the one of the checkpoint, so its options are taken from there; one that contradicts
them is refused. Its judged weights (the averaged ones) become the first weights. What belongs to
the labels is fitted to the new training split: reference energies, scales and constants, which are
buffers of the network. Averages, optimiser and schedule begin again.

Elements that the checkpoint was not trained on start with the vector of the known element that is
most like them (``nearest_elements``); rows of known elements are kept. ``--freeze`` keeps parts of
the network as they are (``frozen_parts.py``).

Cost: the checkpoint is read twice, once for its options and once for its weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from farfield.common import checkpoint
from farfield.common.argument_parser import early_options
from farfield.common.trained import TrainedRun
from farfield.common.yaml_files import read_yaml
from farfield.dataloader.storage.files import file_checksum
from farfield.models.layers.element_start import copy_rows, element_tables, nearest_elements
from farfield.train.former_runs import current_config
from farfield.train.frozen_parts import freeze

# Rate, as a share of the one that the task has for random weights, and steps of its warm-up. Found
# on 50 frames of acetylacetone from a potential of ethanol, 1 CPU minute; validation force error in
# meV/Angstrom with a share of 0.2: 67, 0.4: 57, 0.4 and 10 steps: 53; from random weights 74
RATE_FACTOR = 0.4
WARMUP_STEPS = 10

# options that change no weight, and follow the new data
FREE_OPTIONS = ("stress", "forces")


def add_initial_options(add) -> None:
    """Options of the section ``training``: the first weights, and what stays as it is."""
    initial = (
        "checkpoint whose weights the run starts from: a file, or the name of a shipped one "
        f"(default: random weights); the default rate is then {RATE_FACTOR:g} of the usual one, "
        f"with {WARMUP_STEPS} steps of warm-up"
    )
    add("--init-from", str, None, main=True, help=initial)

    # which file it must be, and what of it stays
    checksum = "SHA-256 that the file of --init-from must have (default: any; recorded)"
    add("--init-sha256", str, None, help=checksum)
    frozen = (
        "parts of the network that keep the weights of --init-from, joined by commas: embedding, "
        "layers, layers:0-1, clusters, heads, backbone (all but the heads)"
    )
    add("--freeze", str, None, help=frozen)


@dataclasses.dataclass(frozen=True)
class InitialRun:
    """The checkpoint that a run starts from: ``run``, what it says, and ``sha256`` of its file."""

    run: TrainedRun
    sha256: str

    @classmethod
    def read(cls, path: str, sha256: str | None = None) -> InitialRun:
        """Read a checkpoint; ``ValueError`` in one line where the file is not the one that
        ``sha256`` belongs to, and whatever :meth:`TrainedRun.read` raises.
        """
        run = TrainedRun.read(path)
        found = file_checksum(run.path)
        if sha256 not in (None, found):
            raise ValueError(
                f"--init-from {path} has the SHA-256 {found}, not {sha256}; give the file that the "
                "run began with, or leave --init-sha256 out"
            )
        return cls(run, found)

    @classmethod
    def if_there(cls, path: str | None) -> InitialRun | None:
        """The same; None where no path is given, or where it leads to no file."""
        try:
            return None if path is None else cls.read(path)
        except FileNotFoundError:
            return None

    @property
    def options(self) -> dict:
        """Options of its network, with the names of today; ``name`` and ``preset`` among them."""
        return dict(current_config(self.run.config)["model"])

    @property
    def elements(self) -> list[int] | None:
        """Atomic numbers that it was trained on; None where its network reads no elements."""
        if self.run.elements is not None:
            return self.run.elements
        known = [value for name, value in self.run.weights.items() if name.endswith(".known")]
        return known[0].nonzero().flatten().tolist() if known else None


# ---- before a run: its options


def initial_path(argv: list[str], run_dir: str) -> str | None:
    """The checkpoint that a command line names for the first weights, or its ``--config``; None
    where there is none, and where ``--resume`` finds weights of the run itself.
    """
    found = early_options(argv, ["--init-from", "--config", "--run-dir"], ["--resume"])
    if found is None:
        return None
    folder = Path(found.run_dir or run_dir)
    if found.resume and (folder / checkpoint.LAST).exists():
        return None
    if found.init_from is not None:
        return None if found.init_from.lower() == "none" else found.init_from

    # a yaml file, then the run that is resumed
    files = [Path(found.config)] if found.config else []
    files += [folder / "config.yaml"] if found.resume else []
    named = (_named_in(file) for file in files)
    return next((name for name in named if name is not None), None)


def _named_in(file: Path) -> str | None:
    """``training: {init_from: ...}`` or ``init_from: ...`` of a yaml file."""
    try:
        content = read_yaml(file)
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    section = content.get("training")
    name = section.get("init_from") if isinstance(section, dict) else content.get("init_from")
    return name if isinstance(name, str) else None


def network_values(initial: InitialRun, values: Mapping) -> dict:
    """Options of the network that is continued, as far as ``values`` (of all options) has them."""
    return {key: value for key, value in initial.options.items() if key in values}


def initial_values(initial: InitialRun, found: Mapping, values: Mapping, network: Mapping) -> dict:
    """Values of options that nobody named: of the network that is continued, and the rate.

    found: what the data say. values: of all options, flat. network: see :func:`network_values`.
    """
    of_data = {key: found[key] for key in FREE_OPTIONS if key in found}
    if "stress" in network and "stress" not in of_data:
        of_data["stress"] = False
    rate = found.get("lr", values["lr"])
    course = {"lr": RATE_FACTOR * rate, "warmup_steps": min(WARMUP_STEPS, values["warmup_steps"])}
    return {**network, **of_data, **course, "init_sha256": initial.sha256}


def check_same_network(config, initial: InitialRun) -> None:
    """``ValueError`` for an option of the network that contradicts the checkpoint."""
    for key, value in initial.options.items():
        now = config.model.get(key)
        if key not in FREE_OPTIONS and now != value:
            flag = "--model" if key == "name" else f"--{key.replace('_', '-')}"
            raise ValueError(
                f"{flag} is {now} here and {value} in the network of --init-from "
                f"{config.training.init_from}, whose weights fit no other; leave {flag} out"
            )


# ---- of a run: its first weights


def begin_with(config, model: nn.Module, elements: list[int] | None) -> list[str]:
    """Give ``model`` the weights that ``config`` names, and freeze parts; returns lines for the
    log.

    elements: atomic numbers of the training split, None where it has no atoms. A run that resumes
    from its own checkpoint is frozen alone. ``ValueError`` or ``OSError`` in one line.
    """
    options = config.training
    if options.get("init_from") is None:
        if options.get("freeze") is not None:
            raise ValueError(
                f"--freeze {options.freeze} keeps weights of another run; give its checkpoint with "
                "--init-from, or leave --freeze out"
            )
        return []

    lines, new = [], {}
    if not (config.run.resume and (Path(config.run.run_dir) / checkpoint.LAST).exists()):
        initial = InitialRun.read(options.init_from, options.init_sha256)
        check_same_network(config, initial)
        take_weights(model, initial)
        new = start_new_elements(model, initial, elements)
        lines.append(f"first weights of {options.init_from}, SHA-256 {initial.sha256}")
    if new:
        lines.append(f"new elements start as others: {_listed(new)}")

    frozen = freeze(model, options.freeze)
    if frozen:
        _check_learned(model, new, options.freeze)
        weights = dict(model.named_parameters())
        count = sum(weights[name].numel() for name in frozen)
        total = sum(weight.numel() for weight in weights.values())
        lines.append(f"frozen: {options.freeze}, {count} of {total} weights")
    return lines


def take_weights(model: nn.Module, initial: InitialRun) -> None:
    """Copy the judged weights of a checkpoint; buffers (references, scales) stay as they are."""
    weights = dict(initial.run.weights)
    learned = dict(model.named_parameters())
    buffers = {name: value for name, value in model.state_dict().items() if name not in learned}
    checkpoint.load_weights(model, weights | buffers, initial.run.path)


def start_new_elements(
    model: nn.Module, initial: InitialRun, elements: list[int] | None
) -> dict[int, int]:
    """Start the elements that the checkpoint does not know; Z -> Z of the element it starts as."""
    known, tables = initial.elements, element_tables(model)
    if elements is None or not tables or known is None:
        return {}
    new = nearest_elements(sorted(set(elements) - set(known)), known)
    for table in tables:
        copy_rows(table, new)
    return new


def _check_learned(model: nn.Module, new: Mapping[int, int], text: str) -> None:
    """``ValueError`` for new elements whose vectors are frozen: they would stay another element."""
    tables = element_tables(model)
    if new and tables and not any(table.weight.requires_grad for table in tables):
        raise ValueError(
            f"--freeze {text} freezes the vectors of the elements, but the data have new ones: "
            f"{_listed(new)}; leave embedding out of --freeze"
        )


def _listed(new: Mapping[int, int]) -> str:
    """``N (as O), S (as O)``"""
    from ase.data import chemical_symbols

    return ", ".join(f"{chemical_symbols[z]} (as {chemical_symbols[y]})" for z, y in new.items())
