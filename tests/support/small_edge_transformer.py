"""Small EdgeTransformers, their cases and batches, for the laws of the networks."""

from __future__ import annotations

from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from tests.support.law_cases import Case, complete_graph
from tests.support.small_equiformer import random_points

EDGE_TRANSFORMER = {
    "name": "edge_transformer",
    "width": 8,
    "layers": 2,
    "heads": 2,
    "gaussians": 6,
    "waves": 2,
    "avg_atoms": 5.0,
}


def paired_batch(sizes, generator) -> AtomBatch:
    """Random molecules on complete graphs."""
    counts, positions, numbers = random_points(sizes, generator)
    return AtomBatch(complete_graph(positions, counts), positions, numbers)


def edge_transformer_case(name: str, **options) -> Case:
    """A potential."""
    config = {**EDGE_TRANSFORMER, **options}
    outputs = {"energy": "graph_scalar"}
    if config.get("forces") != "none":
        outputs["forces"] = "node_vector"
    if config.get("dipole"):
        outputs["dipole"] = "graph_vector"
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=paired_batch,
        connect=complete_graph,
        outputs=outputs,
        lmax=1,
    )
