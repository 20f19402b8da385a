"""Small networks of a diffusion, their cases and batches, and oracles that know the molecule."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.diffusion.molecules import blank_molecules
from farfield.models.diffusion.process import DiffusionProcess, centred, centred_noise
from farfield.models.factory import build_model
from farfield.models.graph_ops import GraphIndex, broadcast_nodes
from farfield.models.network import Output
from tests.support.law_cases import Case, complete_graph
from tests.support.small_edge_transformer import EDGE_TRANSFORMER
from tests.support.small_equiformer import random_points

E2FORMER = {
    "name": "e2former_diffusion",
    "irreps": "8x0e+8x1o+8x2e",
    "schedule": "first-order",
    "layers": 1,
    "radial_size": 4,
    "near_kernel_implementation": "math",
    "radial_hidden": 8,
    "element_size": 3,
    "near_heads": 2,
    "near_score_width": 4,
    "avg_degree": 4.0,
    "far_heads": 2,
    "far_expansion": "pairwise",
}
SE3 = {
    "name": "se3_transformer_diffusion",
    "layers": 2,
    "channels": 8,
    "heads": 2,
    "radial_size": 4,
    "radial_hidden": 8,
    "element_size": 3,
}
EQUIFORMER = {
    "name": "equiformer_diffusion",
    "dim": "8,6,4",
    "depth": 1,
    "heads": "2",
    "dim_head": "3",
    "radial_size": 4,
    "radial_hidden_dim": 8,
    "element_size": 3,
    "init_out_zero": False,
}
EDGES = {**EDGE_TRANSFORMER, "name": "edge_transformer_diffusion"}
EQUIVARIANT = {"e2former": E2FORMER, "se3": SE3, "equiformer": EQUIFORMER}
BACKBONES = {**EQUIVARIANT, "edge_transformer": EDGES}


def timed_batch(sizes, generator) -> AtomBatch:
    """Random molecules, all pairs, each at a time of its own."""
    counts, positions, numbers = random_points(sizes, generator)
    return AtomBatch(
        complete_graph(positions, counts),
        positions,
        numbers,
        graph_features={"time": torch.rand(len(sizes), generator=generator)},
    )


def untimed_batch(sizes, generator) -> AtomBatch:
    """The same without the times."""
    return dataclasses.replace(timed_batch(sizes, generator), graph_features={})


def diffusion_case(name: str, base: dict, told: bool = True, **options) -> Case:
    """A network of a diffusion; told: whether the batches have times."""
    config = {**base, **options}
    outputs = {}
    if config.get("noise_head", True):
        outputs["noise"] = "node_vector"
    if config.get("time_head", False):
        outputs["time"] = "node_scalar"
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=timed_batch if told else untimed_batch,
        connect=complete_graph,
        outputs=outputs,
        lmax=2,
    )


def molecules(sizes=(3, 5, 2, 4), seed: int = 0, dtype=torch.float64) -> AtomBatch:
    """Molecules with their numbers in ``graph_features["number"]``, centred, for oracles."""
    generator = torch.Generator().manual_seed(seed)
    batch = blank_molecules([[6] * size for size in sizes], dtype)
    return dataclasses.replace(
        batch,
        positions=2 * centred_noise(batch.graph, generator, dtype),
        graph_features={"number": torch.arange(len(sizes))},
    )


def noised(process: DiffusionProcess, batch: AtomBatch, index: Tensor, seed: int = 5) -> AtomBatch:
    """The molecules at the times ``index``."""
    noise = centred_noise(batch.graph, torch.Generator().manual_seed(seed))
    moved = process.noised(batch.graph, batch.positions, index, noise)
    return dataclasses.replace(batch, positions=moved)


class NoiseOracle:
    """Says the very noise in the positions of molecules that it knows, for the time it is told."""

    def __init__(self, process: DiffusionProcess, known: AtomBatch):
        self.process, self.known, self.calls = process, known, []

    def outputs(self) -> dict[str, Output]:
        return {"noise": Output("node", "vector")}

    def __call__(self, batch: AtomBatch) -> dict[str, Tensor]:
        self.calls.append(batch.graph_features["number"].tolist())
        return {"noise": self.noise(batch, self.process.index(batch.graph_features["time"]))}

    def noise(self, batch: AtomBatch, index: Tensor) -> Tensor:
        """eps of ``x = sqrt(abar) x_0 + sqrt(bbar) eps``."""
        kept = self.process.alpha_bar[index]
        clean = positions_of(self.known, batch)
        share = broadcast_nodes(batch.graph, kept.sqrt()).unsqueeze(1)
        spread = broadcast_nodes(batch.graph, (1 - kept).sqrt()).unsqueeze(1)
        return (centred(batch.graph, batch.positions.double()) - share * clean) / spread


class TimeOracle:
    """Knows the times at which molecules start, and counts its calls for each of them."""

    def __init__(self, process: DiffusionProcess, start: Tensor):
        self.process, self.left = process, start.clone()

    def outputs(self) -> dict[str, Output]:
        return {"time": Output("node", "scalar")}

    def __call__(self, batch: AtomBatch) -> dict[str, Tensor]:
        numbers = batch.graph_features["number"]
        time = self.process.time(self.left[numbers])
        self.left[numbers] -= 1
        return {"time": broadcast_nodes(batch.graph, time)}


class JointOracle(NoiseOracle):
    """Both in one pass: it says the noise for the time that it says."""

    def __init__(self, process: DiffusionProcess, known: AtomBatch, start: Tensor):
        super().__init__(process, known)
        self.times = TimeOracle(process, start)

    def outputs(self) -> dict[str, Output]:
        return super().outputs() | self.times.outputs()

    def __call__(self, batch: AtomBatch) -> dict[str, Tensor]:
        assert "time" not in batch.graph_features
        self.calls.append(batch.graph_features["number"].tolist())
        out = self.times(batch)
        first = batch.graph.node_offsets[:-1]
        return out | {"noise": self.noise(batch, self.process.index(out["time"][first]))}


def positions_of(known: AtomBatch, part: AtomBatch) -> Tensor:
    """Positions of the molecules of ``part`` among the known ones, by their numbers."""
    graphs: GraphIndex = known.graph
    chosen = part.graph_features["number"].tolist()
    return torch.cat(
        [
            known.positions[graphs.node_offsets[number] : graphs.node_offsets[number + 1]].double()
            for number in chosen
        ]
    )
