"""The energy and force task: total energies, forces and, where there are any, stresses, partial
charges and dipoles of structures of any sizes.

A network learns the residual energy, E less the reference energies of its atoms, so that float32
loses nothing. Errors: ``energy_force_errors.py``. Baseline "mean energy, zero forces": the
reference energies alone, no forces. Cost of a pass over a split: one evaluation of the network a
structure.

The best checkpoint has the smallest loss over the whole validation split, with the weights of the
start. (An energy is a sum over atoms: on few frames of a large molecule the errors of all frames
move together from epoch to epoch, and selecting by energy_mae would pick an early, lucky epoch.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.command_line import OptionParser
from farfield.common.quantities import counted
from farfield.common.task_registry import TASKS
from farfield.dataloader.datasets.potential_sets import cutoff_of_sets, statistics_of_all
from farfield.dataloader.set_names import parse_sets
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.structures import LABELS_OF_CHARGE
from farfield.models.compiled.library import source_checksum
from farfield.models.compiled.training_program import Objective
from farfield.models.heads.per_set import SET_INDEX
from farfield.models.potential import volumes
from farfield.train.data_order import EpochLoader
from farfield.train.losses import StructureLoss
from farfield.train.network_options import check_layers
from farfield.train.split_checks import try_structures
from farfield.train.tasks.energy_force_checks import check_charges, stress_weight
from farfield.train.tasks.energy_force_data import (
    average_atoms,
    heads_of_sets,
    references_of,
    set_references_of_sets,
    split_loader,
)
from farfield.train.tasks.energy_force_defaults import options_from_data
from farfield.train.tasks.energy_force_errors import (
    ENERGY_UNITS,
    EXPERTS,
    MEV,
    OFFSETS,
    OTHER_UNITS,
    PARTS,
    element_counts,
    errors_of,
    expert_loads,
    is_an_energy,
    measure,
    metric_units,
    of_set,
)
from farfield.train.tasks.energy_force_options import add_data_options, add_loss_options
from farfield.train.tasks.near_far_comparison import comparison_plan
from farfield.train.tasks.task import Evaluation, Parts, Plan, Task

BASELINE = "mean energy, zero forces"


@dataclass(frozen=True)
class LateWeights:
    """After the fraction ``start`` of the run the energy weight is multiplied by ``factor``."""

    start: float = 1.0
    factor: float = 1.0

    def factors(self, progress: float) -> dict[str, float]:
        """Factors of the weights at ``progress``."""
        return {"energy": self.factor} if progress >= self.start else {}


@TASKS.register("energy_forces")
class EnergyForceTask(Task):
    """Loss, errors and table of energies, forces, stresses, charges and dipoles.

    Arguments
        loss           `StructureLoss`; its parts decide what is learned
        late           change of the energy weight late in the run
        energy_offset  name in `OFFSETS`: what the energy errors of an evaluation may be shifted by
        set_names      of the sets of a batch, for their rows in the table
    """

    predicts = "potential"
    default_network = "e2former"
    measured_options = frozenset(
        {
            "avg_degree",
            "avg_atoms",
            "far_design_radius",
            "cutoff",
            "stress",
            "element_start",
            "energy_heads",
        }
    )
    batch_size_help = "structures per batch, or as many as the atom/edge limit allows"
    evaluation_options = {"energy_offset": tuple(OFFSETS)}

    # found on MD17 ethanol (950 frames, 3 CPU minutes of one thread, near field alone): validation
    # force error in meV/Angstrom with batches of 3: 18.8, 5: 16.5 (rate 0.01: 17.3), 8: 14.7
    training_defaults = {
        "epochs": 300,
        "batch_size": None,
        "optimizer": "adam",
        "lr": 5e-3,
        "min_lr": 0.0,
        "warmup_steps": 100,
        "clip_norm": 10.0,
        "ema_decay": 0.99,
    }

    def __init__(
        self,
        loss: StructureLoss,
        late: LateWeights,
        energy_offset: str = "none",
        set_names: Sequence[str] = (),
    ):
        self.objective, self.late, self.energy_offset = loss, late, energy_offset
        self.set_names = list(set_names)
        self.curves = [part.curve for name, part in PARTS.items() if name in loss.weights]
        self.training_curves = _training_curves(loss)
        self.units = {part.quantity: part.unit for part in PARTS.values()}
        self.units |= metric_units("meV")

    # ---- before a run

    @classmethod
    def add_options(cls, parser: OptionParser) -> None:
        """Options of the data, the loss and the comparison of near and far field."""
        parser.section("run", "").add(
            "--compare",
            bool,
            False,
            help="train the near field alone as well, in near/ and near+far/, one table",
        )
        add_data_options(parser)
        add_loss_options(parser)

    @classmethod
    def presets(cls, values: dict) -> dict:
        """The cutoff of the graphs."""
        return {"cutoff": cutoff_of_sets(values["data_path"])}

    @classmethod
    def measured(cls, values: dict) -> dict:
        """What the training split says: its neighbours, sizes, labels and batch size."""
        path = values["data_path"]
        heads = heads_of_sets(path, values["heads_per_set"])
        return options_from_data(statistics_of_all(path), values) | heads

    @classmethod
    def build(cls, config) -> Parts:
        """Network with the references of the training split, task and data."""
        check_layers(config.model)
        model, task = cls.restore(config), build_task(config)
        model.check_slope()
        set_references_of_sets(model, config.data.data_path)
        if config.run.get("recompute", False):
            model.network.recompute_parts()

        loaders = {
            split: split_loader(
                config,
                split,
                references_of(model),
                training=split == "train",
                optional_inputs=model.optional_inputs,
            )
            for split in SPLITS
        }
        learned = {split: loaders[split].dataset for split in ("train", "val")}
        check_charges(config, task.objective.weights, model, learned)
        for split, loader in loaders.items():
            try_structures(model, split, loader.dataset)
        return Parts(model, task, **loaders)

    @classmethod
    def plan(cls, config) -> Plan | None:
        """``--compare``: near field alone, and with the far field."""
        return comparison_plan(config) if config.run.compare else None

    @classmethod
    def evaluation(
        cls, config, split: str, model: nn.Module, energy_offset: str = "none"
    ) -> tuple[Task, EpochLoader]:
        """The task and a split in order; energies less the references of the trained ``model``."""
        task = build_task(config, energy_offset)
        optional = model.optional_inputs
        return task, split_loader(config, split, references_of(model), optional_inputs=optional)

    # ---- of a run

    def describe(self, config, parts: Parts) -> list[str]:
        """Structures, labels with units and edges of each split."""
        lines = []
        for split, loader in parts.loaders().items():
            dataset = loader.dataset
            edges = int(dataset.edges_per_structure.sum())
            batches = counted(len(loader), "batch", "batches")
            lines.append(
                f"{split}: {dataset.summary()}\n"
                f"  {edges} edges within {dataset.cutoff} Angstrom, {batches}"
            )

        # labels that are there and are not used
        has_forces = parts.train.dataset.has("forces")
        if config.model.get("forces") == "none" and has_forces:
            lines.append(
                "note: the data have forces, or zeros in their place, which are not learned "
                "(--forces none)"
            )
        if config.model.get("stress") and not stress_weight(config):
            lines.append(
                "note: stress is predicted but not learned (--weight-stress 0); give "
                "--weight-stress 1 to learn it"
            )
        return lines

    def samples(self, batch) -> int:
        """Atoms: the loss is a sum over the batch divided by their number."""
        return batch.num_nodes

    def loss(self, model: nn.Module, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, in powers of eV and Angstrom."""
        return self._weighted_loss(model, batch, self.loss_factors())

    def loss_factors(self) -> dict[str, float]:
        """Change of the energy weight late in the run."""
        return self.late.factors(self.progress)

    def compiled_objective(self) -> Objective:
        """The loss of every network that can be traced."""
        written = source_checksum(StructureLoss, errors_of, EnergyForceTask)
        key = f"{vars(self.objective)!r} {written}"
        return Objective(self._weighted_loss, tuple(self.objective.weights), key)

    def _weighted_loss(
        self, model: nn.Module, batch, factors: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with some weights changed."""
        atoms = batch.graph.nodes_per_graph.to(batch.positions)
        errors = errors_of(model, batch, model(batch))
        return self.objective(errors, atoms, factors, volumes(batch))

    def evaluate(self, model: nn.Module, batches: Iterable) -> Evaluation:
        """Errors over all structures and atoms, of the model and of the baseline."""
        errors, targets, structures = _over_split(model, batches)
        atoms, composition = structures["atoms"], structures["composition"]
        nothing = {part: -target for part, target in targets.items()}
        for row in (errors, nothing):
            row["energy"] = OFFSETS[self.energy_offset](row["energy"], composition)

        pairs = {
            PARTS[part].quantity: (targets[part] + errors[part], targets[part]) for part in targets
        }
        baselines = {BASELINE: measure(nothing, targets, atoms)}
        loss = self._loss_of_split(errors, structures)
        metrics = measure(errors, targets, atoms)
        if EXPERTS in structures:
            metrics |= expert_loads(structures[EXPERTS])

        # of several sets, rows for each
        found = Evaluation(metrics, baselines, pairs, loss)
        if "set" in structures:
            for number, name in enumerate(self.set_names):
                rows = {"model": errors, BASELINE: nothing}
                found.of_sets |= {
                    f"{name}: {label}": measure(*of_set(number, structures, row, targets))
                    for label, row in rows.items()
                }
        return found

    def _loss_of_split(
        self, errors: dict[str, np.ndarray], structures: dict[str, np.ndarray]
    ) -> float:
        """The loss over a whole split; nan where a part that is learned has no labels there."""
        if not set(self.objective.weights) <= set(errors):
            return float("nan")
        tensors = {part: torch.from_numpy(error) for part, error in errors.items()}
        atoms = torch.from_numpy(structures["atoms"])
        cells = torch.from_numpy(structures["volumes"])
        total, _ = self.objective(tensors, atoms, volumes=cells)
        return float(total)

    def selection(self, evaluation: Evaluation) -> float:
        """The loss of the split."""
        return evaluation.loss

    def table(self, evaluation: Evaluation) -> list[dict]:
        """Rows model and baseline, of all sets and of each, in meV and in kcal/mol."""
        rows = []
        for unit, factor in ENERGY_UNITS.items():
            found = {"model": evaluation.metrics} | evaluation.baselines | evaluation.of_sets
            for label, metrics in found.items():
                values = {
                    name: factor * value if is_an_energy(name) else value
                    for name, value in metrics.items()
                }

                # charges and dipoles keep units of their own
                units = [unit, f"{unit}/A"]
                units += [
                    OTHER_UNITS[name] for name in ("charges_mae", "dipole_mae") if name in values
                ]
                rows.append({"row": label, "units": ", ".join(units), **values})
        return rows


def _training_curves(loss: StructureLoss) -> dict[str, tuple[str, float]]:
    """Errors of the validation split that a part of the loss measures on the training split too."""
    found = {"selection": ("loss", 1.0)}
    if loss.costs["energy"] == "mae" and "energy" in loss.weights:
        metric = "energy_per_atom_mae" if loss.per_atom else "energy_mae"
        found[metric] = ("energy", MEV)
    if loss.costs["forces"] == "vector_norm" and "forces" in loss.weights:
        found["force_norm_mae"] = ("forces", MEV)
    return found


def _over_split(
    model: nn.Module, batches: Iterable
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Errors and targets by part, in float64, and atoms, volumes, composition and, of several sets,
    number of the set of all structures, with the weights of experts where the model has some.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        values = {"atoms": batch.graph.nodes_per_graph, "composition": element_counts(batch)}
        values["volumes"] = volumes(batch).double()
        if SET_INDEX in batch.graph_features:
            values["set"] = batch.graph_features[SET_INDEX]
        prediction = model(batch)
        if EXPERTS in prediction:
            values[EXPERTS] = prediction[EXPERTS].detach().double()
        for part, error in errors_of(model, batch, prediction).items():
            values[f"{part}_error"] = error.detach().double()
            values[f"{part}_target"] = batch.labels[PARTS[part].label].double()
        for name, value in values.items():
            columns.setdefault(name, []).append(value.cpu().numpy())

    joined = {name: np.concatenate(chunks) for name, chunks in columns.items()}
    parts = [part for part in PARTS if f"{part}_error" in joined]
    errors = {part: joined[f"{part}_error"] for part in parts}
    targets = {part: joined[f"{part}_target"] for part in parts}
    kept = ("atoms", "volumes", "composition", "set", EXPERTS)
    return errors, targets, {name: joined[name] for name in kept if name in joined}


def build_task(config, energy_offset: str = "none") -> EnergyForceTask:
    """The task of ``config.loss``."""
    loss = config.loss
    weights = {
        "energy": loss.weight_energy,
        "forces": loss.weight_forces,
        "stress": stress_weight(config),
    }
    costs = {
        "energy": loss.energy_loss,
        "forces": loss.force_loss,
    }
    scales = {"energy": loss.energy_scale, "forces": loss.force_scale}

    # checkpoints from before do not have the options of all parts
    costs["stress"] = loss.get("stress_loss", "vector_norm")
    scales["stress"] = loss.get("stress_scale", 1.0)
    for part in LABELS_OF_CHARGE:
        weights[part] = loss.get(f"weight_{part}", 0.0)
        costs[part] = loss.get(f"{part}_loss", "mae")
        scales[part] = loss.get(f"{part}_scale", 1.0)
    per_atom = loss.energy_per == "atom"
    stress_per_atom = loss.get("stress_per", "volume") == "atom"

    objective = StructureLoss(
        weights, average_atoms(config), costs, scales, per_atom, stress_per_atom
    )
    late = LateWeights(loss.late_start, loss.late_energy_factor)
    return EnergyForceTask(objective, late, energy_offset, list(parse_sets(config.data.data_path)))
