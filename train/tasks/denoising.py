"""Denoising of protein backbones: noised atoms in, the way back to the clean ones out.

    loss = mean over atoms and coordinates of (predicted - true displacement)^2 / noise^2

so a network that does nothing has the loss 1. Data, noise and graphs: datasets/backbone_data.py.
Judged by the rmsd of all atoms of a chain between denoised and clean positions: as they lie (the
main error), and after the best superposition. Row ``noised``: the rmsd before, on the same noise.
Selection: mean rmsd of the validation split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.command_line import OptionParser
from farfield.common.quantities import counted
from farfield.common.task_registry import TASKS
from farfield.dataloader.datasets.backbone_data import (
    ADJACENCIES,
    BackboneDataset,
    DenoisingRule,
)
from farfield.dataloader.datasets.epoch_draws import EpochPlan
from farfield.dataloader.split_protocols import SPLITS
from farfield.models.network import DENOISING
from farfield.train.data_order import EpochLoader, ordered_batches
from farfield.train.split_checks import try_structures
from farfield.train.tasks.chain_errors import chain_rmsd, superposed_rmsd
from farfield.train.tasks.task import Evaluation, Parts, Task

NOISED = "noised"  # row of the table: nothing is done
OF_GRAPHS = ("cutoff", "max_hops")  # options of graphs that a network may have itself


@TASKS.register("denoising")
class DenoisingTask(Task):
    """Loss, errors and table of denoised backbones.

    noise: standard deviation of each coordinate, Angstrom.
    """

    predicts = DENOISING
    default_network = "equiformer_denoiser"
    batch_size_help = "chains per batch"
    max_evaluation_atoms = 2048
    training_defaults = {
        "epochs": 50,
        "batch_size": 2,
        "lr": 3e-3,
        "min_lr": 0.0,
        "ema_decay": 0.99,
    }

    curves = ("rmsd", "superposed_rmsd")
    training_curves = {"rmsd": ("rmsd", 1.0)}
    units = dict.fromkeys(
        ("rmsd", "rmsd_median", "superposed_rmsd", "superposed_rmsd_median", "displacement"), "A"
    )

    def __init__(self, noise: float):
        self.noise = noise

    # ---- before a run

    @classmethod
    def add_options(cls, parser: OptionParser) -> None:
        """Data, noise and graphs; options of graphs that the network has are read from it."""
        data = parser.section("data", "what is learned from")
        folder = "folder made by preprocess_backbones"
        data.add("--data-path", str, "data/backbones", main=True, help=folder)
        noise = "standard deviation of the noise of each coordinate, Angstrom"
        data.add("--noise", float, DenoisingRule.noise, above=0, main=True, help=noise)
        most = "residues of a training chain; of longer chains a stretch is drawn in every epoch"
        data.add("--max-residues", int, DenoisingRule.max_residues, low=2, help=most)

        # graphs
        adjacency = "chain: bonded pairs up to --max-hops are edges, whatever their distance"
        data.add(
            "--adjacency",
            str,
            DenoisingRule.adjacency,
            choices=ADJACENCIES,
            main=True,
            help=adjacency,
        )
        of_network = parser.sections["model"].options
        if "cutoff" not in of_network:
            cutoff = "largest distance of two noised atoms with an edge, Angstrom"
            data.add("--cutoff", float, DenoisingRule.cutoff, above=0, main=True, help=cutoff)
        if "max_hops" not in of_network:
            hops = "largest number of covalent bonds that an edge is told"
            data.add("--max-hops", int, DenoisingRule.max_hops, low=1, high=64, help=hops)

    @classmethod
    def build(cls, config) -> Parts:
        """Network, task and data."""
        model = cls.restore(config)
        loaders = {
            split: split_loader(config, split, training=split == "train") for split in SPLITS
        }
        for split, loader in loaders.items():
            try_structures(model, split, loader.dataset)
        return Parts(model, cls(config.data.noise), **loaders)

    @classmethod
    def evaluation(cls, config, split: str, model: nn.Module) -> tuple[Task, EpochLoader]:
        """The task, and the whole chains of a split with their fixed noise."""
        return cls(config.data.noise), split_loader(config, split)

    # ---- of a run

    def describe(self, config, parts: Parts) -> list[str]:
        """Chains of each split, noise and graphs."""
        lines = []
        for split, loader in parts.loaders().items():
            residues = loader.dataset.residues_per_structure
            sizes = f"{residues.min()} to {residues.max()} residues"
            batches = counted(len(loader), "batch", "batches")
            lines.append(f"{split}: {len(residues)} chains of {sizes}, {batches}")
        rule = parts.train.dataset.rule
        bonds = f" and up to {rule.max_hops} bonds" if rule.adjacency == "chain" else ""
        lines.append(f"noise {rule.noise} A; edges within {rule.cutoff} A{bonds}")
        return lines

    def samples(self, batch) -> int:
        """Atoms: the loss is a mean over them."""
        return batch.num_nodes

    def loss(self, model: nn.Module, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the displacement in units of the noise, and the rmsd, Angstrom."""
        residual = model(batch)["displacement"] - batch.labels["displacement"]
        rmsd = chain_rmsd(residual.detach(), batch.graph).mean()
        return (residual / self.noise).square().mean(), {"rmsd": rmsd}

    def evaluate(self, model: nn.Module, batches: Iterable) -> Evaluation:
        """Rmsd over all chains, of the model and of the noised chains as they are."""
        errors: dict[str, list[dict[str, Tensor]]] = {"model": [], NOISED: []}
        found, true = [], []
        for batch in batches:
            prediction, target = model(batch)["displacement"], batch.labels["displacement"]
            for row, moved in (("model", prediction), (NOISED, torch.zeros_like(target))):
                errors[row].append(errors_of_chains(batch, moved))
            found.append(prediction.float().cpu().numpy())
            true.append(target.float().cpu().numpy())

        metrics = {row: mean_and_median(chunks) for row, chunks in errors.items()}
        pairs = {"displacement": (np.concatenate(found), np.concatenate(true))}
        return Evaluation(metrics["model"], {NOISED: metrics[NOISED]}, pairs)

    def selection(self, evaluation: Evaluation) -> float:
        """Mean rmsd after denoising."""
        return evaluation.metrics["rmsd"]


def graph_settings(config) -> Mapping[str, float]:
    """Cutoff and largest number of bonds, of the network where it has such options.

    ``ValueError`` for a network whose cutoff nobody gave.
    """
    found = {}
    for name in OF_GRAPHS:
        section = config.model if name in config.model else config.data
        if section[name] is None:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"graphs of backbones need {flag}, got none; give a number")
        found[name] = section[name]
    return found


def split_loader(config, split: str, training: bool = False) -> EpochLoader:
    """Batches of a split: shuffled training chains, or all whole chains in order."""
    data, run = config.data, config.run
    rule = DenoisingRule(
        noise=data.noise,
        adjacency=data.adjacency,
        max_residues=data.max_residues,
        **graph_settings(config),
    )
    dataset = BackboneDataset.open(data.data_path, split, rule, run.seed)
    if not training:
        return ordered_batches(dataset, DenoisingTask.max_evaluation_atoms)
    plan = EpochPlan(dataset, batch_size=config.training.batch_size, seed=run.seed)
    return EpochLoader(dataset, plan, run.workers, run.seed)


def errors_of_chains(batch, displacement: Tensor) -> dict[str, Tensor]:
    """Both rmsd (graphs,) of the noised chains of a batch moved by ``displacement`` (nodes, 3)."""
    clean = batch.positions + batch.labels["displacement"]
    moved = batch.positions + displacement
    return {
        "rmsd": chain_rmsd(displacement - batch.labels["displacement"], batch.graph),
        "superposed_rmsd": superposed_rmsd(moved, clean, batch.graph),
    }


def mean_and_median(chunks: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean and median over all chains of the errors of several batches."""
    found = {}
    for name in chunks[0]:
        values = torch.cat([chunk[name] for chunk in chunks]).cpu().numpy()
        found[name] = float(values.mean())
        found[f"{name}_median"] = float(np.median(values))
    return found
