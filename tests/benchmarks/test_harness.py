"""The measuring tools measure: turns, ratios, memory of a known size; tables and errors."""

import json
import time

import pytest
import torch

from benchmarks import harness
from benchmarks.speed import bench_near_field
from tests.support.processes import run_script

BLOCK_MB = 64


class Allocating(torch.nn.Linear):
    """A program whose forward pass touches a block of known size."""

    def __init__(self):
        super().__init__(2, 2)

    def forward(self):
        block = torch.ones(BLOCK_MB * 10**6 // 4)
        return (self.weight * block[-1],)


def build_allocating(name: str) -> harness.Program:
    """Building takes three times the memory of a step and gives it back: that must not count."""
    torch.ones(3 * BLOCK_MB * 10**6 // 4)
    module = Allocating()
    return harness.Program(name, module, module)


def test_tasks_take_turns_and_warm_up_is_not_timed():
    calls = []
    times = harness.interleave(
        {name: lambda name=name: calls.append(name) for name in "xy"}, rounds=3, warm_up=2
    )
    assert "".join(calls) == "xy" * 5
    assert {name: len(values) for name, values in times.items()} == {"x": 3, "y": 3}


def test_cpu_seconds_count_work_and_not_waiting():
    def work():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    assert 0.05 <= harness.seconds(work) < 0.5
    assert harness.seconds(lambda: time.sleep(0.1)) < 0.05


def test_ratio_is_of_medians_with_the_spread_of_rounds():
    found = harness.ratio(other=[8.0, 6.0, 10.0], ours=[2.0, 2.0, 1.0])
    assert (found.value, found.least, found.most) == (4.0, 3.0, 10.0)
    assert str(found) == "4.00 [3.00, 10.00]"


def test_train_step_leaves_the_gradient_of_one_step():
    program = build_allocating("once")
    program.train()
    first = program.module.weight.grad.clone()
    program.train()
    assert torch.equal(program.module.weight.grad, first)
    assert program.num_parameters == 6


def test_peak_memory_sees_a_block_that_is_freed_again():
    peak = harness.peak_memory_mb(build_allocating, ("block",), "forward")
    assert BLOCK_MB - 4 < peak < BLOCK_MB + 24


def test_limits():
    with pytest.raises(ValueError, match="rounds must be >= 1, got 0"):
        harness.interleave({}, 0)
    with pytest.raises(ValueError, match="got 'both'"):
        harness.peak_memory_mb(build_allocating, (), "both")


def test_table_is_aligned():
    text = harness.table([{"a": "x", "b": 1234.5}, {"a": "long", "b": None}], {"a": "A", "b": "B"})
    assert text.splitlines() == ["A        B", "x     1234", "long     -"]


def test_a_table_shows_three_digits_of_a_small_number():
    text = harness.table([{"a": 0.0123456}, {"a": -0.05}, {"a": 0.5}, {"a": 0.0}], {"a": "A"})
    assert [line.strip() for line in text.splitlines()] == ["A", "0.0123", "-0.05", "0.50", "0.00"]


def test_environment_names_what_decides_the_numbers(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    report = harness.environment(("torch", "no-such-package"))
    assert report["threads"] == torch.get_num_threads() and report["versions"] == {
        "torch": torch.__version__
    }
    assert "MALLOC_ARENA_MAX=1" in harness.describe_environment(report)


def test_a_missing_folder_of_the_output_is_found_before_the_measuring(tmp_path, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.raises(
        FileNotFoundError, match="absent of the output file rows.json does not exist"
    ):
        harness.start(output=str(tmp_path / "absent" / "rows.json"))
    assert capsys.readouterr().out == "" and torch.get_num_threads() == 2
    assert harness.start(("torch",), str(tmp_path / "rows.json"))["threads"] == 1
    torch.set_num_threads(threads)
    assert "1 thread(s)" in capsys.readouterr().out


def test_rows_are_written(tmp_path, capsys):
    threads = torch.get_num_threads()
    bench_near_field.main(
        [
            "--cases",
            "a",
            "--rounds",
            "1",
            "--alone",
            "--no-memory",
            "--json",
            str(tmp_path / "rows.json"),
        ]
    )
    torch.set_num_threads(threads)
    content = json.loads((tmp_path / "rows.json").read_text())
    (row,) = content["rows"]
    assert (
        row["case"] == "a"
        and row["train_ms"] > row["forward_ms"] > 0
        and row["train_ratio"]["value"] == 1.0
    )
    assert "train ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "z"], "got 'z'"),
        (["--rounds", "0"], "--rounds must be >= 1, got 0"),
        (["--rounds", "x"], "invalid int value: 'x'"),
        (["--set", "wide=3"], "got 'wide=3'"),
        (["--set", "layers=x"], "must be of type int, got 'x'"),
        (["--geometry", "absent.npz"], "absent.npz does not exist"),
        (["--json", "absent/rows.json"], "folder absent"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_bad_arguments_are_refused_before_measuring(arguments, message):
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        try:
            bench_near_field.read_arguments(arguments)
        except FileNotFoundError as missing:
            raise ValueError(str(missing)) from missing
    assert message in str(error.value)


def test_an_error_is_one_line_and_exit_code_2():
    done = run_script(bench_near_field.__file__, "--cases", "z")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: --cases must be one of a, b1, b2, c, got 'z'\n"
