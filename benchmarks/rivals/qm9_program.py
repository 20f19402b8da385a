"""PaiNN (or SchNet) of schnetpack on a folder of preprocess_qm9; run by ``compare_qm9.py`` with the
python of an environment of its own.

    python benchmarks/rivals/qm9_program.py FOLDER --minutes 60 --json painn.json

Imports nothing of this repository. One representation for all targets, with a head of schnetpack
for each: sums of atomic numbers for extensive targets, their averages for intensive ones, latent
charges and atomic dipoles for mu. Labels are normalised by the training split: a linear fit on the
counts of the elements and the deviation from it for extensive targets, mean and deviation for
intensive ones. The loss is the mean absolute error of the normalised labels; AdamW, a warm-up, a
rate that falls as a cosine over the CPU time, and an average of the weights, which is what is
validated. Checkpoints are chosen by the validation error, the test split is read once. The clock
counts batches and steps, not the validations. Neighbours are listed once, before. A run that was
stopped goes on where it last validated.
"""

import argparse
import copy
import json
import math
import os
import time
import typing
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.utils.data.dataloader as torch_loader  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

if not hasattr(torch_loader, "T_co"):
    torch_loader.T_co = typing.TypeVar(
        "T_co", covariant=True
    )  # schnetpack 2.1.1 imports a name that torch has given up
import schnetpack.atomistic as heads  # noqa: E402
import schnetpack.nn as parts  # noqa: E402
import schnetpack.properties as keys  # noqa: E402
import schnetpack.representation as representations  # noqa: E402

EXTENSIVE = ("alpha", "zpve", "U0", "U", "H", "G", "Cv", "U0_atom", "U_atom", "H_atom", "G_atom")
INTENSIVE = ("homo", "lumo", "gap")
MEV = (
    *INTENSIVE,
    *(name for name in EXTENSIVE if name not in ("alpha", "Cv")),
)  # kept in eV, shown in meV
REPRESENTATIONS = {"painn": representations.PaiNN, "schnet": representations.SchNet}
PARTS = ("train", "val", "test")


class Molecules:
    """All molecules with their neighbours and normalised labels in memory.

    Arguments
        folder    holds molecules.npz (ends of molecules from ``counts``) and split.npz
        targets   names of the labels
        cutoff    Angstrom
    """

    def __init__(self, folder: Path, targets: list[str], cutoff: float):
        with np.load(folder / "split.npz", allow_pickle=False) as file:
            self.split = {name: file[name] for name in PARTS}
        with np.load(folder / "molecules.npz", allow_pickle=False) as file:
            self.numbers, self.positions, self.counts = (
                file["atomic_numbers"],
                file["positions"].astype(np.float64),
                file["counts"],
            )
            values = {name: file[f"extra_{name}"].astype(np.float64) for name in targets}
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.references, self.scales = {}, {}
        for name in targets:
            self.references[name], self.scales[name] = self._normalisation(name, values[name])
        self.labels = {
            name: ((values[name] - self.references[name]) / self.scales[name]).astype(np.float32)
            for name in targets
        }
        self.neighbours, self.vectors, self.edge_first = self._neighbours(cutoff)

    def _normalisation(self, name: str, values: np.ndarray) -> tuple[np.ndarray, float]:
        """Reference of every molecule (molecules,) and the scale, both from the training split."""
        train = self.split["train"]
        if name in EXTENSIVE:
            species = np.unique(self.numbers)
            design = np.stack(
                [np.add.reduceat(self.numbers == z, self.first[:-1]) for z in species], 1
            ).astype(np.float64)
            reference = design @ np.linalg.lstsq(design[train], values[train], rcond=None)[0]
        elif name in INTENSIVE:
            reference = np.full(len(values), values[train].mean())
        else:
            reference = np.zeros(len(values))  # the length of a dipole
        return reference, float((values - reference)[train].std())

    def _neighbours(self, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs (edges, 2) of centre and neighbour inside their molecule, vectors (edges, 3)
        between them, first edge of each molecule.
        """
        pairs, vectors, counts = [], [], np.zeros(len(self.counts), np.int64)
        for molecule, count in enumerate(tqdm(self.counts, desc="neighbours", mininterval=1)):
            own = self.positions[self.first[molecule] : self.first[molecule] + count]
            between = own[None, :] - own[:, None]  # [i, j] points from i to j
            squared = np.einsum("ijk,ijk->ij", between, between)
            np.fill_diagonal(squared, np.inf)
            centre, neighbour = np.nonzero(squared < cutoff**2)
            pairs.append(np.stack([centre, neighbour], 1).astype(np.int16))
            vectors.append(between[centre, neighbour].astype(np.float32))
            counts[molecule] = len(centre)
        return (
            np.concatenate(pairs),
            np.concatenate(vectors),
            np.concatenate([[0], np.cumsum(counts)]),
        )

    def batch(self, chosen: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """schnetpack's dictionary of inputs, and the labels, of the chosen molecules."""
        atoms, of_atom, counts = _rows(self.first, chosen)
        edges, of_edge, _ = _rows(self.edge_first, chosen)
        start = (np.cumsum(counts) - counts)[of_edge]
        positions = self.positions[atoms]
        centres = np.add.reduceat(positions, np.cumsum(counts) - counts) / counts[:, None]
        pairs = self.neighbours[edges].astype(np.int64) + start[:, None]
        inputs = {
            keys.Z: torch.from_numpy(self.numbers[atoms].astype(np.int64)),
            keys.idx_m: torch.from_numpy(of_atom),
            keys.R: torch.from_numpy((positions - centres[of_atom]).astype(np.float32)),
            keys.n_atoms: torch.from_numpy(counts),
            keys.Rij: torch.from_numpy(self.vectors[edges]),
            keys.idx_i: torch.from_numpy(pairs[:, 0].copy()),
            keys.idx_j: torch.from_numpy(pairs[:, 1].copy()),
        }
        return inputs, {
            name: torch.from_numpy(values[chosen]) for name, values in self.labels.items()
        }


def _rows(first: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the chosen molecules, the place in ``chosen`` of each row, and how many each has."""
    counts = first[chosen + 1] - first[chosen]
    place = np.repeat(np.arange(len(chosen)), counts)
    return (
        np.arange(counts.sum()) + (first[chosen] - (np.cumsum(counts) - counts))[place],
        place,
        counts,
    )


class Network(nn.Module):
    """A representation of schnetpack with one of its heads for each target; all outputs
    normalised.
    """

    def __init__(self, targets: list[str], options):
        super().__init__()
        radial = parts.GaussianRBF(n_rbf=options.radial, cutoff=options.cutoff)
        self.representation = REPRESENTATIONS[options.representation](
            n_atom_basis=options.features,
            n_interactions=options.layers,
            radial_basis=radial,
            cutoff_fn=parts.CosineCutoff(options.cutoff),
        )
        vectors = options.representation == "painn"
        self.heads = nn.ModuleList()
        for name in targets:
            if name == "mu":
                head = heads.DipoleMoment(
                    options.features,
                    predict_magnitude=True,
                    dipole_key=name,
                    use_vector_representation=vectors,
                )
            else:
                head = heads.Atomwise(
                    options.features,
                    aggregation_mode="sum" if name in EXTENSIVE else "avg",
                    output_key=name,
                )
            self.heads.append(head)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``inputs`` with the entry of each target added."""
        inputs = self.representation(inputs)
        for head in self.heads:
            inputs = head(inputs)
        return inputs


class Run:
    """Network, average of its weights, optimiser and what was found so far; kept in a file so that
    a stopped run goes on.
    """

    def __init__(self, data: Molecules, targets: list[str], options):
        torch.manual_seed(options.seed)
        self.data, self.targets, self.options = data, targets, options
        self.model = Network(targets, options)
        self.average = copy.deepcopy(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True
        )
        self.spent, self.step, self.epoch, self.curve, self.best, self.best_weights = (
            0.0,
            0,
            0,
            [],
            math.inf,
            None,
        )
        self.file = Path(options.json).with_suffix(".state.pt")

    def rate(self) -> float:
        """Learning rate after ``spent`` CPU seconds: linear up in the first steps, then a cosine
        down to a hundredth.
        """
        done = min(1.0, self.spent / (60 * self.options.minutes))
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        return self.options.lr * fall * min(1.0, (self.step + 1) / self.options.warm_up)

    def train_step(self, chosen: np.ndarray):
        """One step on the chosen molecules."""
        start = time.process_time()
        inputs, labels = self.data.batch(chosen)
        self.optimizer.param_groups[0]["lr"] = self.rate()
        out = self.model(inputs)
        error = nn.functional.mse_loss if self.options.loss == "mse" else nn.functional.l1_loss
        loss = sum(error(out[name], labels[name]) for name in self.targets) / len(self.targets)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self.optimizer.step()
        decay = min(self.options.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )
        self.spent, self.step = self.spent + time.process_time() - start, self.step + 1

    def epoch_of_training(self, bar: tqdm):
        """All training molecules once in an order that seed and epoch determine, or until the time
        is spent.
        """
        train = np.random.default_rng((self.options.seed, self.epoch)).permutation(
            self.data.split["train"]
        )
        for begin in range(0, len(train), self.options.batch_size):
            self.train_step(train[begin : begin + self.options.batch_size])
            bar.update(round(self.spent) - bar.n)
            if self.spent >= 60 * self.options.minutes:
                break
        self.epoch += 1

    def errors(self, part: str) -> dict[str, float]:
        """Mean absolute errors of the averaged weights on a split, in normalised units."""
        sums, chosen = dict.fromkeys(self.targets, 0.0), self.data.split[part]
        with torch.no_grad():
            for begin in range(0, len(chosen), 50):
                inputs, labels = self.data.batch(chosen[begin : begin + 50])
                out = self.average(inputs)
                for name in self.targets:
                    sums[name] += float((out[name] - labels[name]).abs().sum(dtype=torch.float64))
        return {name: total / len(chosen) for name, total in sums.items()}

    def in_units(self, errors: dict[str, float]) -> dict[str, float]:
        """Errors in the units of tables."""
        return {
            name: error * self.data.scales[name] * (1e3 if name in MEV else 1.0)
            for name, error in errors.items()
        }

    def validate(self):
        """Read the validation split, keep the best weights, and save the run."""
        found = self.errors("val")
        mean = sum(found.values()) / len(found)
        self.curve.append(
            {
                "minutes": self.spent / 60,
                "step": self.step,
                "selection": mean,
                "errors": self.in_units(found),
            }
        )
        if mean < self.best:
            self.best, self.best_weights = mean, copy.deepcopy(self.average.state_dict())
        torch.save(self.state(), self.file.with_suffix(".new"))
        os.replace(self.file.with_suffix(".new"), self.file)

    def state(self) -> dict:
        """What a stopped run needs."""
        modules = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        numbers = {
            name: getattr(self, name)
            for name in ("spent", "step", "epoch", "curve", "best", "best_weights")
        }
        return {"options": vars(self.options), "modules": modules, "numbers": numbers}

    def restore(self):
        """Go on from the file; ``ValueError`` if it is of other settings."""
        content = torch.load(self.file, weights_only=False)
        changed = [
            name
            for name, value in vars(self.options).items()
            if name != "json" and content["options"][name] != value
        ]
        if changed:
            raise ValueError(
                f"{self.file} is of a run with other settings of {', '.join(changed)}; remove it "
                "or give another --json"
            )
        for name, weights in content["modules"].items():
            getattr(self, name).load_state_dict(weights)
        for name, value in content["numbers"].items():
            setattr(self, name, value)

    def fit(self):
        """Train until the time is spent."""
        if self.file.exists():
            self.restore()
        bar = tqdm(
            total=round(60 * self.options.minutes),
            initial=round(self.spent),
            unit="s",
            desc=self.options.representation,
        )
        while self.spent < 60 * self.options.minutes:
            self.epoch_of_training(bar)
            self.validate()
            bar.set_postfix_str(
                f"epoch {self.epoch} "
                + " ".join(f"{k} {v:.3g}" for k, v in self.curve[-1]["errors"].items())
            )
        bar.close()

    def report(self) -> dict:
        """What the json file holds; the test split is read here, with the weights that validated
        best.
        """
        self.average.load_state_dict(self.best_weights)
        weights = sum(w.numel() for w in self.model.parameters())
        report = {
            "program": "schnetpack",
            "options": vars(self.options),
            "weights": weights,
            "steps": self.step,
            "epochs": self.epoch,
        }
        return report | {
            "minutes": self.spent / 60,
            "curve": self.curve,
            "test": self.in_units(self.errors("test")),
        }


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--targets", default="alpha,homo,gap,mu,U0,Cv")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--representation", choices=list(REPRESENTATIONS), default="painn")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--radial", type=int, default=20)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--clip-norm", type=float, default=10.0)
    parser.add_argument("--warm-up", type=int, default=500, help="steps")
    parser.add_argument(
        "--average", type=float, default=0.999, help="decay of the average of the weights"
    )
    parser.add_argument("--loss", choices=("l1", "mse"), default="l1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    unknown = [
        name for name in options.targets.split(",") if name not in (*EXTENSIVE, *INTENSIVE, "mu")
    ]
    if unknown:
        parser.error(
            f"--targets must be of {', '.join((*EXTENSIVE, *INTENSIVE, 'mu'))}, got "
            f"{', '.join(unknown)}"
        )
    return options


def main():
    """Train, and write the curve and the test errors."""
    options = read_options()
    torch.set_num_threads(1)
    targets = options.targets.split(",")
    run = Run(Molecules(Path(options.folder), targets, options.cutoff), targets, options)
    run.fit()
    Path(options.json).write_text(json.dumps(run.report(), indent=1))


if __name__ == "__main__":
    main()
