"""Far sight: what a far field and charges learn that a near field cannot.

    python -m benchmarks.accuracy.bench_far_sight --data-path data/long_range
    python -m benchmarks.accuracy.bench_far_sight --data-path data/long_range \\
        --sets lode_CC,lode_CP --models near,screened_charges --seeds 5 --minutes 3

The sets are npz files anywhere below ``--data-path``; ``far_sight_cases.py`` lists them.

Networks, all with edges up to the cutoff of the set:

    near                   two layers of the near field
    deep                   four layers of the near field
    hybrid                 near and far field together, the far field a sum of standing waves
    near_blind             near without the total charge, where a set has several
    near_charges           near and latent charges
    near_equilibrated      near and equilibrated charges
    screened               the hybrid with far messages of a finite range
    screened_charges       screened and latent charges
    screened_equilibrated  screened and equilibrated charges

The channels of networks with a near field alone are chosen so that they have as many weights as
``hybrid``. Split, seed, optimiser, batches and CPU minutes are equal. ``--option name=value`` sets
an option of every network.

A row gives errors on the held-back test split of the weights that were best on the validation
split:

    E meV, rms, F   means over the seeds
    median, worst   over the seeds
    E ratio         mean energy error over the hybrid's
    E^2 ratio       mean square of the energy error (published for some sets) over the hybrid's
    F ratio         mean force error over the hybrid's
    binding         dimers: mean energy error over the mean size of a binding energy
    bar             smallest "E ratio" of ``near``, or largest "binding" of the hybrid
    slope           dE / d(1/r) of charged fragments that are moved on beyond the data, over that of
                    point charges: 1 is right, 0 is no tail; median (``far_sight_checks.py``)
    dipole, Born    squared correlation with labels that were not trained, median

Further tests of a set have rows of their own. A finished run is read back from its folder, an
unfinished one goes on. Run folders also hold learning curves and checkpoints.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/bench_far_sight.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dataclasses
import statistics

from easydict import EasyDict

from benchmarks import harness
from benchmarks.accuracy.far_sight_cases import CASES
from benchmarks.accuracy.far_sight_checks import checks
from benchmarks.accuracy.far_sight_models import MODELS, network
from benchmarks.accuracy.far_sight_sets import Problem, binding_energy
from benchmarks.accuracy.short_runs import TRAINING, run_config, train_once
from benchmarks.compared_networks import typed_options
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.storage import files

SMALLEST_BINDING = 1.0  # meV, that an error is divided by

COLUMNS = {
    "set": "set",
    "model": "model",
    "weights": "weights",
    "seeds": "seeds",
    "cpu_minutes": "CPU min",
    "steps": "steps",
    "energy_mae": "E meV",
    "energy_mae_median": "median",
    "energy_mae_worst": "worst",
    "energy_rmse": "rms meV",
    "force_mae": "F meV/A",
    "force_mae_median": "median",
    "force_mae_worst": "worst",
    "part": "binding",
    "bar": "bar",
    "ratio": "E ratio",
    "square_ratio": "E^2 ratio",
    "force_ratio": "F ratio",
    "slope": "slope",
    "dipole_r2": "dipole",
    "born_r2": "Born",
}


def config_of(
    problem: Problem, options: dict[str, object], folder: Path, seed: int, minutes: float
) -> EasyDict:
    """Configuration of one run: a case has the last word, then the settings of all cases."""
    case = problem.case
    of_data = {
        "data_path": case.file,
        "batch_size": case.batch_size,
        "validate_every": case.validate_every,
        "energy_per": "structure",
    }
    chosen = of_data | options | TRAINING | case.training | case.loss
    return run_config("benchmarks.accuracy.bench_far_sight", folder, seed, minutes, chosen)


def checked_runs(
    problem: Problem, options: dict[str, object], folder: Path, bench: EasyDict
) -> list:
    """(results, checks) of every seed."""
    found = []
    for seed in range(bench.seeds):
        of_seed = folder / f"seed_{seed}"
        config = config_of(problem, options, of_seed, seed, bench.minutes)
        loaders = problem.loaders(config.training.batch_size, seed)
        results = train_once(config, problem.statistics, loaders)
        found.append((results, checks(of_seed, problem)))
    return found


def error_columns(tests: list[dict]) -> dict[str, object]:
    """Mean, median and worst of the errors over the seeds.

    Forces are missing where they are not learned.
    """
    found = {}
    for name in ("energy_mae", "energy_rmse", "force_mae", "force_rmse"):
        values = [test[name] for test in tests if name in test]
        if not values:
            continue
        found[name] = statistics.mean(values)
        found[f"{name}_median"] = statistics.median(values)
        found[f"{name}_worst"] = max(values)
    return found


def check_columns(found: list[dict]) -> dict[str, object]:
    """Medians over the seeds of what is asked besides the test errors."""
    tails = [one["tail"] for one in found if "tail" in one]
    columns = {}
    if tails:
        columns["slope"] = statistics.median(one["slope"] / one["expected"] for one in tails)
        columns["slope_of_seed"] = [one["slope"] for one in tails]
        columns["slope_of_point_charges"] = tails[0]["expected"]

    for name in ("dipole_r2", "born_r2"):
        values = [one["multipoles"][name] for one in found if one.get("multipoles")]
        if values:
            columns[name] = statistics.median(values)
    return columns


def row_of(case: str, model: str, options: dict, results: list[dict]) -> dict:
    """One line of the table without its checks."""
    tests = [result["test"][0] for result in results]

    return {
        "set": case,
        "model": model,
        "irreps": options["irreps"],
        "weights": results[0]["parameters"],
        "seeds": len(results),
        "cpu_minutes": statistics.mean(result["cpu_minutes"] for result in results),
        "steps": round(statistics.mean(result["steps"] for result in results)),
        **error_columns(tests),
        "energy_mae_of_seed": [test["energy_mae"] for test in tests],
        "baseline": results[0]["test"][1]["energy_mae"],
    }


def rows_of_model(name: str, problem: Problem, model: str, options: dict, runs: list) -> list[dict]:
    """The row of a model on a set, and a row for every further test of the set."""
    results, found = [run[0] for run in runs], [run[1] for run in runs]
    row = row_of(name, model, options, results) | check_columns(found)

    # Apolar fragments far apart have nothing to divide by.
    binding = binding_energy(problem)
    if binding is not None and binding > SMALLEST_BINDING:
        row["part"] = row["energy_mae"] / binding
    if problem.case.bar is not None and model == ("near" if binding is None else "hybrid"):
        row["bar"] = problem.case.bar

    rows = [row]
    for test in problem.case.more_tests:
        errors = error_columns([one["more"][test] for one in found])
        same = {key: row[key] for key in ("model", "weights", "seeds")}
        rows.append({"set": test, **same, **errors})
    return rows


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


def run_folder(bench: EasyDict, case: str, model: str) -> Path:
    """``RUN_DIR/SET/MODEL/MINUTES``, with the options of the command line in the name of the
    model.
    """
    changed = "".join(f"+{part}" for part in (bench.option or "").split(",") if part)
    return Path(bench.run_dir) / case / f"{model}{changed}" / f"{bench.minutes:g}_minutes"


def measure(bench: EasyDict) -> list[dict]:
    """Rows of all sets and networks; run folders are ``RUN_DIR/SET/MODEL/MINUTES/seed_N``."""
    rows, extra = [], typed_options(bench.option)
    models = harness.chosen(bench.models, MODELS, "--models")
    for name in harness.chosen(bench.sets, CASES, "--sets"):
        case = CASES[name]
        case = dataclasses.replace(case, cutoff=extra.get("cutoff", case.cutoff))
        problem = Problem.read(case, bench.data_path, bench.split_seed)
        for model in models:
            try:
                options = network(problem, model, extra)
            except ValueError as error:
                print(f"{name}, {model}: skipped ({error})", flush=True)
                continue
            runs = checked_runs(problem, options, run_folder(bench, name, model), bench)
            rows += rows_of_model(name, problem, model, options, runs)
            add_ratios(rows)

            # Rows so far are worth keeping: a network takes minutes.
            if bench.json:
                report = {"environment": harness.environment(), "options": dict(bench)}
                files.write_json(bench.json, {**report, "rows": rows})
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
    bench.add("--option", str, None, help="options of every network, name=value,name=value")
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
    bench = build_parser().parse_config(argv).bench
    harness.start(output=bench.json)
    print(harness.table(measure(bench), COLUMNS))


if __name__ == "__main__":
    run_script(main)
