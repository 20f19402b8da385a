"""Laws of fine-tuning: the first weights are those of the checkpoint, what belongs to the labels is
fitted again, frozen parts stay, and an interrupted run goes on without the checkpoint.
"""

import json

import pytest
import torch
import yaml

from farfield.common import checkpoint
from farfield.common.trained import TrainedRun
from farfield.dataloader.prepared_folder import load_statistics
from farfield.dataloader.storage.files import file_checksum
from farfield.train import launch, train_md17, train_nbody
from farfield.train.initial_weights import RATE_FACTOR, WARMUP_STEPS
from tests.support.md_data import NETWORK, SMALL, TRAINING, make_data
from tests.support.molecule_data import random_structures
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks

SHORT = [*TRAINING[2:], "--no-progress"]  # no option of the network
SIZES = (3, 5, 4, 2, 6, 3, 4, 5, 3, 4, 6, 5, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Checkpoint of a short run on H, C and O."""
    folder = tmp_path_factory.mktemp("origin")
    data = make_data(folder / "set")
    words = ["--run-dir", str(folder / "run"), "--data-path", str(data), *SMALL]
    train_md17.main([*words, "--epochs", "2", "--lr", "0.01"])
    return folder / "run" / checkpoint.BEST


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Other structures, nitrogen among their elements."""
    folder = tmp_path_factory.mktemp("data")
    return make_data(folder / "set", random_structures(SIZES, seed=5, elements=(1, 6, 7)))


def options(origin, data, *arguments):
    """The configuration of a run that starts from ``origin``."""
    words = ["--data-path", str(data), "--init-from", str(origin), *SHORT, *arguments]
    return train_md17.SCRIPT.read_options(words)


def tune(folder, origin, data, *arguments):
    """Results of a run of two epochs in ``folder``; None if it was paused."""
    words = ["--run-dir", str(folder), "--data-path", str(data), "--init-from", str(origin)]
    train_md17.main([*words, *SHORT, "--epochs", "2", *arguments])
    return results_of(folder)


def test_the_network_and_its_weights_are_those_of_the_checkpoint(origin, data):
    config = options(origin, data)
    run = TrainedRun.read(origin)
    assert dict(config.model) == dict(run.config.model)
    trainer, parts = launch.build_trainer(config)
    weights = dict(parts.model.named_parameters())
    rows = {"elements.weight", "edge_elements.weight"}
    for name, weight in weights.items():
        known = [0, 1, 6, 8] if any(name.endswith(one) for one in rows) else ...
        assert torch.equal(weight[known], run.weights[name][known]), name
    averaged = trainer.averaged.module.state_dict()
    assert all(torch.equal(averaged[name], weight) for name, weight in weights.items())


def test_references_and_scale_are_those_of_the_new_data(origin, data):
    _, parts = launch.build_trainer(options(origin, data))
    statistics, reference = load_statistics(data), parts.model.reference
    assert reference.values() == pytest.approx(statistics.references, rel=1e-14)
    assert float(reference.scale) == statistics.learned_scale
    assert sorted(reference.values()) == [1, 6, 7]


def test_a_new_element_starts_as_the_known_one_most_like_it(origin, data):
    _, parts = launch.build_trainer(options(origin, data))
    trained = TrainedRun.read(origin).weights
    for name in ("network.backbone.elements.weight", "network.backbone.edge_elements.weight"):
        rows = parts.model.state_dict()[name]
        assert torch.equal(rows[7], trained[name][6])
        assert torch.equal(rows[9], trained[name][9])  # neither set has fluorine
    assert any("N (as C)" in line for line in parts.remarks)


def test_the_learning_rate_is_lower_unless_it_is_named(origin, data):
    usual = train_md17.SCRIPT.read_options(["--data-path", str(data), *NETWORK]).training.lr
    assert options(origin, data).training.lr == pytest.approx(RATE_FACTOR * usual)
    assert options(origin, data, "--lr", "0.003").training.lr == 0.003
    words = ["--data-path", str(data), "--init-from", str(origin)]
    assert train_md17.SCRIPT.read_options(words).training.warmup_steps == WARMUP_STEPS


def test_frozen_parts_keep_their_weights(origin, data, tmp_path):
    tune(tmp_path, origin, data, "--freeze", "layers,heads", "--lr", "0.01")
    before = TrainedRun.read(origin).weights
    after = checkpoint.read_run(tmp_path / checkpoint.LAST)["weights"]
    for name, weight in after.items():
        if name.startswith(("network.backbone.blocks.", "network.energy.")):
            assert torch.equal(weight, before[name]), name
    changed = "network.backbone.edge_degree.linear.weight"
    assert not torch.equal(after[changed], before[changed])


def test_a_paused_run_goes_on_without_the_checkpoint(origin, data, tmp_path):
    copy = tmp_path / "origin.pt"
    copy.write_bytes(origin.read_bytes())
    freeze = ["--freeze", "layers:0"]
    whole = tune(tmp_path / "whole", copy, data, *freeze)
    assert tune(tmp_path / "parts", copy, data, *freeze, "--pause-after", "1") is None
    copy.unlink()
    train_md17.main(["--run-dir", str(tmp_path / "parts"), "--resume", "--no-progress"])
    parts = results_of(tmp_path / "parts")
    assert without_clocks(whole["history"]) == without_clocks(parts["history"])
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")

    # where it came from stands in the options of the run, its results and its checkpoints
    for config in (
        yaml.safe_load((tmp_path / "parts" / "config.yaml").read_text()),
        json.loads((tmp_path / "parts" / "results.json").read_text())["config"],
        checkpoint.read_run(tmp_path / "parts" / checkpoint.BEST)["config"],
    ):
        assert config["training"]["init_from"] == str(copy)
        assert config["training"]["init_sha256"] == file_checksum(origin)
        assert config["training"]["freeze"] == "layers:0"


def test_its_configuration_starts_another_run(origin, data, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"training": {"init_from": str(origin)}}))
    config = train_md17.SCRIPT.read_options(["--config", str(file), "--data-path", str(data)])
    assert dict(config.model) == dict(TrainedRun.read(origin).config.model)
    assert config.training.init_sha256 == file_checksum(origin)


def test_what_cannot_be_continued_is_one_line(origin, data):
    cases = {
        "--schedule is first-order1 here and hybrid": ["--schedule", "first-order1"],
        "--preset is base here": ["--preset", "base"],
        "--model is equiformer here": ["--model", "equiformer"],
        "has the SHA-256": ["--init-sha256", "0" * 64],
        "new ones: N": ["--freeze", "embedding"],
        "did you mean 'layers'": ["--freeze", "layer"],
        "--schedule is": ["--compare"],
    }
    for words, arguments in cases.items():
        with pytest.raises(ValueError, match=words) as caught:
            launch.train(options(origin, data, "--run-dir", str(data / "run"), *arguments))
        assert "\n" not in str(caught.value)
    assert not (data / "run").exists()


def test_other_checkpoints_are_refused(origin, data):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        options(data / "absent.pt", data)
    with pytest.raises(ValueError, match="give the checkpoint of a nbody"):
        train_nbody.SCRIPT.read_options(["--init-from", str(origin)])
    with pytest.raises(ValueError, match="give its checkpoint with --init-from"):
        words = ["--data-path", str(data), *SMALL, "--freeze", "heads"]
        launch.build_trainer(train_md17.SCRIPT.read_options(words))
