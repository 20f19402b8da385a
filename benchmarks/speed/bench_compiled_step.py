"""The gradient of a training step, compiled and operation by operation.

    python -m benchmarks.speed.bench_compiled_step --json compiled_step.json

Ethanol (the bundled frames, batch 8, the default networks with and without far field) and a
double-walled nanotube of 370 atoms (one structure, 64 channels, edges up to 5 Angstrom). What is
timed is the loss of energies and forces and its derivative by every weight, without the optimiser.
Times are medians of CPU milliseconds of one thread, both ways in turn in one process; the first
round warms up. Differences are relative to the largest gradient.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_compiled_step.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import statistics
import tempfile

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from torch import Tensor

from benchmarks.speed.bench_training_step import SCHEDULES, structure, training_step
from farfield.common.command_line import OptionParser, run_script
from farfield.common.session import cpu_seconds
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.models.batch import AtomBatch
from farfield.models.compiled.traced_inputs import Inputs
from farfield.models.compiled.training_program import make_training_program, trainable
from farfield.models.potential import Potential
from farfield.preprocess import preprocess_md17
from farfield.train.tasks.energy_forces import EnergyForceTask
from farfield.train.train_md17 import SCRIPT

NEAR, HYBRID = "first-order1+second-order1", "hybrid-first-order1+second-order1"
COLUMNS = {
    "case": "case",
    "eager": "eager ms",
    "compiled": "compiled ms",
    "ratio": "eager / compiled",
    "difference": "difference",
    "compiling": "compiling, CPU s",
}


def ethanol(schedule: str, folder: str) -> tuple[Potential, EnergyForceTask, AtomBatch]:
    """The default network, task and first batch of the bundled frames."""
    config = SCRIPT.read_options(["--data-path", folder, "--schedule", schedule])
    torch.manual_seed(0)
    parts = EnergyForceTask.build(config)
    return parts.model.train(), parts.task, next(iter(parts.train.epoch(0)))


def nanotube(channels: int, folder: str) -> tuple[Potential, EnergyForceTask, AtomBatch]:
    """A network of 370 atoms, with the task of ethanol and labels of zeros."""
    batch = MoleculeDataset(structure(None), 5.0, references={1: 0.0, 6: 0.0})[range(1)].to(
        dtype=torch.float32
    )
    model = training_step("nanotube", structure(None), channels, SCHEDULES["near"]).module
    return model.train(), ethanol(NEAR, folder)[1], batch


def row_of(
    case: str, model: Potential, task: EnergyForceTask, batch: AtomBatch, rounds: int
) -> dict:
    """Times of both ways, and how far they differ."""
    objective, inputs = task.compiled_objective(), Inputs.of_training(batch, ragged=False)
    weights = list(trainable(model).values())
    start = cpu_seconds()
    program = make_training_program(model, objective, batch, inputs)
    compiling = cpu_seconds() - start

    def eager() -> list[Tensor | None]:
        """Gradients operation by operation."""
        loss, _ = task.loss(model, batch)
        return list(torch.autograd.grad(loss, weights, allow_unused=True))

    def compiled() -> list[Tensor | None]:
        """Gradients of the program."""
        arguments = [weight.detach() for weight in weights]
        return program.run(arguments, inputs.tensors(batch), objective.factors({}))[2]

    times = [[1e3 * harness.seconds(way) for way in (eager, compiled)] for _ in range(rounds + 1)]
    before, now = (statistics.median(way) for way in zip(*times[1:], strict=True))
    return {
        "case": case,
        "eager": before,
        "compiled": now,
        "ratio": before / now,
        "difference": _difference(eager(), compiled()),
        "compiling": compiling,
    }


def _difference(expected: list[Tensor | None], found: list[Tensor | None]) -> float:
    pairs = [one for one in zip(expected, found, strict=True) if one[0] is not None]
    largest = max(float(one.abs().max()) for one, _ in pairs)
    return max(float((one - other).abs().max()) for one, other in pairs) / largest


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_compiled_step", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--rounds", int, 9, low=1, help="measured rounds of each case")
    bench.add("--channels", int, 64, low=4, help="channels of the networks of the nanotube")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(("torch",), options.json)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = str(Path(place) / "ethanol")
        preprocess_md17.main(["--sample", "--out", folder])
        for name, schedule in {"near": NEAR, "hybrid": HYBRID}.items():
            case = f"ethanol x 8, {name}"
            rows.append(row_of(case, *ethanol(schedule, folder), options.rounds))
        case = f"370 atoms, {options.channels} channels, near"
        rows.append(row_of(case, *nanotube(options.channels, folder), options.rounds))

    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
