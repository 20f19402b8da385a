"""Train a network on a property of molecules: zero-point energies of ASE's G2 set.

python examples/molecular_properties.py
"""

import argparse
from pathlib import Path

import numpy as np
from ase.build import molecule
from ase.data.g2 import data, molecule_names

import farfield
from farfield.preprocess import preprocess_qm9
from farfield.train import train_qm9

KCAL_PER_HARTREE = 627.509


def write_molecules(path: Path) -> None:
    """Closed-shell molecules of H, C, N, O, F with zero-point energies, as a ragged npz file."""
    names = [name for name in molecule_names if data[name].get("ZPE")]
    names = [name for name in names if data[name]["magmoms"] is None]
    names = [name for name in names if set(molecule(name).symbols) <= set("HCNOF")]
    molecules = [molecule(name) for name in names]
    np.savez(
        path,
        n_atoms=np.array([len(one) for one in molecules]),
        Z=np.concatenate([one.numbers for one in molecules]),
        R=np.concatenate([one.positions for one in molecules]),
        zpve=np.array([data[name]["ZPE"] for name in names]) / KCAL_PER_HARTREE,
    )


def main() -> None:
    """Train on 55 molecules, then predict three by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("example"), help="where to write")
    parser.add_argument("--minutes", type=float, default=0.3, help="CPU minutes of training")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_molecules(folder / "g2.npz")

    files = ["--file", f"{folder}/g2.npz", "--out", f"{folder}/molecules"]
    preprocess_qm9.main([*files, "--graph", "cutoff", "--train", "55", "--val", "8"])
    train_qm9.main(
        ["--data-path", f"{folder}/molecules", "--targets", "zpve", "--batch-size", "8"]
        + ["--max-cpu-minutes", str(options.minutes), "--no-progress"]
        + ["--run-dir", f"{folder}/properties", "--overwrite"]
    )

    network = farfield.load(f"{folder}/properties/checkpoint_best.pt")
    for name in ("CH3CH2OH", "C6H6", "CH3NO2"):
        found = network.predict(molecule(name))["zpve"]
        print(f"{name}: {found:.3f} eV, reference {0.0433641 * data[name]['ZPE']:.3f} eV")


if __name__ == "__main__":
    main()
