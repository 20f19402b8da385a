"""Relax a molecule with a trained potential, and compute its vibrations.

python examples/relax_and_vibrate.py                           # trains on the bundled ethanol
python examples/relax_and_vibrate.py --checkpoint runs/ethanol/checkpoint_best.pt
"""

import argparse
from pathlib import Path

from ase.build import molecule
from ase.io import write
from ase.optimize import BFGS
from ase.vibrations import Vibrations
from train_on_own_xyz import train

from farfield.simulate.calculator import FarfieldCalculator


def main() -> None:
    """Relax ethanol, then move every atom a little in each direction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="of a potential (default: trains one)")
    parser.add_argument("--folder", type=Path, default=Path("example"), help="where to write")
    parser.add_argument("--minutes", type=float, default=0.3, help="CPU minutes of training")
    options = parser.parse_args()
    checkpoint = options.checkpoint or train(options.folder, options.minutes)
    options.folder.mkdir(parents=True, exist_ok=True)

    # float64 for the finite differences of the vibrations
    atoms = molecule("CH3CH2OH")
    atoms.calc = FarfieldCalculator(checkpoint, dtype="float64")
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    write(options.folder / "relaxed.xyz", atoms)
    print(f"relaxed by {before - atoms.get_potential_energy():.3f} eV")

    # 3 N modes; six of them are rotations and translations of the whole molecule
    vibrations = Vibrations(atoms, name=str(options.folder / "vibrations"))
    vibrations.clean()
    vibrations.run()
    wave_numbers = vibrations.get_frequencies().real[6:]
    print("wave numbers (1/cm):", " ".join(f"{value:.0f}" for value in wave_numbers))
    print(f"zero-point energy {vibrations.get_zero_point_energy():.3f} eV")


if __name__ == "__main__":
    main()
