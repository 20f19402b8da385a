"""Diffusion of molecules: noised atoms in, their noise and the time they have come to out.

    noise    loss = mean over atoms and coordinates of (eps^(x_t, t) - eps)^2
    time     loss = mean over atoms of (t^_i(x_t) - t)^2
    joint    loss = 0.9 noise + 0.1 time, with the noise found for the predicted time, eps^(x_t, t^)

and t in [0, 1]. "noise" trains what the samplers ``ddpm``, ``as`` and ``itp`` read, "time" the time
network of ``as`` and ``itp``, "joint" the network of ``jt``. Data, times and noise:
datasets/diffusion_data.py; errors: diffusion_errors.py. Row ``constant``: no noise, and t = 1/2, on
the same molecules. Selection: loss of the validation split, on times and noise that are fixed.

Sources: Ho et al. 2020 (arXiv:2006.11239), Kahouli et al. 2024, MoreRed (arXiv:2404.10935).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.command_line import OptionParser
from farfield.common.precision import TRAINING_PRECISIONS
from farfield.common.quantities import counted
from farfield.common.task_registry import TASKS
from farfield.common.trained import diffusion_process, network_options
from farfield.dataloader.datasets.diffusion_data import DiffusionDataset, open_structures
from farfield.dataloader.datasets.epoch_draws import EpochPlan
from farfield.dataloader.datasets.molecule_sizes import MoleculeSizes
from farfield.dataloader.label_statistics import centroids
from farfield.dataloader.split_protocols import SPLITS
from farfield.models.diffusion.process import ProcessOptions
from farfield.models.diffusion.schedules import SCHEDULES as NOISE_SCHEDULES
from farfield.models.factory import build_model
from farfield.models.layers.conditioning import parse_inputs
from farfield.models.network import DIFFUSION
from farfield.train.data_order import EpochLoader, ordered_batches, shuffled_batches
from farfield.train.molecule_pictures import draw_molecules
from farfield.train.run_options import add_batch_limits
from farfield.train.split_checks import try_structures
from farfield.train.tasks.diffusion_errors import (
    ErrorSums,
    constant_guess,
    noise_squares,
    time_squares,
    times_of_molecules,
)
from farfield.train.tasks.diffusion_pictures import molecule_pictures
from farfield.train.tasks.task import Evaluation, Parts, Task

# objective -> share of each error in the loss; a network has a head for each
OBJECTIVES = {
    "noise": {"noise": 1.0},
    "time": {"time": 1.0},
    "joint": {"noise": 0.9, "time": 0.1},
}
CONSTANT = "constant"  # row of the table: a guess without looking
SPREAD_OF_NOISE = 5.0  # Angstrom, that hardly an atom of pure noise leaves


@TASKS.register("diffusion")
class DiffusionTask(Task):
    """Loss, errors and table of a diffusion.

    objective: name in ``OBJECTIVES``. ``ValueError`` for another one.
    """

    predicts = DIFFUSION
    default_network = "e2former_diffusion"
    batch_size_help = "molecules per batch"
    max_evaluation_atoms = 1024
    measured_options = frozenset({"avg_degree", "avg_atoms", "far_design_radius"})
    fixed_options = frozenset({"noise_head", "time_head", "detach_time"})  # of the objective

    # published: rate 1e-4 and batches of 128, for days. Here for minutes on a CPU: loss of the
    # validation split after one CPU minute on 4000 molecules of QM9, E2Former, objective joint:
    # batch 32, rate 2e-3: 0.426, 5e-3: 0.398; batch 16, 5e-3: 0.384, 1e-2: 0.374; an average with
    # decay 0.99 instead of 0.999 changes it by 0.002. 5e-3 is kept for longer runs
    training_defaults = {
        "epochs": 100,
        "batch_size": 16,
        "optimizer": "adamw",
        "lr": 5e-3,
        "min_lr": 0.0,
        "clip_norm": 0.5,
        "ema_decay": 0.999,
    }

    def __init__(self, objective: str):
        self.shares = OBJECTIVES[objective]
        self.curves = [f"{name}_mse" for name in self.shares]
        self.training_curves = {f"{name}_mse": (f"{name}_mse", 1.0) for name in self.shares}
        self.training_curves["selection"] = ("loss", 1.0)

    # ---- before a run

    @classmethod
    def add_options(cls, parser: OptionParser) -> None:
        """Molecules, process and objective."""
        data = parser.section("data", "what is learned from")
        folder = "folder made by preprocess_structures, preprocess_qm9, preprocess_qm7x, ..."
        data.add("--data-path", str, "data/qm9", main=True, help=folder)
        atoms = "number of atoms of the molecules, hydrogen included: one, or a range such as 9,18"
        data.add("--atoms", str, None, main=True, help=f"{atoms} (default: any)")
        heavy = "number of atoms but hydrogen: one, or a range such as 5,9 (default: any)"
        data.add("--heavy-atoms", str, None, main=True, help=heavy)
        add_batch_limits(data)

        # the process
        course = "course of the noise from a molecule to pure noise"
        data.add(
            "--noise-schedule",
            str,
            ProcessOptions.schedule,
            choices=list(NOISE_SCHEDULES),
            main=True,
            help=course,
        )
        steps = "number of time steps from a molecule to pure noise"
        data.add("--diffusion-steps", int, ProcessOptions.time_steps, low=2, main=True, help=steps)

        loss = parser.section("loss", "what is minimised")
        learned = "what is learned: the noise at a known time, the time, or both in one network"
        loss.add("--objective", str, "joint", choices=list(OBJECTIVES), main=True, help=learned)
        detach = "joint: keep the gradient of the noise from the predicted time it is found for"
        loss.add("--detach-time", bool, False, help=detach)

    @classmethod
    def measured(cls, values: dict) -> dict:
        """Sizes of the training molecules and of their graphs."""
        structures = open_structures(values["data_path"], "train")
        sizes = MoleculeSizes(values["atoms"], values["heavy_atoms"])
        train = structures[sizes.chosen(structures)]
        counts = train.counts
        about = train.positions - centroids(train)[train.structure_of_atom]
        radius = float(np.linalg.norm(about, axis=1).max())
        found = {
            "avg_atoms": float(counts.mean()),
            "avg_degree": float((counts * (counts - 1)).sum() / counts.sum()) or 1.0,
            "far_design_radius": float(np.hypot(radius, SPREAD_OF_NOISE)),
        }
        return {name: value for name, value in found.items() if name in values}

    @classmethod
    def build(cls, config) -> Parts:
        """Network, task and data."""
        check_objective(config)
        model = cls.restore(config)
        datasets = {split: split_dataset(config, split, model) for split in SPLITS}
        for split, dataset in datasets.items():
            try_structures(model, split, dataset)

        train = shuffled_batches(datasets["train"], config, EpochPlan)
        val, test = (
            ordered_batches(datasets[split], cls.max_evaluation_atoms) for split in ("val", "test")
        )
        return Parts(model, cls(config.loss.objective), train, val, test)

    @classmethod
    def restore(cls, config) -> nn.Module:
        """The network of ``config.model`` with the heads of the objective."""
        learned = OBJECTIVES[config.loss.objective]
        heads = {
            "noise_head": "noise" in learned,
            "time_head": "time" in learned,
            "detach_time": config.loss.detach_time,
        }
        return build_model(network_options(config) | heads)

    @classmethod
    def evaluation(cls, config, split: str, model: nn.Module) -> tuple[Task, EpochLoader]:
        """The task, and the molecules of a split at their fixed times."""
        dataset = split_dataset(config, split, model)
        return cls(config.loss.objective), ordered_batches(dataset, cls.max_evaluation_atoms)

    # ---- of a run

    def describe(self, config, parts: Parts) -> list[str]:
        """Molecules of each split, process and objective."""
        lines = []
        for split, loader in parts.loaders().items():
            atoms = loader.dataset.atoms_per_structure
            least, most = atoms.min(), atoms.max()
            sizes = counted(least, "atom", "atoms") if least == most else f"{least} to {most} atoms"
            molecules = counted(len(atoms), "molecule", "molecules")
            batches = counted(len(loader), "batch", "batches")
            lines.append(f"{split}: {molecules} of {sizes}, {batches}")

        data = config.data
        detached = ", gradient of the noise kept from the time" if config.loss.detach_time else ""
        lines.append(
            f"{data.noise_schedule} noise in {data.diffusion_steps} steps, objective "
            f"{config.loss.objective}{detached}"
        )
        return lines

    def samples(self, batch) -> int:
        """Atoms: the loss is a mean over them."""
        return batch.num_nodes

    def loss(self, model: nn.Module, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the squared errors, and each of them."""
        found = model(batch)
        parts = {}
        if "noise" in self.shares:
            parts["noise_mse"] = noise_squares(found["noise"], batch).mean()
        if "time" in self.shares:
            parts["time_mse"] = time_squares(found["time"], batch).mean()
        return self._weighted(parts), {name: part.detach() for name, part in parts.items()}

    def evaluate(self, model: nn.Module, batches: Iterable) -> Evaluation:
        """Errors over all molecules, of the model and of a constant guess."""
        sums = {"model": ErrorSums(), CONSTANT: ErrorSums()}
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.shares}
        for batch in batches:
            found = model(batch)
            guess = {name: found[name] for name in self.shares}
            sums["model"].add(batch, guess)
            sums[CONSTANT].add(batch, constant_guess(batch, self.shares))

            if "time" in guess:
                guess["time"] = times_of_molecules(guess["time"], batch)
            for name, values in guess.items():
                pairs[name].append((values, batch.labels[name]))

        rows = {row: one.errors() for row, one in sums.items()}
        metrics = {row: {"loss": self._weighted(errors), **errors} for row, errors in rows.items()}
        return Evaluation(
            metrics["model"],
            {CONSTANT: metrics[CONSTANT]},
            {name: (joined(chunks, 0), joined(chunks, 1)) for name, chunks in pairs.items()},
            loss=metrics["model"]["loss"],
        )

    def selection(self, evaluation: Evaluation) -> float:
        """The loss at the fixed times."""
        return evaluation.loss

    def pictures(self, model: nn.Module, dataset, device: torch.device) -> dict[str, object]:
        """A few molecules: clean, noised, and found again by one step."""
        if "noise" not in self.shares:
            return {}
        return {"molecules": draw_molecules(molecule_pictures(model, dataset, device))}

    def _weighted(self, errors: Mapping):
        """The loss of errors by name: numbers for a number, tensors for a tensor."""
        return sum(share * errors[f"{name}_mse"] for name, share in self.shares.items())


def check_objective(config) -> None:
    """``ValueError`` for options that contradict the objective."""
    objective = config.loss.objective
    if config.loss.detach_time and objective != "joint":
        raise ValueError(
            f"--detach-time is for --objective joint, got --objective {objective}; leave it out"
        )
    told = "time" in parse_inputs(config.model.get("condition"))
    if told and "time" in OBJECTIVES[objective]:
        raise ValueError(
            f"--condition tells the network the time that --objective {objective} predicts; leave "
            "time out of --condition, or give --objective noise"
        )


def split_dataset(config, split: str, model: nn.Module) -> DiffusionDataset:
    """A split of the molecules of the run, with the inputs that ``model`` reads."""
    data = config.data
    return DiffusionDataset.open(
        data.data_path,
        split,
        diffusion_process(config),
        config.run.seed,
        sizes=MoleculeSizes(data.atoms, data.heavy_atoms),
        told="time" not in OBJECTIVES[config.loss.objective],
        dtype=TRAINING_PRECISIONS[config.training.precision],
        inputs=model.inputs,
        optional_inputs=model.optional_inputs,
    )


def joined(chunks: list[tuple[Tensor, Tensor]], place: int) -> np.ndarray:
    """Predictions (place 0) or labels (place 1) of all batches."""
    return torch.cat([chunk[place].detach().float() for chunk in chunks]).cpu().numpy()
