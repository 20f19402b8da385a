"""A seal covers every byte of a zip file, also its directory, and its loss is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.dataloader.storage import files
from farfield.dataloader.storage.seals import SEALED, check_sealed_npz, write_sealed_npz


def test_every_wrong_bit_and_every_lost_end_is_refused(tmp_path):
    path = tmp_path / "one.npz"
    write_sealed_npz(path, {"values": np.arange(3.0), "optional": np.ones(2)})
    whole, names = path.read_bytes(), ("values", "optional", SEALED)
    check_sealed_npz(path, names, "make it again")
    assert files.read_npz(path, ["values"], "")["values"].tolist() == [0, 1, 2]

    # a name of the directory among them: a reader would take the array for missing
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="one.npz is damaged .*; make it again"):
            check_sealed_npz(path, names, "make it again")
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="one.npz is damaged"):
            check_sealed_npz(path, names, "make it again")


def test_a_file_of_an_earlier_version_has_no_seal(tmp_path):
    np.savez(tmp_path / "old.npz", values=np.zeros(2))
    check_sealed_npz(tmp_path / "old.npz", ["values"], "")
