"""Laws of translated files: the network is the one that the published file describes, and every
option is accounted for.
"""

from __future__ import annotations

import pytest
import yaml

from farfield.common.option_files import read_options_file
from farfield.models.factory import build_model
from farfield.train import convert_config, train_potential
from farfield.train.published_table import known_names
from tests.support.documents import read

# option names of the public files with values of our own
HYBRID = {
    "encoder": "default",
    "max_neighbors": 12,
    "irreps_node_embedding": "24x0e+24x1e+24x2e+24x3e",
    "num_layers": 3,
    "pbc_max_radius": 7.0,
    "max_radius": 7.0,
    "basis_type": "gaussiansmear",
    "number_of_basis": 20,
    "num_attn_heads": 3,
    "attn_scalar_head": 5,
    "irreps_head": "8x0e+8x1e+8x2e+8x3e",
    "norm_layer": "rms_norm_sh_BL",
    "alpha_drop": 0.2,
    "attn_type": "hybrid-first-order",
    "tp_type": "QK_alpha@fmm-node+tp_cueq",
    "fmm_num_kappa": 6,
    "fmm_value_head_dim": 0,
    "ffn_type": "s3",
    "use_fp16_backbone": False,
}
FAIRCHEM = {
    "trainer": "equiformerv2_forces",
    "model": {
        "name": "hydra",
        "backbone": {
            "model": "src.E2Former.E2FormerBackbone",
            "irreps_node_embedding": "32x0e+32x1e",
            "num_layers": 2,
            "attn_type": "so2-first-order",
        },
        "heads": {"energy": {"module": "src.E2Former.E2FormerEnergyHead"}},
    },
    "loss_functions": [
        {"energy": {"fn": "mae", "coefficient": 2}},
        {"forces": {"fn": "l2mae", "coefficient": 100}},
    ],
    "optim": {
        "batch_size": 4,
        "lr_initial": 4e-4,
        "optimizer": "AdamW",
        "optimizer_params": {"weight_decay": 0.002},
        "scheduler_params": {"lambda_type": "cosine", "lr_min_factor": 0.25},
        "max_epochs": 7,
    },
}
FLAT = {
    "backbone": "e2former",
    "backbone_config": {"name": "e2former", **HYBRID, "attn_type": "first-order2+fmm-node1"},
    "max_lr": "5e-4",
    "min_lr": "1e-6",
    "warmup_num_steps": 50,
    "force_loss_weight": 0.8,
    "fp16": False,
    "wandb": True,
}


def converted(tmp_path, content, *arguments):
    """Sections of the file that is written for ``content``."""
    source, out = tmp_path / "published.yaml", tmp_path / "ours.yaml"
    source.write_text(yaml.safe_dump(content))
    convert_config.main([str(source), "--out", str(out), *arguments])

    # the training script takes every option of the file
    parser = train_potential.SCRIPT.parser("e2former", "paper")
    read_options_file(out, parser.known_options())
    return yaml.safe_load(out.read_text())


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"backbone_config": one}])
def test_the_network_has_the_stated_sizes(tmp_path, wrap):
    sections = converted(tmp_path, wrap(HYBRID))
    network = build_model(sections["model"]).network
    options = network.options
    assert len(network.backbone.blocks) == 3 and options.attentions() == ["hybrid-first-order"] * 3
    assert (options.channels, options.lmax, options.cutoff) == (24, 3, 7.0)
    assert (options.near.heads, options.near.score_width) == (3, 5)
    assert (options.far.heads, options.far.key_features, options.far.value_channels) == (3, 5, 8)
    assert (options.max_neighbors, options.near.dropout) == (12, 0.2)
    assert (options.norm, options.feed_forward) == ("rms_norm_sh", "gate")


def test_a_file_of_fairchem(tmp_path):
    sections = converted(tmp_path, FAIRCHEM)
    assert sections["training"] == {
        "batch_size": 4,
        "lr": 4e-4,
        "optimizer": "adamw",
        "weight_decay": 0.002,
        "lr_schedule": "cosine",
        "epochs": 7,
        "min_lr": 1e-4,
    }
    assert sections["loss"]["force_loss"] == "vector_norm"
    assert (sections["loss"]["weight_energy"], sections["loss"]["weight_forces"]) == (2, 100)

    # what the file leaves out is what the published program takes
    options = build_model(sections["model"]).network.options
    assert options.attentions() == ["first-order"] * 2 and options.lmax == 1
    assert (options.cutoff, options.max_neighbors, options.near.heads) == (15.0, 20, 4)


def test_a_flat_file(tmp_path):
    sections = converted(tmp_path, FLAT)
    assert sections["training"] == {"lr": 5e-4, "min_lr": 1e-6, "warmup_steps": 50}
    options = build_model(sections["model"]).network.options
    assert options.attentions() == ["first-order", "first-order", "fmm-node"]
    assert "layers" not in sections["model"]  # the schedule counts them


@pytest.mark.parametrize("encoder", ["default", "dit"])
def test_an_encoder_in_front(tmp_path, encoder):
    sizes = {"encoder_embed_dim": 24, "num_attention_heads": 2, "num_encoder_layers": 1}
    model = converted(tmp_path, HYBRID | sizes | {"encoder": encoder})["model"]
    assert model["encoder"] == ("none" if encoder == "default" else encoder)
    assert ("encoder_width" in model) == (encoder == "dit")
    assert build_model(model)


def test_layers_that_are_counted_twice_must_agree(tmp_path, capsys):
    content = HYBRID | {"attn_type": "first-order2+fmm-node2"}
    with pytest.raises(ValueError, match=r"1 option is refused \(num_layers\)"):
        converted(tmp_path, content)
    assert "num_layers: 3  attn_type first-order2+fmm-node2 has 4 layers" in capsys.readouterr().out


def test_a_schedule_that_cannot_be_read_is_refused_with_the_file(tmp_path):
    with pytest.raises(ValueError, match="published.yaml: schedule 'firsd-order' names"):
        converted(tmp_path, FLAT | {"backbone_config": {"attn_type": "firsd-order"}})


def test_every_option_of_a_file_is_accounted_for(tmp_path, capsys):
    converted(tmp_path, FLAT)
    text = capsys.readouterr().out
    for name in [*FLAT["backbone_config"], *(set(FLAT) - {"backbone_config"})]:
        assert f"  {name}: " in text
    assert "torch computes the tensor products, cuEquivariance is not used" in text


REFUSED = {
    "use_fp16_backbone": (True, "give --precision float32"),
    "encoder": ("something", "encoder must be one of none"),
    "ffn_type": ("3body", "give s2"),
    "attn_type": ("escn", "--model equiformer"),
    "rescale_degree": (True, "--near-weights softplus"),
    "irreps_head": ("4x0e+4x1e+4x2e+4x3e", "give 8 channels"),
    "no_such_option": (1, "not a known option"),
    "num_layers": ("three", "must be of type int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_translated_is_refused_and_can_be_skipped(tmp_path, capsys, name):
    value, words = REFUSED[name]
    with pytest.raises(ValueError, match=rf"1 option is refused \({name}\); .*--skip-refused"):
        converted(tmp_path, HYBRID | {name: value})
    assert words in capsys.readouterr().out
    assert not (tmp_path / "ours.yaml").exists()

    sections = converted(tmp_path, HYBRID | {name: value}, "--skip-refused")
    without = {key: one for key, one in HYBRID.items() if key != name}
    assert sections == converted(tmp_path, without)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "is not readable as yaml"),
        ("- a", "must hold option names"),
        ("lr: 1", "has 0 parts that describe an E2Former"),
        ("a: {tp_type: x}\nb: {tp_type: y}", "has 2 parts"),
    ],
)
def test_other_files_are_one_line(tmp_path, content, words):
    file = tmp_path / "published.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=words) as refusal:
        convert_config.main([str(file)])
    assert "\n" not in str(refusal.value)


def test_files_that_are_missing_or_the_same(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert_config.main([str(tmp_path / "absent.yaml")])
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(HYBRID))
    with pytest.raises(ValueError, match="is the file to convert"):
        convert_config.main([str(file), "--out", str(file)])


def test_without_out_the_options_are_printed(tmp_path, capsys):
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(HYBRID))
    convert_config.main([str(file)])
    text = capsys.readouterr().out
    assert yaml.safe_load(text[text.index("# converted from") :])["model"]["layers"] == 3


def test_the_page_has_the_table_of_the_code():
    assert known_names() in read("docs/how_to/convert_config.md")
