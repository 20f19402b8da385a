"""Means of what may be empty: nan, without a warning, where there is nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_or_nan(values: np.ndarray | Sequence) -> float:
    """Mean of (n,) numbers or flags; nan for n = 0."""
    return float(np.mean(values)) if len(values) else float("nan")


def median_or_nan(values: np.ndarray | Sequence) -> float:
    """Median of (n,) numbers; nan for n = 0."""
    return float(np.median(values)) if len(values) else float("nan")
