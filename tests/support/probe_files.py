"""Small files of probes: pairs with interactions of GFN2-xTB, and a host with a ghost."""

import numpy as np
from ase import Atoms

from benchmarks.accuracy.extensivity_probes import GHOST_FILE, PAIR_FILES


def save_ragged(path, structures, **values):
    """A ragged file of structures of ASE."""
    np.savez(
        path,
        n_atoms=np.array([len(atoms) for atoms in structures]),
        Z=np.concatenate([atoms.numbers for atoms in structures]),
        R=np.concatenate([atoms.positions for atoms in structures]),
        **values,
    )


def save_pairs(folder, charges=(1.0, -1.0)):
    """One pair in each of the files of pairs, and a host with a ghost and alone."""
    pair = Atoms("H2O", [[0, 0, 0], [0, 0, 1], [0, 0, 20]])
    values = {
        "num_a": [2],
        "kind": ["one"],
        "distance": [19.0],
        "centroid_distance": [19.5],
        "charge_a": [charges[0]],
        "charge_b": [charges[1]],
        "E_int_gfn2": [-0.7],
        "F_change_max_gfn2": [0.03],
    }
    for file in PAIR_FILES:
        save_ragged(folder / file, [pair], **values)
    save_ragged(
        folder / GHOST_FILE,
        [pair[:2], pair],
        num_a=[2, 2],
        kind=["host alone", "one O"],
        nearest=[0.0, 19.0],
        charge=[0.0, 0.0],
        F_change_max_gfn2=[0.0, 0.002],
    )
