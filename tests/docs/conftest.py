"""Folders with what the documents work on: tiny data and a checkpoint trained for a moment."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from farfield.dataloader.prepared_folder import structures_file
from farfield.dataloader.sources.built_backbones import build_backbones
from farfield.dataloader.structures import Structures
from farfield.preprocess import preprocess_md17
from farfield.train import train_md17
from tests.support import documents
from tests.support.molecule_data import random_crystals
from tests.support.protein_files import chain_lines, write_lines
from tests.support.registries import restore_registries, saved_registries

TINY = ["--irreps", "4x0e+4x1o", "--schedule", "hybrid-first-order1", "--no-progress"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """``data/ethanol_sample`` and ``runs/ethanol``, as after ``make train``, and files.

    ``proteins`` has ten PDB files; ``mine.xyz`` has energies and forces of 60 frames,
    ``crystals.xyz`` those and stresses of 20 crystals, the other files have no labels.
    """
    folder = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        preprocess_md17.main(["--sample", "--out", "data/ethanol_sample", *documents.FEW_FRAMES])
        run = ["--data-path", "data/ethanol_sample", "--run-dir", "runs/ethanol"]
        train_md17.main([*run, *TINY, "--epochs", "1", "--max-cpu-minutes", "0.004"])
    for name in ("molecules.xyz", "new.xyz"):
        write(folder / name, [molecule("CH3CH2OH"), molecule("CH3OH")])
    for number, chain in enumerate(build_backbones(10, 8, 10, seed=0)):
        (folder / "proteins").mkdir(exist_ok=True)
        write_lines(folder / "proteins" / f"{number}.pdb", *chain_lines(chain), "END")
    write(folder / "mine.xyz", labelled_frames(folder / "data" / "ethanol_sample", 60))
    write(folder / "crystals.xyz", labelled_crystals(20))
    return folder


def labelled_crystals(count: int) -> list[Atoms]:
    """Random crystals with energies, forces and stresses, and an isolated atom of each element."""
    structures, frames = random_crystals(atoms=3, count=20 * count), []
    for one in map(structures.__getitem__, range(len(structures))):
        atoms = Atoms(one.atomic_numbers, one.positions, cell=one.cell[0], pbc=True)
        distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
        # atoms on each other are refused
        if distances.min() < 1 or len(frames) == count:
            continue
        labels = {"energy": one.energy[0], "forces": one.forces}
        stress = full_3x3_to_voigt_6_stress(one.stress[0])
        atoms.calc = SinglePointCalculator(atoms, **labels, stress=stress)
        frames.append(atoms)
    for symbol, energy in (("Li", -1.0), ("O", -2.0)):
        atoms = Atoms(symbol)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        frames.append(atoms)
    return frames


def labelled_frames(data: Path, count: int) -> list[Atoms]:
    """The first training structures of a preprocessed folder."""
    structures = Structures.load(structures_file(data, "train"))
    frames = []
    for one in (structures[index] for index in range(count)):
        atoms = Atoms(numbers=one.atomic_numbers, positions=one.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=one.energy[0], forces=one.forces)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="session")
def folder_of_page(tmp_path_factory):
    """Page -> the folder where its commands are typed, with the files that the page shows."""
    folders = {}

    def find(page: str):
        if page not in folders:
            folders[page] = tmp_path_factory.mktemp("page")
            documents.write_files(page, folders[page])
        return folders[page]

    return find


@pytest.fixture
def equipped_folder(prepared, folder_of_page, monkeypatch):
    """Page -> its folder with data and checkpoint; the test works there."""

    def equip(page: str):
        folder = folder_of_page(page)
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
        monkeypatch.chdir(folder)
        return folder

    return equip


@pytest.fixture
def new_process():
    """Registries as in a new process: called before a command; all is undone after the test."""
    state = saved_registries()
    yield lambda: restore_registries(state)
    restore_registries(state)
