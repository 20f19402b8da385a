"""The script for SLURM runs on this machine: a stand-in of ``srun`` starts its two tasks here."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from farfield.common import checkpoint
from farfield.train import train_md17
from tests.support import md_data
from tests.support.processes import ROOT
from tests.support.rank_processes import free_port
from tests.support.run_results import results_of

SRUN = """#!/bin/bash
"$@" & first=$!
"$@" & second=$!
wait $first && wait $second
"""
SCONTROL = """#!/bin/bash
echo 127.0.0.1
"""
KILLED = """
import os, signal
from pathlib import Path
from farfield.train.step import OptimiserStep

taken, mark = OptimiserStep.__call__, Path(__file__).with_suffix(".killed")
calls = 0

def call(self, batches):
    global calls
    calls += 1
    if calls == 5 and os.environ["RANK"] == "1" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return taken(self, batches)

OptimiserStep.__call__ = call
"""


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def test_two_tasks_of_slurm_survive_a_killed_rank(tmp_path):
    options = [*md_data.SMALL, *md_data.flags(precision="float64", epochs=3, lr=0.01)]
    options += ["--data-path", str(md_data.make_data(tmp_path / "set"))]
    train_md17.main(["--run-dir", str(tmp_path / "one"), *options])

    # a cluster of two nodes
    executable(tmp_path / "srun", SRUN)
    executable(tmp_path / "scontrol", SCONTROL)
    (tmp_path / "plugin.py").write_text(KILLED)
    port = next(port for port in iter(free_port, None) if 20000 <= port < 40000)
    cluster = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": str(port - 20000),
        "SLURM_CPUS_PER_TASK": "1",
        "PYTHON": sys.executable,
        "SCRIPT": "train.train_md17",
        "RESTARTS": "1",
    }
    folder, plugin = tmp_path / "two", tmp_path / "plugin.py"
    more = ["--checkpoint-every", "1", "--import", str(plugin)]
    done = subprocess.run(
        ["bash", str(ROOT / "examples/cluster/train.slurm"), str(folder), *options, *more],
        env=os.environ | cluster,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert plugin.with_suffix(".killed").exists()
    assert "epoch 1, batch 1, step 4" in (folder / "log.txt").read_text()

    one, two = (
        checkpoint.read_checkpoint(run / checkpoint.LAST) for run in (tmp_path / "one", folder)
    )
    assert results_of(folder)["ranks"] == 2 and one["position"]["step"] == two["position"]["step"]
    for key, value in one["averaged"].items():
        assert torch.allclose(value, two["averaged"][key], rtol=0, atol=1e-6), key
