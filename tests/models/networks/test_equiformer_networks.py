"""Equiformers that scripts train, under the laws of every network, each option once."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.factory import build_model
from farfield.models.layers.radial import RADIAL_BASES
from farfield.models.network_check import check_network
from tests.far_apart_laws import FarApartSuite
from tests.laws import CutoffSuite, ModelCases, ModelSuite
from tests.support.law_cases import random_rotation, relative_error, turned
from tests.support.small_equiformer import (
    POTENTIAL,
    atoms_batch,
    denoiser_case,
    nbody_case,
    potential_case,
)

SMOOTH = [
    potential_case("default"),
    potential_case("depth2", depth=2),
    potential_case("one-degree", num_degrees=1, dim=8),
    potential_case("five-degrees", num_degrees=5, dim=4),
    potential_case("heads-by-degree", heads="4,2,1", dim_head="2,3,4"),
    potential_case("mlp", l2_dist_attention=False),
    potential_case("mlp-single-kv", l2_dist_attention=False, single_headed_kv=True),
    potential_case("mlp-slope", l2_dist_attention=False, attn_leakyrelu_slope=0.3),
    potential_case("neighbours-only", attend_self=False),
    potential_case("mlp-neighbours-only", attend_self=False, l2_dist_attention=False),
    potential_case("single-kv", single_headed_kv=True),
    potential_case("no-gates", gate_attn_head_outputs=False),
    potential_case("norms", ff_include_htype_norms=True),
    potential_case("pairwise", edge_kernel="pairwise"),
    potential_case("mlp-pairwise", edge_kernel="pairwise", l2_dist_attention=False),
    potential_case("far-field", use_far_field=True),
    potential_case("reversible", reversible=True, depth=2),
    potential_case("cosine", envelope="cosine"),
    potential_case("direct", forces="direct"),
    potential_case("no-forces", forces="none"),
    *(potential_case(f"basis-{name}", radial_basis=name) for name in RADIAL_BASES),
]
EVERYWHERE = [
    potential_case("linear-heads", num_linear_attn_heads=2, linear_attn_dim_head=3),
    potential_case("mlp-linear-heads", num_linear_attn_heads=2, l2_dist_attention=False),
]
PARTICLES = [nbody_case("nbody"), nbody_case("nbody-mlp", l2_dist_attention=False)]
DENOISERS = [denoiser_case("denoiser"), denoiser_case("denoiser-pairwise", edge_kernel="pairwise")]
ALL_CASES = SMOOTH + EVERYWHERE + PARTICLES + DENOISERS


def names(cases) -> list[str]:
    return [case.name for case in cases]


class TestEquiformers(ModelSuite):
    @pytest.fixture(params=ALL_CASES, ids=names(ALL_CASES))
    def case(self, request):
        return request.param


# a far field hears what is beyond the cutoff, and the force of a cosine has a kink there
FADING = [case for case in SMOOTH if case.name not in ("far-field", "cosine")]


class TestEquiformersAtTheCutoff(CutoffSuite):
    @pytest.fixture(params=FADING, ids=names(FADING))
    def case(self, request):
        return request.param


WITH_FORCES = [case for case in SMOOTH if "forces" in case.outputs]


class TestEquiformersFarApart(FarApartSuite):
    @pytest.fixture(params=WITH_FORCES, ids=names(WITH_FORCES))
    def case(self, request):
        return request.param


HARD = {
    "envelope": {"envelope": "none"},
    "neighbours": {"num_neighbors": 2},
    "activation": {"l2_dist_attention": False, "attn_activation": "leaky_relu"},
    "linear-heads": {"num_linear_attn_heads": 2},
    "handed": {"handed": True},
}


class TestChoicesThatBreakALaw(ModelCases):
    @pytest.mark.parametrize("options", HARD.values(), ids=HARD)
    def test_a_run_says_so(self, options):
        model = build_model({**POTENTIAL, **options})
        assert len(model.remarks) == 1 and build_model(POTENTIAL).remarks == []

    @pytest.mark.parametrize("options", HARD.values(), ids=HARD)
    def test_rotations_stay_exact(self, options, double):
        case = potential_case("hard", **options)
        model, batch, expected = self.answered(case)
        rotation = random_rotation(self.draws(), torch.float64)
        found = model(turned(case, batch, rotation))
        assert relative_error(found["energy"], expected["energy"]) <= 1e-12
        assert relative_error(found["forces"], expected["forces"] @ rotation.T) <= 1e-11

    def test_handed_kernels_tell_mirror_images_apart(self, double):
        case = potential_case("handed", handed=True, depth=2)
        model, batch, expected = self.answered(case)
        found = model(turned(case, batch, -torch.eye(3)))
        assert relative_error(found["energy"], expected["energy"]) > 1e-6

    def test_nearest_neighbours_are_those(self, double):
        """Two neighbours each: an atom that moves further away than both changes nothing."""
        model, batch, _ = self.prepare(potential_case("nearest", num_neighbors=2), (5,))
        energy = model.network(batch)["atomic_energy"].detach()
        lengths = torch.cdist(batch.positions, batch.positions)
        graph = batch.graph
        near = lengths.fill_diagonal_(torch.inf).topk(2, 1, largest=False).indices
        kept = (near[graph.dst] == graph.src.unsqueeze(1)).any(1)
        fewer = dataclasses.replace(
            batch, graph=type(graph)(graph.src[kept], graph.dst[kept], graph.nodes_per_graph)
        )
        every = build_model({**POTENTIAL, "num_neighbors": None}).eval()
        every.load_state_dict(model.state_dict())
        assert torch.equal(every.network(fewer)["atomic_energy"], energy)


class TestStructuresAtRandom:
    def test_a_skipped_branch_leaves_the_rest(self):
        """Stochastic depth acts in training alone, and on whole structures."""
        torch.manual_seed(0)
        model = build_model({**POTENTIAL, "drop_path": 0.9, "depth": 2})
        batch = atoms_batch([4, 4], torch.Generator().manual_seed(0))
        model.train()
        drawn = {float(model(batch)["energy"][0].detach()) for _ in range(20)}
        assert len(drawn) > 1
        model.eval()
        assert torch.equal(model(batch)["energy"], model(batch)["energy"])

    def test_conditions_are_read(self):
        torch.manual_seed(0)
        model = build_model({**POTENTIAL, "condition": "spin"}).double()
        batch = atoms_batch([4, 3], torch.Generator().manual_seed(0)).to(dtype=torch.float64)
        batch.graph_features["spin"] = torch.tensor([0.0, 1.0], dtype=torch.float64)
        before = model(batch)["energy"].detach()
        with torch.no_grad():
            for parameter in model.network.atoms.condition.parameters():
                parameter += 0.1
        after = model(batch)["energy"].detach()
        assert model.inputs == ["spin"] and float((after - before).abs().min()) > 1e-6
        check_network(model, batch)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"dim": "8,4"}, "dim must be one number or one for each of the 3 degrees"),
            ({"dim": "8,x,4"}, "dim must be whole numbers"),
            ({"heads": "0"}, "heads must be whole numbers > 0"),
            ({"num_degrees": 13}, "num_degrees must be <= 12"),
            ({"drop_path": 1.0}, "drop_path must be a probability"),
            ({"use_far_field": True, "num_linear_attn_heads": 1}, "use_far_field takes the place"),
            ({"edge_kernel": "pairwize"}, "did you mean 'pairwise'"),
            ({"num_degrees": 1, "dim": "8", "forces": "direct"}, "direct forces are read from"),
        ],
    )
    def test_bad_options_are_one_line(self, options, words):
        with pytest.raises(ValueError, match=words) as error:
            build_model({**POTENTIAL, **options})
        assert "\n" not in str(error.value)

    def test_lists_of_numbers_are_options(self):
        """64, [64, 32] and "64,32" are accepted, and come back as text."""
        by_list = build_model({**POTENTIAL, "num_degrees": 2, "dim": [8, 4]})
        by_text = build_model({**POTENTIAL, "num_degrees": 2, "dim": "8,4"})
        by_number = build_model({**POTENTIAL, "dim": 8})
        assert by_list.config == by_text.config and by_number.config["dim"] == "8"
