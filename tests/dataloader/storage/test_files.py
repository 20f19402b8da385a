"""Files are whole or absent, and damage is one line."""

import errno
import hashlib
import os

import numpy as np
import pytest

from farfield.dataloader.storage import files


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_atomic_write_replaces_only_at_the_end(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    with files.atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "result"
    path.write_text("old")
    with pytest.raises(error), files.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("writer", [files.atomic_write, files.atomic_folder])
def test_full_disk_names_the_file_and_leaves_nothing(tmp_path, writer):
    message = r"result cannot be written \(No space left on device\); free some disk space"
    with pytest.raises(OSError, match=message), writer(tmp_path / "result"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_killed_writers_leftovers_are_cleared(tmp_path):
    (tmp_path / f".result{files.TEMPORARY}abc").write_text("half")
    (tmp_path / f".folder{files.TEMPORARY}abc").mkdir()
    (tmp_path / f".other{files.TEMPORARY}abc").write_text("of another file")
    with files.atomic_write(tmp_path / "result") as temporary:
        temporary.write_text("whole")
    with files.atomic_folder(tmp_path / "folder"):
        pass
    assert names(tmp_path) == [f".other{files.TEMPORARY}abc", "folder", "result"]


def test_written_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_json(tmp_path / "json", {})
    assert os.stat(tmp_path / "json").st_mode == os.stat(tmp_path / "plain").st_mode


def test_atomic_folder_replaces_or_keeps(tmp_path):
    target = tmp_path / "cache"
    for text in ("one", "two"):
        with files.atomic_folder(target) as temporary:
            (temporary / text).write_text(text)
        assert names(target) == [text]
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(target) as temporary:
        (temporary / "three").write_text("")
        raise KeyboardInterrupt
    assert names(target) == ["two"]
    assert names(tmp_path) == ["cache"]


def test_growing_array_equals_its_parts(tmp_path):
    parts = [np.random.default_rng(0).random((rows, 3)) for rows in (4, 0, 1000)]
    with files.NpyWriter(tmp_path / "rows.npy", (3,), np.float32) as writer:
        for part in parts:
            writer.append(part)
        with pytest.raises(ValueError, match=r"must have the shape \(3,\), got \(2,\)"):
            writer.append(np.zeros((1, 2)))
    assert np.array_equal(np.load(tmp_path / "rows.npy"), np.concatenate(parts).astype(np.float32))


def test_checksums_see_every_byte_and_every_block(tmp_path):
    path = tmp_path / "data"
    content = bytearray(range(250))
    path.write_bytes(content)
    whole, blocks = files.file_checksum(path), files.block_checksums(path, block_bytes=100)
    assert len(blocks) == files.block_count(250, 100) == 3
    assert files.block_checksums(path, [2, 0], 100) == [blocks[2], blocks[0]]
    assert blocks == [
        hashlib.sha256(content[first : first + 100]).hexdigest() for first in (0, 100, 200)
    ]

    # of the first bytes alone, also where a block begins at their end
    part = hashlib.sha256(content[100:130]).hexdigest()
    nothing = hashlib.sha256(b"").hexdigest()
    assert files.block_checksums(path, None, 100, end=130) == [blocks[0], part]
    assert files.block_checksums(path, [1, 2], 100, end=100) == [nothing, nothing]
    content[120] ^= 1
    path.write_bytes(content)
    changed = files.block_checksums(path, block_bytes=100)
    assert files.file_checksum(path) != whole
    assert [old == new for old, new in zip(blocks, changed, strict=True)] == [True, False, True]


def test_array_checksum_sees_numbers_shape_and_type():
    values = np.arange(6, dtype=np.float32)
    sums = {
        files.array_checksum(array)
        for array in (values, values.reshape(2, 3), values.astype(np.float64), values + 1)
    }
    assert len(sums) == 4
    assert files.array_checksum(values) == files.array_checksum(
        np.arange(12, dtype=np.float32)[::2] / 2
    )


def test_reading_names_the_file_and_what_to_do(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(FileNotFoundError, match=r"data\.npz does not exist; make it"):
        files.read_npz(path, ["a"], "make it")
    np.savez(path, a=np.arange(1000.0))
    assert files.read_npz(path, ["a"], "make it")["a"][-1] == 999
    with pytest.raises(ValueError, match=r"data\.npz has no array 'b' \(it holds a\); make it"):
        files.read_npz(path, ["a", "b"], "make it")
    content = path.read_bytes()
    cases = {
        "flipped": bytearray(content),
        "truncated": content[:-100],
        "short": content[:10],
        "empty": b"",
        "text": b"hello" * 100,
    }
    cases["flipped"][4000] ^= 4
    for case in cases.values():
        path.write_bytes(case)
        with pytest.raises(
            ValueError, match=r"data\.npz is damaged or not an npz file \(.+\); make it"
        ) as error:
            files.read_npz(path, ["a"], "make it")
        assert "\n" not in str(error.value)


def test_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "data.npz"
    np.savez(path, a=np.arange(3))

    def refused(*arguments, **more):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)  # root may read anything
    with pytest.raises(
        PermissionError,
        match=r"data\.npz cannot be read \(Permission denied\); change its permissions",
    ):
        files.read_npz(path, ["a"], "make it")


def test_json_must_be_a_dictionary(tmp_path):
    path = tmp_path / "x.json"
    for text in ("{", "[1]", "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"x\.json is damaged \(.+\); make it again"):
            files.read_json(path, "make it again")


def test_only_wrong_bytes_are_called_damaged(tmp_path):
    """A file where a folder is needed, and a folder where a file is, are named as what they are."""
    (tmp_path / "mine.xyz").write_text("3\n")
    with pytest.raises(ValueError, match=r"mine.xyz is a file, but a folder is needed; try this"):
        files.read_json(tmp_path / "mine.xyz" / "statistics.json", "try this")
    with pytest.raises(ValueError, match=r" cannot be read \(Is a directory\); try this"):
        files.read_json(tmp_path, "try this")


@pytest.mark.parametrize(
    ("source", "said", "expected"),
    [
        ("a.npz", "no atoms", "a.npz: no atoms; give another"),
        ("a.npz", "a.npz has no atoms", "a.npz has no atoms"),
        (None, "no atoms", "no atoms"),
    ],
)
def test_a_message_names_its_file_once(source, said, expected):
    with pytest.raises(ValueError) as error, files.naming(source, "give another"):
        raise ValueError(said)
    assert str(error.value) == expected
