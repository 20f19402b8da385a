"""What a script says when a run is interrupted or paused."""

import pytest

from farfield.common import plugins
from farfield.common.session import Interrupted
from farfield.train import launch
from farfield.train.launch import Script

SCRIPT = Script("train.train_md17", "energy_forces", "a script")


def interrupted_by(monkeypatch, folder, stop: BaseException) -> str:
    config = SCRIPT.parser().parse_config(["--run-dir", str(folder)])

    def train(config):
        raise stop

    monkeypatch.setattr(launch, "train", train)
    with pytest.raises(Interrupted) as told:
        SCRIPT.run(config)
    return str(told.value)


@pytest.mark.parametrize(
    "stop, reason",
    [
        (KeyboardInterrupt(), "interrupted"),
        (Interrupted("SIGTERM: all is written"), "SIGTERM: all is written"),
    ],
)
def test_an_interrupted_run_says_why_and_how_to_continue(monkeypatch, tmp_path, stop, reason):
    monkeypatch.setattr(plugins, "_IMPORTED", {})  # of other tests
    assert interrupted_by(monkeypatch, tmp_path, stop) == reason  # nothing was begun

    (tmp_path / "config.yaml").write_text("")
    said = interrupted_by(monkeypatch, tmp_path, stop)
    assert said.startswith(f"{reason}; continue with: ")
    assert said.endswith(f"--run-dir {tmp_path} --resume")


def test_a_paused_run_says_how_to_continue(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(launch, "train", lambda config: None)
    folder = ["--run-dir", str(tmp_path)]
    SCRIPT.run(SCRIPT.parser().parse_config([*folder, "--pause-after", "2"]))
    assert "paused after 2 epochs; continue with: " in capsys.readouterr().out
    SCRIPT.run(SCRIPT.parser().parse_config(folder))
    monkeypatch.setattr(launch, "train", lambda config: {})
    SCRIPT.run(SCRIPT.parser().parse_config([*folder, "--pause-after", "2"]))
    assert capsys.readouterr().out == ""
