"""Train a potential on an extended xyz file, and predict with it.

python examples/train_on_own_xyz.py                            # frames of the bundled ethanol
python examples/train_on_own_xyz.py --xyz mine.xyz --minutes 10
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import farfield
from farfield.preprocess import preprocess_structures
from farfield.train import train_potential


def write_sample(path: Path) -> None:
    """Write 200 frames of ethanol with energies (eV) and forces (eV/Angstrom) as extended xyz."""
    data = np.load(Path(farfield.__file__).parent / "dataloader" / "samples" / "ethanol.npz")
    frames = []
    for positions, energy, forces in zip(data["R"][:200], data["E"], data["F"], strict=False):
        atoms = Atoms(data["Z"], positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    write(path, frames)


def train(folder: Path, minutes: float, xyz: Path | None = None, more: tuple = ()) -> Path:
    """Train on ``xyz`` (default: the sample); returns the checkpoint that validated best."""
    folder.mkdir(parents=True, exist_ok=True)
    if xyz is None:
        xyz = folder / "sample.xyz"
        write_sample(xyz)

    preprocess_structures.main([str(xyz), "--out", f"{folder}/data"])
    train_potential.main(
        ["--data-path", f"{folder}/data", "--run-dir", f"{folder}/run", "--overwrite"]
        + ["--max-cpu-minutes", str(minutes), "--no-progress", *more]
    )
    return folder / "run" / "checkpoint_best.pt"


def main() -> None:
    """Train, then predict the first two structures of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--xyz", type=Path, help="extended xyz file (default: bundled ethanol)")
    parser.add_argument("--folder", type=Path, default=Path("example"), help="where to write")
    parser.add_argument("--minutes", type=float, default=0.3, help="CPU minutes of training")
    options = parser.parse_args()

    potential = farfield.load(train(options.folder, options.minutes, options.xyz))
    for found in potential.predict(read(options.xyz or options.folder / "sample.xyz", ":2")):
        print(f"energy {found['energy']:.3f} eV, largest force {found['forces'].max():.3f} eV/A")


if __name__ == "__main__":
    main()
