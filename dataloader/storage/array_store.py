"""A folder of arrays with a manifest: memory-mapped, and refused in one line when it is damaged.

``manifest.json`` holds the format, what the arrays were made from (hash of the data, settings), and
of each array its shape, type, size and blockwise SHA-256; it ends with a checksum of itself. A
folder is written under a temporary name and moved to its place when it is whole, so a killed writer
leaves nothing. Cost: the first opening in a process reads the files once to verify them
(1 GB/s), or 16 blocks of each, or only their sizes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from farfield.dataloader.storage import files
from farfield.dataloader.storage.lmdb_files import file_identity
from farfield.models.choices import check_choice

MANIFEST = "manifest.json"
ENTRIES = {"data_hash": str, "settings": dict, "block_bytes": int, "arrays": dict}

SAMPLED_BLOCKS = 16

SETTLED = 1_000_000_000  # ns; a file that changed later may change again at the same recorded time
_VERIFIED: set[tuple] = set()  # files that this process has compared whole, with their checksums


def _sample(blocks: int) -> list[int]:
    """Numbers of SAMPLED_BLOCKS blocks, spread over all ``blocks``."""
    steps = range(SAMPLED_BLOCKS if blocks else 0)
    return sorted({round(step * (blocks - 1) / (SAMPLED_BLOCKS - 1)) for step in steps})


# how much of each array is compared with its checksums when a store is opened: number of blocks ->
# the blocks
VERIFY: dict[str, Callable[[int], Iterable[int]]] = {
    "full": range,
    "sample": _sample,
    "sizes": lambda blocks: (),
}


@contextlib.contextmanager
def write_store(
    folder: str | Path, what: str, version: int, data_hash: str, settings: dict
) -> Iterator[Path]:
    """``with write_store(...) as temporary:`` write ``NAME.npy`` files into ``temporary``; at the
    end of the block they become the store ``folder``.
    """
    with files.atomic_folder(folder) as temporary:
        yield temporary

        # described when they are whole
        manifest = {
            "what": what,
            "format": version,
            "data_hash": data_hash,
            "settings": settings,
            "block_bytes": files.BLOCK_BYTES,
            "arrays": {file.stem: _describe(file) for file in sorted(temporary.glob("*.npy"))},
        }
        checksum = files.json_checksum(manifest)
        files.write_json(temporary / MANIFEST, manifest | {"checksum": checksum})


def read_manifest(
    folder: str | Path, what: str, version: int, arrays: Iterable[str], hint: str
) -> dict:
    """The manifest of a store.

    ``FileNotFoundError`` or ``ValueError``, ending with ``hint``, unless it is whole, of this kind
    and format, and names the ``arrays``.
    """
    path = Path(folder) / MANIFEST
    manifest = files.read_json(path, hint)
    kind, found = manifest.get("what"), manifest.get("format")
    if kind != what or found != version:
        raise ValueError(
            f"{path} describes {kind!r} of the format version {found!r}, but {what!r} of version "
            f"{version} is needed; {hint}"
        )
    checksum = manifest.pop("checksum", None)
    if checksum != files.json_checksum(manifest):
        raise ValueError(f"{path} is damaged (its checksum does not fit); {hint}")

    # right checksum, wrong content: written by somebody else
    for name, type_ in ENTRIES.items():
        if not isinstance(manifest.get(name), type_):
            raise ValueError(f"{path} was written by another program (it has no {name}); {hint}")
    for name in arrays:
        if name not in manifest["arrays"]:
            raise ValueError(
                f"{path} was written by another program (it has no array {name}); {hint}"
            )
    return manifest


def check_data(folder: str | Path, manifest: dict, data_hash: str, hint: str):
    """``ValueError`` unless the store was made from the data with the hash ``data_hash``."""
    if manifest["data_hash"] != data_hash:
        raise ValueError(
            f"{folder} belongs to another data set (hash {manifest['data_hash'][:12]}..., the data "
            f"here have {data_hash[:12]}...); {hint}"
        )


def check_arrays(folder: str | Path, manifest: dict, hint: str, verify: str = "full"):
    """Compare the arrays of a store with its manifest; the first that differs is an error.

    verify: how much is compared, a name of VERIFY. A file that this process has compared whole is
    not read again until its size or time changes.
    """
    check_choice("verify", verify, VERIFY)
    for name, description in manifest["arrays"].items():
        path = Path(folder) / f"{name}.npy"
        _check_file(path, description, manifest["block_bytes"], VERIFY[verify], hint)


def map_arrays(folder: str | Path, manifest: dict) -> dict[str, np.ndarray]:
    """The arrays of a store, memory-mapped.

    They are opened copy-on-write, since torch refuses read-only memory; nothing is ever written.
    """
    arrays = {}
    for name in manifest["arrays"]:
        mapped = np.load(Path(folder) / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        arrays[name] = np.asarray(mapped)  # a plain view: np.memmap slices slowly
    return arrays


def _describe(file: Path) -> dict:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    size = file.stat().st_size
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.str,
        "bytes": size,
        "blocks": files.block_checksums(file),
    }


def _check_file(
    path: Path,
    description: dict,
    block_bytes: int,
    blocks_of: Callable[[int], Iterable[int]],
    hint: str,
):
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {hint}")
    size = path.stat().st_size
    if size != description["bytes"]:
        raise ValueError(
            f"{path} is truncated or damaged: {size} bytes, {description['bytes']} were "
            f"written; {hint}"
        )

    identity = (path.resolve(), *file_identity(path), files.json_checksum(description))
    if identity in _VERIFIED:
        return
    blocks = list(blocks_of(len(description["blocks"])))
    for block, found in zip(blocks, files.block_checksums(path, blocks, block_bytes), strict=True):
        if found != description["blocks"][block]:
            raise ValueError(
                f"{path} is damaged: block {block} (bytes {block * block_bytes} and on) has "
                f"another checksum; {hint}"
            )
    settled = time.time_ns() - path.stat().st_mtime_ns > SETTLED
    if len(blocks) == len(description["blocks"]) and settled:
        _VERIFIED.add(identity)
