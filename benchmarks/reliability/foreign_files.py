"""Small files in the formats that users bring, with the readers that open them."""

from __future__ import annotations

import json
import pickle
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import lmdb
import numpy as np

from benchmarks.reliability.foreign_molecules import (
    make_archives,
    make_lists,
    make_npz,
    make_published_npz,
    make_qm9_npz,
    make_sdf,
    make_trajectories,
    make_xyz,
    noted,
    only_file,
    read_list,
    read_published_npz,
    read_qm9_archive,
    read_qm9_npz,
    read_sdf_pair,
    read_trajectory,
    read_user_file,
)
from benchmarks.reliability.hostile_pickles import hostile_pickle
from benchmarks.reliability.mutations import (
    BYTES,
    TEXT,
    Generator,
    changed_json,
    changed_npz,
    flip_bits,
    mutated,
)
from benchmarks.reliability.small_programs import displaced_molecules, pair_labels
from farfield.dataloader.sources.nbody_pickles import read_public_nbody
from farfield.dataloader.sources.protein_backbones import read_protein
from farfield.dataloader.sources.qm7x_files import read_qm7x
from farfield.preprocess.run_recipe import commands, read_recipe
from farfield.simulate import rollout, run_md
from farfield.train.convert_config import translated
from farfield.train.train_potential import SCRIPT

Change = Callable[[Generator, bytes], bytes]
ROOT = Path(__file__).resolve().parents[2]
NPZ = (*BYTES, *(changed_npz,) * 6)
STRUCTURES = 30
PUBLISHED = """
model:
  backbone:
    irreps_node_embedding: 64x0e+64x1e
    num_layers: 4
    max_radius: 6.0
    num_attn_heads: 4
    attn_type: first-order
    tp_type: QK_alpha
optim: {lr_initial: 0.001, max_epochs: 20, scheduler_params: {lr_min_factor: 0.01}}
loss_functions: [{energy: {coefficient: 4}}, {forces: {coefficient: 100}}]
"""
SIMULATION = """
steps: 100
save_freq: 10
init_idx: 0
T_init: 300
integrator: NVE
integrator_config: {timestep: 0.5}
"""


class Foreign(NamedTuple):
    """A format.

    name: for tables. make: writes samples into a folder. read: the folder of one sample -> a value.
    changes: of the bytes of a file.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    changes: tuple[Change, ...]


# ---- binary files of others


def make_pickles(folder: Path) -> None:
    """Simulations of the public n-body program."""
    generator = np.random.default_rng(0)
    content = {"points": generator.random((2, 5, 3, 4)), "vel": generator.random((2, 5, 3, 4))}
    content |= {"charges": np.ones((2, 4, 1)), "edges": np.ones((2, 4, 4))}
    for protocol in (2, 4):
        (folder / f"nbody_{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))


def read_pickle(folder: Path) -> Any:
    """The simulations of a file."""
    return read_public_nbody(only_file(folder))


def hostile(generator: Generator, content: bytes) -> bytes:
    """Another pickle, which tries to run code."""
    return hostile_pickle(generator, {"points": np.ones(3)})


def make_hdf5(folder: Path) -> None:
    """A file in the layout of QM7-X."""
    with h5py.File(folder / "1000.hdf5", "w") as file:
        for number, atoms in enumerate(displaced_molecules(3), 1):
            energy, forces = pair_labels(atoms.positions)
            for name in (f"Geom-m{number}-i1-c1-opt", f"Geom-m{number}-i1-c1-d1"):
                held = file.require_group(str(number)).create_group(name)
                held["atNUM"], held["atXYZ"] = atoms.numbers, atoms.positions
                held["ePBE0+MBD"], held["totFOR"] = np.array([energy]), forces


def read_hdf5(folder: Path) -> Any:
    """All its structures."""
    return read_qm7x(only_file(folder), lambda number: number <= 1, noted)


def _ase_rows() -> list[bytes]:
    rows = []
    for atoms in displaced_molecules(6):
        energy, forces = pair_labels(atoms.positions)
        arrays = {"numbers": atoms.numbers, "positions": atoms.positions, "forces": forces}
        arrays |= {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)}
        row: dict[str, Any] = {
            name: {"__ndarray__": [values.shape, str(values.dtype), values.ravel().tolist()]}
            for name, values in arrays.items()
        }
        rows.append(zlib.compress(json.dumps(row | {"energy": energy, "data": {}}).encode()))
    return rows


def _pickled_rows() -> list[bytes]:
    rows = []
    for atoms in displaced_molecules(6):
        energy, forces = pair_labels(atoms.positions)
        record = {"pos": atoms.positions, "atomic_numbers": atoms.numbers, "y": energy}
        rows.append(pickle.dumps(record | {"force": forces, "sid": 3}))
    return rows


def write_lmdb(path: Path, rows: list[bytes], first: int) -> None:
    """One LMDB file of rows with the keys first, first + 1, ..."""
    path.unlink(missing_ok=True)
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False)
    with environment.begin(write=True) as transaction:
        for number, row in enumerate(rows, first):
            transaction.put(str(number).encode(), row)
    environment.close()


def make_lmdb_files(folder: Path) -> None:
    """Files of fairchem and of ase-db-backends."""
    write_lmdb(folder / "set.lmdb", _pickled_rows(), 0)
    write_lmdb(folder / "set.aselmdb", _ase_rows(), 1)


def changed_record(generator: Generator, content: bytes) -> bytes:
    """A whole LMDB file in which one record is damaged, odd or hostile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.lmdb"
        is_pickled = b"atomic_numbers" in content
        rows = _pickled_rows() if is_pickled else _ase_rows()
        place = int(generator.integers(len(rows)))

        # hostile, odd or damaged
        if is_pickled and generator.random() < 0.3:
            rows[place] = hostile_pickle(generator, {"pos": np.ones((2, 3))})
        elif not is_pickled and generator.random() < 0.7:
            odd = changed_json(generator, zlib.decompress(rows[place]))
            rows[place] = zlib.compress(odd)
        else:
            rows[place] = mutated(generator, rows[place]) or b"\0"
        write_lmdb(path, rows, 0 if is_pickled else 1)
        return path.read_bytes()


def make_proteins(folder: Path) -> None:
    """A short chain as PDB and as mmCIF."""
    import gemmi

    lines = []
    for residue in range(6):
        for atom, name in enumerate(("N", "CA", "C", "O")):
            x, y, z = 3.5 * residue + 0.9 * atom, 0.8 * (atom % 2), 0.4 * atom
            lines.append(
                f"ATOM  {4 * residue + atom + 1:>5}  {name:<3} ALA A{residue + 1:>4}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {name[0]:>2}"
            )
    (folder / "chain.pdb").write_text("\n".join([*lines, "END", ""]))
    structure = gemmi.read_structure(str(folder / "chain.pdb"))
    structure.make_mmcif_document().write_file(str(folder / "chain.cif"))


def read_chain(folder: Path) -> Any:
    """The pieces of the protein."""
    return read_protein(only_file(folder))


# ---- options


def make_options(folder: Path) -> None:
    """Files that --config reads."""
    (folder / "training.yaml").write_text(
        "model: {irreps: 8x0e+8x1o, near_heads: 2}\ntraining:\n  lr: 0.001\n  epochs: 3\n"
        "run: {seed: 1, run_dir: runs/x}\n"
    )
    (folder / "dynamics.yaml").write_text(
        "task: md\ndynamics: {steps: 100, timestep: 0.5, ensemble: nve}\nrun: {seed: 3}\n"
    )


def read_options(folder: Path) -> Any:
    """By the name of the file."""
    path = only_file(folder)
    if path.stem == "dynamics":
        return run_md.build_parser().parse_config(["--config", str(path)])
    return SCRIPT.parser().parse_config(["--config", str(path)])


def make_recipes(folder: Path) -> None:
    """A recipe, a published configuration, and a description of a simulation."""
    recipe = (ROOT / "configs" / "md17_aspirin.yaml").read_bytes()
    (folder / "recipe.yaml").write_bytes(recipe)
    (folder / "published.yaml").write_text(PUBLISHED)
    (folder / "simulation.yaml").write_text(SIMULATION)


def read_any_recipe(folder: Path) -> Any:
    """By the name of the file."""
    path = only_file(folder)
    if path.stem == "recipe":
        return commands(read_recipe(path))
    if path.stem == "published":
        return translated(path)
    return rollout.dynamics_options(rollout.read_settings(path), path)


FOREIGN = (
    Foreign("extended xyz", make_xyz, read_user_file, TEXT),
    Foreign("npz of the user", make_npz, read_user_file, NPZ),
    Foreign("npz of MD17 and MD22", make_published_npz, read_published_npz, NPZ),
    Foreign("trajectories", make_trajectories, read_trajectory, (*TEXT, flip_bits)),
    Foreign("sdf with a table", make_sdf, read_sdf_pair, TEXT),
    Foreign("archives of QM9", make_archives, read_qm9_archive, TEXT),
    Foreign("npz of QM9", make_qm9_npz, read_qm9_npz, NPZ),
    Foreign("index lists", make_lists, read_list, NPZ),
    Foreign("pickles of n-body", make_pickles, read_pickle, (*BYTES, hostile, hostile)),
    Foreign("HDF5 of QM7-X", make_hdf5, read_hdf5, BYTES),
    Foreign("LMDB of others", make_lmdb_files, read_user_file, (*BYTES, *(changed_record,) * 6)),
    Foreign("proteins", make_proteins, read_chain, TEXT),
    Foreign("option files", make_options, read_options, TEXT),
    Foreign("recipes and configurations", make_recipes, read_any_recipe, TEXT),
)
