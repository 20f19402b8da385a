"""What one knows of a property without geometry: baselines fitted to the training split.

| row | value of a molecule |
|---|---|
| mean | mean over the training split |
| linear in the elements | a constant plus a number per atom of each element (least squares) |

Vectors have zero in both rows: a vector that does not turn with the molecule can only be zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from farfield.models.heads.target_scaling import compositions

MEAN, LINEAR = "mean", "linear in the elements"


class Baselines:
    """Baselines of several targets, float64.

    Arguments
        elements      atomic numbers that occur in the training split
        coefficients  row name -> target -> (1 + elements,): a constant and a number per element;
                      vectors have none
    """

    def __init__(self, elements: np.ndarray, coefficients: Mapping[str, Mapping[str, np.ndarray]]):
        self.elements, self.coefficients = elements, coefficients

    @classmethod
    def fit(
        cls, numbers: np.ndarray, counts: np.ndarray, values: Mapping[str, np.ndarray]
    ) -> Baselines:
        """From atomic numbers (atoms,), atoms of each molecule (molecules,), and the values.

        values: target -> (molecules,) or (molecules, 3).
        """
        elements = np.unique(numbers)
        design = np.column_stack([np.ones(len(counts)), compositions(numbers, counts, elements)])
        rows: dict[str, dict[str, np.ndarray]] = {MEAN: {}, LINEAR: {}}

        for target, value in values.items():
            if value.ndim > 1:
                continue
            mean = value.mean()
            constant = np.concatenate([[mean], np.zeros(len(elements))])
            slopes = np.linalg.lstsq(design, value - mean, rcond=1e-9)[0]
            rows[MEAN][target] = constant
            rows[LINEAR][target] = slopes + constant
        return cls(elements, rows)

    def guess(self, row: str, target: str, numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Value of a baseline for every molecule (molecules,), or zero (1, 1) for a vector."""
        if target not in self.coefficients[row]:
            return np.zeros((1, 1))
        elements = compositions(numbers, counts, self.elements)
        design = np.column_stack([np.ones(len(counts)), elements])
        return design @ self.coefficients[row][target]
