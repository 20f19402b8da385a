"""Structures from files of the user: npz, extended xyz, or any format of FILE_FORMATS."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np

from farfield.dataloader.sources.charge_labels import without_dipole
from farfield.dataloader.sources.file_formats import ABSENT, FILE_FORMATS, FileReading
from farfield.dataloader.sources.source_registry import SOURCES, Progress, Source
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import ENERGY_UNITS, LENGTH_UNITS, STRESS_UNITS, Units
from farfield.models.choices import check_choice

OptionalText = str | None
OptionalSwitch = bool | None


@SOURCES.register("files")
@dataclasses.dataclass(frozen=True)
class OwnFiles(Source):
    """Files of your own, npz or extended xyz.

    Files of one split are separated by commas.
    """

    file: Annotated[
        OptionalText, "files of your own, separated by commas: npz or extended xyz (.xyz, .extxyz)"
    ] = None
    val_file: Annotated[OptionalText, "files that are the validation split; needs --test-file"] = (
        None
    )
    test_file: Annotated[OptionalText, "files that are the test split"] = None
    energy_unit: Annotated[str, "energy unit of --file", ENERGY_UNITS] = "eV"
    length_unit: Annotated[str, "length unit of --file", LENGTH_UNITS] = "Angstrom"
    force_unit: Annotated[
        OptionalText, "force unit of --file, e.g. hartree/bohr (default: energy / length unit)"
    ] = None
    stress_unit: Annotated[
        OptionalText,
        "stress unit of --file (default: energy / length unit^3); tension must be positive",
        STRESS_UNITS,
    ] = None
    numbers_key: Annotated[
        OptionalText, "name of the atomic numbers in an npz file (default: a usual one)"
    ] = None
    positions_key: Annotated[
        OptionalText, "name of the positions in an npz file (default: a usual one)"
    ] = None
    energy_key: Annotated[OptionalText, "name of the energies in --file (default: a usual one)"] = (
        None
    )
    forces_key: Annotated[
        OptionalText,
        f"name of the forces in --file (default: a usual one); {ABSENT}: read without forces",
    ] = None
    stress_key: Annotated[
        OptionalText,
        "name of the stress or the virial in --file (default: a usual one); "
        f"{ABSENT}: read without",
    ] = None
    charges_key: Annotated[
        OptionalText,
        f"name of the partial charges in --file, e (default: a usual one); {ABSENT}: read without",
    ] = None
    dipole_key: Annotated[
        OptionalText,
        "name of the dipoles in --file, e times its length unit (default: a usual one); "
        f"{ABSENT}: read without",
    ] = None
    total_charge_key: Annotated[
        OptionalText,
        "name of the total charge of a structure in --file, e (default: total_charge or charge)",
    ] = None
    periodic: Annotated[
        OptionalSwitch,
        "whether the cells of --file repeat (default: as extended xyz says; npz needs the option)",
    ] = None
    cell: Annotated[
        OptionalText,
        "cell of all structures where --file has none, in its length unit: the edge of a cube, or "
        "three edges, e.g. 30 or 30,30,40; repeats in all directions",
    ] = None

    def check(self) -> None:
        """``ValueError`` or ``FileNotFoundError`` for a file that is missing, given twice or of an
        unknown format.
        """
        if not self.file:
            raise ValueError(
                "no file of structures was given; name extended xyz or npz files, e.g. mine.xyz"
            )
        if self.val_file and not self.test_file:
            raise ValueError(f"--val-file {self.val_file} needs --test-file as well")
        check_choice("--energy-unit", self.energy_unit, ENERGY_UNITS)
        check_choice("--length-unit", self.length_unit, LENGTH_UNITS)
        if self.stress_unit is not None:
            check_choice("--stress-unit", self.stress_unit, STRESS_UNITS)
        self._check_cell()
        given = [*self.paths, *self.val_paths, *self.test_paths]

        # a structure must not be in two splits
        if len({path.resolve() for path in given}) < len(given):
            raise ValueError(
                "--file, --val-file and --test-file name a file twice: its structures would train "
                "and test; name each file once"
            )
        for path in given:
            self._check_file(path)

    def _check_cell(self) -> None:
        if self.cell is None:
            return
        if self.dipole_key not in (None, ABSENT):
            raise ValueError(
                f"--dipole-key {self.dipole_key}: the dipole of a periodic structure depends on "
                "the choice of its cell; leave --cell or --dipole-key out"
            )

        try:
            edges = [float(word) for word in self.cell.split(",")]
        except ValueError:
            edges = []
        if len(edges) not in (1, 3) or not all(0 < edge < float("inf") for edge in edges):
            raise ValueError(
                f"--cell must be one or three lengths > 0 joined by commas, got {self.cell!r}; "
                "write e.g. 30 or 30,30,40"
            )

    def _check_file(self, path: Path) -> None:
        if path.suffix not in FILE_FORMATS:
            raise ValueError(
                f"{path}: a file of structures must end in {', '.join(FILE_FORMATS)}, got "
                f"{path.suffix!r}"
            )
        unread = [name for name in self.keys if name not in FILE_FORMATS[path.suffix].renames]
        if unread:
            flag = f"--{unread[0].replace('_', '-')}-key"
            raise ValueError(f"{path}: {flag} is of no use in a {path.suffix} file; leave it out")
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give an existing file")

    @property
    def paths(self) -> tuple[Path, ...]:
        return _split_names(self.file)

    @property
    def val_paths(self) -> tuple[Path, ...]:
        return _split_names(self.val_file)

    @property
    def test_paths(self) -> tuple[Path, ...]:
        return _split_names(self.test_file)

    @property
    def units(self) -> Units:
        return Units(self.energy_unit, self.length_unit, self.force_unit, self.stress_unit)

    @property
    def keys(self) -> dict[str, str]:
        """Quantity -> its name in the files, where one was given."""
        keys = {
            "numbers": self.numbers_key,
            "positions": self.positions_key,
            "energy": self.energy_key,
            "forces": self.forces_key,
            "charges": self.charges_key,
            "dipole": self.dipole_key,
            "total_charge": self.total_charge_key,
        }
        return {quantity: key for quantity, key in keys.items() if key}

    @property
    def words(self) -> dict:
        """Units, names and periodicity; the files are compared by their checksums."""
        words = {
            "units": str(self.units),
            "keys": self.keys,
            "stress_key": self.stress_key,
            "periodic": self.periodic,
        }

        # folders that were made before there was the option stay good
        return words | ({"cell": self.cell} if self.cell else {})

    def read(self, path: Path, progress: Progress) -> Structures:
        """The structures of a file, in eV and Angstrom."""
        reading = FileReading(self.units, self.keys, self.stress_key, self.periodic)
        structures = FILE_FORMATS[path.suffix].read(path, reading, progress)
        return structures if self.cell is None else self._in_cell(path, structures)

    def _in_cell(self, path: Path, structures: Structures) -> Structures:
        """The structures in the cell of the option."""
        if structures.cell is not None:
            raise ValueError(
                f"{path} has cells of its own; leave --cell out, or give --no-periodic to read "
                "its structures without them"
            )

        edges = [float(word) * self.units.length_factor for word in self.cell.split(",")]
        cell = np.diag(np.broadcast_to(edges, 3))
        count = len(structures)
        return dataclasses.replace(
            without_dipole(structures),
            cell=np.tile(cell, (count, 1, 1)),
            periodic=np.ones((count, 3), bool),
        )


def _split_names(text: str | None) -> tuple[Path, ...]:
    return tuple(Path(word) for word in text.split(",")) if text else ()
