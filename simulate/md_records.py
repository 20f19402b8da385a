"""The files of a run of dynamics that grow, and the checksums of them in its state.

``state.npz`` says how long ``log.csv`` and ``trajectory.extxyz`` were when it was written, and
their SHA-256. What came later belongs to a session that was killed. Cost: 1 GB/s.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from farfield.dataloader.storage import files
from farfield.dataloader.storage.seals import check_sealed_npz

LOG, TRAJECTORY, STATE = "log.csv", "trajectory.extxyz", "state.npz"
RECORDS = (LOG, TRAJECTORY)
LENGTHS, SUMS = "lengths", "sums"  # of the records, in a state; early states have no sums
HINT = "start again with --overwrite"


def check_records(folder: Path, state: Mapping[str, np.ndarray], hint: str = HINT) -> dict:
    """Checksums of the records up to the state, by name, to be continued.

    ``ValueError`` in one line for a record that lost frames, or is not as it was written. hint:
    what the user can do, the end of an error.
    """
    sums: dict[str, Any] = {}
    for name, length in zip(RECORDS, state[LENGTHS].tolist(), strict=True):
        file = folder / name
        found = os.path.getsize(file) if file.is_file() else 0
        if found < length:
            raise ValueError(
                f"{file} has {found} bytes, {STATE} counts on {length}; bring it back, or {hint}"
            )
        sums[name] = _sum_of(file, length)

    # states of earlier versions hold no checksums
    for name, expected in zip(RECORDS, state.get(SUMS, np.array([])).tolist(), strict=False):
        if sums[name].hexdigest() != expected:
            raise ValueError(
                f"{folder / name} is damaged: what was recorded before the last state has changed; "
                f"bring it back, or {hint}"
            )
    return sums


def check_trajectory(folder: Path, hint: str) -> None:
    """``ValueError`` where the records of a run folder are not as its state says.

    A folder without a state is not checked. hint: as in :func:`check_records`.
    """
    path = folder / STATE
    if not path.is_file():
        return
    files.read_npz(path, (), hint)  # whole and readable
    with np.load(path, allow_pickle=False) as archive:
        held = archive.files
    check_sealed_npz(path, held, hint)
    names = [LENGTHS, *([SUMS] if SUMS in held else [])]
    check_records(folder, files.read_npz(path, names, hint), hint)


def _sum_of(path: Path, length: int):
    """SHA-256 of the first bytes of a file, to be continued."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while length and (part := file.read(min(length, files.BLOCK_BYTES))):
            found.update(part)
            length -= len(part)
    return found
