"""Charged particles, or particles on springs, as a batch of complete graphs.

A sample is a dict with positions (bodies, 3), velocities (bodies, 3), charges (bodies,), and for
springs also springs (bodies, bodies), all dimensionless. Cost: quadratic in the bodies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from farfield.dataloader.storage.edge_layout import complete_pairs, directed_edges
from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex

REQUIRED = ("positions", "velocities", "charges")


def check_sample(sample: Mapping, index: int = 0) -> None:
    """Raise ValueError for a sample that lacks an array, or has one of a wrong shape."""
    missing = [name for name in REQUIRED if name not in sample]
    if missing:
        raise ValueError(
            f"sample {index} needs {', '.join(REQUIRED)}, got {', '.join(sample) or 'nothing'}; "
            f"add {', '.join(missing)}"
        )

    bodies = len(sample["charges"])
    shapes = {"positions": (bodies, 3), "velocities": (bodies, 3), "charges": (bodies,)}
    shapes |= {"springs": (bodies, bodies)} if "springs" in sample else {}
    for name, shape in shapes.items():
        values = np.asarray(sample[name], np.float64)
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(
                f"{name} of sample {index} must be finite values of the shape {shape}, got the "
                f"shape {values.shape}; correct the sample"
            )


def particle_batch(samples: Sequence[Mapping]) -> AtomBatch:
    """One batch, float64, of samples that all have springs or all have none."""
    for index, sample in enumerate(samples):
        check_sample(sample, index)

    # nodes (nodes, ...) of all samples end to end
    positions, velocities, charges = (
        torch.from_numpy(np.concatenate([np.asarray(one[name], np.float64) for one in samples]))
        for name in REQUIRED
    )

    # every pair in both directions, as in the training data
    counts = np.array([len(one["charges"]) for one in samples])
    pairs = [complete_pairs(count) for count in counts]
    edges = directed_edges(np.concatenate(pairs), np.array([len(one) for one in pairs]), counts)
    graph = GraphIndex(
        torch.from_numpy(edges.src), torch.from_numpy(edges.dst), torch.from_numpy(counts)
    )

    features = {}
    if "springs" in samples[0]:
        features["springs"] = torch.from_numpy(np.concatenate([_springs(one) for one in samples]))
    return AtomBatch(
        graph,
        positions=positions,
        node_features={"velocities": velocities, "charges": charges},
        edge_features=features,
    )


def _springs(sample: Mapping) -> np.ndarray:
    """Strength of the spring of every directed edge (edges, 1)."""
    matrix = np.asarray(sample["springs"], np.float64)
    pairs = complete_pairs(len(matrix))
    edges = directed_edges(pairs, np.array([len(pairs)]), np.array([len(matrix)]))
    return matrix[edges.src, edges.dst].reshape(-1, 1)
