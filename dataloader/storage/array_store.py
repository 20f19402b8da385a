"""A folder of arrays with a manifest: memory-mapped, and refused in one line when it is not what
was written.

``manifest.json`` holds the format, what the arrays were made from (hash of the data, settings), and
of each array its shape, type, size and blockwise SHA-256, and closes with a checksum of its own. A
folder is written beside its place and moved there when it is whole, so a killed writer leaves
nothing. Cost: opening reads the files once to verify them (1 GB/s), or 16 blocks of each, or only
their sizes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from farfield.dataloader.storage import files

MANIFEST = "manifest.json"
ENTRIES = {"data_hash": str, "settings": dict, "block_bytes": int, "arrays": dict}

# how much of each array is compared with its checksums when a store is opened: number of blocks ->
# blocks
VERIFY: dict[str, Callable[[int], Iterable[int]]] = {
    "full": range,
    "sample": lambda blocks: sorted(
        {round(step * (blocks - 1) / 15) for step in range(16)} if blocks else ()
    ),
    "sizes": lambda blocks: (),
}


@contextlib.contextmanager
def write_store(
    folder: str | Path, what: str, version: int, data_hash: str, settings: dict
) -> Iterator[Path]:
    """``with write_store(...) as temporary:`` write ``NAME.npy`` files there; at the end of the
    block they become the store ``folder``.
    """
    with files.atomic_folder(folder) as temporary:
        yield temporary
        manifest = {
            "what": what,
            "format": version,
            "data_hash": data_hash,
            "settings": settings,
            "block_bytes": files.BLOCK_BYTES,
            "arrays": {file.stem: _describe(file) for file in sorted(temporary.glob("*.npy"))},
        }
        files.write_json(
            temporary / MANIFEST, manifest | {"checksum": files.json_checksum(manifest)}
        )


def read_manifest(
    folder: str | Path, what: str, version: int, arrays: Iterable[str], hint: str
) -> dict:
    """The manifest of a store, if it is whole, of this kind and format, and names the ``arrays``;
    else one line with ``hint``.
    """
    path = Path(folder) / MANIFEST
    manifest = files.read_json(path, hint)
    if manifest.get("what") != what or manifest.get("format") != version:
        found = f"{manifest.get('what')!r} of the format version {manifest.get('format')!r}"
        raise ValueError(
            f"{path} describes {found}, wanted is {what!r} of version {version}; {hint}"
        )
    checksum = manifest.pop("checksum", None)
    if checksum != files.json_checksum(manifest):
        raise ValueError(f"{path} is damaged (its checksum does not fit); {hint}")
    lacks = [name for name, kind in ENTRIES.items() if not isinstance(manifest.get(name), kind)]
    lacks = lacks or [f"array {name}" for name in arrays if name not in manifest["arrays"]]
    if lacks:
        raise ValueError(f"{path} is of another program (it has no {lacks[0]}); {hint}")
    return manifest


def check_data(folder: str | Path, manifest: dict, data_hash: str, hint: str):
    """``ValueError`` unless the store was made from the data with the hash ``data_hash``."""
    if manifest["data_hash"] != data_hash:
        found, wanted = manifest["data_hash"][:12], data_hash[:12]
        raise ValueError(
            f"{folder} belongs to another data set (hash {found}..., the data here have "
            f"{wanted}...); {hint}"
        )


def check_arrays(folder: str | Path, manifest: dict, hint: str, verify: str = "full"):
    """Compare the arrays of a store with its manifest as ``verify`` (a name of VERIFY) says; the
    first that differs is an error.
    """
    if verify not in VERIFY:
        raise ValueError(f"verify must be one of {', '.join(VERIFY)}, got {verify!r}")
    for name, description in manifest["arrays"].items():
        _check_file(
            Path(folder) / f"{name}.npy", description, manifest["block_bytes"], VERIFY[verify], hint
        )


def map_arrays(folder: str | Path, manifest: dict) -> dict[str, np.ndarray]:
    """The arrays of a store, memory-mapped; copy on write, since torch refuses read-only memory,
    and nothing is ever written.
    """
    names = manifest["arrays"]  # plain views: np.memmap slices slowly
    return {
        name: np.asarray(np.load(Path(folder) / f"{name}.npy", mmap_mode="c", allow_pickle=False))
        for name in names
    }


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
    blocks = list(blocks_of(len(description["blocks"])))
    for block, found in zip(blocks, files.block_checksums(path, blocks, block_bytes), strict=True):
        if found != description["blocks"][block]:
            raise ValueError(
                f"{path} is damaged: block {block} (bytes {block * block_bytes} and on) has "
                f"another checksum; {hint}"
            )
