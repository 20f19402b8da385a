"""Run folders of earlier versions are read, judged and continued as if they were of today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from farfield.common import checkpoint
from farfield.common.checkpoint_formats import current_model_options
from farfield.preprocess import preprocess_md17
from farfield.train import train_md17
from farfield.train.evaluate import evaluate_checkpoint

OLD_RUN = Path(__file__).parents[1] / "support" / "run_of_format_2"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The structures that the old run learned from, preprocessed today."""
    folder = tmp_path_factory.mktemp("old") / "structures"
    sizes = ["--train", "8", "--val", "2", "--test", "4"]
    preprocess_md17.main(["--sample", *sizes, "--out", str(folder)])
    return folder


def test_an_old_checkpoint_gives_the_table_of_its_own_time(data):
    then = json.loads((OLD_RUN / "results.json").read_text())["test"]
    now = evaluate_checkpoint(OLD_RUN / checkpoint.BEST, data_path=data)
    for old, new in zip(then, now, strict=True):
        for name, value in old.items():
            if isinstance(value, float):
                assert new[name] == pytest.approx(value, rel=1e-4), name


def test_an_old_run_goes_on(data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(OLD_RUN, run)
    options = ["--run-dir", str(run), "--data-path", str(data), "--resume", "--epochs", "3"]
    train_md17.main([*options, "--no-progress"])
    results = json.loads((run / "results.json").read_text())
    assert [row["epoch"] for row in results["history"]] == [1, 2, 3]
    assert checkpoint.read_run(run / checkpoint.LAST)["config"]["model"]["near_heads"] == 2


def test_unknown_options_and_networks_come_back_as_they_are():
    for model in ({"name": "other", "heads": 2}, {"name": "e2former", "depth": 2}, {}):
        assert current_model_options(model) == model
    assert current_model_options({"name": "e2former", "long_scale": 0.5, "preset": "small"}) == {
        "name": "e2former",
        "preset": "small",
        "far_weight": 0.5,
        "far_kernel": "standing_waves",
        "norm_epsilon": 1e-4,
    }
