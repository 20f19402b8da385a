"""The energy and force task: total energies, forces and, where there are any, stresses of
structures of any sizes.

A network learns the residual energy, E less the sum of the reference energies of its atoms, so that
float32 loses nothing. Per structure, atom and component, errors are

| metric | unit here | meaning |
|---|---|---|
| energy_mae, energy_rmse, energy_max | meV | of a whole structure |
| energy_per_atom_mae | meV | of a structure divided by its atoms |
| force_mae, force_rmse | meV/Angstrom | of a component |
| force_norm_mae, force_max | meV/Angstrom | length of the error of an atom: mean, largest |
| force_cosine | 1 | of the angle between predicted and true force, mean over atoms |
| stress_mae | meV/Angstrom^3 | of a component |

The table has each row in meV and in kcal/mol. Baseline "mean energy, zero forces": the reference
energies alone, no forces. Selection on the validation split: the loss with the weights of the
start, over the whole split. (An energy is a sum over atoms: on few frames of a large molecule the
errors of all of them move together from epoch to epoch, and selecting by energy_mae would pick an
early, lucky one.) Cost of a pass over a split: one evaluation of the network a structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.command_line import plain
from farfield.common.precision import PRECISIONS
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.units import KCAL_MOL
from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.models.factory import build_model
from farfield.train.data_order import EpochLoader, ordered_batches, shuffled_batches
from farfield.train.losses import StructureLoss
from farfield.train.trainer import Evaluation, Task

MEV = 1e3
ELEMENTS = MAX_ATOMIC_NUMBER + 1
EVALUATION_ATOMS = 450  # most atoms in a batch of an evaluation, or one structure
BASELINE = "mean energy, zero forces"
PARTS = {
    "energy": "residual_energy",
    "forces": "forces",
    "stress": "stress",
}  # part of the loss -> label
CURVES = {
    "energy": "energy_mae",
    "forces": "force_mae",
    "stress": "stress_mae",
}  # part of the loss -> metric of the learning curve
LABEL_UNITS = {"energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}
FAMILIES = {"meV": 1.0, "kcal/mol": 1 / (MEV * KCAL_MOL)}  # energy unit of a row -> factor
WITHOUT_UNIT = ("force_cosine",)


@dataclass(frozen=True)
class LateWeights:
    """From the fraction ``start`` of the run on, the energy weight is multiplied with
    ``factor``.
    """

    start: float = 1.0
    factor: float = 1.0

    def factors(self, progress: float) -> dict[str, float]:
        """Factors of the weights at ``progress``."""
        return {"energy": self.factor} if progress >= self.start else {}


class EnergyForceTask(Task):
    """Loss, metrics and table of energies, forces and stresses.

    Arguments
        loss           `StructureLoss`; its parts decide what is learned
        late           change of the energy weight late in the run
        energy_offset  name in `OFFSETS`: what the energy errors of an evaluation may be shifted by
    """

    def __init__(self, loss: StructureLoss, late: LateWeights, energy_offset: str):
        self.objective, self.late, self.energy_offset = loss, late, energy_offset
        self.curves = [metric for part, metric in CURVES.items() if part in loss.weights]
        self.units = LABEL_UNITS | {
            "energy_mae": "meV",
            "force_mae": "meV/Angstrom",
            "stress_mae": "meV/Angstrom^3",
        }

    def samples(self, batch) -> int:
        """Atoms: the loss is a sum over the batch divided by them."""
        return batch.num_nodes

    def loss(self, model: nn.Module, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, in powers of eV and Angstrom."""
        atoms = batch.graph.nodes_per_graph.to(batch.positions)
        return self.objective(
            errors_of(model, batch, model(batch)), atoms, self.late.factors(self.progress)
        )

    def evaluate(self, model: nn.Module, batches: Iterable) -> Evaluation:
        """Metrics over all structures and atoms, of the model and of the baseline."""
        columns: dict[str, list[np.ndarray]] = {}
        for batch in batches:
            prediction = model(batch)
            errors = errors_of(model, batch, prediction)
            values = {"atoms": batch.graph.nodes_per_graph, "composition": element_counts(batch)}
            for part, error in errors.items():
                target = batch.labels[PARTS[part]].double()
                values |= {f"{part}_error": error.detach().double(), f"{part}_target": target}
            for name, value in values.items():
                columns.setdefault(name, []).append(value.cpu().numpy())
        joined = {name: np.concatenate(chunks) for name, chunks in columns.items()}
        parts = [part for part in PARTS if f"{part}_error" in joined]
        errors = {part: joined[f"{part}_error"] for part in parts}
        targets = {part: joined[f"{part}_target"] for part in parts}
        nothing = {part: -target for part, target in targets.items()}
        for row in (errors, nothing):
            row["energy"] = OFFSETS[self.energy_offset](row["energy"], joined["composition"])
        pairs = {
            f"{PARTS[part]} ({LABEL_UNITS[part]})".replace("_", " "): (
                targets[part] + errors[part],
                targets[part],
            )
            for part in parts
        }
        total, _ = self.objective(
            {part: torch.from_numpy(error) for part, error in errors.items()},
            torch.from_numpy(joined["atoms"]),
        )
        model_row, baseline = (measure(row, targets, joined["atoms"]) for row in (errors, nothing))
        return Evaluation(model_row, {BASELINE: baseline}, pairs, float(total))

    def selection(self, evaluation: Evaluation) -> float:
        """The loss of the split."""
        return evaluation.loss

    def table(self, evaluation: Evaluation) -> list[dict]:
        """Rows model and baseline in both families of units."""
        rows = []
        for unit, factor in FAMILIES.items():
            for label, metrics in {"model": evaluation.metrics, **evaluation.baselines}.items():
                values = {
                    name: value if name in WITHOUT_UNIT else factor * value
                    for name, value in metrics.items()
                }
                rows.append({"row": label, "units": f"{unit}, {unit}/A", **values})
        return rows


def errors_of(model: nn.Module, batch, prediction: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prediction less label of every part that both have; energies less their references first, in
    float64.
    """
    errors = {
        "energy": prediction["energy"]
        - model.reference_energy(batch)
        - batch.labels["residual_energy"]
    }
    both = [part for part in ("forces", "stress") if part in prediction and part in batch.labels]
    return errors | {part: prediction[part] - batch.labels[part] for part in both}


def element_counts(batch) -> Tensor:
    """Atoms of every element of every graph (graphs, ELEMENTS) int16."""
    numbers, graphs = (
        batch.atomic_numbers,
        batch.graph.graph_of_node.to(batch.atomic_numbers.device),
    )
    flat = torch.bincount(graphs * ELEMENTS + numbers, minlength=batch.num_graphs * ELEMENTS)
    return flat.view(batch.num_graphs, ELEMENTS).to(torch.int16)


def no_offset(error: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """The errors as they are."""
    return error


def offset_per_composition(error: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """Errors (structures,) less their mean over all structures of the same composition (structures,
    elements).

    ``ValueError`` for a composition that occurs once: its error would be 0 whatever was predicted.
    """
    _, group = np.unique(composition, axis=0, return_inverse=True)
    group = group.reshape(-1)
    alone = int((np.bincount(group) == 1).sum())
    if alone:
        reason = f"{alone} compositions occur once, their energy errors would be 0"
        raise ValueError(
            f"energy offset per-composition: {reason}; evaluate structures that have company, or "
            "leave the offset out"
        )
    return error - (np.bincount(group, error) / np.bincount(group))[group]


OFFSETS = {"none": no_offset, "per-composition": offset_per_composition}


def measure(
    errors: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], atoms: np.ndarray
) -> dict[str, float]:
    """Metrics of the module's table from errors and targets in eV and Angstrom; atoms of every
    structure (structures,).
    """
    energy = np.abs(errors["energy"])
    found = {"energy_mae": energy.mean(), "energy_per_atom_mae": (energy / atoms).mean()}
    found |= {"energy_rmse": np.sqrt(np.square(energy).mean()), "energy_max": energy.max()}
    if "forces" in errors:
        error, target = errors["forces"], targets["forces"]
        length = np.linalg.norm(error, axis=1)
        found |= {"force_mae": np.abs(error).mean(), "force_rmse": np.sqrt(np.square(error).mean())}
        found |= {"force_norm_mae": length.mean(), "force_max": length.max()}
    if "stress" in errors:
        found["stress_mae"] = np.abs(errors["stress"]).mean()
    found = {name: MEV * float(value) for name, value in found.items()}
    return found | ({"force_cosine": cosine(target + error, target)} if "forces" in errors else {})


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    """Mean cosine of the angles between the rows of two arrays (rows, 3); 0 where one of them
    vanishes.
    """
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return float(((one * two).sum(1) / np.where(lengths > 0, lengths, 1.0)).mean())


def build_task(config, energy_offset: str = "none") -> EnergyForceTask:
    """The task of ``config.loss``, with the mean size of the structures from ``config.model``;
    energy_offset: see the task.
    """
    loss = config.loss
    weights = {
        "energy": loss.weight_energy,
        "forces": loss.weight_forces,
        "stress": loss.weight_stress,
    }
    costs = {"energy": loss.energy_loss, "forces": loss.force_loss, "stress": "vector_norm"}
    scales = {"energy": loss.energy_scale, "forces": loss.force_scale, "stress": 1.0}
    objective = StructureLoss(
        weights, config.model.avg_atoms, costs, scales, loss.energy_per == "atom"
    )
    return EnergyForceTask(
        objective, LateWeights(loss.late_start, loss.late_energy_factor), energy_offset
    )


def build_model_for(config) -> nn.Module:
    """The network of ``config.model``."""
    return build_model(
        {key: value for key, value in plain(config.model).items() if key != "preset"}
    )


def set_references(model: nn.Module, statistics: Statistics):
    """Give a new network the references of the training set, and the size of what it shall learn as
    its scale.
    """
    scale = statistics.force_rms or statistics.energy_per_atom_std or 1.0
    model.set_reference(statistics.references, scale=scale)


def split_loader(
    config, split: str, references: Mapping[int, float], training: bool = False
) -> EpochLoader:
    """Batches of a split: shuffled and of the size of ``config``, or all structures in order.

    ``ValueError`` for neighbour graphs of another cutoff, unknown elements, and labels that the
    loss asks for and that are not there.
    """
    dtype = PRECISIONS[config.training.precision]
    options = {"cutoff": config.model.cutoff, "references": dict(references), "dtype": dtype}
    dataset = MoleculeDataset.open(config.data.data_path, split, **options)
    if not len(dataset):
        raise ValueError(
            f"the {split} split of {config.data.data_path} is empty; preprocess with other sizes "
            "of the splits"
        )
    if training:
        check_labels(config, dataset)
        return shuffled_batches(dataset, config)
    return ordered_batches(dataset, EVALUATION_ATOMS)


def evaluation(
    config, split: str, model: nn.Module, energy_offset: str = "none"
) -> tuple[EnergyForceTask, EpochLoader]:
    """The task, and all structures of a split, in order; energies less the references that the
    trained ``model`` holds.
    """
    return build_task(config, energy_offset), split_loader(
        config, split, model.energy.reference.values()
    )


def check_labels(config, dataset: MoleculeDataset):
    """``ValueError`` where the loss asks for labels that the data do not have, or for what the
    network does not predict.
    """
    model, loss, path = config.model, config.loss, config.data.data_path
    stress = dataset.structures.stress is not None
    rules = [
        (
            loss.weight_forces > 0 and dataset.structures.forces is None,
            f"{path} has no forces; give --weight-forces 0 --forces none",
        ),
        (
            loss.weight_forces > 0 and model.forces == "none",
            "--forces none predicts no forces; give --weight-forces 0",
        ),
        (loss.weight_stress > 0 and not stress, f"{path} has no stress; give --weight-stress 0"),
        (
            loss.weight_stress > 0 and not model.stress,
            "the network predicts no stress; give --stress or --weight-stress 0",
        ),
        (
            model.stress and dataset.cell is None,
            f"{path} has no cells, so there is no stress to predict; give --no-stress",
        ),
    ]
    for broken, message in rules:
        if broken:
            raise ValueError(message)
