"""One checksum of whatever a program reads or leaves behind, so that two of them can be compared.

Values are walked in a fixed order; floats count with every bit, and files with every byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farfield.common import checkpoint
from farfield.dataloader.storage.files import file_checksum

CLOCKS = frozenset(  # what differs between equal runs
    {"seconds", "cpu_seconds", "cpu_minutes", "minutes", "waiting", "progress", "waiting_share"}
)
NOT_COMPARED = frozenset({"versions", "config"})  # paths and kernels of a run


def digest(value: Any) -> str:
    """SHA-256 of a value of arrays, tensors, dictionaries, lists, data classes and numbers."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    """Add a value to a checksum."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()

    # what it is goes in as well, so that no two kinds are mixed up
    if isinstance(value, np.ndarray):
        found.update(f"array {value.dtype.str} {value.shape}".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        _feed(found, fields)
    elif isinstance(value, Mapping):
        found.update(f"mapping {len(value)}".encode())
        for key in sorted(value, key=repr):
            found.update(repr(key).encode())
            _feed(found, value[key])
    elif isinstance(value, (list, tuple)):
        found.update(f"list {len(value)}".encode())
        for one in value:
            _feed(found, one)
    else:
        found.update(f"{type(value).__name__} {value!r}".encode())


def without_clocks(value: Any) -> Any:
    """A nested value without times, versions and configurations."""
    if isinstance(value, Mapping):
        left_out = CLOCKS | NOT_COMPARED
        return {key: without_clocks(one) for key, one in value.items() if key not in left_out}
    if isinstance(value, (list, tuple)):
        return [without_clocks(one) for one in value]
    return value


def checkpoint_digest(path: Path) -> str:
    """Of everything in a checkpoint that decides how its run goes on, but for clocks."""
    return digest(without_clocks(checkpoint.read_run(path)))


def files_digest(folder: Path) -> str:
    """Of the names and bytes of all files below a folder, or of one file."""
    if folder.is_file():
        return file_checksum(folder)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): file_checksum(path) for path in found})
