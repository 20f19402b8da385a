"""One LMDB file that holds the structures of all splits: 10^6 molecules are one file.

    0, 1, 2, ... (8 bytes, big-endian)   one structure each: see ``record_layout.py``; train, then
                                         val, then test
    atoms, edges, repeats                of every structure: int32, int32, and a bit for each
                                         direction that repeats (uint8)
    header                               json: what, format, units, theory, fields of a record,
                                         splits (name -> count), elements of each split, statistics
                                         of the training split, settings, SHA-256 of the source
    after the last page                  checksums of the blocks: see ``block_list.py``

The file is written once, from one end to the other. Whoever opens it compares its blocks with their
checksums before LMDB reads a byte. Every record has a checksum of its own. Cost: 1.5 seconds a GB
to open, 10 microseconds for a structure of 9 atoms (500 bytes).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from farfield.dataloader.storage import files
from farfield.dataloader.storage.block_list import append_block_list, check_blocks, has_block_list
from farfield.dataloader.storage.lmdb_files import SUFFIX, LmdbFile, lmdb_package, open_lmdb
from farfield.dataloader.storage.record_layout import (
    PER_ATOM,
    PER_STRUCTURE,
    Field,
    pack,
    unpack,
)
from farfield.dataloader.structures import ATOM_ARRAYS, EXTRA, STRUCTURE_ARRAYS, UNITS, Structures

WHAT, FORMAT = "farfield structures", 1
HEADER = b"header"
INDEX = {"atoms": "<i4", "edges": "<i4", "repeats": "|u1"}
RECORDS_PER_COMMIT = 20_000
LARGEST_FILE = 1 << 42  # bytes of address space; the file is as large as what is in it
KEPT_KINDS = "biuf"  # of further labels


def record_key(number: int) -> bytes:
    """Key of the structure ``number``; the order of the keys is the order of the numbers."""
    return int(number).to_bytes(8, "big")


def fields_of(structures: Structures) -> list[Field]:
    """What a record of these structures holds; further labels that are no numbers are left out."""
    fields = []
    for name in (*ATOM_ARRAYS, *STRUCTURE_ARRAYS):
        values = getattr(structures, name)
        if values is None or name == "counts":
            continue
        per = PER_ATOM if name in ATOM_ARRAYS else PER_STRUCTURE
        kind = {"atomic_numbers": np.dtype("u1")}.get(name, values.dtype)
        if name == "names":
            kind = np.char.encode(values, "utf-8").dtype
        fields.append(Field(name, per, kind.newbyteorder("<").str, values.shape[1:]))

    for name, values in structures.extra.items():
        if values.dtype.kind in KEPT_KINDS:
            kind = values.dtype.newbyteorder("<").str
            fields.append(Field(EXTRA + name, PER_STRUCTURE, kind, values.shape[1:]))
    return fields


class StructureLmdbWriter:
    """Writes a file from one end to the other: ``add`` structures, then ``finish`` once.

    path: of the file, inside ``files.atomic_write``. fields: of every record.
    """

    def __init__(self, path: Path, fields: list[Field]):
        self.path, self.fields, self.count = path, fields, 0
        self._index: dict[str, list[np.ndarray]] = {name: [] for name in INDEX}
        path.unlink(missing_ok=True)
        self._environment = lmdb_package().open(
            str(path), subdir=False, map_size=LARGEST_FILE, lock=False, sync=False, metasync=False
        )

    def add(self, structures: Structures, edges: np.ndarray) -> None:
        """Append structures; edges (structures,): directed edges of each."""
        columns = {field.name: _column(structures, field) for field in self.fields}
        for first in range(0, len(structures), RECORDS_PER_COMMIT):
            last = min(first + RECORDS_PER_COMMIT, len(structures))
            with self._environment.begin(write=True) as transaction:
                for place in range(first, last):
                    record = self._record(structures, columns, place)
                    transaction.put(record_key(self.count), record, append=True)
                    self.count += 1

        # what plans of batches read of all structures at once
        repeats = np.zeros(len(structures), np.uint8)
        if structures.periodic is not None:
            repeats = structures.periodic @ np.array([1, 2, 4], np.uint8)
        values = {"atoms": structures.counts, "edges": edges, "repeats": repeats}
        for name, rows in values.items():
            self._index[name].append(np.asarray(rows, np.dtype(INDEX[name])))

    def _record(self, structures: Structures, columns: dict, place: int) -> bytes:
        atoms = slice(structures.offsets[place], structures.offsets[place + 1])
        rows = {
            field.name: columns[field.name][
                atoms if field.per == PER_ATOM else slice(place, place + 1)
            ]
            for field in self.fields
        }
        return pack(self.fields, rows, int(structures.counts[place]))

    def finish(self, words: dict) -> None:
        """Write the index, the header (``words`` and what the file says itself) and the checksums
        of the blocks, and close the file.
        """
        arrays = {name: np.concatenate(parts) for name, parts in self._index.items()}
        header = {
            "what": WHAT,
            "format": FORMAT,
            "units": {"positions": "Angstrom"} | UNITS,
            "structures": self.count,
            "fields": [list(field) for field in self.fields],
            "index": {name: files.array_checksum(rows) for name, rows in arrays.items()},
        } | words
        header["checksum"] = files.json_checksum(header)

        # in the order of the keys
        contents = {name.encode(): rows.tobytes() for name, rows in arrays.items()}
        contents[HEADER] = json.dumps(header).encode()
        with self._environment.begin(write=True) as transaction:
            for key in sorted(contents):
                transaction.put(key, contents[key], append=True)
        self._environment.close()

        append_block_list(self.path)


def _column(structures: Structures, field: Field) -> np.ndarray:
    """All values of a field, (atoms, ...) or (structures, ...)."""
    if field.name.startswith(EXTRA):
        return structures.extra[field.name.removeprefix(EXTRA)]
    values = getattr(structures, field.name)
    return np.char.encode(values, "utf-8") if field.name == "names" else values


class StructureLmdb:
    """A file that :class:`StructureLmdbWriter` has written, opened to read.

    path: of the file. header: see the module. atoms, edges (structures,) int64; repeats
    (structures,) uint8: a bit for each direction.
    """

    def __init__(self, file: LmdbFile, path: Path, hint: str):
        self.path, self.hint, self._file = path, hint, file
        with file.reading() as get:
            self.header = self._read_header(get(HEADER))
            index = {name: self._read_index(name, get(name.encode())) for name in INDEX}
        self.atoms = index["atoms"].astype(np.int64)
        self.edges = index["edges"].astype(np.int64)
        self.repeats = index["repeats"]

        self._fields = [
            Field(name, per, kind, tuple(shape)) for name, per, kind, shape in self.header["fields"]
        ]

    @classmethod
    def open(cls, path: str | Path, hint: str) -> StructureLmdb:
        """Open and verify a file.

        hint: what the user can do, the end of an error. ``FileNotFoundError`` or ``ValueError`` in
        one line for a file that is missing, damaged, truncated or not of this kind.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; {hint}")
        _check_whole(path, hint)
        return cls(open_lmdb(path, hint), path, hint)

    def __reduce__(self):
        # a process that is not forked opens the file itself
        return StructureLmdb.open, (self.path, self.hint)

    def _read_header(self, content: memoryview | None) -> dict:
        header = None
        if content is not None:
            try:
                header = files.parse_json(bytes(content))
            except ValueError:
                header = None
        if not isinstance(header, dict) or header.get("what") != WHAT:
            raise ValueError(f"{self.path} is no file of {WHAT}; {self.hint}")

        # of this kind, but of another format or damaged
        checksum = header.pop("checksum", None)
        if header.get("format") != FORMAT:
            raise ValueError(
                f"{self.path} has the format {header.get('format')!r}, {FORMAT} is read; "
                f"{self.hint}"
            )
        if checksum != files.json_checksum(header):
            raise ValueError(
                f"{self.path} is damaged (its header has another checksum); {self.hint}"
            )
        return header

    def _read_index(self, name: str, content: memoryview | None) -> np.ndarray:
        rows = np.frombuffer(b"" if content is None else bytes(content), np.dtype(INDEX[name]))
        if files.array_checksum(rows) != self.header["index"][name]:
            raise ValueError(f"{self.path} is damaged (index {name}); {self.hint}")
        return rows

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def splits(self) -> dict[str, range]:
        """Numbers of the structures of each split."""
        found, first = {}, 0
        for name, count in self.header["splits"].items():
            found[name] = range(first, first + count)
            first += count
        return found

    def data_hash(self, split: str) -> str:
        """SHA-256 of geometry and labels of a split, as ``Structures.data_hash`` makes it."""
        return self.header["hashes"][split]

    @property
    def labels(self) -> set[str]:
        """Names of the arrays that every structure has; further labels as ``extra_NAME``."""
        return {field.name for field in self._fields}

    def read(self, numbers: Iterable[int], names: bool = True) -> Structures:
        """Structures by their numbers, in this order.

        names: read their names too. ``ValueError`` that names a damaged record.
        """
        fields = [field for field in self._fields if names or field.name != "names"]
        numbers = np.asarray(numbers, np.int64).reshape(-1)
        with self._file.reading() as get:
            records = [self._record(get, number) for number in numbers.tolist()]

            # views of the file become arrays of our own before the file is left
            arrays = {
                field.name: np.concatenate([record[field.name] for record in records])
                for field in fields
                if records
            }
        if not records:
            raise ValueError(f"{self.path}: no structure is asked for")

        extra = {
            name.removeprefix(EXTRA): arrays.pop(name)
            for name in [*arrays]
            if name.startswith(EXTRA)
        }
        arrays["atomic_numbers"] = arrays["atomic_numbers"].astype(np.int64)
        if "names" in arrays:
            arrays["names"] = np.char.decode(arrays["names"], "utf-8")
        return Structures(
            counts=self.atoms[numbers],
            **arrays,
            extra=extra,
            theory=self.header["theory"],
            check=False,
        )

    def _record(self, get, number: int) -> dict[str, np.ndarray]:
        content = get(record_key(number))
        problem = "it is missing" if content is None else None
        if problem is None:
            try:
                return unpack(self._fields, content)
            except ValueError as error:
                problem = str(error)
        raise ValueError(f"{self.path} is damaged (structure {number}: {problem}); {self.hint}")


def is_structure_lmdb(path: str | Path, hint: str) -> bool:
    """Whether a file is one that :class:`StructureLmdbWriter` writes, whole or damaged."""
    path = Path(path)
    if not path.is_file():
        return False
    if has_block_list(path):
        return True
    with open_lmdb(path, hint).reading() as get:
        content = get(HEADER)
        return content is not None and WHAT.encode() in bytes(content[:100])


def is_lmdb_name(path: str | Path) -> bool:
    """Whether a name says that structures are in one LMDB file."""
    path = Path(path)
    return path.suffix == SUFFIX and not path.is_dir()


def _check_whole(path: Path, hint: str) -> None:
    """``ValueError`` for a file that is not as it was written."""
    if not has_block_list(path):
        kind = "is truncated or damaged (its end is missing)"
        if not is_structure_lmdb(path, hint):
            kind = f"is no file of {WHAT}; give one that preprocess_structures --out has written"
        raise ValueError(f"{path} {kind}; {hint}")
    check_blocks(path, hint)
