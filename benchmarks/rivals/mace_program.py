"""mace-torch on the data of a preprocessed folder; run by ``compare_mace.py``.

    .venv-mace/bin/python benchmarks/rivals/mace_program.py FOLDER --minutes 30 --json mace.json

Imports nothing of farfield: its python has mace-torch alone. The model and settings are those of
MACE's own examples for a small molecule: two layers, correlation 3, l <= 3 on edges, r_max 5,
float32, batch 5, Adam (amsgrad) at 0.01, average of the weights 0.99, force weight 100. In the
second half of the CPU time the energy weight is 1000 instead of 1, and the rate falls exponentially
to 1e-4. Energies are learned per molecule with reference energies of the training set. The clock
counts training alone.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # libraries read it once, when they are loaded
# e3nn 0.4 loads its constants with pickle.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from e3nn import o3  # noqa: E402
from mace import data, modules, tools  # noqa: E402
from mace.tools import torch_geometric  # noqa: E402
from tqdm import tqdm  # noqa: E402

SPLITS = ("train", "val", "test")
CUTOFF = 5.0  # Angstrom
HIGHEST_RATE, LOWEST_RATE = 0.01, 1e-4
FORCE_WEIGHT, ENERGY_WEIGHT, LATE_ENERGY_WEIGHT = 100, 1, 1000
EVALUATION_STRUCTURES = 50  # in a batch of an evaluation
# CPU minutes at which the validation split is read.
MARKS = (1, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 45, 60)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder made by preprocess_md17")
    parser.add_argument("--minutes", type=float, default=30.0, help="CPU minutes of training")
    parser.add_argument("--irreps", default="32x0e+32x1o", help="hidden features, as in e3nn")
    parser.add_argument("--max-ell", type=int, default=3, help="highest degree on edges")
    parser.add_argument("--batch-size", type=int, default=5, help="structures in a batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--json", required=True, help="file for the curve and the test errors")
    return parser.parse_args()


def read(path: Path, references: dict[int, float] | None) -> tuple[list, dict[int, float]]:
    """Configurations of one split with energies above the references, and the references.

    references: energy of each element, eV; None fits them (least squares, float64).
    """
    with np.load(path, allow_pickle=False) as file:
        counts, numbers = file["counts"], file["atomic_numbers"]
        positions, energy, forces = file["positions"], file["energy"], file["forces"]
    ends = np.cumsum(counts)

    # Atoms of each element in each structure: (structures, elements).
    species = np.unique(numbers).tolist()
    columns = [np.add.reduceat(numbers == z, ends - counts) for z in species]
    composition = np.stack(columns, 1).astype(float)
    if references is None:
        fitted = np.linalg.lstsq(composition, energy, rcond=None)[0]
        references = dict(zip(species, fitted.tolist(), strict=True))
    rest = energy - composition @ np.array([references[z] for z in species])

    configurations = []
    for end, count, e in zip(ends, counts, rest, strict=True):
        own = slice(end - count, end)
        one = data.Configuration(
            atomic_numbers=numbers[own].astype(int),
            positions=positions[own],
            properties={"energy": float(e), "forces": forces[own]},
            property_weights={"energy": 1.0, "forces": 1.0},
        )
        configurations.append(one)
    return configurations, references


class Sets:
    """Batches of all splits, and what the network needs to know about the training split.

    Attributes: ``loaders`` by split; ``species``, atomic numbers; ``neighbours``, mean number;
    ``force_rms``, eV / Angstrom.
    """

    def __init__(self, folder: Path, batch_size: int):
        train, references = read(folder / "train.npz", None)
        splits = {"train": train}
        for name in SPLITS[1:]:
            splits[name], _ = read(folder / f"{name}.npz", references)

        self.species = sorted(references)
        table = tools.AtomicNumberTable(self.species)
        atoms = {
            name: [data.AtomicData.from_config(one, z_table=table, cutoff=CUTOFF) for one in part]
            for name, part in splits.items()
        }
        self.loaders = {
            name: torch_geometric.dataloader.DataLoader(
                part,
                batch_size=batch_size if name == "train" else EVALUATION_STRUCTURES,
                shuffle=name == "train",
            )
            for name, part in atoms.items()
        }

        counts = [one.edge_index.shape[1] / one.positions.shape[0] for one in atoms["train"]]
        self.neighbours = float(np.mean(counts))
        forces = np.concatenate([one.properties["forces"].ravel() for one in train])
        self.force_rms = float(np.sqrt(np.mean(forces**2)))


def build(sets: Sets, options: argparse.Namespace) -> torch.nn.Module:
    """The network, starting as MACE's scripts start it."""
    torch.manual_seed(options.seed)
    return modules.ScaleShiftMACE(
        # Edges.
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=options.max_ell,
        avg_num_neighbors=sets.neighbours,
        # Layers.
        interaction_cls=modules.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=modules.RealAgnosticResidualInteractionBlock,
        num_interactions=2,
        hidden_irreps=o3.Irreps(options.irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        correlation=3,
        gate=torch.nn.functional.silu,
        # Elements and scales.
        num_elements=len(sets.species),
        atomic_numbers=sets.species,
        atomic_energies=np.zeros(len(sets.species)),
        atomic_inter_scale=sets.force_rms,
        atomic_inter_shift=0.0,
    )


def errors(model, loader) -> dict[str, float]:
    """Mean absolute errors, meV and meV / Angstrom."""
    energy, forces = [], []
    for batch in loader:
        out = model(batch.to_dict(), training=False)
        energy.append((out["energy"] - batch.energy).detach().abs())
        forces.append((out["forces"] - batch.forces).detach().abs().flatten())
    return {
        "energy": 1e3 * float(torch.cat(energy).mean()),
        "forces": 1e3 * float(torch.cat(forces).mean()),
    }


class Run:
    """The network, the average of its weights, the optimiser, and how far the training is."""

    def __init__(self, model: torch.nn.Module, minutes: float):
        self.model = model
        self.average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=False
        )
        self.optimizer = torch.optim.Adam(model.parameters(), lr=HIGHEST_RATE, amsgrad=True)
        self.budget, self.spent = 60 * minutes, 0.0  # CPU seconds
        self.step = 0
        self.marks = [60 * mark for mark in MARKS if mark < minutes]
        self.curve: list[dict] = []

    def train_step(self, batch) -> None:
        """One step on one batch; the clock counts all of it."""
        start = time.process_time()
        self.set_rate()
        self.gradient(batch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)

        self.spent += time.process_time() - start
        self.step += 1

    @property
    def late(self) -> float:
        """0 in the first half of the time, then rising to 1 at the end."""
        return max(0.0, 2 * self.spent / self.budget - 1)

    def set_rate(self) -> None:
        """The rate of the next step."""
        rate = HIGHEST_RATE * (LOWEST_RATE / HIGHEST_RATE) ** self.late
        self.optimizer.param_groups[0]["lr"] = rate

    def gradient(self, batch) -> None:
        """The gradient of the loss of one batch."""
        out = self.model(batch.to_dict(), training=True)
        atoms = batch.ptr[1:] - batch.ptr[:-1]
        energy = ((out["energy"] - batch.energy) / atoms).square().mean()
        forces = (out["forces"] - batch.forces).square().mean()
        energy_weight = LATE_ENERGY_WEIGHT if self.late else ENERGY_WEIGHT
        loss = energy_weight * energy + FORCE_WEIGHT * forces

        self.optimizer.zero_grad()
        loss.backward()

    def errors_of(self, loader) -> dict[str, float]:
        """Errors of the averaged weights."""
        return errors(self.average.module, loader)

    def validation_is_due(self) -> bool:
        """Whether a mark has been passed since the last validation, or the time is spent."""
        return self.spent >= self.budget or bool(self.marks and self.spent >= self.marks[0])

    def validate(self, loader) -> dict[str, float]:
        """Errors of the averaged weights, kept in the curve."""
        self.marks = self.marks[1:]
        found = self.errors_of(loader)
        self.curve.append({"minutes": self.spent / 60, "step": self.step, **found})
        return found

    def fit(self, sets: Sets) -> None:
        """Train until the time is spent."""
        bar = tqdm(total=round(self.budget), unit="s", desc="mace")
        while self.spent < self.budget:
            for batch in sets.loaders["train"]:
                self.train_step(batch)
                bar.update(round(self.spent) - bar.n)
                if self.validation_is_due():
                    found = self.validate(sets.loaders["val"])
                    text = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
                    bar.set_postfix_str(f"validation {text}")
                if self.spent >= self.budget:
                    break
        bar.close()


def main():
    """Train, and write the curve and the test errors."""
    options = read_options()
    torch.set_num_threads(1)
    tools.set_seeds(options.seed)
    sets = Sets(Path(options.folder), options.batch_size)
    model = build(sets, options)
    run = Run(model, options.minutes)
    run.fit(sets)

    write_report(run, options, run.errors_of(sets.loaders["test"]))


def write_report(run: Run, options, test: dict[str, float]) -> None:
    """Write what a run has found to the file ``options.json``; test: its errors of that split."""
    report = {
        "program": "mace-torch",
        "weights": sum(weight.numel() for weight in run.model.parameters()),
        "options": vars(options),
        "curve": run.curve,
        "steps": run.step,
        "minutes": run.spent / 60,
        "test": test,
    }
    Path(options.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
