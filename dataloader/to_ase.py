"""Predictions of a batch as ASE reads them, structure by structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from farfield.models.batch import AtomBatch


def structure_results(batch: AtomBatch, prediction: Mapping[str, Tensor]) -> list[dict]:
    """One dictionary for every structure of a batch, float64.

    prediction: of a potential, by name. A result holds energy (float, eV) and, where they were
    predicted, forces (atoms, 3), stress (6,) in ASE's sign and Voigt order, charges (atoms,) and
    dipole (3,).
    """
    results: list[dict] = [{"energy": value} for value in prediction["energy"].double().tolist()]
    for name in ("forces", "charges"):
        if name in prediction:
            give(results, name, rows_of_structures(batch, prediction[name]))
    if "stress" in prediction:
        stress = prediction["stress"].detach().double().cpu().numpy()
        give(results, "stress", [full_3x3_to_voigt_6_stress(one) for one in stress])
    if "dipole" in prediction:
        give(results, "dipole", list(prediction["dipole"].detach().double().cpu().numpy()))
    return results


def rows_of_structures(batch: AtomBatch, values: Tensor) -> list[np.ndarray]:
    """Rows (nodes, ...) of every structure, float64."""
    parts = values.detach().double().cpu().split(batch.graph.sizes)
    return [part.numpy() for part in parts]


def give(results: Sequence[dict], name: str, values: Sequence) -> None:
    """Give every result its value of ``name``."""
    for result, value in zip(results, values, strict=True):
        result[name] = value
