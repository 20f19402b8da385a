"""Run molecular dynamics with a trained potential, and analyse the trajectory.

python examples/md_and_analysis.py                             # trains on the bundled ethanol
python examples/md_and_analysis.py --checkpoint runs/ethanol/checkpoint_best.pt --steps 10000
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ase.io import read
from train_on_own_xyz import train

from farfield.simulate import run_md


def bond_lengths(frames: list) -> dict[str, np.ndarray]:
    """Bond of the first frame, such as C-O -> its length in all frames (Angstrom)."""
    distances = np.array([atoms.get_all_distances() for atoms in frames])  # (frames, atoms, atoms)
    symbols = frames[0].get_chemical_symbols()
    found = {}
    for i, j in zip(*np.nonzero(np.triu(distances[0] < 1.7, 1)), strict=True):
        if "H" not in (symbols[i], symbols[j]):
            found[f"{symbols[i]}{i}-{symbols[j]}{j}"] = distances[:, i, j]
    return found


def main() -> None:
    """Simulate at constant energy, then print temperature, fluctuation and bond lengths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="of a potential (default: trains one)")
    parser.add_argument("--folder", type=Path, default=Path("example"), help="where to write")
    parser.add_argument("--minutes", type=float, default=0.3, help="CPU minutes of training")
    parser.add_argument("--steps", type=int, default=1000, help="steps of 0.5 fs")
    options = parser.parse_args()
    checkpoint = options.checkpoint or train(options.folder, options.minutes)

    folder = options.folder / "md"
    run_md.main(
        ["--checkpoint", str(checkpoint), "--run-dir", str(folder), "--overwrite"]
        + ["--steps", str(options.steps), "--temperature", "300", "--no-progress"]
    )

    results = json.loads((folder / "results.json").read_text())
    print(f"mean temperature {results['mean_temperature']:.0f} K")
    fluctuation, unit = results["fluctuation"], results["units"]["fluctuation"]
    print(f"fluctuation of the total energy {fluctuation:.2g} {unit}")
    for bond, lengths in bond_lengths(read(folder / "trajectory.extxyz", ":")).items():
        print(f"{bond}: {lengths.mean():.3f} +- {lengths.std():.3f} Angstrom")


if __name__ == "__main__":
    main()
