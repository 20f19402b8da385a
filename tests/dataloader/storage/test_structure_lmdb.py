"""One LMDB file of structures: what goes in comes out, and damage is one line."""

import dataclasses

import lmdb
import numpy as np
import pytest

from farfield.dataloader.storage import block_list
from farfield.dataloader.storage.lmdb_files import open_lmdb
from farfield.dataloader.storage.record_layout import pack, unpack
from farfield.dataloader.storage.structure_lmdb import StructureLmdb, fields_of
from farfield.dataloader.structures import Structures
from tests.support.md_data import make_lmdb_data
from tests.support.molecule_data import random_crystals, random_structures

HINT = "give a whole file"


def mixed() -> Structures:
    """Crystals, open structures and names of several lengths in one set."""
    open_ones = random_structures((3, 5, 1, 4, 2, 6), spread=1.0)
    open_ones = dataclasses.replace(
        open_ones,
        extra={"number": np.arange(6), "vector": np.ones((6, 3), np.float32)},
        stress=np.zeros((6, 3, 3)),
        names=np.array(["a", "bé", "ccc", "", "e", "f"]),
    )
    crystals = dataclasses.replace(
        random_crystals(count=4),
        extra={"number": np.arange(4), "vector": np.ones((4, 3), np.float32)},
        names=np.array(["salt"] * 4),
    )
    return Structures.concatenate([open_ones, crystals])


def test_what_goes_in_comes_out(tmp_path):
    structures = mixed()
    path = make_lmdb_data(tmp_path / "x.lmdb", structures, sizes=(5, 3, 2))
    file = StructureLmdb.open(path, HINT)
    assert [len(numbers) for numbers in file.splits.values()] == [5, 3, 2]
    found = file.read(range(10))
    assert found.data_hash != structures.data_hash, "the split shuffles"

    # in the order of the data again
    order = np.lexsort((found.extra["number"], found.names == "salt"))
    again, number = found[order], [*range(6), *range(4)]
    assert again.extra["number"].tolist() == number
    assert again.data_hash == structures.wrapped().data_hash
    assert again.names.tolist() == structures.names.tolist()
    assert again.extra["vector"].dtype == np.float32 and again.theory == structures.theory
    split = file.read(file.splits["val"])
    assert split.data_hash == file.data_hash("val")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("lmdb") / "x.lmdb"
    return make_lmdb_data(path, random_structures((3, 4, 5) * 10)).read_bytes()


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.7, 0.95, 0.999])
def test_a_truncated_file_is_one_line(tmp_path, whole, kept):
    path = tmp_path / "cut.lmdb"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.lmdb .*; give a whole file") as caught:
        StructureLmdb.open(path, HINT)
    assert "\n" not in str(caught.value)


def test_any_flipped_byte_is_one_line(tmp_path, whole):
    rng = np.random.default_rng(0)
    ends = [0, 24, 4096 + 24, len(whole) - 1, len(whole) - 20, len(whole) - 40]
    for place in [*rng.integers(0, len(whole), 40).tolist(), *ends]:
        path = tmp_path / f"flipped_{place}.lmdb"
        content = bytearray(whole)
        content[place] ^= 0x21
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"flipped_\d+\.lmdb .*; give a whole file"):
            StructureLmdb.open(path, HINT)


def test_a_block_that_no_sample_saw_is_found_in_its_record(tmp_path, whole, monkeypatch):
    """Of a large file a sample of the blocks is compared; a record has a checksum of its own."""
    path = tmp_path / "large.lmdb"
    content = bytearray(whole)
    energy = np.float64(StructureLmdb.open(_written(tmp_path, whole), HINT).read([7]).energy[0])
    place = whole.index(energy.tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(block_list, "LARGEST_WHOLE", 0)
    monkeypatch.setattr(block_list, "SAMPLED_BLOCKS", 0)
    file = StructureLmdb.open(path, HINT)
    assert len(file.read([6])) == 1
    with pytest.raises(ValueError, match="structure 7: its checksum does not fit"):
        file.read([6, 7])


def _written(folder, content):
    path = folder / "whole.lmdb"
    path.write_bytes(content)
    return path


def test_a_record_is_its_layout_and_nothing_else():
    structures = random_structures((4,))
    fields = fields_of(structures)
    rows = {field.name: getattr(structures, field.name, None) for field in fields}
    rows["extra_number"] = structures.extra["number"]
    record = pack(fields, rows, 4)
    assert len(record) == 8 + 4 * (1 + 24 + 24) + 8 + 8
    found = unpack(fields, memoryview(record))
    assert all(np.array_equal(found[name], rows[name]) for name in rows)
    for wrong in (record[:-1], record[:4] + b"\x05" + record[5:], b"", record[:9] + record[10:]):
        with pytest.raises(ValueError):
            unpack(fields, memoryview(wrong))


def test_another_lmdb_is_refused(tmp_path):
    path = tmp_path / "other.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False) as file, file.begin(write=True) as write:
        write.put(b"0", b"x")
    with pytest.raises(ValueError, match=r"no file of farfield structures; give one that"):
        StructureLmdb.open(path, HINT)
    (tmp_path / "text.lmdb").write_text("hello" * 2000)
    with pytest.raises(ValueError, match="damaged or not an LMDB file"):
        StructureLmdb.open(tmp_path / "text.lmdb", HINT)
    with pytest.raises(FileNotFoundError, match=r"none\.lmdb does not exist; give a whole file"):
        StructureLmdb.open(tmp_path / "none.lmdb", HINT)


def test_a_file_that_takes_the_place_of_another_is_read(tmp_path, whole):
    path = _written(tmp_path, whole)
    held = open_lmdb(path, HINT)
    before = len(StructureLmdb.open(path, HINT))
    make_lmdb_data(path, random_structures((2, 3) * 4), rebuild=True)
    assert before == 30 and len(StructureLmdb.open(path, HINT)) == 8
    assert held.path.name == "whole.lmdb"
