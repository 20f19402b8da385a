"""The folder of a run, of whatever kind: made or refused at the start, and the configuration in
it.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from farfield.common.configuration import (
    DECIDED_BY_DATA,
    IMPORTED_FILES,
    plain,
    saved_config,
)
from farfield.dataloader.storage.files import atomic_write, make_folder


def prepare_run_folder(folder: Path, resume: bool, overwrite: bool, names: Sequence[str]):
    """Make ``folder``, or refuse (``ValueError``) one that cannot be written, or that holds a run
    unless it is resumed or overwritten.

    names: the files and folders of a run there.
    """
    if resume and overwrite:
        raise ValueError(
            f"--resume goes on with the run in {folder}, --overwrite throws it away; give "
            "one of them"
        )
    try:
        _prepare(folder, resume, overwrite, names)
    except OSError as error:
        raise ValueError(
            f"run folder {folder} cannot be written ({error.strerror}); give another --run-dir"
        ) from None


def _prepare(folder: Path, resume: bool, overwrite: bool, names: Sequence[str]):
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"run folder {folder} is a file; give another --run-dir")
    found = [name for name in names if (folder / name).exists()]
    if found and not resume and not overwrite:
        mend = "add --resume to go on, --overwrite to replace it, or give another --run-dir"
        raise ValueError(f"run folder {folder} already holds a run ({found[0]}); {mend}")
    make_folder(folder)
    for name in found if overwrite else ():
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def save_config(
    folder: Path,
    config,
    free: frozenset[str],
    translate: Callable[[Mapping], dict] = dict,
):
    """Write ``config.yaml``, which ``--config`` reads.

    Where a run is resumed, only ``free`` options may differ (``ValueError``). translate: saved
    configuration, maybe of an earlier version -> the same in the names of today.
    """
    path = folder / "config.yaml"
    if path.exists():
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(saved, Mapping) or "task" not in saved:
            raise ValueError(
                f"{path} is damaged (it names no task); bring it back, or start another run with "
                "--run-dir"
            )
        saved = translate(saved)
        check_same_run(folder, saved, plain(config), free)
        before, now = saved["run"].get("seeds", 1), config.run.get("seeds", 1)
        if (before > 1) != (now > 1):
            raise ValueError(
                f"cannot resume {folder}: it is of --seeds {before}, not {now}; leave --seeds "
                "out, or give another --run-dir"
            )
    with atomic_write(path) as temporary:
        Path(temporary).write_text(
            yaml.safe_dump(saved_config(config), sort_keys=False), encoding="utf-8"
        )


def check_same_run(path, saved: dict, wanted: dict, free: frozenset[str]):
    """``ValueError`` naming the first key outside ``free`` in which the configuration ``wanted``
    departs from the saved one.
    """
    task = saved.get("task")
    if task != wanted["task"]:
        raise ValueError(
            f"cannot resume {path}: its task is {task!r}, not {wanted['task']!r}; start another "
            "run with --run-dir"
        )
    for section in sorted(
        (saved.keys() | wanted.keys()) - {"task", DECIDED_BY_DATA, IMPORTED_FILES}
    ):
        old, new = saved.get(section, {}), wanted.get(section, {})
        for key in sorted(old.keys() | new.keys()):
            if key not in free and old.get(key) != new.get(key):
                raise ValueError(
                    f"cannot resume {path}: {section}.{key} is {old.get(key)!r} there and "
                    f"{new.get(key)!r} here; "
                    f"leave it out, or start another run with --run-dir"
                )
