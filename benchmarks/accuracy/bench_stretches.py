"""Stretches: forces on held-back pieces of trajectories and at higher temperatures.

    # choose settings: validation frames and, where there is one, a held-back stretch
    python -m benchmarks.accuracy.bench_stretches --data-path data --sets at_at --minutes 5 \\
        --option cutoff=5.0,far_heads=4
    # the tests, at the end
    python -m benchmarks.accuracy.bench_stretches --data-path data --sets ethanol,at_at \\
        --minutes 5 --seeds 2 --test

The default network of the training script on each molecule, with the near field alone, with the far
field as a sum of standing waves (``hybrid``) or with a finite range (``screened``), and with latent
charges. Seeds, batches, optimiser and CPU minutes are equal. ``stretch_sets.py`` says what the
frames are; weights are those that are best on random validation frames. Without ``--test`` no test
file is read.

A row is a network on some frames: median and worst over the seeds of the mean absolute and the root
mean square error of a force component, the largest error of a force, and the median errors over
those of ``near`` on the same frames. A finished run is read back from its folder, an unfinished one
goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/bench_stretches.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
import statistics

from easydict import EasyDict

from benchmarks import harness
from benchmarks.accuracy.short_runs import TRAINING, errors_on, run_config, train_once
from benchmarks.accuracy.stretch_sets import SETS, TRAIN, VAL, StretchData
from benchmarks.compared_networks import (
    DEFAULT_ROWS,
    default_options,
    default_value,
    typed_options,
)
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.storage import files
from farfield.train.tasks.energy_force_defaults import ATOMS_PER_BATCH

ERRORS = "errors.json"
COLUMNS = {
    "set": "set",
    "frames": "frames",
    "model": "model",
    "weights": "weights",
    "seeds": "seeds",
    "cpu_minutes": "CPU min",
    "steps": "steps",
    "energy_per_atom_mae": "E meV/atom",
    "force_mae": "F MAE",
    "force_mae_worst": "worst",
    "force_rmse": "F RMSE",
    "force_rmse_worst": "worst",
    "force_max": "largest",
    "mae_ratio": "MAE / near",
    "rmse_ratio": "RMSE / near",
}


def runs_of_seeds(
    bench: EasyDict, data: StretchData, options: dict, folder: Path
) -> tuple[list[dict], list[dict]]:
    """Results and errors by frames of every seed."""
    batch_size = max(1, round(ATOMS_PER_BATCH / data.statistics.average_atoms))
    chosen = options | TRAINING | {"batch_size": batch_size, "data_path": bench.data_path}

    results, errors = [], []
    for seed in range(bench.seeds):
        of_seed = folder / f"seed_{seed}"
        config = run_config(
            "benchmarks.accuracy.bench_stretches", of_seed, seed, bench.minutes, chosen
        )
        # what a run calls its test are the validation frames: the tests come at the end
        loaders = {
            "train": data.training_loader(batch_size, seed),
            "val": data.loader(VAL),
            "test": data.loader(VAL),
        }
        results.append(train_once(config, data.statistics, loaders))
        errors.append(errors_by_frames(of_seed, data))
    return results, errors


def errors_by_frames(folder: Path, data: StretchData) -> dict[str, dict[str, float]]:
    """Errors of a finished run on all frames that are read, kept in its folder."""
    place = folder / ERRORS
    known = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    missing = [part for part in data.parts if part != TRAIN and part not in known]
    for part in missing:
        known[part] = errors_on(folder, data.loader(part))
        files.write_json(place, known)
    return {part: known[part] for part in data.parts if part != TRAIN}


def frame_rows(name: str, model: str, results: list[dict], errors: list[dict]) -> list[dict]:
    """One line for all frames of a set."""
    same = {
        "weights": results[0]["parameters"],
        "seeds": len(results),
        "cpu_minutes": statistics.mean(result["cpu_minutes"] for result in results),
        "steps": round(statistics.mean(result["steps"] for result in results)),
    }

    # median and worst over the seeds
    rows = []
    for frames in errors[0]:
        row = {"set": name, "frames": frames, "model": model, **same}
        for metric in ("energy_per_atom_mae", "force_mae", "force_rmse"):
            values = [one[frames][metric] for one in errors]
            row[metric] = statistics.median(values)
            row[f"{metric}_worst"] = max(values)
        row["force_max"] = max(one[frames]["force_max"] for one in errors)
        rows.append(row)
    return rows


def add_near_ratios(rows: list[dict]) -> None:
    """Add to each row its force errors over those of the near field alone on the same frames."""
    near = {(row["set"], row["frames"]): row for row in rows if row["model"] == "near"}
    for row in rows:
        base = near.get((row["set"], row["frames"]))
        if base is None or base is row:
            continue
        row["mae_ratio"] = row["force_mae"] / base["force_mae"]
        row["rmse_ratio"] = row["force_rmse"] / base["force_rmse"]


def measure(bench: EasyDict) -> list[dict]:
    """Rows of all sets and networks; run folders are ``RUN_DIR/SET/MODEL/MINUTES/seed_N``."""
    rows, extra = [], typed_options(bench.option)
    changed = "".join(f"+{part}" for part in (bench.option or "").split(",") if part)
    cutoff = float(extra.get("cutoff", default_value("cutoff")))
    models = harness.chosen(bench.models, DEFAULT_ROWS, "--models")
    for name in harness.chosen(bench.sets, SETS, "--sets"):
        data = StretchData.read(SETS[name], bench.data_path, cutoff, bench.test)
        for model in models:
            try:
                options = default_options(model, data.statistics, extra)
            except ValueError as error:
                print(f"{name}, {model}: skipped ({error})", flush=True)
                continue
            minutes = f"{bench.minutes:g}_minutes"
            folder = Path(bench.run_dir) / name / f"{model}{changed}" / minutes
            rows += frame_rows(name, model, *runs_of_seeds(bench, data, options, folder))
            add_near_ratios(rows)

            # Rows so far are worth keeping: a network takes minutes.
            if bench.json:
                report = {"environment": harness.environment(), "options": dict(bench)}
                files.write_json(bench.json, {**report, "rows": rows})
    return rows


def build_parser() -> OptionParser:
    """All options of the benchmark."""
    parser = OptionParser("bench_stretches", __doc__)
    bench = parser.section("bench", "what is compared")

    # What is trained, and what is asked.
    bench.add("--data-path", str, "data", help="folder below which the npz files lie")
    bench.add("--sets", str, "all", help=f"comma list of {', '.join(SETS)}, or all")
    bench.add("--models", str, "all", help=f"comma list of {', '.join(DEFAULT_ROWS)}, or all")
    bench.add("--option", str, None, help="options of every network, name=value,name=value")
    bench.add("--seeds", int, 1, low=1, high=100, help="seeds 0, 1, ...")
    bench.add("--minutes", float, 5.0, above=0, help="CPU minutes of each run")
    bench.add("--test", bool, False, help="measure the test frames too")

    # Where it goes.
    bench.add(
        "--run-dir", str, "runs/stretches", help="folder of the runs; finished ones are read back"
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
