"""The script that kills ranks finds the right process, starts the right command, and compares.

A killed and restarted run itself is in ``tests/examples/test_cluster.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.reliability import kill_ranks
from farfield.common import checkpoint


def sleeper(**environment):
    return subprocess.Popen(["sleep", "60"], env=os.environ | environment)


def test_a_rank_is_found_by_what_it_was_started_with():
    known = {kill_ranks.TRIAL: f"test.{os.getpid()}"}
    ranks = [sleeper(**known, RANK=str(rank)) for rank in (0, 1)]
    try:
        assert kill_ranks.process_with(known | {"RANK": "1"}) == ranks[1].pid
        assert kill_ranks.process_with(known | {"RANK": "2"}) is None
    finally:
        for one in ranks:
            one.kill()
    assert [one.wait() for one in ranks] == [-signal.SIGKILL] * 2
    assert kill_ranks.process_with(known | {"RANK": "1"}) is None


def test_slurm_starts_two_tasks_of_the_script_for_clusters(tmp_path):
    run = tmp_path / "run"
    command, cluster = kill_ranks.launched("slurm", ["--epochs", "1"], run, 1)
    assert command[0] == "bash" and command[1].endswith("examples/cluster/train.slurm")
    assert command[2:] == [str(run), "--epochs", "1"] and cluster["PYTHON"] == sys.executable
    env = os.environ | cluster
    said = subprocess.run(["srun", "echo", "task"], env=env, capture_output=True, text=True)
    assert said.stdout == "task\ntask\n"
    with pytest.raises(ValueError, match="launcher"):
        kill_ranks.launched("mpirun", [], run, 1)


def test_the_largest_difference_is_taken(tmp_path, monkeypatch):
    found = {"averaged": {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}}
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda path: found)
    expected = {"a": np.array([1.0, 2.25]), "b": np.array(3.125)}
    assert kill_ranks.difference(tmp_path, expected) == 0.25
