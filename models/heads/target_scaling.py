"""Scale, constant and element references of a property: from labels to what a network learns.

    property = scale raw + constant + sum or mean over atoms of reference(element)

All are fitted to training data in float64 (least squares over the elements; the standard deviation
that is left is the scale) and stay float64 whatever type the network is cast to, since total
energies (-1e4 eV) do not fit float32. References are summed over atoms for a readout of kind "sum",
averaged for "mean", and absent where they would break the law of the readout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from farfield.models.choices import check_choice
from farfield.models.elements import MAX_ATOMIC_NUMBER, refuse_unknown, unknown_element
from farfield.models.graph_ops import (
    GraphIndex,
    mean_nodes,
    sum_nodes,
)
from farfield.models.heads.property_readouts import READOUTS
from farfield.models.heads.scaling import ExactBuffers


def fit_scaling(
    numbers: np.ndarray,
    counts: np.ndarray,
    values: Mapping[str, np.ndarray],
    readouts: Mapping[str, str],
) -> dict[str, dict[str, object]]:
    """Scale, constant and element references of every target, from training data alone.

    numbers (atoms,) atomic numbers of all structures end to end, counts (structures,) atoms of
    each; values: target -> (structures,) or (structures, 3); readouts: target -> name in
    ``READOUTS``. Returns what json can hold, ``{target: {"kind", "scale", "constant", "elements":
    [Z, ...], "references": [...]}}``, for :meth:`PropertyHeads.set_scaling` and :func:`references`.
    Raises ValueError for an empty set, wrong shapes and numbers that are not finite.
    """
    numbers, counts = np.asarray(numbers), np.asarray(counts)
    if not len(counts) or counts.min() < 1 or counts.sum() != len(numbers):
        raise ValueError(
            f"a scaling needs structures of >= 1 atoms, {len(counts)} counts must sum to the "
            f"{len(numbers)} atoms"
        )
    elements = np.unique(numbers)
    composition = compositions(numbers, counts, elements)
    return {
        target: _fit(target, READOUTS[readout].kind, composition, elements, values[target])
        for target, readout in readouts.items()
    }


def _fit(
    target: str, kind: str, composition: np.ndarray, elements: np.ndarray, values: np.ndarray
) -> dict[str, object]:
    """Entry of one target; composition (structures, elements), values (structures,) or (..., 3)."""
    values = np.asarray(values, dtype=np.float64)
    shape = (len(composition), 3) if kind == "vector" else (len(composition),)
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(
            f"values of {target} must be finite and of shape {shape}, got {values.shape}; leave "
            "structures without one out"
        )

    atoms = composition.sum(1)
    constant, reference = 0.0, np.zeros(len(elements))
    if kind == "sum":
        # start from "every atom alike", for compositions that do not tell elements apart
        alike = values.sum() / atoms.sum()
        reference = alike + np.linalg.lstsq(composition, values - alike * atoms, rcond=1e-9)[0]
        values = values - composition @ reference
    elif kind == "mean":
        share = composition / atoms[:, None]
        constant = values.mean()
        reference = np.linalg.lstsq(share, values - constant, rcond=1e-9)[0]
        values = values - constant - share @ reference

    # nothing is left of one structure, or of values that elements explain
    spread = np.sqrt(np.square(values).mean()) if kind == "vector" else values.std()
    return {
        "kind": kind,
        "scale": float(spread) if spread > 1e-9 else 1.0,
        "constant": float(constant),
        "elements": [int(number) for number in elements],
        "references": [float(value) for value in reference],
    }


def compositions(numbers: np.ndarray, counts: np.ndarray, elements: Sequence[int]) -> np.ndarray:
    """Atoms of each of the sorted ``elements`` in every structure (structures, elements) float64.

    Raises ValueError for an atom of another element.
    """
    elements = np.asarray(elements)
    unknown = np.setdiff1d(numbers, elements)
    if len(unknown):
        raise ValueError(unknown_element(int(unknown[0]), elements))
    structure = np.repeat(np.arange(len(counts)), counts)
    cell = structure * len(elements) + np.searchsorted(elements, numbers)
    return (
        np.bincount(cell, minlength=len(counts) * len(elements))
        .reshape(len(counts), len(elements))
        .astype(np.float64)
    )


def references(
    numbers: np.ndarray, counts: np.ndarray, scaling: Mapping[str, Mapping], target: str
) -> np.ndarray:
    """Constant part of a target for every structure, float64.

    Shape (structures,), or (structures, 1) zeros for a vector. Labels are ``(value - references) /
    scaling[target]["scale"]``. Raises ValueError for a target or element without a scaling.
    """
    check_choice("target", target, scaling)
    entry = scaling[target]
    composition = compositions(numbers, counts, entry["elements"])
    if entry["kind"] == "vector":
        return np.zeros((len(counts), 1))
    total = composition @ np.asarray(entry["references"], dtype=np.float64)
    return entry["constant"] + (total / np.maximum(counts, 1) if entry["kind"] == "mean" else total)


class TargetScaling(ExactBuffers):
    """From raw outputs to units, as float64 buffers of the checkpoint.

    ``forward(graph, atomic_numbers, raw {target: (graphs,) or (graphs, 3)}) -> {target: ...}``
    float64. Without :meth:`set` raw numbers pass. Raises ValueError for atoms of elements that the
    scaling was not fitted to.
    """

    def __init__(self, kinds: Mapping[str, str]):
        super().__init__()
        self.kinds = dict(kinds)
        count = len(self.kinds)
        self.register_buffer("scale", torch.ones(count, dtype=torch.float64))
        self.register_buffer("constant", torch.zeros(count, dtype=torch.float64))
        self.register_buffer(
            "reference", torch.zeros(count, MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
        )
        self.register_buffer("known", torch.arange(MAX_ATOMIC_NUMBER + 1) > 0)

    def set(self, scaling: Mapping[str, Mapping]) -> None:
        """Take what :func:`fit_scaling` gave; targets that are not read here are passed over.

        Raises ValueError for a missing target, one fitted for another readout, and values that are
        not finite or a scale <= 0.
        """
        known = torch.zeros_like(self.known)
        # columns: scale, constant, references of the elements from 0 on
        values = torch.zeros(len(self.kinds), MAX_ATOMIC_NUMBER + 3, dtype=torch.float64)
        for row, (target, kind) in zip(values, self.kinds.items(), strict=True):
            check_choice("target", target, scaling)
            entry = scaling[target]
            if entry["kind"] != kind:
                raise ValueError(
                    f"the scaling of {target} is of kind {entry['kind']!r}, its readout of kind "
                    f"{kind!r}; fit it again"
                )
            elements = torch.as_tensor(entry["elements"], dtype=torch.long)
            row[0], row[1] = entry["scale"], entry["constant"]
            row[2 + elements] = torch.as_tensor(entry["references"], dtype=torch.float64)
            known[elements] = True
            if not torch.isfinite(row).all() or row[0] <= 0:
                raise ValueError(
                    f"scaling of {target} must be finite with scale > 0, got scale "
                    f"{entry['scale']}, {entry['constant']}"
                )

        self.scale.copy_(values[:, 0])
        self.constant.copy_(values[:, 1])
        self.reference.copy_(values[:, 2:])
        self.known.copy_(known)

    def values(self) -> dict[str, dict[str, object]]:
        """What was set, as :func:`fit_scaling` gives it."""
        elements = self.known.nonzero().flatten()
        found = {}
        for row, (target, kind) in enumerate(self.kinds.items()):
            found[target] = {
                "kind": kind,
                "scale": float(self.scale[row]),
                "constant": float(self.constant[row]),
                "elements": elements.tolist(),
                "references": self.reference[row, elements].tolist(),
            }
        return found

    def forward(
        self, graph: GraphIndex, atomic_numbers: Tensor, raw: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Raw outputs in their units."""
        refuse_unknown(atomic_numbers, self.known)
        each = self.reference[:, atomic_numbers].T  # (nodes, targets)
        pooled = {"sum": sum_nodes(graph, each), "mean": mean_nodes(graph, each)}

        out = {}
        for column, (target, kind) in enumerate(self.kinds.items()):
            value = self.scale[column] * raw[target].double()
            if kind in pooled:
                value = value + self.constant[column] + pooled[kind][:, column]
            out[target] = value
        return out
