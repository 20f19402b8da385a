"""Laws of a training in the background: it ends when asked, it goes on, one in a folder."""

import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from farfield.common import background, checkpoint
from farfield.train import train_md17
from tests.support.md_data import SMALL
from tests.support.run_results import results_of

SECONDS = 180.0


def train(data, folder, *arguments):
    train_md17.main(["--data-path", str(data), "--run-dir", str(folder), *SMALL, *arguments])


def wait_until(happened):
    """Return when ``happened()``; the test fails after three minutes."""
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_a_run_in_the_background_is_stopped_and_goes_on(data, tmp_path, capfd):
    folder = tmp_path / "run"
    train(data, folder, "--epochs", "100000", "--detach")
    told = capfd.readouterr().out
    pid = int((folder / "pid").read_text())
    try:
        # a session of its own, and all that helps a user
        assert os.getsid(pid) == pid != os.getsid(0)
        assert f"process {pid}, run folder {folder}" in told and "--resume" in told
        assert f"tail -f {folder}/output.txt" in told and f"cat {folder}/pid" in told

        # a second one is refused, and leaves the first alone
        for more in ((), ("--detach",), ("--overwrite", "--detach")):
            with pytest.raises(ValueError, match="is in use by another process"):
                train(data, folder, "--epochs", "1", *more)
        assert int((folder / "pid").read_text()) == pid and is_running(pid)

        # SIGTERM: a checkpoint, and no process id left
        wait_until((folder / checkpoint.LAST).exists)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid))
    finally:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    assert not (folder / "pid").exists()
    output = (folder / "output.txt").read_text()
    assert "SIGTERM: saved" in output and "Traceback" not in output

    # the hint of the output continues it
    _, *hint = shlex.split(re.search(r"continue with: python -m (.*)", output)[1])
    epoch = checkpoint.read_run(folder / checkpoint.LAST)["position"]["epoch"]
    train_md17.main([*hint, "--epochs", str(epoch + 2), "--no-progress"])
    results = results_of(folder)
    assert results["history"][-1]["epoch"] == epoch + 2
    assert not results["config"]["run"]["detach"]


def test_what_the_run_refuses_is_one_line_and_leaves_nothing(tmp_path):
    """Any script: here the console, with a command that does not exist."""
    for folder, left in ((tmp_path / "a" / "run", None), (tmp_path, [])):
        with pytest.raises(ValueError, match="^command must be one of .* got 'trian'") as refusal:
            background.start("__main__", ["trian"], folder)
        assert "\n" not in str(refusal.value)
        assert (list(folder.iterdir()) if folder.exists() else None) == left
    assert not (tmp_path / "a").exists()

    # the output of an earlier run in the folder stays as it was
    (tmp_path / "output.txt").write_text("earlier words\n")
    with pytest.raises(ValueError, match="command must be one of"):
        background.start("__main__", ["trian"], tmp_path)
    assert (tmp_path / "output.txt").read_text() == "earlier words\n"


def test_a_folder_with_the_time_behind_its_name(data, tmp_path):
    options = ["--data-path", str(data), "--run-dir", str(tmp_path / "run"), "--timestamp-id"]
    run = train_md17.SCRIPT.read_options(options).run
    assert re.fullmatch(rf"{tmp_path}/run_\d{{8}}T\d{{6}}Z", run.run_dir)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("task: energy_forces")
    with pytest.raises(ValueError, match="--timestamp-id makes another run folder"):
        train_md17.SCRIPT.read_options([*options, "--resume"])


def test_the_process_is_called_as_the_user_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["farfield train md17"])
    assert background._command("train.train_md17", ["--a"])[2:] == [
        *("-m", "farfield", "train", "md17", "--a")
    ]
    monkeypatch.setattr(sys, "argv", ["train_md17.py"])
    assert background._command("train.train_md17", [])[2:] == ["-m", "farfield.train.train_md17"]


def test_several_ranks_have_no_background(tmp_path, monkeypatch):
    monkeypatch.setattr(background.ranks, "count", lambda: 2)
    with pytest.raises(ValueError, match="torchrun itself"):
        background.start("train.train_md17", [], tmp_path / "run")
    with pytest.raises(ValueError, match="one --run-dir"):
        background.stamped("run")
