"""Far sight: what a far field learns that a near field cannot, on six sets of long-ranged labels.

    python -m benchmarks.accuracy.bench_far_sight --data-path data/long_range
    python -m benchmarks.accuracy.bench_far_sight --data-path data/long_range \\
        --sets two_atoms,sn2 --models near,hybrid --seeds 2 --minutes 4

The sets are npz files anywhere below ``--data-path``; ``far_sight_sets.py`` says what is in them.

Networks, all with edges up to 5 Angstrom:

    near        two layers of the near field
    deep        four layers of the near field
    hybrid      near and far field together

The channels of ``near`` and ``deep`` are chosen so that they have as many weights as ``hybrid``.
Split, seed, optimiser, batches and CPU minutes are equal.

A row gives errors on the held-back test split of the weights that were best on the validation
split, means over seeds:

    E ratio         mean energy error over the hybrid's
    E^2 ratio       mean square of the energy error (published for some sets) over the hybrid's
    F ratio         mean force error over the hybrid's
    binding         dimers: mean energy error over the mean size of a binding energy
    bar             smallest "E ratio" of ``near``, or largest "binding" of the hybrid

A finished run is read back from its folder, an unfinished one goes on. Run folders also hold
learning curves and checkpoints.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/bench_far_sight.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
import statistics
from collections.abc import Callable

from easydict import EasyDict

from benchmarks import harness
from benchmarks.accuracy.far_sight_sets import CASES, CUTOFF, Problem, binding_energy
from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import RunLog
from farfield.common.trained import restore_network
from farfield.dataloader.storage import files
from farfield.models.factory import build_model
from farfield.train.launch import Script
from farfield.train.results import finish_run, prepare_run_folder, save_config
from farfield.train.run_options import prepare_process
from farfield.train.tasks.energy_forces import build_task, set_references
from farfield.train.trainer import Trainer

TOLERANCE = 0.1  # largest relative difference between the numbers of weights

COMMON = {
    "cutoff": CUTOFF,
    "radial_basis": "bessel",
    "radial_size": 8,
    "radial_hidden": 32,
    "near_heads": 2,
    "near_score_width": 4,
    "drop_path": 0.0,
    # Two atoms act on each other by the product of learned charges, in a sum that is neither
    # averaged nor cut off.
    "far_feature_map": "identity",
    "far_key_features": 1,
    "far_normalisation": "none",
    "far_heads": 4,
    "far_value_channels": 4,
    # Gauss-Legendre nodes up to 0.8: spacing <= pi / r for r < 30 Angstrom. The near field has the
    # shorter waves.
    "far_kernel_lmax": 2,
    "far_num_kappa": 8,
    "far_kappa_max": 0.8,
    "far_expansion": "pairwise",
    "far_weight": 1.0,
}
TRAINING = {
    "optimizer": "adam",
    "lr": 5e-3,
    "min_lr": 0.0,
    "warmup_steps": 100,
    "clip_norm": 10.0,
    "ema_decay": 0.99,
    "epochs": 100_000,
}
# Name -> schedule; the hybrid has the schedule of its case.
MODELS = {"near": "first-order2", "deep": "first-order4", "hybrid": None}

COLUMNS = {
    "set": "set",
    "model": "model",
    "weights": "weights",
    "seeds": "seeds",
    "cpu_minutes": "CPU min",
    "steps": "steps",
    "energy_mae": "E meV",
    "energy_rmse": "rms meV",
    "force_mae": "F meV/A",
    "part": "binding",
    "bar": "bar",
    "ratio": "E ratio",
    "square_ratio": "E^2 ratio",
    "force_ratio": "F ratio",
}


def model_options(problem: Problem, schedule: str, channels: int) -> dict[str, object]:
    """Options of one network; averages and radius are those of the data."""
    case, found = problem.case, problem.statistics
    of_network = {
        "irreps": "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(case.lmax + 1)),
        "schedule": schedule,
        "avg_degree": found.average_neighbors or 1.0,
        "avg_atoms": found.average_atoms,
        "far_design_radius": max(1.0, problem.radius),
        "forces": "conservative" if case.forces else "none",
    }
    return {"name": "e2former", **COMMON, **of_network, **case.model}


def count_weights(options: dict[str, object]) -> int:
    """Weights of the network of ``options``."""
    return sum(weight.numel() for weight in build_model(options).parameters())


def matched_channels(
    weights: int, options_of: Callable[[int], dict[str, object]], step: int
) -> int:
    """Channels, a multiple of ``step``, whose network is nearest to ``weights`` weights.

    options_of: channels -> options. Raises ValueError for a difference beyond ``TOLERANCE``.
    """
    # Sizes rise with the channels: the first network that is large enough is the last candidate.
    channels, sizes = step, {}
    while not sizes or sizes[channels - step] < weights:
        sizes[channels] = count_weights(options_of(channels))
        channels += step

    best = min(sizes, key=lambda channels: abs(sizes[channels] - weights))
    if abs(sizes[best] - weights) > TOLERANCE * weights:
        raise ValueError(
            f"no multiple of {step} channels gives {weights} weights within {TOLERANCE:.0%}: "
            f"{best} give {sizes[best]}"
        )
    return best


def network(problem: Problem, model: str) -> dict[str, object]:
    """Options of the network ``model``, which has as many weights as the hybrid."""
    case = problem.case
    hybrid = model_options(problem, case.schedule, case.channels)
    schedule = MODELS[model]
    if schedule is None:
        return hybrid
    channels = matched_channels(
        count_weights(hybrid),
        lambda channels: model_options(problem, schedule, channels),
        step=int(COMMON["near_heads"]),
    )
    return model_options(problem, schedule, channels)


def run_config(
    problem: Problem, options: dict[str, object], folder: Path, seed: int, minutes: float
) -> EasyDict:
    """Configuration of one run: the training script's, with what this benchmark sets."""
    case = problem.case
    of_run = {
        "run_dir": str(folder),
        "seed": seed,
        "resume": True,
        "progress": False,
        "data_path": case.file,
        "batch_size": case.batch_size,
        "validate_every": case.validate_every,
        "max_cpu_minutes": minutes,
        "energy_per": "structure",
    }

    # A case has the last word, then the settings of all cases.
    of_network = {key: value for key, value in options.items() if key != "name"}
    chosen = of_run | of_network | TRAINING | case.training | case.loss
    script = Script("benchmarks.accuracy.bench_far_sight", "energy_forces", "")
    return script.parser().parse_config([], lambda values: chosen)


def train(
    problem: Problem, options: dict[str, object], folder: Path, seed: int, minutes: float
) -> dict:
    """Results of one run, read from its folder if it is finished."""
    done = folder / "results.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))

    config = run_config(problem, options, folder, seed, minutes)
    device = prepare_process(config)
    model = restore_network(config)
    set_references(model, problem.statistics)

    loaders = problem.loaders(config.training.batch_size, seed)
    log = RunLog(folder / "log.txt")
    prepare_run_folder(folder, resume=True, overwrite=False)
    save_config(folder, config)
    trainer = Trainer(
        model, build_task(config), loaders["train"], loaders["val"], config, folder, device, log
    )

    if (found := trainer.resumable()) is not None:
        trainer.restore(found)
    trainer.fit()
    return finish_run(trainer, loaders["test"])


def row_of(case: str, model: str, options: dict, results: list[dict]) -> dict:
    """One line of the table: means of the test errors over the seeds."""
    tests = [result["test"][0] for result in results]
    row = {
        "set": case,
        "model": model,
        "irreps": options["irreps"],
        "weights": results[0]["parameters"],
        "seeds": len(results),
        "cpu_minutes": statistics.mean(result["cpu_minutes"] for result in results),
        "steps": round(statistics.mean(result["steps"] for result in results)),
    }

    # Forces are missing where they are not learned.
    for name in ("energy_mae", "energy_rmse", "force_mae"):
        if name in tests[0]:
            row[name] = statistics.mean(test[name] for test in tests)

    row["energy_mae_of_seed"] = [test["energy_mae"] for test in tests]
    row["baseline"] = results[0]["test"][1]["energy_mae"]
    return row


def add_ratios(rows: list[dict]) -> None:
    """Add to each row how many times larger its errors are than the hybrid's on the same set."""
    hybrids = {row["set"]: row for row in rows if row["model"] == "hybrid"}
    for row in rows:
        best = hybrids.get(row["set"])
        if best is None or best is row:
            continue
        row["ratio"] = row["energy_mae"] / best["energy_mae"]
        row["square_ratio"] = (row["energy_rmse"] / best["energy_rmse"]) ** 2
        if "force_mae" in row:
            row["force_ratio"] = row["force_mae"] / best["force_mae"]


def measure(options: EasyDict) -> list[dict]:
    """Rows of all sets and networks; run folders ``RUN_DIR/SET/MODEL/MINUTES/seed_N``."""
    rows = []
    models = harness.chosen(options.models, MODELS, "--models")
    for name in harness.chosen(options.sets, CASES, "--sets"):
        problem = Problem.read(CASES[name], options.data_path, options.split_seed)
        binding = binding_energy(problem)
        for model in models:
            chosen = network(problem, model)
            folder = Path(options.run_dir) / name / model / f"{options.minutes:g}_minutes"
            results = [
                train(problem, chosen, folder / f"seed_{seed}", seed, options.minutes)
                for seed in range(options.seeds)
            ]

            row = row_of(name, model, chosen, results)
            if binding is not None:
                row["part"] = row["energy_mae"] / binding
            if model == ("near" if binding is None else "hybrid"):
                row["bar"] = problem.case.bar
            rows.append(row)
            add_ratios(rows)

            # Rows so far are worth keeping: a network takes minutes.
            if options.json:
                report = {"environment": harness.environment(), "options": dict(options)}
                files.write_json(options.json, {**report, "rows": rows})
    return rows


def build_parser() -> OptionParser:
    """All options of the benchmark."""
    parser = OptionParser("bench_far_sight", __doc__)
    bench = parser.section("bench", "what is compared")
    parser.add_argument(
        "--config", metavar="FILE", help="yaml file with options; arguments have priority over it"
    )

    # What is trained.
    bench.add("--data-path", str, "data/long_range", help="folder below which the npz files lie")
    bench.add("--sets", str, "all", help=f"comma list of {', '.join(CASES)}, or all")
    bench.add("--models", str, "all", help=f"comma list of {', '.join(MODELS)}, or all")
    bench.add("--seeds", int, 1, low=1, high=100, help="seeds 0, 1, ...")
    bench.add(
        "--split-seed",
        int,
        1,
        low=0,
        help="seed of the random splits; settings were chosen with the test split of seed 0",
    )
    bench.add("--minutes", float, 1.0, above=0, help="CPU minutes of each run")

    # Where it goes.
    bench.add(
        "--run-dir", str, "runs/far_sight", help="folder of the runs; finished ones are read back"
    )
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    harness.start(output=options.json)
    print(harness.table(measure(options), COLUMNS))


if __name__ == "__main__":
    run_script(main)
