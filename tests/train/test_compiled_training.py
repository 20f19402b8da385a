"""Laws of training with compiled steps: the run is that without a compiler up to rounding, goes on
bit for bit, and says why where there is no program.

The forms of a trace stand for the program; ``test_training_program.py`` compiles one.
"""

import pytest

from farfield.train import compiled_gradients, train_md17
from farfield.train.compile_modes import AUTO_CPU_MINUTES, AUTO_STEPS
from farfield.train.compiled_gradients import pays
from tests.support.md_data import run_md17
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks
from tests.support.traced_program import make_traced_step

OPTIONS = ["--epochs", "2", "--lr", "0.01", "--batch-size", "3", "--precision", "float64"]


@pytest.fixture
def traced(monkeypatch):
    """Programs that nothing compiles; the inputs of those that were made."""
    made = []

    def make(model, objective, batch, inputs):
        made.append(inputs)
        return make_traced_step(model, objective, batch, inputs)

    monkeypatch.setattr(compiled_gradients, "make_training_program", make)
    return made


NEAR = ["--schedule", "first-order"]


def test_a_compiled_run_is_the_same_up_to_rounding_and_goes_on_bit_for_bit(data, traced, tmp_path):
    options = [*OPTIONS, *NEAR, "--late-energy-factor", "3", "--late-start", "0.5"]
    eager = run_md17(tmp_path / "eager", data, *options, "--compile", "off")["history"]
    assert not traced
    compiled = run_md17(tmp_path / "run", data, *options, "--compile", "on")["history"]
    assert len(traced) == 1
    for one, other in zip(without_clocks(eager), without_clocks(compiled), strict=True):
        assert one == pytest.approx(other, rel=1e-8)
    assert "compiled training step" in (tmp_path / "run" / "log.txt").read_text()

    # interrupted after an epoch
    assert (
        run_md17(tmp_path / "two", data, *options, "--compile", "on", "--pause-after", "1") is None
    )
    train_md17.main(["--run-dir", str(tmp_path / "two"), "--resume"])
    assert without_clocks(results_of(tmp_path / "two")["history"]) == without_clocks(compiled)
    assert_equal_checkpoints(tmp_path / "run", tmp_path / "two")


@pytest.mark.slow
def test_random_depth_is_never_compiled(data, tmp_path):
    options = [*OPTIONS, *NEAR, "--drop-path", "0.3", "--epochs", "1"]
    run_md17(tmp_path / "run", data, *options, "--compile", "on")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "training without compiled code: the network draws random numbers" in log


def test_short_runs_are_not_compiled(traced, data, tmp_path):
    run_md17(tmp_path / "run", data, *OPTIONS, *NEAR)
    assert not traced
    assert results_of(tmp_path / "run")["config"]["run"]["compile"] == "auto"


@pytest.mark.parametrize(
    ("minutes", "wall", "epochs", "expected"),
    [
        (AUTO_CPU_MINUTES, None, 1, True),
        (AUTO_CPU_MINUTES - 0.1, None, 10**6, False),
        (100.0, AUTO_CPU_MINUTES / 2, 10**6, False),
        (None, None, AUTO_STEPS // 10, True),
        (None, None, AUTO_STEPS // 10 - 1, False),
    ],
)
def test_the_plan_decides_whether_compiling_pays(minutes, wall, epochs, expected):
    options = {"max_cpu_minutes": minutes, "max_minutes": wall, "epochs": epochs, "accumulate": 1}
    assert pays(options, 10) is expected
