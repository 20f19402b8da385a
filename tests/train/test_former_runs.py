"""Run folders of earlier versions go on: their names of tasks and options are translated."""

import pytest
import yaml

from farfield.common import checkpoint
from farfield.train import train_md17, train_nbody
from farfield.train.former_runs import current_config
from tests.support.md_data import SMALL
from tests.support.run_results import results_of, without_clocks

# names that the version before had, in the section `model` of an E2Former and everywhere
FORMER_OPTIONS = {
    "near_heads": "heads",
    "near_score": "score",
    "near_score_width": "score_width",
    "near_weights": "attention_weights",
    "near_convolution_form": "convolution_form",
    "near_kernel_implementation": "kernel_implementation",
    "far_num_kappa": "fmm_num_kappa",
    "far_kappa_max": "fmm_kappa_max",
    "far_weight": "long_scale",
}


def make_former(folder, task: str) -> None:
    """Write the configuration of a run as the version before did."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(former(config, task)))
    content = checkpoint.read_run(folder / checkpoint.LAST)
    content.pop("format")
    content["config"] = former(content["config"], task)
    checkpoint.save_checkpoint(folder / checkpoint.LAST, content)


def former(config: dict, task: str) -> dict:
    model = {FORMER_OPTIONS.get(key, key): value for key, value in config["model"].items()}
    return config | {"task": task, "model": model}


def test_a_run_folder_with_former_names_goes_on(data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ["--data-path", str(data), *SMALL, "--epochs", "2"]
    train_md17.main(["--run-dir", str(whole), *options])
    train_md17.main(["--run-dir", str(parts), *options, "--pause-after", "1"])
    make_former(parts, "md17")

    train_md17.main(["--run-dir", str(parts), "--resume"])
    one, two = results_of(whole), results_of(parts)
    assert without_clocks(one["history"]) == without_clocks(two["history"])
    assert two["config"]["task"] == "energy_forces" and two["config"]["model"]["near_heads"] == 2
    assert "task: energy_forces" in (parts / "config.yaml").read_text()


def test_another_option_is_still_refused_under_its_former_name(data, tmp_path):
    options = ["--data-path", str(data), *SMALL, "--epochs", "2", "--pause-after", "1"]
    train_md17.main(["--run-dir", str(tmp_path), *options])
    make_former(tmp_path, "md22")
    with pytest.raises(ValueError, match="model.far_weight is 1.0 there and 0.2 here"):
        train_md17.main(["--run-dir", str(tmp_path), "--resume", "--far-weight", "0.2"])


def test_a_network_that_had_no_presets_has_the_default_one():
    options = train_nbody.SCRIPT.read_options([])
    saved = {"task": "nbody", "model": {key: options.model[key] for key in ("name", "layers")}}
    assert current_config(saved)["model"]["preset"] == options.model.preset


@pytest.mark.parametrize("name, now", [("md17", "energy_forces"), ("qm9", "properties")])
def test_former_names_of_tasks(name, now):
    assert current_config({"task": name})["task"] == now
    assert current_config({"task": "own"})["task"] == "own"
