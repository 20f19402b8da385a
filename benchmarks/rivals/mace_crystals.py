"""mace-torch on a preprocessed folder of periodic structures with energies, forces and stresses.

    .venv-mace/bin/python benchmarks/rivals/mace_crystals.py FOLDER --minutes 20 --json mace.json

Imports nothing of farfield; the environment of mace-torch is made as ``compare_mace.py`` says. The
settings are those with which MACE's authors train on crystals of many elements: the universal loss
(huber at 0.01, weights energy per atom 1, forces 10, stress 100), Adam (amsgrad) at 0.005, scale =
force rms, shift = mean energy per atom above the references; two layers, correlation 3, float32.
Smaller than theirs, for minutes of one thread: 32x0e+32x1o, r_max 5, batch 4, average of the
weights 0.99, and the rate falls exponentially to 1e-4 in the second half of the time. The reference
energies are those of the folder, so both programs learn the same rest. The clock counts training
alone; the weights that are tested are the last ones.
"""

import argparse
import json
from pathlib import Path

import mace_program  # sets the environment before torch is loaded
import numpy as np
import torch
from mace import data, modules, tools
from mace.tools import torch_geometric

HIGHEST_RATE, LOWEST_RATE = 0.005, 1e-4
WEIGHTS = {"energy_weight": 1.0, "forces_weight": 10.0, "stress_weight": 100.0}
EVALUATION_STRUCTURES = 8  # in a batch of an evaluation
MEV = 1e3


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder made by preprocess_structures")
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU minutes of training")
    parser.add_argument("--irreps", default="32x0e+32x1o", help="hidden features, as in e3nn")
    parser.add_argument("--max-ell", type=int, default=3, help="highest degree on edges")
    parser.add_argument("--batch-size", type=int, default=4, help="structures in a batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--json", required=True, help="file for the curve and the test errors")
    return parser.parse_args()


def read_split(path: Path, references: dict[int, float]) -> list:
    """Configurations of one split with energies above the references."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    ends = np.cumsum(arrays["counts"])
    of_atom = np.array([references[z] for z in arrays["atomic_numbers"].tolist()])

    configurations = []
    for index, (end, count) in enumerate(zip(ends, arrays["counts"], strict=True)):
        own = slice(end - count, end)
        labels = {
            "energy": float(arrays["energy"][index] - of_atom[own].sum()),
            "forces": arrays["forces"][own],
            "stress": arrays["stress"][index],
        }
        one = data.Configuration(
            atomic_numbers=arrays["atomic_numbers"][own].astype(int),
            positions=arrays["positions"][own],
            properties=labels,
            property_weights=dict.fromkeys(labels, 1.0),
            cell=arrays["cell"][index],
            pbc=tuple(arrays["periodic"][index].tolist()),
        )
        configurations.append(one)
    return configurations


class CrystalSets:
    """Batches of all splits, with the attributes that ``mace_program.build`` reads, and ``shift``,
    the mean energy per atom above the references, eV.
    """

    def __init__(self, folder: Path, batch_size: int):
        statistics = json.loads((folder / "statistics.json").read_text())
        references = {int(z): energy for z, energy in statistics["references"].items()}
        self.species = sorted(references)
        table = tools.AtomicNumberTable(self.species)

        parts = {
            name: read_split(folder / f"{name}.npz", references) for name in mace_program.SPLITS
        }
        atoms = {
            name: [
                data.AtomicData.from_config(one, z_table=table, cutoff=mace_program.CUTOFF)
                for one in part
            ]
            for name, part in parts.items()
        }
        self.loaders = {
            name: torch_geometric.dataloader.DataLoader(
                part,
                batch_size=batch_size if name == "train" else EVALUATION_STRUCTURES,
                shuffle=name == "train",
            )
            for name, part in atoms.items()
        }

        train = parts["train"]
        counts = [one.edge_index.shape[1] / one.positions.shape[0] for one in atoms["train"]]
        self.neighbours = float(np.mean(counts))
        forces = np.concatenate([one.properties["forces"].ravel() for one in train])
        self.force_rms = float(np.sqrt(np.mean(forces**2)))
        rest = [one.properties["energy"] / len(one.positions) for one in train]
        self.shift = float(np.mean(rest))


def crystal_errors(model, loader) -> dict[str, float]:
    """Mean absolute errors, meV per atom, meV / Angstrom, meV / Angstrom^3."""
    rows = {"energy_per_atom": [], "forces": [], "stress": []}
    for batch in loader:
        out = model(batch.to_dict(), training=False, compute_stress=True)
        atoms = batch.ptr[1:] - batch.ptr[:-1]
        rows["energy_per_atom"].append(((out["energy"] - batch.energy) / atoms).detach())
        rows["forces"].append((out["forces"] - batch.forces).detach().flatten())
        rows["stress"].append((out["stress"] - batch.stress).detach().flatten())
    return {name: MEV * float(torch.cat(parts).abs().mean()) for name, parts in rows.items()}


class CrystalRun(mace_program.Run):
    """The same run with the loss and the rates of crystals."""

    def __init__(self, model: torch.nn.Module, minutes: float):
        super().__init__(model, minutes)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=HIGHEST_RATE, amsgrad=True)
        self.loss = modules.UniversalLoss(**WEIGHTS)

    def set_rate(self) -> None:
        """The highest rate in the first half of the time, then an exponential fall."""
        rate = HIGHEST_RATE * (LOWEST_RATE / HIGHEST_RATE) ** self.late
        self.optimizer.param_groups[0]["lr"] = rate

    def gradient(self, batch) -> None:
        """The gradient of the loss of one batch."""
        out = self.model(batch.to_dict(), training=True, compute_stress=True)
        self.optimizer.zero_grad()
        self.loss(pred=out, ref=batch).backward()

    def errors_of(self, loader) -> dict[str, float]:
        """Errors of the averaged weights."""
        return crystal_errors(self.average.module, loader)


def main():
    """Train, and write the curve and the test errors."""
    options = read_options()
    torch.set_num_threads(1)
    tools.set_seeds(options.seed)
    sets = CrystalSets(Path(options.folder), options.batch_size)
    model = mace_program.build(sets, options)
    model.scale_shift.shift.fill_(sets.shift)
    run = CrystalRun(model, options.minutes)
    run.fit(sets)

    mace_program.write_report(run, options, run.errors_of(sets.loaders["test"]))


if __name__ == "__main__":
    main()
