"""Laws of folders of arrays: a process compares a file whole, once, until the file changes."""

import os
import time

import numpy as np
import pytest

from farfield.dataloader.storage import array_store, files

HINT = "make it again with --rebuild"


def opened(folder, verify: str = "full") -> None:
    manifest = array_store.read_manifest(folder, "numbers", 1, ["values"], HINT)
    array_store.check_arrays(folder, manifest, HINT, verify)


def test_a_process_compares_a_file_once_until_it_changes(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    with array_store.write_store(folder, "numbers", 1, "hash", {}) as temporary:
        np.save(temporary / "values.npy", np.arange(100.0))
    file = folder / "values.npy"
    long_ago = time.time() - 60
    os.utime(file, (long_ago, long_ago))

    read, plain = [], files.block_checksums
    monkeypatch.setattr(
        files, "block_checksums", lambda path, *rest: read.append(path.name) or plain(path, *rest)
    )
    opened(folder)
    opened(folder)
    assert read == ["values.npy"]

    # one bit, in a block that no sample sees
    monkeypatch.setattr(array_store, "SAMPLED_BLOCKS", 0)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    opened(folder, "sample")
    with pytest.raises(ValueError, match="values.npy is damaged: block 0 .*--rebuild"):
        opened(folder)


def test_a_file_that_has_just_changed_is_compared_again(tmp_path):
    """Two changes within a tick of the clock leave the same time behind."""
    folder = tmp_path / "store"
    with array_store.write_store(folder, "numbers", 1, "hash", {}) as temporary:
        np.save(temporary / "values.npy", np.arange(100.0))
    file = folder / "values.npy"
    changed = file.stat().st_mtime_ns
    opened(folder)

    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(changed, changed))
    with pytest.raises(ValueError, match="values.npy is damaged"):
        opened(folder)
