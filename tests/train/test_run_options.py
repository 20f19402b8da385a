"""Laws of ``--deterministic``: kernels that repeat on a GPU, nothing else on the CPU."""

import os

import pytest
import torch

from farfield.common import checkpoint
from farfield.train.results import finish_run
from farfield.train.run_options import use_deterministic_kernels
from tests.support.toy_training import assert_same_training, toy_trainer


def state() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def usual(monkeypatch):
    """The kernels of this process, given back at the end."""
    algorithms, deterministic, benchmark = state()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield state()
    torch.use_deterministic_algorithms(algorithms)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_kernels_of_a_gpu_repeat_and_a_cpu_is_left_alone(usual):
    use_deterministic_kernels(torch.device("cpu"))
    assert state() == usual and "CUBLAS_WORKSPACE_CONFIG" not in os.environ

    use_deterministic_kernels(torch.device("cuda", 1))
    assert state() == (True, True, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_run_keeps_it_and_says_what_made_it(tmp_path, plots):
    """On the CPU it is the same run; another value of it does not continue the run."""
    plain = toy_trainer(tmp_path / "plain")
    assert plain.fit()
    assert not toy_trainer(tmp_path / "fixed", "--deterministic", "--pause-after", "2").fit()
    fixed = toy_trainer(tmp_path / "fixed", "--resume")
    assert fixed.fit()
    assert_same_training(plain, fixed)

    results = finish_run(fixed, fixed.val_loader)
    assert results["deterministic"] and results["seed"] == 0 and results["versions"]["revision"]
    saved = checkpoint.read_run(fixed.folder / checkpoint.LAST)
    assert saved["config"]["run"]["deterministic"] and saved["versions"]["revision"]
    with pytest.raises(ValueError, match="run.deterministic is True there and False here"):
        toy_trainer(tmp_path / "fixed", "--resume", "--no-deterministic")
