"""A small E2Former, its cases and batches, for the laws of the network."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from farfield.models.graph_ops import GraphIndex
from tests.support.law_cases import Case, cutoff_graph

CUTOFF = 4.0


SMALL = {
    "name": "e2former",
    "irreps": "8x0e+8x1o+8x2e",
    "schedule": "first-order",
    "layers": 1,
    "cutoff": CUTOFF,
    "radial_size": 4,
    "near_kernel_implementation": "math",
    "radial_hidden": 8,
    "element_size": 3,
    "near_heads": 2,
    "near_score_width": 4,
    "avg_degree": 4.0,
    "avg_atoms": 5.0,
    "near_weights": "softmax",
    "norm": "rms_norm_sh",
    "feed_forward": "gate",
    "far_heads": 2,
    "far_key_features": 2,
    "far_value_channels": 2,
    "far_kernel_lmax": 1,
    "far_expansion": "pairwise",
    "far_design_radius": 12.0,
    "far_radial_terms": 2,
}


connect = functools.partial(cutoff_graph, cutoff=CUTOFF)


def random_batch(sizes, generator) -> AtomBatch:
    counts = torch.tensor(sizes)
    nodes = int(counts.sum())
    positions = 1.5 * torch.randn(nodes, 3, generator=generator)
    numbers = torch.tensor([1, 6, 8])[torch.randint(0, 3, (nodes,), generator=generator)]
    return AtomBatch(graph=connect(positions, counts), positions=positions, atomic_numbers=numbers)


def case(name: str, **options) -> Case:
    config = {**SMALL, **options}
    outputs = {"energy": "graph_scalar"} | (
        {} if config.get("forces") == "none" else {"forces": "node_vector"}
    )
    if config.get("charges", "none") != "none":
        outputs |= {"charges": "node_scalar", "dipole": "graph_vector"}
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=random_batch,
        connect=connect,
        outputs=outputs,
        lmax=2,
        cutoff=CUTOFF,
    )


def made(seed: int = 0, **options) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model({**SMALL, **options}).eval()


def draw(sizes=(5, 3), seed: int = 0) -> AtomBatch:
    return random_batch(list(sizes), torch.Generator().manual_seed(seed))


def periodic_batch(positions: Tensor, cell: Tensor, numbers: Tensor) -> AtomBatch:
    """One crystal with all image edges shorter than the cutoff, by brute force."""
    steps = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3)
    shift = (steps.to(cell.dtype) @ cell[0]).view(-1, 1, 1, 3)
    vectors = (
        positions.view(1, 1, -1, 3) + shift - positions.view(1, -1, 1, 3)
    )  # (steps, src, dst, 3)
    length = vectors.norm(dim=-1)
    step, src, dst = ((length < CUTOFF) & (length > 0)).nonzero(as_tuple=True)
    order = torch.argsort(dst, stable=True)
    graph = GraphIndex(src[order], dst[order], torch.tensor([len(positions)]))
    return AtomBatch(
        graph=graph,
        positions=positions,
        atomic_numbers=numbers,
        cell=cell,
        image_shift=steps[step[order]],
    )


def crystal() -> AtomBatch:
    generator = torch.Generator().manual_seed(3)
    cell = 5 * torch.eye(3) + 0.5 * torch.randn(3, 3, generator=generator)
    positions = torch.rand(4, 3, generator=generator) @ cell
    return periodic_batch(positions, cell.unsqueeze(0), torch.tensor([1, 6, 8, 6]))


def two_cells(batch: AtomBatch) -> AtomBatch:
    """The crystal of ``batch`` as two cells along its second vector, across which it has edges."""
    cell = batch.cell.clone()
    cell[0, 1] *= 2
    positions = torch.cat([batch.positions, batch.positions + batch.cell[0, 1]])
    return periodic_batch(positions, cell, batch.atomic_numbers.repeat(2))


def assert_two_cells_are_twice_one(model: torch.nn.Module, batch: AtomBatch):
    """Two cells of a crystal have twice the energy, the same forces and the same stress."""
    once, twice = model(batch), model(two_cells(batch))
    torch.testing.assert_close(twice["energy"], 2 * once["energy"], rtol=1e-12, atol=0)
    torch.testing.assert_close(twice["forces"], once["forces"].repeat(2, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(twice["stress"], once["stress"], rtol=0, atol=1e-13)


def one_structure(*parts: AtomBatch, apart: float = 60.0) -> AtomBatch:
    """Structures as one, each ``apart`` (Angstrom) further along x than the one before."""
    positions = torch.cat(
        [
            one.positions + apart * index * torch.tensor([1.0, 0, 0])
            for index, one in enumerate(parts)
        ]
    )
    numbers = torch.cat([one.atomic_numbers for one in parts])
    return AtomBatch(connect(positions, torch.tensor([len(numbers)])), positions, numbers)


LATTICE = {"schedule": "hybrid-first-order", "far_expansion": "auto", "far_range": 8.0}
