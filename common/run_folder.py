"""The folder of a run of any kind: made or refused at the start, and the configuration in it.

A run never writes into the folder of another one: the user resumes it, overwrites it, or names
another folder. A resumed run keeps the options that decide its results.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from farfield.common.configuration import IF_UNNAMED, NOT_SECTIONS, plain, saved_config
from farfield.common.yaml_files import load_yaml, with_checksum
from farfield.dataloader.storage.files import atomic_write, make_folder


def prepare_run_folder(folder: Path, resume: bool, overwrite: bool, names: Sequence[str]) -> None:
    """Make ``folder``, or raise ValueError if it cannot be written or holds another run.

    names: the files and folders that a run leaves there; with ``overwrite`` they are deleted.
    """
    if resume and overwrite:
        raise ValueError(
            f"--resume continues the run in {folder}, --overwrite deletes it; give one of them"
        )
    try:
        _prepare(folder, resume, overwrite, names)
    except OSError as error:
        raise ValueError(
            f"run folder {folder} cannot be written ({error.strerror}); give another --run-dir"
        ) from None


def _prepare(folder: Path, resume: bool, overwrite: bool, names: Sequence[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"run folder {folder} is a file; give another --run-dir")

    found = [name for name in names if (folder / name).exists()]
    if found and not resume and not overwrite:
        raise ValueError(
            f"run folder {folder} already holds a run ({found[0]}); add --resume to continue it, "
            "--overwrite to replace it, or give another --run-dir"
        )

    make_folder(folder)
    for name in found if overwrite else ():
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def save_config(
    folder: Path,
    config,
    free: frozenset[str],
    translate: Callable[[Mapping], dict] = dict,
) -> None:
    """Write ``config.yaml``, which ``--config`` reads.

    free: options that a resumed run may change; ValueError for any other change. translate: saved
    configuration, maybe of an earlier version -> the same in the names of today.
    """
    path = folder / "config.yaml"
    if path.exists():
        saved = translate(_saved(path))
        check_same_run(folder, saved, plain(config), free)
        _check_same_kind(folder, saved, config)

    text = yaml.safe_dump(saved_config(config), sort_keys=False)
    with atomic_write(path) as temporary:
        Path(temporary).write_text(with_checksum(text), encoding="utf-8")


def _saved(path: Path) -> Mapping:
    try:
        saved = load_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); bring it back, or start another run with --run-dir"
        ) from None
    if not isinstance(saved, Mapping) or "task" not in saved:
        raise ValueError(
            f"{path} is damaged (it names no task); bring it back, or start another run with "
            "--run-dir"
        )
    return saved


def _check_same_kind(folder: Path, saved: Mapping, config) -> None:
    """One seed and several seeds leave different folders behind."""
    before, now = saved["run"].get("seeds", 1), config.run.get("seeds", 1)
    if (before > 1) != (now > 1):
        raise ValueError(
            f"cannot resume {folder}: it was started with --seeds {before}, not {now}; leave "
            "--seeds out, or give another --run-dir"
        )


def check_same_run(path: Path, saved: Mapping, current: Mapping, free: frozenset[str]) -> None:
    """Raise ValueError for the first option outside ``free`` that differs from the saved one.

    An option that did not exist when the run began is no difference as long as it has the value
    that it has where nobody names it: see :func:`newer_options`.
    """
    task = saved.get("task")
    if task != current["task"]:
        raise ValueError(
            f"cannot resume {path}: its task is {task!r}, not {current['task']!r}; start another "
            "run with --run-dir"
        )

    for section in sorted((saved.keys() | current.keys()) - NOT_SECTIONS):
        old, new = saved.get(section, {}), current.get(section, {})
        for key in sorted(old.keys() - free):
            if old[key] != new.get(key):
                raise ValueError(
                    f"cannot resume {path}: {section}.{key} is {old[key]!r} there and "
                    f"{new.get(key)!r} here; leave it out, or start another run with --run-dir"
                )

        # what the version that began the run did, before there was an option
        usual = current.get(IF_UNNAMED, {})
        for key in sorted(new.keys() - old.keys() - free):
            if key not in usual or new[key] != usual[key]:
                raise ValueError(
                    f"cannot resume {path}: it was begun without the option {section}.{key}, which "
                    f"is {new[key]!r} here; leave it out, or start another run with --run-dir"
                )


def newer_options(saved: Mapping, current: Mapping) -> dict[str, object]:
    """Options that the version which began a run did not know, and their values now.

    Their defaults do what was done before there was an option.
    """
    found = {}
    for section in sorted(current.keys() - NOT_SECTIONS):
        before = saved.get(section, {})
        found |= {key: value for key, value in current[section].items() if key not in before}
    return found
