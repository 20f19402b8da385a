"""E2Former and its hybrid under the laws of the suite, every option once; forces, stress and reference energies against their definitions."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor

from dataloader.batching import AtomBatch
from models.blocks import ATTENTIONS
from models.e2former import PRESETS, E2FormerOptions, parse_irreps
from models.factory import build_model
from models.feed_forward import FEED_FORWARDS
from models.graph_ops import GraphIndex
from models.near_field.e2former_attention import WEIGHTS
from models.near_field.harmonic_sum import KERNELS
from models.near_field.scores import SCORES
from models.near_field.wigner6j import FORMS
from models.norms import NORMS
from tests.suite import Case, CutoffSuite, ModelCases, ModelSuite, cutoff_graph

CUTOFF = 4.0
SMALL = {
    "name": "e2former",
    "irreps": "8x0e+8x1o+8x2e",
    "schedule": "first-order",
    "layers": 1,
    "cutoff": CUTOFF,
    "radial_size": 4,
    "radial_hidden": 8,
    "element_size": 3,
    "heads": 2,
    "score_width": 4,
    "avg_degree": 4.0,
    "avg_atoms": 5.0,
    "far_heads": 2,
    "far_key_features": 2,
    "far_value_channels": 2,
    "far_kernel_lmax": 1,
    "far_expansion": "pairwise",
    "far_design_radius": 12.0,
    "fmm_num_kappa": 2,
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
    outputs = {"energy": "graph_scalar"} | ({} if config.get("forces") == "none" else {"forces": "node_vector"})
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=random_batch,
        connect=connect,
        outputs=outputs,
        lmax=2,
        cutoff=CUTOFF,
    )


def once(option: str, names, **more) -> list[Case]:
    """A case for each name of a registry but the one all other cases have."""
    default = SMALL.get(option, getattr(E2FormerOptions(), option))
    return [case(f"{option}-{name}", **{option: name, **more}) for name in names if name != default]


NEAR_CASES = [
    case("two-layers", layers=2),
    *once("schedule", [name for name in ATTENTIONS if "fmm" not in name and "hybrid" not in name]),
    *once("score", SCORES),
    *once("attention_weights", WEIGHTS),
    *once("convolution_form", FORMS),
    *once("kernel_implementation", KERNELS),
    *once("norm", NORMS),
    *once("feed_forward", FEED_FORWARDS),
    case("cosine-gaussian", envelope="cosine", radial_basis="gaussian"),
    case("direct", forces="direct"),
    case("no-forces", forces="none", irreps="8x0e+8x1o", ffn_ratio=2),
]
FAR_CASES = [
    *once("schedule", [name for name in ATTENTIONS if "fmm" in name or "hybrid-first" in name or "hybrid-all" in name]),
    case("serial", schedule="second-order+fmm-node+zero-order", feed_forward="two_body"),
    case("hybrid-multipole", schedule="hybrid-first-order", far_expansion="multipole", far_tolerance=0.05, far_design_radius=5.0),
]


@pytest.mark.filterwarnings("ignore:an atom is")
class TestE2Former(ModelSuite):
    @pytest.fixture(params=NEAR_CASES + FAR_CASES, ids=[case.name for case in NEAR_CASES + FAR_CASES])
    def case(self, request):
        return request.param


class TestNearFieldAtTheCutoff(CutoffSuite):
    @pytest.fixture(params=NEAR_CASES, ids=[case.name for case in NEAR_CASES])
    def case(self, request):
        return request.param
