"""PaiNN (or SchNet) of schnetpack on a folder of preprocess_qm9; run by ``compare_qm9.py``.

    .venv-spk/bin/python benchmarks/rivals/qm9_program.py FOLDER --minutes 60 --json painn.json

Imports nothing of farfield: its python has schnetpack alone. One representation serves all targets,
with a head of schnetpack for each: sums of atomic values for extensive targets, their averages for
intensive ones, latent charges and atomic dipoles for mu.

The loss is the mean absolute error of the normalised labels (``qm9_molecules.py``). The optimiser
is AdamW with a warm-up and a rate that falls as a cosine over the CPU time. An average of the
weights is validated; the best validation error chooses the checkpoint, and the test split is read
once. The clock counts batches and steps, not the validations. A run that was stopped goes on where
it last validated.
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

os.environ.setdefault("OMP_NUM_THREADS", "1")  # libraries read it once, when they are loaded
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.utils.data.dataloader as torch_loader  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

if not hasattr(torch_loader, "T_co"):  # schnetpack 2.1.1 imports a name that torch has given up
    torch_loader.T_co = typing.TypeVar("T_co", covariant=True)
import schnetpack.atomistic as heads  # noqa: E402
import schnetpack.nn as parts  # noqa: E402
import schnetpack.representation as representations  # noqa: E402
from qm9_molecules import EXTENSIVE, INTENSIVE, TARGETS, Molecules  # noqa: E402

# Targets that are kept in eV and shown in meV.
IN_MEV = (*INTENSIVE, *(name for name in EXTENSIVE if name not in ("alpha", "Cv")))
REPRESENTATIONS = {"painn": representations.PaiNN, "schnet": representations.SchNet}
EVALUATION_MOLECULES = 50  # in a batch of an evaluation


class Network(nn.Module):
    """A representation of schnetpack with one of its heads for each target, outputs normalised."""

    def __init__(self, targets: list[str], options):
        super().__init__()
        radial = parts.GaussianRBF(n_rbf=options.radial, cutoff=options.cutoff)
        self.representation = REPRESENTATIONS[options.representation](
            n_atom_basis=options.features,
            n_interactions=options.layers,
            radial_basis=radial,
            cutoff_fn=parts.CosineCutoff(options.cutoff),
        )

        # PaiNN has vectors, of which a dipole is made; SchNet has scalars alone.
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
    """Network, average of its weights, optimiser, and what was found so far.

    All of it is kept in a file, so that a stopped run goes on.
    """

    def __init__(self, data: Molecules, targets: list[str], options):
        torch.manual_seed(options.seed)
        self.data, self.targets, self.options = data, targets, options
        self.model = Network(targets, options)
        self.average = copy.deepcopy(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True
        )

        self.budget = 60 * options.minutes  # CPU seconds
        self.spent = 0.0  # of them
        self.step, self.epoch = 0, 0
        self.curve: list[dict] = []
        self.best, self.best_weights = math.inf, None
        self.file = Path(options.json).with_suffix(".state.pt")

    def rate(self) -> float:
        """Learning rate now: linear up in the first steps, a cosine down to a hundredth."""
        done = min(1.0, self.spent / self.budget)
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

        # The first steps count more in the average while it is young.
        decay = min(self.options.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )
        self.spent += time.process_time() - start
        self.step += 1

    def epoch_of_training(self, bar: tqdm):
        """All training molecules once, or until the time is spent.

        Seed and epoch determine the order.
        """
        generator = np.random.default_rng((self.options.seed, self.epoch))
        train = generator.permutation(self.data.split["train"])
        for begin in range(0, len(train), self.options.batch_size):
            self.train_step(train[begin : begin + self.options.batch_size])
            bar.update(round(self.spent) - bar.n)
            if self.spent >= self.budget:
                break
        self.epoch += 1

    def errors(self, part: str) -> dict[str, float]:
        """Mean absolute errors of the averaged weights on a split, in normalised units."""
        sums, chosen = dict.fromkeys(self.targets, 0.0), self.data.split[part]
        with torch.no_grad():
            for begin in range(0, len(chosen), EVALUATION_MOLECULES):
                inputs, labels = self.data.batch(chosen[begin : begin + EVALUATION_MOLECULES])
                out = self.average(inputs)
                for name in self.targets:
                    sums[name] += float((out[name] - labels[name]).abs().sum(dtype=torch.float64))
        return {name: total / len(chosen) for name, total in sums.items()}

    def in_units(self, errors: dict[str, float]) -> dict[str, float]:
        """Errors in the units of tables."""
        units = {name: 1e3 if name in IN_MEV else 1.0 for name in errors}
        return {
            name: error * self.data.scales[name] * units[name] for name, error in errors.items()
        }

    def validate(self):
        """Read the validation split, keep the best weights, and save the run."""
        found = self.errors("val")
        mean = sum(found.values()) / len(found)
        row = {
            "minutes": self.spent / 60,
            "step": self.step,
            "selection": mean,
            "errors": self.in_units(found),
        }
        self.curve.append(row)
        if mean < self.best:
            self.best = mean
            self.best_weights = copy.deepcopy(self.average.state_dict())

        # The old file stays whole until the new one is.
        torch.save(self.state(), self.file.with_suffix(".new"))
        os.replace(self.file.with_suffix(".new"), self.file)

    def state(self) -> dict:
        """What a stopped run needs."""
        modules = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        names = ("spent", "step", "epoch", "curve", "best", "best_weights")
        progress = {name: getattr(self, name) for name in names}
        return {"options": self._plain_options(), "modules": modules, "progress": progress}

    def _plain_options(self) -> dict:
        """The options without objects that a safe reader refuses."""
        kept = (bool, int, float, str, type(None))
        options = vars(self.options).items()
        return {name: value if isinstance(value, kept) else str(value) for name, value in options}

    def restore(self):
        """Go on from the file; ValueError if its settings are different."""
        content = torch.load(self.file, weights_only=True)
        changed = [
            name
            for name, value in self._plain_options().items()
            if name != "json" and content["options"][name] != value
        ]
        if changed:
            raise ValueError(
                f"{self.file} is of a run with other settings of {', '.join(changed)}; remove it "
                "or give another --json"
            )

        for name, weights in content["modules"].items():
            getattr(self, name).load_state_dict(weights)
        for name, value in content["progress"].items():
            setattr(self, name, value)

    def fit(self):
        """Train until the time is spent."""
        if self.file.exists():
            self.restore()
        bar = tqdm(
            total=round(self.budget),
            initial=round(self.spent),
            unit="s",
            desc=self.options.representation,
        )

        # The bar shows CPU seconds; every epoch ends with a validation.
        while self.spent < self.budget:
            self.epoch_of_training(bar)
            self.validate()
            errors = self.curve[-1]["errors"]
            shown = " ".join(f"{name} {error:.3g}" for name, error in errors.items())
            bar.set_postfix_str(f"epoch {self.epoch} {shown}")
        bar.close()

    def report(self) -> dict:
        """What the json file holds; the best weights are read on the test split here."""
        self.average.load_state_dict(self.best_weights)
        return {
            "program": "schnetpack",
            "options": vars(self.options),
            "weights": sum(weight.numel() for weight in self.model.parameters()),
            "steps": self.step,
            "epochs": self.epoch,
            "minutes": self.spent / 60,
            "curve": self.curve,
            "test": self.in_units(self.errors("test")),
        }


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", help="folder made by preprocess_qm9")
    add("--targets", default="alpha,homo,gap,mu,U0,Cv", help="targets, with commas between")
    add("--minutes", type=float, default=60.0, help="CPU minutes of training")
    add("--json", required=True, help="file for the curve and the test errors")
    add("--seed", type=int, default=0, help="seed of weights and batches")

    # The network.
    add("--representation", choices=list(REPRESENTATIONS), default="painn")
    add("--features", type=int, default=64, help="features of an atom")
    add("--layers", type=int, default=3, help="interactions")
    add("--radial", type=int, default=20, help="radial basis functions")
    add("--cutoff", type=float, default=5.0, help="reach of the edges, Angstrom")

    # The training.
    add("--batch-size", type=int, default=16, help="molecules in a batch")
    add("--lr", type=float, default=2e-3, help="highest learning rate")
    add("--weight-decay", type=float, default=0.01, help="weight decay of AdamW")
    add("--clip-norm", type=float, default=10.0, help="largest norm of a gradient")
    add("--warm-up", type=int, default=500, help="steps in which the rate rises")
    add("--average", type=float, default=0.999, help="decay of the average of the weights")
    add("--loss", choices=("l1", "mse"), default="l1", help="loss of the normalised labels")

    options = parser.parse_args()
    unknown = [name for name in options.targets.split(",") if name not in TARGETS]
    if unknown:
        parser.error(f"--targets must be of {', '.join(TARGETS)}, got {', '.join(unknown)}")
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
