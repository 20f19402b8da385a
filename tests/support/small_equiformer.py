"""Small Equiformers of all kinds, their cases and batches, for the laws of the networks."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from farfield.models.graph_ops import GraphIndex
from tests.support.law_cases import Case, complete_graph, cutoff_graph

CUTOFF = 4.0
SMALL = {
    "dim": "8,6,4",
    "num_degrees": 3,
    "depth": 1,
    "heads": "2",
    "dim_head": "3",
    "radial_size": 4,
    "radial_hidden_dim": 8,
    "init_out_zero": False,  # or half of the layers would not be seen
    "avg_atoms": 5.0,
    "far_heads": 2,
    "far_value_channels": 2,
    "far_radial_terms": 2,
    "far_expansion": "pairwise",
}
POTENTIAL = {"name": "equiformer", "cutoff": CUTOFF, "element_size": 3, **SMALL}
connect = functools.partial(cutoff_graph, cutoff=CUTOFF)


def random_points(sizes, generator) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, positions and elements of random molecules."""
    counts = torch.tensor(sizes)
    positions = 1.5 * torch.randn(int(counts.sum()), 3, generator=generator)
    numbers = torch.tensor([1, 6, 8])[torch.randint(0, 3, (len(positions),), generator=generator)]
    return counts, positions, numbers


def atoms_batch(sizes, generator) -> AtomBatch:
    """Random molecules on cutoff graphs."""
    counts, positions, numbers = random_points(sizes, generator)
    return AtomBatch(connect(positions, counts), positions, numbers)


def potential_case(name: str, **options) -> Case:
    """A potential."""
    config = {**POTENTIAL, **options}
    outputs = {"energy": "graph_scalar"}
    if config.get("forces") != "none":
        outputs["forces"] = "node_vector"
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=atoms_batch,
        connect=connect,
        outputs=outputs,
        lmax=2,
        cutoff=CUTOFF,
    )


def particles_batch(sizes, generator) -> AtomBatch:
    """Random charged particles in motion, on complete graphs."""
    counts, positions, _ = random_points(sizes, generator)
    velocities = torch.randn(positions.shape, generator=generator)
    charges = torch.randint(0, 2, (len(positions),), generator=generator) * 2.0 - 1.0
    features = {"velocities": velocities, "charges": charges.to(positions.dtype)}
    return AtomBatch(complete_graph(positions, counts), positions, node_features=features)


def nbody_case(name: str, **options) -> Case:
    """A network of particles."""
    config = {"name": "equiformer_nbody", **SMALL, "updates": 2, **options}
    outputs = {"displacement": "node_vector", "velocity_change": "node_vector"}
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=particles_batch,
        connect=complete_graph,
        outputs=outputs | {"waypoints": "path"},
        lmax=2,
    )


def hops(graph: GraphIndex, numbers: Tensor | None) -> dict[str, Tensor]:
    """Bonds between atoms that depend on their elements alone, 0 for most."""
    return {"hops": (numbers[graph.src] * numbers[graph.dst]) % 5 % 3}


def tokens_batch(sizes, generator) -> AtomBatch:
    """Random atoms with a token of their element, on cutoff graphs."""
    batch = atoms_batch(sizes, generator)
    return dataclasses.replace(
        batch,
        node_features={"tokens": batch.atomic_numbers},
        edge_features=hops(batch.graph, batch.atomic_numbers),
    )


def denoiser_case(name: str, **options) -> Case:
    """A network that finds the way back to clean coordinates."""
    config = {"name": "equiformer_denoiser", "cutoff": CUTOFF, "num_tokens": 9, **SMALL, **options}
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=tokens_batch,
        connect=connect,
        outputs={"displacement": "node_vector"},
        lmax=2,
        edge_features=hops,
    )
