"""What rounded products change in a trained network, and the time of a training step.

    python -m benchmarks.accuracy.bench_precision runs/mine/checkpoint_best.pt
    # forces that are the slope of the energy, for which training refuses bf16-mixed
    python -m benchmarks.accuracy.bench_precision ethanol --data-path data/ethanol_sample

For each output of the network on structures of the test split: how much it changes where products
of linear maps are in bfloat16, as training computes them with ``--precision bf16-mixed``, and how
far it then is from turning with the structures. For conservative forces also their largest
difference from the slope of the energy, over central differences along one random direction. Time:
CPU seconds of one batch and the gradient of the mean square of its outputs, both ways in turn.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/bench_precision.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import copy
import dataclasses
import statistics

import torch

from benchmarks import harness  # before torch: it sets the thread count
from farfield.common.argument_parser import OneLineParser
from farfield.common.command_line import run_script
from farfield.models.network import Network
from farfield.models.potential import Potential
from farfield.train.evaluate import Judged
from farfield.train.rotation_errors import rotation_table, without_constants

SLOPE_STEPS = (1e-2, 1e-1)  # Angstrom, length of the displacement of all atoms together


def rounded_copy(model: Network) -> Network:
    """The same network as training has it with ``--precision bf16-mixed``.

    Potentials with conservative forces as well, which training refuses.
    """
    found = copy.deepcopy(model)
    inner = found.network if isinstance(found, Potential) else found
    inner.round_products()
    return found.train()


def changes(model: Network, rounded: Network, batch) -> dict[str, float]:
    """Mean change of each output over its root mean square, constants of the elements left out."""
    with torch.no_grad():
        before, after = model(batch), rounded(batch)
    sizes = without_constants(model, batch, before)
    return {
        name: float((after[name] - before[name]).detach().double().abs().mean())
        / float(size.detach().double().square().mean().sqrt())
        for name, size in sizes.items()
    }


def slope_errors(model: Potential, batch) -> dict[float, float]:
    """Step (Angstrom) -> error of the force along a direction against the slope of the energy.

    Root mean square over the structures, eV/Angstrom.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(batch.positions.shape, generator=generator).to(batch.positions)
    graph_of_node = batch.graph.graph_of_node
    length = direction.new_zeros(batch.num_graphs)
    length.index_add_(0, graph_of_node, direction.square().sum(1))
    direction = direction / length.sqrt()[graph_of_node].unsqueeze(1)

    # (graphs,), the force along the direction of each structure
    force = (model(batch)["forces"].detach() * direction).sum(1).double()
    force = force.new_zeros(batch.num_graphs).index_add_(0, graph_of_node, force)
    found = {}
    for step in SLOPE_STEPS:
        ahead, behind = (
            model(_moved(batch, sign * step / 2 * direction))["energy"].detach() for sign in (1, -1)
        )
        error = force + (ahead - behind) / step
        found[step] = float(error.square().mean().sqrt())
    return found


def _moved(batch, shift: torch.Tensor):
    return dataclasses.replace(batch, positions=batch.positions + shift)


def gradients(model: Network, batch) -> list[torch.Tensor]:
    """Gradients of the mean square of all outputs by the weights, in training mode."""
    loss = sum(output.square().mean() for output in model.train()(batch).values())
    weights = list(model.parameters())
    return [
        part for part in torch.autograd.grad(loss, weights, allow_unused=True) if part is not None
    ]


def step_times(models: dict[str, Network], batch, rounds: int) -> dict[str, float]:
    """Median CPU seconds of :func:`gradients`."""

    times = harness.interleave(
        {name: lambda m=model: gradients(m, batch) for name, model in models.items()}, rounds
    )
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def measure(checkpoint: str, data_path: str | None, directions: int, rounds: int) -> dict:
    """Rows of the outputs, slopes and times."""
    one = Judged.open(checkpoint, "test", data_path)
    rounded = rounded_copy(one.model)
    batch = next(iter(one.loader)).to(dtype=next(one.model.parameters()).dtype)
    change = changes(one.model, rounded, batch)
    tables = {
        name: rotation_table(model, [batch], directions, units=one.task.units)
        for name, model in (("float32", one.model), ("bf16-mixed", rounded))
    }
    errors = {
        name: {row["row"]: row["relative mean"] for row in table} for name, table in tables.items()
    }
    rows = [
        {
            "output": output,
            "change": change[output],
            **{f"rotation {name}": table[f"{output}, rotations"] for name, table in errors.items()},
        }
        for output in change
    ]

    # forces of a staircase
    found = {"rows": rows}
    models = {"float32": one.model, "bf16-mixed": rounded}
    if isinstance(one.model, Potential) and one.model.forces == "conservative":
        slopes = {name: slope_errors(model, batch) for name, model in models.items()}
        found["slopes"] = [
            {"step (A)": step, **{name: slope[step] for name, slope in slopes.items()}}
            for step in SLOPE_STEPS
        ]
    found["seconds"] = [step_times(models, batch, rounds)]
    return found


def build_parser() -> OneLineParser:
    """All options of the script."""
    parser = OneLineParser(__doc__, usage="%(prog)s CHECKPOINT [options]")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of any run")
    parser.add_argument("--data-path", metavar="DIR", help="folder of the data (default: its own)")
    parser.add_argument("--directions", type=int, default=8, help="rotations (default 8)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (default 5)")
    parser.add_argument("--json", metavar="FILE", help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    bench = build_parser().parse_args(argv)
    report = harness.start(("torch",), bench.json)
    found = measure(bench.checkpoint, bench.data_path, bench.directions, bench.rounds)
    for rows in found.values():
        print(harness.table(rows, {name: name for name in rows[0]}))
    harness.keep(bench, report, **found)


if __name__ == "__main__":
    run_script(main)
