"""LMDB files of ase-db-backends and of fairchem are read as the same structures."""

import json
import pickle
import sys
import types
import zlib

import lmdb
import numpy as np
import pytest
import torch

from farfield.dataloader.sources import lmdb_frames
from farfield.dataloader.sources.file_formats import FILE_FORMATS, FileReading
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from tests.support.molecule_data import random_crystals, random_structures


def write(path, values):
    """An LMDB file of one file; values: key -> bytes."""
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 24) as file,
        file.begin(write=True) as transaction,
    ):
        for key, value in values.items():
            transaction.put(str(key).encode(), value)
    return path


def array(values, kind="float64"):
    """How ase writes an array as json."""
    values = np.asarray(values)
    return {"__ndarray__": [list(values.shape), kind, values.reshape(-1).tolist()]}


def as_rows(structures: Structures, charge: float) -> dict:
    """Keys and values of a database of ase-db-backends."""
    rows = {"nextid": zlib.compress(json.dumps(len(structures) + 1).encode())}
    for number in range(len(structures)):
        one = structures[number]
        row = {
            "numbers": array(one.atomic_numbers, "int64"),
            "positions": array(one.positions),
            "energy": one.energy[0],
            "forces": array(one.forces),
            "key_value_pairs": {"sid": f"s{number}"},
            "data": {"charge": charge, "spin": 1},
        }
        if one.cell is not None:
            stress = one.stress[0][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            row |= {"cell": array(one.cell[0]), "stress": array(stress)}
            row["pbc"] = array(one.periodic[0], "bool")
        rows[number + 1] = zlib.compress(json.dumps(row).encode())
    return rows


def as_records(structures: Structures, made=dict, former=False) -> dict:
    """Keys and values of a file of fairchem; made: what a record is; former: names of OC20."""
    names = {"energy": "y", "forces": "force"} if former else {}
    records = {"length": pickle.dumps(len(structures))}
    for number in range(len(structures)):
        one = structures[number]
        record = {
            "pos": torch.tensor(one.positions),
            "atomic_numbers": torch.tensor(one.atomic_numbers).double(),
            names.get("energy", "energy"): one.energy[0],
            names.get("forces", "forces"): torch.tensor(one.forces),
            "natoms": len(one.positions),
            "sid": number,
            "tags": torch.zeros(len(one.positions)),
        }
        if one.cell is not None:
            record |= {"cell": torch.tensor(one.cell), "stress": torch.tensor(one.stress)}
        records[number] = pickle.dumps(made(record))
    return records


class Data:
    """Data of torch_geometric as it is pickled."""

    def __init__(self, record):
        self.__dict__["_store"] = GlobalStorage(record, self)


class GlobalStorage:
    """Its storage, which refers to it."""

    def __init__(self, record, parent):
        self._mapping, self._parent = record, parent


@pytest.fixture
def torch_geometric(monkeypatch):
    """The two classes under the names that a pickle quotes."""
    for name, kind in (("data.data", Data), ("data.storage", GlobalStorage)):
        module = types.ModuleType(f"torch_geometric.{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    for folder in ("torch_geometric", "torch_geometric.data"):
        monkeypatch.setitem(sys.modules, folder, types.ModuleType(folder))


def read(path, **how) -> Structures:
    return FILE_FORMATS[path.suffix].read(path, FileReading(**how), lambda count: None)


def symmetric(structures: Structures) -> Structures:
    if structures.stress is not None:
        structures.stress = (structures.stress + structures.stress.transpose(0, 2, 1)) / 2
    return structures


@pytest.mark.parametrize(
    "structures",
    [random_structures((3, 5, 2) * 4), symmetric(random_crystals(count=11))],
    ids=["open", "periodic"],
)
def test_all_formats_give_the_same_structures(tmp_path, structures, torch_geometric, monkeypatch):
    monkeypatch.setattr(lmdb_frames, "FRAMES_PER_STEP", 5)  # several steps a file
    files = {
        "rows.aselmdb": as_rows(structures, -1.0),
        "dictionaries.lmdb": as_records(structures),
        "former.lmdb": as_records(structures, former=True),
        "data.lmdb": as_records(structures, Data),
    }
    for name, values in files.items():
        found = read(write(tmp_path / name, values))
        assert len(found) == len(structures), name
        assert found.data_hash == structures.data_hash, name
    rows = read(tmp_path / "rows.aselmdb")
    assert rows.extra["charge"].tolist() == [-1.0] * len(rows)


def test_units_and_names_are_those_of_the_options(tmp_path):
    structures = random_structures((3, 4))
    path = write(tmp_path / "a.lmdb", as_records(structures))
    found = read(path, units=Units("kcal/mol"), keys={"forces": "absent"})
    assert found.forces is None
    assert found.energy == pytest.approx(structures.energy * Units("kcal/mol").energy_factor)


@pytest.mark.parametrize(
    ("suffix", "value", "words"),
    [
        (".aselmdb", b"no zlib", "record 1: it cannot be unpacked"),
        (".aselmdb", zlib.compress(b"[1]"), "record 1: it holds list, not a row"),
        (".aselmdb", zlib.compress(b'{"energy": 1}'), "record 1: it has no atomic numbers"),
        (".aselmdb", zlib.compress(b'{"data": true}'), "record 1: its data are bool, not names"),
        (".aselmdb", zlib.compress(b'{"numbers": [1e400]}'), "record 1: it has no atomic"),
        (".aselmdb", zlib.compress(b'{"x": {"__ndarray__": 3}}'), "record 1: it cannot be unp"),
        (".aselmdb", zlib.compress(b"[" * 100_000), "record 1: it cannot be unpacked"),
        (".lmdb", pickle.dumps({"pos": np.zeros((1, 3))}), "record 1: it has no atomic numbers"),
        (".lmdb", pickle.dumps(print), "record 1: the pickle names builtins.print"),
        (".lmdb", pickle.dumps([1]), "record 1: it holds list"),
        (
            ".lmdb",
            pickle.dumps({"pos": np.zeros(4), "atomic_numbers": np.ones(1)}),
            "record 1: it is no structure",
        ),
    ],
)
def test_a_record_that_cannot_be_read_is_named(tmp_path, suffix, value, words):
    path = write(tmp_path / f"wrong{suffix}", {1: value})
    with pytest.raises(ValueError, match=rf"wrong{suffix}: {words}"):
        read(path)


def test_a_file_without_structures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no structure"):
        read(write(tmp_path / "none.aselmdb", {"nextid": b"1"}))
