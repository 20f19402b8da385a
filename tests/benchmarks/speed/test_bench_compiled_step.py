"""The table of the compiled training step: a row is complete, and both ways are one gradient."""

import json

import torch

from benchmarks.speed import bench_compiled_step as bench
from farfield.models.compiled.training_program import (
    TrainingProgram,
    loss_and_gradients,
    trainable,
)


class Runner:
    """The forms of a trace on numbers."""

    def __init__(self, *fixed):
        self.fixed = fixed

    def run(self, tensors):
        return list(loss_and_gradients(*self.fixed, tensors).values())


def make_traced(model, objective, batch, inputs):
    weights = [one.detach() for one in trainable(model).values()]
    arguments = [*weights, objective.factors({}), *inputs.tensors(batch)]
    names = tuple(loss_and_gradients(model, objective, inputs, arguments))
    runner = Runner(model, objective, inputs)
    return TrainingProgram(inputs, names, tuple(trainable(model)), None, runner)


def test_rows_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "make_training_program", make_traced)
    threads = torch.get_num_threads()
    options = ["--rounds", "1", "--channels", "4", "--json", str(tmp_path / "rows.json")]
    bench.main(options)
    torch.set_num_threads(threads)

    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["case"][:9] for row in rows] == ["ethanol x", "ethanol x", "370 atoms"]
    assert all(row["difference"] < 1e-5 and row["ratio"] > 0 for row in rows)
    assert "eager / compiled" in capsys.readouterr().out
