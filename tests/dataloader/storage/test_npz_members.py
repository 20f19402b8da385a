"""Odd npz files are one line that names the file, at once, and good ones are read as numpy does."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from farfield.dataloader.storage.files import read_npz

GOOD = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "single": np.float32(3),
    "words": np.array(["a", "bc"]),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3)),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
}


def npy(array: np.ndarray, before: bytes = b"", after: bytes = b"") -> bytes:
    """The bytes of an array, with ``before`` in its header replaced by ``after``, as long."""
    file = io.BytesIO()
    np.save(file, array)
    assert len(before) == len(after) and before in file.getvalue()
    return file.getvalue().replace(before, after, 1)


def write(path, member: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member)


def test_good_arrays_are_what_numpy_wrote(tmp_path):
    np.savez_compressed(tmp_path / "good.npz", **GOOD)
    found = read_npz(tmp_path / "good.npz", GOOD, "")
    for name, values in GOOD.items():
        assert found[name].dtype == values.dtype and np.array_equal(found[name], values)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (npy(np.zeros(10**4), b"(10000,), }", b"(10**12,),}"), "header of the array 'x'"),
        (npy(np.zeros(7), b"(7,), }         ", b"(7000000000000,)}"[:16]), "header of the array"),
        (npy(np.zeros(1111), b"(1111,), }    ", b"(999999999,), "), "unreadable"),
        (npy(np.zeros(1111), b"1111,", b"9999,"), "of shape .9999,. needs 79992 bytes, .* 8888"),
        (npy(np.zeros(1111), b"1111,", b"0011,"), "unreadable"),
        (npy(np.zeros(1111), b"<f8", b"<f4"), "needs 4444 bytes, the file has 8888"),
        (npy(np.zeros(3), b"{'descr'", b"{{'desc'"), "header of the array 'x' is unreadable"),
        (npy(np.zeros(3), b"NUMPY\x01", b"NUMPY\x07"), "header of the array 'x' is unreadable"),
        (npy(np.zeros(3, [("a", float), ("b", int)])), "holds .*, not numbers"),
        (npy(np.zeros(3, "M8[s]")), "holds datetime64.s., not numbers"),
        (npy(np.zeros(3))[:-1], "needs 24 bytes, the file has 23"),
        (b"not an array at all", "header of the array 'x' is unreadable"),
    ],
)
def test_odd_arrays_are_one_line(tmp_path, member, words):
    write(tmp_path / "odd.npz", member)
    with pytest.raises(ValueError, match=words) as error:
        read_npz(tmp_path / "odd.npz", ["x"], "bring it back")
    assert "odd.npz is damaged or not an npz file" in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith("; bring it back")


def test_encrypted_members_are_one_line(tmp_path):
    write(tmp_path / "odd.npz", npy(np.zeros(3)))
    content = bytearray((tmp_path / "odd.npz").read_bytes())
    for place in (6, content.index(b"PK\x01\x02") + 8):  # flags of the member and of its entry
        content[place] |= 1
    (tmp_path / "odd.npz").write_bytes(content)
    with pytest.raises(ValueError, match="the array 'x' is encrypted"):
        read_npz(tmp_path / "odd.npz", ["x"], "bring it back")
