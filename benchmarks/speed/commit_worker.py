"""Training and MD steps of one checkout of Farfield on request; run by ``compare_commits.py``.

    python benchmarks/speed/commit_worker.py FOLDER

FOLDER is a checkout of any commit with the scripts of ``make train``: they preprocess the bundled
ethanol frames and train the default network (near and far field) for a moment, and what they leave
is timed. Reads lines ``train N`` and ``md N``, and answers each with the CPU seconds of a step, the
mean of N. Imports nothing of the checkout that this file belongs to.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # libraries read it once, when they are loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from ase import Atoms, units  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402

BATCH_SIZE = 8
TIMESTEP = 0.5  # fs
# Modules by what they are for: (with one import name, as top-level folders).
MODULES = {
    "factory": ("farfield.models.factory", "models.factory"),
    "data": ("farfield.dataloader.datasets.potential_data", "dataloader.molecules"),
    "calculator": ("farfield.simulate.calculator", "simulate.calculator"),
}


def module_name(folder: Path, role: str) -> str:
    """Name of the module for ``role`` in this checkout."""
    one_name, top_level = MODULES[role]
    return one_name if (folder / "farfield").is_dir() else top_level


def prepare(folder: Path, place: Path) -> None:
    """Write ``place/data`` and ``place/run`` with the scripts of the checkout."""
    data, run = str(place / "data"), str(place / "run")
    preprocess = ["preprocess.preprocess_md17", "--sample", "--out", data]
    train = ["train.train_md17", "--data-path", data, "--run-dir", run]
    for arguments in (preprocess, [*train, "--epochs", "1", "--max-cpu-minutes", "0.01"]):
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed in {folder}:\n{done.stderr}")


class Steps:
    """The two kinds of steps of a checkout whose scripts have filled ``place``."""

    def __init__(self, folder: Path, place: Path):
        factory, data, calculator = (
            importlib.import_module(module_name(folder, role)) for role in MODULES
        )

        # The network that the training script built, with fresh weights.
        config = yaml.safe_load((place / "run" / "config.yaml").read_text())["model"]
        config.pop("preset", None)
        torch.manual_seed(0)
        self.model = factory.build_model(config).train()
        self.dataset = data.MoleculeDataset.open(place / "data", "train")

        # The first molecule at rest under the trained potential.
        with np.load(place / "data" / "train.npz", allow_pickle=False) as file:
            atoms = int(file["counts"][0])
            molecule = Atoms(file["atomic_numbers"][:atoms], file["positions"][:atoms])
        molecule.calc = calculator.FarfieldCalculator(place / "run" / "checkpoint_best.pt")
        self.dynamics = VelocityVerlet(molecule, TIMESTEP * units.fs)

    @property
    def weights(self) -> int:
        """Number of weights of the network."""
        return sum(weight.numel() for weight in self.model.parameters())

    def train(self, count: int) -> None:
        """Batches, energies, forces and the gradient of all weights; no optimiser."""
        for _ in range(count):
            batch = self.dataset[range(BATCH_SIZE)].to(dtype=torch.float32)
            out = self.model(batch)
            self.model.zero_grad(set_to_none=True)
            (out["energy"].square().mean() + out["forces"].square().mean()).backward()

    def md(self, count: int) -> None:
        """Steps of velocity Verlet with the calculator."""
        self.dynamics.run(count)


def main():
    """Prepare, then answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="checkout of Farfield")
    folder = parser.parse_args().folder.resolve()
    torch.set_num_threads(1)

    # Python puts the folder of this file first, where the checkout has to be.
    sys.path[0] = str(folder)
    with tempfile.TemporaryDirectory() as place:
        prepare(folder, Path(place))
        steps = Steps(folder, Path(place))
        print(json.dumps({"weights": steps.weights}), flush=True)
        for line in sys.stdin:
            kind, count = line.split()
            start = time.process_time()
            getattr(steps, kind)(int(count))
            seconds = (time.process_time() - start) / int(count)
            print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
