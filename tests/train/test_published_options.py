"""Options by their published names in a training: learned, stored, loaded and resumed."""

import pytest
import torch
from easydict import EasyDict

from farfield.common import checkpoint
from farfield.common.configuration import saved_config
from farfield.common.trained import restore_network
from farfield.train import train_md17
from tests.support.md_data import SMALL, flags
from tests.support.run_results import results_of, without_clocks
from tests.support.small_e2former import draw, made

PUBLISHED = flags(
    max_neighbors=3,
    alpha_drop=0.3,
    norm_layer="rms_norm_sh_BL",
    ffn_type="s3",
    tp_type="QK_alpha+tp_cueq",
)


def test_a_run_in_two_parts_is_the_whole_run(data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ["--data-path", str(data), *SMALL, *PUBLISHED, "--epochs", "2"]
    train_md17.main(["--run-dir", str(whole), *options])
    train_md17.main(["--run-dir", str(parts), *options, "--pause-after", "1"])
    train_md17.main(["--run-dir", str(parts), "--resume"])
    assert "note: torch computes the tensor products" in (whole / "log.txt").read_text()
    one, two = results_of(whole), results_of(parts)
    assert without_clocks(one["history"]) == without_clocks(two["history"])

    # what a checkpoint gives back
    content = checkpoint.read_run(parts / checkpoint.BEST)
    network = restore_network(EasyDict(content["config"]))
    network.load_state_dict(content["weights"])
    stated = {
        "max_neighbors": 3,
        "near_dropout": 0.3,
        "norm": "rms_norm_sh",
        "feed_forward": "gate",
    }
    assert {name: network.config[name] for name in stated} == stated


def test_neighbours_are_dropped_only_while_training():
    torch.manual_seed(0)
    model, batch = made(alpha_drop=0.5), draw()
    still = [model(batch)["energy"] for _ in range(2)]
    model.train()
    moved = [model(batch)["energy"] for _ in range(2)]
    assert torch.equal(*still) and not torch.equal(*moved)
    with pytest.raises(ValueError, match=r"dropout of the near field .* in \[0, 1\), got 1.0"):
        made(alpha_drop=1.0)


def test_a_run_says_what_computes(data):
    options = ["--data-path", str(data), "--tp-type", "QK_alpha+tp_cueq"]
    config = train_md17.SCRIPT.read_options(options)
    assert config.model.near_score == "QK_alpha"
    assert config.notes == ["torch computes the tensor products, cuEquivariance is not used"]
    assert "notes" not in saved_config(config)
    assert train_md17.SCRIPT.read_options([*options[:2], "--tp-type", "QK_alpha"]).notes == []


def test_the_command_line_says_why_a_published_option_is_absent(data):
    with pytest.raises(ValueError, match="--use-fp16-backbone; .*rounds by 2e-4.*--precision"):
        train_md17.main(["--data-path", str(data), "--use-fp16-backbone"])


def test_a_file_says_why_a_published_option_is_absent(data, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("use_padding: true")
    with pytest.raises(ValueError, match="'use_padding'; .* without padding; leave it out"):
        train_md17.main(["--data-path", str(data), "--config", str(file)])
