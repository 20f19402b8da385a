"""A folder of arrays with a manifest: memory-mapped, and refused in one line when it is not what was written.

``manifest.json`` holds the format, what the arrays were made from (hash of the data, settings), and of each array its shape, type, size
and blockwise SHA-256, and closes with a checksum of its own. A folder is written beside its place and moved there when it is whole, so a
killed writer leaves nothing. Cost: opening reads the files once to verify them (1 GB/s), or 16 blocks of each, or only their sizes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from dataloader import files
from dataloader.basis_cache import VERIFY

MANIFEST = "manifest.json"
ENTRIES = {"data_hash": str, "settings": dict, "block_bytes": int, "arrays": dict}


@contextlib.contextmanager
def write_store(folder: str | Path, what: str, version: int, data_hash: str, settings: dict) -> Iterator[Path]:
    """``with write_store(...) as temporary:`` write ``NAME.npy`` files there; at the end of the block they become the store ``folder``."""
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
        files.write_json(temporary / MANIFEST, manifest | {"checksum": files.json_checksum(manifest)})


def read_manifest(folder: str | Path, what: str, version: int, arrays: Iterable[str], mend: str) -> dict:
    """The manifest of a store, if it is whole, of this kind and format, and names the ``arrays``; else one line with ``mend``."""
    path = Path(folder) / MANIFEST
    manifest = files.read_json(path, mend)
    if manifest.get("what") != what or manifest.get("format") != version:
        found = f"{manifest.get('what')!r} of the format version {manifest.get('format')!r}"
        raise ValueError(f"{path} describes {found}, wanted is {what!r} of version {version}; {mend}")
    checksum = manifest.pop("checksum", None)
    if checksum != files.json_checksum(manifest):
        raise ValueError(f"{path} is damaged (its checksum does not fit); {mend}")
    lacks = [name for name, kind in ENTRIES.items() if not isinstance(manifest.get(name), kind)]
    lacks = lacks or [f"array {name}" for name in arrays if name not in manifest["arrays"]]
    if lacks:
        raise ValueError(f"{path} is of another program (it has no {lacks[0]}); {mend}")
    return manifest


def map_arrays(folder: str | Path, manifest: dict, mend: str, verify: str = "full") -> dict[str, np.ndarray]:
    """The arrays of a store, memory-mapped, after a comparison with the manifest as ``verify`` (a name of VERIFY) says."""
    if verify not in VERIFY:
        raise ValueError(f"verify must be one of {', '.join(VERIFY)}, got {verify!r}")
    arrays = {}
    for name, description in manifest["arrays"].items():
        path = Path(folder) / f"{name}.npy"
        _check_file(path, description, manifest["block_bytes"], VERIFY[verify], mend)
        arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # a plain view: np.memmap slices slowly
    return arrays


def _describe(file: Path) -> dict:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    size = file.stat().st_size
    return {"shape": list(array.shape), "dtype": array.dtype.str, "bytes": size, "blocks": files.block_checksums(file)}


def _check_file(path: Path, description: dict, block_bytes: int, blocks_of: Callable[[int], Iterable[int]], mend: str):
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {mend}")
    size = path.stat().st_size
    if size != description["bytes"]:
        raise ValueError(f"{path} is truncated or damaged: {size} bytes, {description['bytes']} were written; {mend}")
    blocks = list(blocks_of(len(description["blocks"])))
    for block, found in zip(blocks, files.block_checksums(path, blocks, block_bytes), strict=True):
        if found != description["blocks"][block]:
            raise ValueError(f"{path} is damaged: block {block} (bytes {block * block_bytes} and on) has another checksum; {mend}")
