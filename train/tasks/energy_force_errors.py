"""Errors of energies, forces, stresses, charges and dipoles, in meV, Angstrom and e. Per structure,
atom and component:

| metric | unit | meaning |
|---|---|---|
| energy_mae, energy_rmse, energy_max | meV | of a whole structure |
| energy_per_atom_mae | meV | of a structure divided by its atoms |
| force_mae, force_rmse | meV/Angstrom | of a component |
| force_norm_mae, force_max | meV/Angstrom | length of the error of an atom: mean, largest |
| force_cosine | 1 | of the angle between predicted and true force, mean over atoms |
| stress_mae | meV/Angstrom^3 | of a component, of structures that have a stress |
| charges_mae | e | of an atom |
| dipole_mae | e Angstrom | of a component |
| charges_r2, dipole_r2 | 1 | coefficient of determination over atoms, over components |
| expert_0_load, ... | 1 | weight of an expert, mean over atoms; 0: the one that all share |

R^2 = 1 - sum (prediction - label)^2 / sum (label - mean label)^2; 0 for the mean of all labels, nan
where all labels are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from farfield.dataloader.structures import LABELS_OF_CHARGE
from farfield.dataloader.units import KCAL_MOL
from farfield.models.choices import Registry
from farfield.models.elements import MAX_ATOMIC_NUMBER

MEV = 1e3  # meV in an eV
ELEMENTS = MAX_ATOMIC_NUMBER + 1


class Part(NamedTuple):
    """A part of the loss: its label in a batch, name and unit in pictures, metric of the learning
    curve.
    """

    label: str
    quantity: str
    unit: str
    curve: str


PARTS = {
    "energy": Part("residual_energy", "energy less references", "eV", "energy_mae"),
    "forces": Part("forces", "forces", "eV/A", "force_mae"),
    "stress": Part("stress", "stress", "eV/A^3", "stress_mae"),
    "charges": Part("charges", "charges", "e", "charges_mae"),
    "dipole": Part("dipole", "dipole", "e A", "dipole_mae"),
}

PER_ATOM_PARTS = ("forces", "charges")  # the others have a value for each structure

# unit of energy of a row of the table -> factor from meV
ENERGY_UNITS = {"meV": 1.0, "kcal/mol": 1 / (MEV * KCAL_MOL)}

# metrics that no unit of energy changes -> unit
OTHER_UNITS = {
    "force_cosine": "",
    "charges_mae": "e",
    "charges_r2": "",
    "dipole_mae": "e A",
    "dipole_r2": "",
}

EXPERTS = "experts"  # weights of experts in a prediction, (atoms, experts)
LOAD = re.compile(r"expert_\d+_load")

# what an evaluation may shift energy errors by
OFFSETS: Registry = Registry("energy_offset")


def errors_of(model: nn.Module, batch, prediction: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prediction less label of every part that both have.

    The reference energies are taken off the predicted energies first, in float64.
    """
    residual = prediction["energy"] - model.reference_energy(batch)
    errors = {"energy": residual - batch.labels["residual_energy"]}
    for part in PARTS:
        if part != "energy" and part in prediction and part in batch.labels:
            errors[part] = prediction[part] - batch.labels[part]
    return errors


def element_counts(batch) -> Tensor:
    """Number of atoms of every element in every graph (graphs, ELEMENTS) int16."""
    numbers = batch.atomic_numbers
    graphs = batch.graph.graph_of_node.to(numbers.device)
    flat = torch.bincount(graphs * ELEMENTS + numbers, minlength=batch.num_graphs * ELEMENTS)
    return flat.view(batch.num_graphs, ELEMENTS).to(torch.int16)


@OFFSETS.register("none")
def no_offset(error: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """The errors as they are."""
    return error


@OFFSETS.register("per-composition")
def offset_per_composition(error: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """Errors (structures,) less their mean over the structures of equal composition.

    composition: (structures, elements). ``ValueError`` for a composition that occurs once: its
    error would be 0 whatever was predicted.
    """
    _, group = np.unique(composition, axis=0, return_inverse=True)
    group = group.reshape(-1)

    alone = int((np.bincount(group) == 1).sum())
    if alone:
        raise ValueError(
            f"energy offset per-composition: {alone} compositions occur once, their energy errors "
            "would be 0; evaluate several structures of each, or leave the offset out"
        )
    return error - (np.bincount(group, error) / np.bincount(group))[group]


def measure(
    errors: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], atoms: np.ndarray
) -> dict[str, float]:
    """Metrics of the table above from errors and targets in eV and Angstrom.

    errors, targets: energy (structures,), forces (atoms, 3), stress (structures, 3, 3), charges
    (atoms,), dipole (structures, 3), each where the data have it. atoms: of every structure
    (structures,).
    """
    energy = np.abs(errors["energy"])
    found = {
        "energy_mae": energy.mean(),
        "energy_per_atom_mae": (energy / atoms).mean(),
        "energy_rmse": np.sqrt(np.square(energy).mean()),
        "energy_max": energy.max(),
    }

    if "forces" in errors:
        error = errors["forces"]
        length = np.linalg.norm(error, axis=1)
        found["force_mae"] = np.abs(error).mean()
        found["force_rmse"] = np.sqrt(np.square(error).mean())
        found["force_norm_mae"] = length.mean()
        found["force_max"] = length.max()

    if "stress" in errors:
        # open structures of a mixed set have neither stress nor prediction
        told = ((errors["stress"] != 0) | (targets["stress"] != 0)).any((1, 2))
        found["stress_mae"] = np.abs(errors["stress"][told]).mean() if told.any() else 0.0

    metrics = {name: MEV * float(value) for name, value in found.items()}
    if "forces" in errors:
        true = targets["forces"]
        metrics["force_cosine"] = cosine(true + errors["forces"], true)

    for part in LABELS_OF_CHARGE:
        if part in errors:
            metrics[f"{part}_mae"] = float(np.abs(errors[part]).mean())
            metrics[f"{part}_r2"] = determination(errors[part], targets[part])
    return metrics


def expert_loads(weights: np.ndarray) -> dict[str, float]:
    """Mean weight of every expert over atoms, from their weights (atoms, experts)."""
    return {f"expert_{at}_load": float(mean) for at, mean in enumerate(weights.mean(0))}


def is_an_energy(metric: str) -> bool:
    """Whether a metric has a unit of energy in it."""
    return metric not in OTHER_UNITS and not LOAD.fullmatch(metric)


def of_set(
    number: int,
    structures: Mapping[str, np.ndarray],
    errors: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Errors, targets and atoms of the structures of one set, as :func:`measure` reads them.

    structures: atoms and set of every structure (structures,).
    """
    chosen = structures["set"] == number
    of_atoms = np.repeat(chosen, structures["atoms"])

    def part_of(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: one[of_atoms if name in PER_ATOM_PARTS else chosen]
            for name, one in values.items()
        }

    return part_of(errors), part_of(targets), structures["atoms"][chosen]


def determination(error: np.ndarray, target: np.ndarray) -> float:
    """Coefficient of determination R^2 over all entries; nan where all targets are equal."""
    spread = np.square(target - target.mean()).sum()
    return float(1 - np.square(error).sum() / spread) if spread > 0 else float("nan")


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    """Mean cosine of the angles between the rows of two arrays (rows, 3).

    A row of length zero counts as cosine 0.
    """
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return float(((one * two).sum(1) / np.where(lengths > 0, lengths, 1.0)).mean())


def metric_units(energy_unit: str) -> dict[str, str]:
    """Unit of every metric where energies are in ``energy_unit``."""
    units = dict.fromkeys(
        ("energy_mae", "energy_per_atom_mae", "energy_rmse", "energy_max"), energy_unit
    )
    units |= dict.fromkeys(
        ("force_mae", "force_rmse", "force_norm_mae", "force_max"), f"{energy_unit}/A"
    )
    return units | {"stress_mae": f"{energy_unit}/A^3"} | OTHER_UNITS
