"""Predictions for the structures of a file, and their errors where the file has labels.

    model = farfield.load(checkpoint)
    atoms = read_input(model, "in.xyz")
    labels = find_labels(atoms, list(model.units), {})
    predictions, seconds = timed_predictions(model, atoms)
    rows = error_table(atoms, predictions, labels, model.units)
    write_predictions("out.xyz", atoms, predictions, labels)

A label is found by its name in the file: ``energy``, ``forces``, ``stress`` as ASE reads them, or
the usual names of published sets (``REF_energy``, ``DFT_forces``, ``initial_charges``); a virial is
read as the stress -virial / volume, a property by the name of the target. A dipole is moved from
the origin of its file to the mean position of the atoms, where potentials have it. Units of a file
are eV, Angstrom, e, and for properties the units of the project. Cost: that of the network.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator

from farfield.dataloader.from_ase import read_structures
from farfield.dataloader.sources.charge_labels import USUAL
from farfield.dataloader.sources.label_names import usual_names
from farfield.dataloader.sources.qm9_targets import TARGETS
from farfield.dataloader.sources.stress_labels import USUAL_STRESS, as_stress
from farfield.dataloader.storage import files
from farfield.dataloader.structure_inputs import find_input, is_number
from farfield.dataloader.structures import UNITS
from farfield.train.prediction import Predictor

ASE_RESULTS = ("energy", "forces", "stress", "charges")  # predictions in the units of ASE
SHOWN_STRUCTURES = 10  # of a file without labels, when no file is written
MEV = 1000.0  # in an eV
STRESS_ORDER = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # Voigt, as in ASE


@dataclasses.dataclass(frozen=True)
class Labels:
    """Values that a file gives for one quantity.

    key     their name in the file
    values  one for each structure, None where it has no label
    """

    key: str
    values: list[np.ndarray | None]

    def count(self) -> int:
        """Number of structures with a label."""
        return sum(value is not None for value in self.values)


def find_labels(
    atoms: Sequence[Atoms], quantities: Sequence[str], keys: Mapping[str, str | None]
) -> dict[str, Labels]:
    """Labels of the structures by quantity; quantities without a label are left out.

    keys: name in the file where the user gave one; ValueError if no structure has it.
    """
    held = [_held(one) for one in atoms]
    found = {}
    for quantity in quantities:
        given = keys.get(quantity)
        usual = [name for base in _bases(quantity) for name in usual_names(base)]
        names = [given] if given else usual
        key = next((name for name in names if any(name in one for one in held)), None)
        if key is not None:
            values = [_value(one, key, quantity, atoms[k]) for k, one in enumerate(held)]
            found[quantity] = Labels(key, values)
        elif given:
            there = ", ".join(sorted({name for one in held for name in one})) or "nothing more"
            raise ValueError(f"no structure has the {quantity} {given!r}; the file holds {there}")
    return found


def _bases(quantity: str) -> Sequence[str]:
    """Usual names of a quantity without what published sets put in front."""
    return USUAL_STRESS if quantity == "stress" else USUAL.get(quantity, [quantity])


def _held(atoms: Atoms) -> dict[str, Any]:
    """All values of a structure by the name in its file."""
    results = {} if atoms.calc is None else atoms.calc.results
    return {**atoms.info, **atoms.arrays, **results}


def _value(held: Mapping, key: str, quantity: str, atoms: Atoms) -> np.ndarray | None:
    if held.get(key) is None:
        return None
    try:
        values = np.asarray(held[key], np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{quantity} {key!r} must be numbers, got {held[key]!r}") from None

    # 3 x 3 stress, or what a virial says of it, as Voigt components
    if quantity == "stress":
        values = as_stress(key, values, atoms.cell.array)
        if values.shape == (3, 3):
            values = np.array([values[place] for place in STRESS_ORDER])
    shapes = {"energy": (), "forces": (len(atoms), 3), "stress": (6,)}
    shapes |= {"charges": (len(atoms),), "dipole": (3,)}
    shape = shapes.get(quantity, values.shape)
    if values.shape != shape:
        raise ValueError(f"{quantity} {key!r} must have the shape {shape}, got {values.shape}")
    return values


def error_table(
    atoms: Sequence[Atoms],
    predictions: Sequence[Mapping],
    labels: Mapping[str, Labels],
    units: Mapping[str, str],
) -> list[dict]:
    """Rows of mean absolute, root mean square and largest errors of every labelled quantity.

    Errors are per structure for scalars, per component for forces, stress and other vectors.
    """
    rows = []
    for quantity, found in labels.items():
        chosen = [
            k
            for k, value in enumerate(found.values)
            if value is not None and quantity in predictions[k]
        ]
        if not chosen:
            continue
        values = {k: found.values[k] for k in chosen}
        if quantity == "dipole" and units[quantity] == UNITS["dipole"]:
            values = {k: _about_centroid(value, atoms[k]) for k, value in values.items()}
        errors = [predictions[k][quantity] - values[k] for k in chosen]
        unit, factor = _shown_unit(quantity, units[quantity])
        rows.append(_row(quantity, unit, factor, errors))
        if quantity == "energy":
            per_atom = [error / len(atoms[k]) for k, error in zip(chosen, errors, strict=True)]
            rows.append(_row("energy per atom", "meV/atom", MEV, per_atom))
    return rows


def _about_centroid(dipole: np.ndarray, atoms: Atoms) -> np.ndarray:
    """A dipole (3,) about the origin, moved to the mean position by the total charge.

    A structure that does not say its total charge is taken as neutral.
    """
    charge = find_input(atoms.info, "total_charge")
    return dipole - (float(charge) if is_number(charge) else 0.0) * atoms.positions.mean(0)


def _row(quantity: str, unit: str, factor: float, errors: Sequence) -> dict:
    flat = factor * np.concatenate([np.ravel(error) for error in errors])
    return {
        "quantity": quantity,
        "unit": unit,
        "structures": len(errors),
        "mae": float(np.abs(flat).mean()),
        "rmse": float(np.sqrt(np.square(flat).mean())),
        "max": float(np.abs(flat).max()),
    }


def _shown_unit(quantity: str, unit: str) -> tuple[str, float]:
    """Unit of a table, and its factor."""
    if quantity in TARGETS and unit == TARGETS[quantity].unit:
        return TARGETS[quantity].shown_unit, TARGETS[quantity].shown_factor
    return (unit.replace("eV", "meV", 1), MEV) if unit.startswith("eV") else (unit, 1.0)


def prediction_table(
    atoms: Sequence[Atoms], predictions: Sequence[Mapping], units: Mapping[str, str]
) -> list[dict]:
    """A row for each of the first structures: formula and predictions.

    Forces are shown by the largest one; charges of atoms, and stress, which only crystals have, are
    left out.
    """
    rows = []
    for index, (one, prediction) in enumerate(zip(atoms, predictions, strict=True)):
        if index == SHOWN_STRUCTURES:
            break
        row = {"structure": index, "formula": one.get_chemical_formula()}
        for name, value in prediction.items():
            if name == "forces":
                largest = np.linalg.norm(value, axis=1).max()
                row[f"largest force ({units[name]})"] = f"{largest:.6f}"
            elif name not in ("stress", "charges"):
                shown = (f"{part:.6f}" for part in np.ravel(value))
                row[f"{name} ({units[name]})"] = " ".join(shown)
        rows.append(row)
    return rows


def read_input(model: Predictor, path: str | Path) -> list[Atoms]:
    """Structures of a file that a network predicts; ValueError where it cannot read structures."""
    if not model.reads_structures:
        raise ValueError(
            f"--input reads structures, but {model.path} predicts the motion of particles; use "
            "farfield.load(...).predict"
        )
    atoms = read_structures(path, option="--input")
    if not atoms:
        raise ValueError(f"--input {path} holds no structure; give another file")
    return atoms


def timed_predictions(
    model: Predictor,
    atoms: Sequence[Atoms],
    progress: Callable[[int], object] | None = None,
) -> tuple[list[dict], float]:
    """Predictions of structures, and the seconds that they took.

    progress: called with the number of structures of each finished batch. The first call of a
    network sets up kernels and tables: one structure of each kind makes it before the clock runs.
    """
    one_of_each = {model.kind(one): one for one in atoms}
    model.predict(list(one_of_each.values()))
    start = time.perf_counter()
    predictions = model.predict(atoms, progress=progress)
    return predictions, time.perf_counter() - start


def write_predictions(
    path: str | Path,
    atoms: Sequence[Atoms],
    predictions: Sequence[Mapping],
    labels: Mapping[str, Labels],
) -> None:
    """Write the structures with their predictions as extended xyz, atomically.

    Energy, forces, stress and charges stand where ASE looks for them, properties under their names;
    a name that ASE reads in another unit or about another origin (dipole) gets "predicted_" in
    front. Labels of the file are left out; everything else that it says of a structure is kept.
    """
    from ase.io import write  # half a second that --help does not wait for

    read = {found.key for found in labels.values()}
    frames = [_frame(*pair, read) for pair in zip(atoms, predictions, strict=True)]
    with files.atomic_write(path) as temporary:
        write(temporary, frames, format="extxyz")


def _frame(atoms: Atoms, prediction: Mapping, labels: set[str]) -> Atoms:
    """A structure with its predictions and without the labels of its file."""
    frame = atoms.copy()
    for name in labels | set(prediction):
        frame.info.pop(name, None)
        frame.arrays.pop(name, None)

    results = {name: prediction[name] for name in ASE_RESULTS if name in prediction}
    if results:
        frame.calc = SinglePointCalculator(frame, **results)
    for name, value in prediction.items():
        if name not in results:
            frame.info[f"predicted_{name}" if name in all_properties else name] = value
    return frame
