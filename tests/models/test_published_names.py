"""Laws of published options: each is accepted, or refused with the reason and what to type."""

from __future__ import annotations

import pytest

from farfield.models.factory import build_model
from farfield.models.networks.e2former_options import E2FormerOptions
from farfield.models.option_fields import canonical, option_fields
from farfield.models.published_names import ABSENT, ANYTHING
from farfield.models.published_words import FEED_FORWARDS, published_schedule, published_score

FIELDS = option_fields(E2FormerOptions)
ALIASES = {alias.name for field in FIELDS.values() for alias in field.aliases}

# the options of the backbone in the files of E2Former, E2Former-FMM and E2Former-V2
NAMES = """
max_neighbors irreps_node_embedding num_layers pbc_max_radius max_radius basis_type number_of_basis
num_attn_heads attn_scalar_head irreps_head rescale_degree nonlinear_message norm_layer alpha_drop
proj_drop out_drop drop_path_rate attn_type tp_type edge_embedtype attn_biastype ffn_type add_rope
time_embed sparse_attn dynamic_sparse_attn_threthod force_head avg_degree decouple_EF atom_type_cnt
fmm_num_kappa fmm_kappa_min fmm_kappa_max fmm_num_directions fmm_kappa_chunk_size fmm_compute_dtype
fmm_value_head_dim fmm_coupling_norm fmm_learnable_radial_coeffs fmm_radial_coeffs_mode
fmm_radial_init_scale fmm_radial_low_kappa_bias hybrid_long_scale_init encoder with_cluster
use_rdkit encoder_embed_dim ffn_embedding_dim num_attention_heads dropout num_encoder_layers
regress_forces direct_force use_padding use_fp16_backbone use_compile flatten_atoms_threshold
pbc_expanded_token_cutoff pbc_expanded_num_cell_per_direction cluster_ckpt_path
"""


@pytest.mark.parametrize("name", NAMES.split())
def test_every_published_name_is_known(name):
    assert [name in FIELDS, name in ALIASES, name in ABSENT].count(True) == 1


@pytest.mark.parametrize("name", ABSENT)
def test_an_absent_one_says_why_and_what_to_type(name):
    absent = ABSENT[name]
    with pytest.raises(ValueError) as refusal:
        canonical(E2FormerOptions, {name: True})
    text = str(refusal.value)
    assert absent.why in text and absent.instead in text and "\n" not in text
    assert absent.harmless == ANYTHING or not absent.is_harmless("something else")


def test_a_harmless_value_is_told_from_a_number_that_equals_it():
    assert ABSENT["rescale_degree"].is_harmless(False)
    assert not ABSENT["rescale_degree"].is_harmless(0)
    assert ABSENT["proj_drop"].is_harmless(0) and not ABSENT["proj_drop"].is_harmless(0.1)


def test_the_published_hybrid_is_accepted_word_by_word():
    model = build_model(
        {
            "name": "e2former",
            "preset": "paper",
            "max_neighbors": 20,
            "irreps_node_embedding": "16x0e+16x1e+16x2e",
            "num_layers": 2,
            "max_radius": 15.0,
            "basis_type": "gaussiansmear",
            "number_of_basis": 128,
            "num_attn_heads": 4,
            "attn_scalar_head": 32,
            "norm_layer": "rms_norm_sh_BL",
            "alpha_drop": 0.1,
            "drop_path_rate": 0.1,
            "attn_type": "hybrid-first-order",
            "tp_type": "QK_alpha@fmm-node+tp_cueq",
            "fmm_value_head_dim": 8,
            "hybrid_long_scale_init": 1.0,
            "ffn_type": "eqv2ffn",
            "direct_force": False,
        }
    )
    expected = {
        "max_neighbors": 20,
        "schedule": "hybrid-first-order",
        "layers": 2,
        "cutoff": 15.0,
        "radial_basis": "gaussian",
        "radial_size": 128,
        "near_heads": 4,
        "near_score": "QK_alpha",
        "near_score_width": 32,
        "near_dropout": 0.1,
        "norm": "rms_norm_sh",
        "drop_path": 0.1,
        "far_value_channels": 8,
        "far_weight": 1.0,
        "feed_forward": "sphere_grid",
        "forces": "conservative",
    }
    assert {name: model.config[name] for name in expected} == expected
    assert len(model.network.backbone.blocks) == 2


@pytest.mark.parametrize(
    ("value", "score"),
    [
        ("QK_alpha", "QK_alpha"),
        ("QK_alpha+triton", "QK_alpha"),
        ("QK_alpha@fmm-node+tp_cueq", "QK_alpha"),
        ("dot_alpha_small", "dot_alpha_small"),
        ("fmm-node+tp_cueq", "now"),
    ],
)
def test_the_score_of_a_chain(value, score):
    assert published_score(value, "now") == score


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("QK_alpha@ewald", ["'ewald'", "known: fmm-node"]),
        ("QK_alpha+cuda", ["'cuda'", "tp_cueq"]),
        ("QK_alpha+use_smooth_softmax", ["near_weights softmax"]),
    ],
)
def test_an_unknown_part_of_a_chain_is_refused(value, words):
    with pytest.raises(ValueError) as refusal:
        published_score(value, "now")
    assert all(word in str(refusal.value) for word in words)


def test_schedules_in_published_words():
    assert published_schedule("so2-first-order4+fmm-node2", "") == "first-order4+fmm-node2"
    assert published_schedule("hybrid-so2-first-order", "") == "hybrid-first-order"
    assert published_schedule("all-order", "") == "all-order"
    with pytest.raises(ValueError, match="--model equiformer"):
        published_schedule("escn", "")


@pytest.mark.parametrize("value", ["s2+s3", "grid_nonlinear", "3body", "edge_attn"])
def test_feed_forwards_that_are_not_built_are_refused(value):
    with pytest.raises(ValueError, match="give s2"):
        canonical(E2FormerOptions, {"ffn_type": value})


@pytest.mark.parametrize("value", FEED_FORWARDS)
def test_published_feed_forwards_are_built(value):
    build_model({"name": "e2former", "ffn_type": value})
