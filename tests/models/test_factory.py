"""Laws of the factory: every network from its name, the config as its complete memory, and one
clear line for each mistake.
"""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.models.factory import build_model, default_config, network_names
from farfield.models.layers.radial import ENVELOPES, RADIAL_BASES

NBODY = {
    "name": "se3_transformer_nbody",
    "layers": 1,
    "channels": 8,
    "lmax": 2,
    "heads": 2,
    "value_divisor": 2,
}
EVERY_MODEL = pytest.mark.parametrize("name", network_names())
LAWS = settings(max_examples=10, deadline=None, derandomize=True, database=None)


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@EVERY_MODEL
def test_every_model_builds_from_its_name_alone(name):
    model = build_model({"name": name})
    assert model.config == {"name": name, **default_config(name)}
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@EVERY_MODEL
def test_config_survives_json_and_rebuilds_the_same_network(name):
    model = build_model({"name": name})
    config = json.loads(json.dumps(model.config))
    again = build_model(config)
    assert again.config == model.config and shapes(again) == shapes(model)
    again.load_state_dict(model.state_dict(), strict=True)


@LAWS
@given(
    layers=st.integers(1, 2),
    channels=st.sampled_from([4, 8]),
    lmax=st.integers(1, 3),
    heads=st.sampled_from([1, 2]),
    cutoff=st.floats(0.5, 20),
    envelope=st.sampled_from(sorted(ENVELOPES)),
    radial_basis=st.sampled_from(sorted(RADIAL_BASES)),
    relative_position=st.sampled_from([None, "add", "cat"]),
    self_interaction=st.sampled_from(["linear", "attentive"]),
    skip=st.sampled_from(["cat", "sum"]),
    norm=st.sampled_from(["layer", "bias"]),
    updates=st.integers(1, 2),
    share_updates=st.booleans(),
    edge_motion=st.booleans(),
)
def test_config_holds_every_choice(**chosen):
    """What was asked for stands in the config, the rest are the defaults, and the config asked for
    is left alone.
    """
    config = {"name": "se3_transformer_nbody", "value_divisor": 2, **chosen}
    asked = dict(config)
    model = build_model(config)
    assert config == asked
    assert model.config == {"name": config["name"], **default_config(config["name"]), **asked}
    again = build_model(model.config)
    assert again.config == model.config and shapes(again) == shapes(model)


def test_options_shape_the_network():
    """Each of these options changes the weights: none is read and dropped."""
    base = shapes(build_model(NBODY))
    changes = [
        {"layers": 2},
        {"channels": 16},
        {"lmax": 3},
        {"value_divisor": 1},
        {"radial_basis": "raw"},
        {"radial_size": 5},
        {"radial_hidden": 12},
        {"relative_position": "cat"},
        {"self_interaction": "attentive"},
        {"skip": "sum"},
        {"norm": "layer"},
        {"pseudo_channels": 2},
        {"updates": 2},
        {"edge_motion": False},
    ]
    for change in changes:
        assert shapes(build_model({**NBODY, **change})) != base, change
    one, shared = (
        build_model({**NBODY, "updates": 1}),
        build_model({**NBODY, "updates": 3, "share_updates": True}),
    )
    assert shapes(one) == shapes(shared)


def test_integer_passes_as_float():
    model = build_model({**NBODY, "cutoff": 7, "horizon": 2})
    assert (
        model.config["cutoff"] == 7.0
        and isinstance(model.config["cutoff"], float)
        and isinstance(model.config["horizon"], float)
    )


# change to the config, and what the one line of the error must quote: the value, and the limit or
# the mend
MISTAKES = [
    ({"name": "se3_transfomer"}, ["'se3_transfomer'", "se3_transformer_nbody"]),
    ({"name": None}, ["None", "se3_transformer_nbody"]),
    ({"name": ["se3_transformer_nbody"]}, ["['se3_transformer_nbody']"]),
    ({"chanels": 8}, ["'chanels'", "did you mean 'channels'"]),
    ({"zzz": 8}, ["'zzz'", "known: ", "radial_basis"]),
    ({"edge_vectors": 2}, ["'edge_vectors'", "known: "]),
    ({3: 4}, ["3", "known: "]),
    ({"layers": "two"}, ["layers", "int", "'two'"]),
    ({"layers": 2.0}, ["layers", "int", "2.0"]),
    ({"layers": True}, ["layers", "int", "True"]),
    ({"share_updates": 1}, ["share_updates", "bool", "1"]),
    ({"cutoff": "5"}, ["cutoff", "float", "'5'"]),
    ({"cutoff": None}, ["cutoff", "float", "None"]),
    ({"norm": None}, ["norm", "str", "None"]),
    ({"cutoff": -1.0}, ["cutoff must be > 0", "-1.0"]),
    ({"cutoff": 0}, ["cutoff must be > 0", "0.0"]),
    ({"cutoff": float("nan")}, ["cutoff must be > 0", "nan"]),
    ({"cutoff": float("inf")}, ["cutoff must be > 0 and finite", "inf"]),
    ({"horizon": 0}, ["horizon must be > 0", "0.0"]),
    ({"horizon": float("inf")}, ["horizon must be > 0 and finite", "inf"]),
    ({"layers": 0}, ["layers must be >= 1", "0"]),
    ({"channels": -8}, ["channels must be >= 1", "-8"]),
    ({"lmax": 0}, ["lmax must be >= 1", "0"]),
    ({"lmax": 12}, ["lmax must be <= 11", "12"]),
    ({"heads": 0}, ["heads must be >= 1", "0"]),
    ({"value_divisor": 0}, ["value_divisor must be >= 1", "0"]),
    ({"radial_size": 0}, ["radial_size must be >= 1", "0"]),
    ({"radial_hidden": -1}, ["radial_hidden must be >= 1", "-1"]),
    ({"updates": 0}, ["updates must be >= 1", "0"]),
    ({"heads": 3}, ["heads must divide", "4", "3", "[1, 2, 4]"]),
    ({"value_divisor": 3}, ["value_divisor must divide channels", "8", "3", "choose"]),
    ({"envelope": "step"}, ["none, cosine, polynomial", "'step'"]),
    ({"radial_basis": "fourier"}, ["raw, bessel, gaussian, log_gaussian", "'fourier'"]),
    ({"relative_position": "sum"}, ["None, 'add' or 'cat'", "'sum'"]),
    ({"self_interaction": "mlp"}, ["linear, attentive", "'mlp'"]),
    ({"skip": "none"}, ["cat, sum", "'none'"]),
    ({"norm": "batch"}, ["layer, bias", "'batch'"]),
    ({"pseudo_channels": -1}, ["0 .. 7", "-1"]),
    ({"pseudo_channels": 8}, ["0 .. 7", "8"]),
    ({"pseudo_channels": 20}, ["0 .. 7", "20"]),
]


@pytest.mark.parametrize(
    ("change", "quoted"), MISTAKES, ids=[str(change) for change, _ in MISTAKES]
)
def test_each_mistake_is_one_line_with_value_and_mend(change, quoted):
    with pytest.raises(ValueError) as error:
        build_model({**NBODY, **change})
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert all(part in message for part in quoted), message


E2FORMER_MISTAKES = [
    ({"irreps": "8x0e+8x2e"}, ["'8x0e+8x2e'", "write e.g."]),
    ({"irreps": "8x0e"}, ["degrees 0 and 1", "'8x0e'"]),
    ({"irreps": "9x0e+9x1o", "schedule": "first-order"}, ["9 channels", "heads"]),
    ({"schedule": "second-order", "irreps": "4x0e+4x1o"}, ["second-order", "4 channels"]),
    ({"schedule": "third-order"}, ["'third-order'", "known: zero-order"]),
    ({"layers": 0}, ["layers must be >= 1", "0"]),
    ({"cutoff": 0}, ["cutoff must be > 0", "0.0"]),
    ({"avg_degree": -1.0}, ["avg_degree must be > 0", "-1.0"]),
    ({"avg_atoms": float("inf")}, ["avg_atoms must be > 0 and finite", "inf"]),
    ({"radial_size": 0}, ["radial_size must be >= 1", "0"]),
    ({"ffn_ratio": 0}, ["ffn_ratio must be >= 1", "0"]),
    ({"envelope": "none"}, ["cosine, polynomial", "'none'"]),
    ({"radial_basis": "fourier"}, ["bessel", "'fourier'"]),
    ({"near_score": "MLP"}, ["QK_alpha", "'MLP'"]),
    ({"near_weights": "relu"}, ["softmax, softplus", "'relu'"]),
    ({"norm": "batch"}, ["rms_norm_sh", "'batch'"]),
    ({"feed_forward": "moe"}, ["gate", "'moe'"]),
    ({"drop_path": 1.0}, ["drop_path", "[0, 1)", "1.0"]),
    ({"forces": "both"}, ["conservative, direct, none", "'both'"]),
    ({"forces": "direct", "stress": True}, ["stress", "'conservative'", "'direct'"]),
    ({"far_expansion": "taylor"}, ["multipole", "'taylor'"]),
    ({"far_heads": 0}, ["heads of the far field must be >= 1", "0"]),
    ({"far_tolerance": 2.0}, ["tolerance", "(0, 0.1]", "2.0"]),
    ({"far_design_radius": -3.0}, ["design_radius", "-3.0"]),
    ({"far_kappa_max": 0.8}, ["kappa_max", "'standing_waves'", "far_range"]),
    ({"far_range": -1.0}, ["range of the far field", "-1.0"]),
    ({"far_num_kappa": 0}, ["num_kappa of the far field must be >= 1", "0"]),
    ({"fmm_kapa_max": 1.0}, ["'fmm_kapa_max'", "did you mean 'fmm_kappa_max'"]),
]


@pytest.mark.parametrize(
    ("change", "quoted"), E2FORMER_MISTAKES, ids=[str(change) for change, _ in E2FORMER_MISTAKES]
)
def test_mistakes_in_e2former_options(change, quoted):
    with pytest.raises(ValueError) as error:
        build_model({"name": "e2former", **change})
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert all(part in message for part in quoted), message


def test_e2former_options_shape_the_network():
    """Each of these options changes the weights, or what is computed with them: none is read and
    dropped.
    """
    small = {
        "name": "e2former",
        "irreps": "8x0e+8x1o",
        "schedule": "hybrid-first-order",
        "far_expansion": "pairwise",
        "far_radial_terms": 2,
    }
    base = shapes(build_model(small))
    changes = [
        {"irreps": "16x0e+16x1o"},
        {"irreps": "8x0e+8x1o+8x2e"},
        {"schedule": "first-order"},
        {"layers": 1},
        {"radial_size": 5},
        {"radial_hidden": 12},
        {"element_size": 3},
        {"near_score": "dot_alpha"},
        {"near_score_width": 2},
        {"far_heads": 2},
        {"far_key_features": 2},
        {"far_value_channels": 1},
        {"far_kernel_lmax": 1},
        {"far_value_lmax": None},
        {"feed_forward": "gate"},
        {"ffn_ratio": 2},
        {"forces": "direct"},
        {"far_radial_terms": 3},
        {"far_kernel": "standing_waves"},
        {"far_radial_mode": "shared"},
    ]
    for change in changes:
        assert shapes(build_model({**small, **change})) != base, change


def test_missing_name_lists_the_networks():
    with pytest.raises(ValueError, match="no 'name'.*se3_transformer_nbody"):
        build_model({"layers": 2})


def test_unknown_network_has_no_options():
    with pytest.raises(ValueError, match="'resnet'"):
        default_config("resnet")


@pytest.mark.parametrize(
    "change",
    [
        {"far_directions": "86"},
        {"layers": 2.5},
        {"layers": True},
        {"stress": 1},
        {"cutoff": "5"},
        {"radial_basis": None},
    ],
)
def test_values_of_another_type_are_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name} must be of type .*, got {value!r}"):
        build_model({"name": "e2former", **change})


def test_whole_numbers_are_numbers_and_none_is_a_choice():
    assert (
        build_model({"name": "e2former", "cutoff": 4, "far_directions": None}).config["cutoff"]
        == 4.0
    )
