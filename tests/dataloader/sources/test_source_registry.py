"""Every source by its name says where its files are, in which units, and how it is divided."""

import dataclasses
import json
from pathlib import Path

import pytest

from farfield.dataloader.sources.file_formats import FILE_FORMATS
from farfield.dataloader.sources.own_files import OwnFiles
from farfield.dataloader.sources.source_registry import SOURCES, Source
from farfield.dataloader.split_protocols import PROTOCOLS, SplitOptions
from farfield.dataloader.units import Units

OPTION_NAMES = {field.name for field in dataclasses.fields(SplitOptions)}


class Lonely(Source):
    """The least that a source gives."""

    paths = (Path("nowhere.csv"),)

    def read(self, path, progress):
        raise NotImplementedError


def made(name: str) -> Source:
    """The source ``name`` with its defaults; the user's files get one."""
    return OwnFiles(file="mine.xyz") if name == "files" else SOURCES[name]()


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_keeps_the_contract(name):
    source = made(name)
    assert source.paths
    assert all(isinstance(path, Path) for path in source.paths)
    assert isinstance(source.units, Units)
    assert source.words["units"] == str(source.units)
    assert json.loads(json.dumps(source.words)) == source.words
    assert source.protocol in PROTOCOLS
    assert source.split_defaults(source.protocol).keys() <= OPTION_NAMES
    assert type(source).__doc__


def test_the_least_source_has_sensible_defaults():
    source = Lonely()
    assert (source.protocol, source.test_paths, source.val_paths) == ("fractions", (), ())
    assert source.words == {"units": str(Units()), "source": "Lonely"}
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv does not exist; put the file there"):
        source.obtain(None)


def test_a_source_without_a_reader_is_not_a_source():
    class Silent(Source):
        paths = ()

    with pytest.raises(TypeError, match="abstract method '?read"):
        Silent()


def test_options_are_part_of_the_data():
    @dataclasses.dataclass(frozen=True)
    class Tuned(Lonely):
        temperature: float = 300.0

    assert Tuned().words["temperature"] == 300.0 != Tuned(400.0).words["temperature"]


def test_formats_of_own_files_are_found_by_suffix():
    assert {".npz", ".xyz", ".extxyz"} <= set(FILE_FORMATS)
    assert "numbers" in FILE_FORMATS[".npz"].renames
    assert "numbers" not in FILE_FORMATS[".xyz"].renames
