"""The Equiformer and equiformer-pytorch on the N-body experiment, for equal CPU minutes.

    make bench                                                   # installs equiformer-pytorch
    python -m preprocess.preprocess_nbody --out data/nbody       # once
    python -m benchmarks.rivals.compare_equiformer --minutes 2 --search-minutes 0.5

Both networks train by ``train.train_nbody`` with the same data, batches, loss, optimiser; options
behind ``--`` are for both. The public program is the network of ``public_nbody.py``. Its learning
rate and depth are the best of a short search by the validation split; those of ours were chosen
there, too. The public program knows no states on the way, so ``--waypoint-weight 0`` is
set for it; ours learns from them, and a third row does without. The test split is read once by each
row. Finished runs are not run again: their results are in ``--run-dir``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/rivals/compare_equiformer.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import itertools
from collections.abc import Sequence

from benchmarks import harness
from benchmarks.installed_equiformer import PACKAGE, equiformer_is_installed
from benchmarks.rivals.side_by_side import divide, farfield_results
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.storage.files import write_json

TASK = "train.train_nbody"
NO_WAYPOINTS = ["--waypoint-weight", "0"]
PUBLIC = [
    *("--import", str(Path(__file__).with_name("public_nbody.py"))),
    *("--model", "public_equiformer_nbody", *NO_WAYPOINTS),
]
# More steps than by default in the same time; the learning rate of ours is the best of a few there.
BATCHES = ["--batch-size", "64"]
OURS = ["--model", "equiformer_nbody", "--lr", "6e-3"]
PROGRAMS: dict[str, list[str]] = {
    "farfield": OURS,
    PACKAGE: PUBLIC,
    "farfield, no waypoints": [*OURS, *NO_WAYPOINTS],
}
# What the search tries: learning rates and depths.
SEARCHED = {"--lr": ("1e-3", "3e-3"), "--depth": ("2", "4")}
SEARCH_COLUMNS = {"settings": "settings", "steps": "steps", "x": "x", "v": "v", "score": "score"}
COLUMNS = {
    "program": "program",
    "seed": "seed",
    "settings": "settings",
    "weights": "weights",
    "steps": "steps",
    "val_x": "val x",
    "val_v": "val v",
    "x": "test x",
    "v": "test v",
}


def search_rows(options, folder: Path, common: Sequence[str]) -> list[dict]:
    """Validation errors of the public program with all searched settings, the best row first."""
    rows = []
    for values in itertools.product(*SEARCHED.values()):
        settings = list(itertools.chain.from_iterable(zip(SEARCHED, values, strict=True)))
        run = folder / "_".join(["search", f"{options.search_minutes:g}", *values])
        found = farfield_results(
            TASK, run, options.search_minutes, [*PUBLIC, "--seed", "0", *common, *settings]
        )

        # a row has the errors of its best epoch, which ``selection`` chose on validation data
        best = best_validation(found)
        rows.append(
            {
                "settings": " ".join(settings),
                "steps": found["steps"],
                **{name: best[name] for name in ("x", "v")},
                "score": best["selection"],
            }
        )

    return sorted(rows, key=lambda row: row["score"])


def best_validation(results: dict) -> dict:
    """The row of the history whose weights were kept: that of the lowest selection score."""
    return min(results["history"], key=lambda row: row["selection"])


def final_row(
    program: str, seed: int, settings: str, options, folder: Path, common: Sequence[str]
) -> dict:
    """Errors of one program and seed; x and v of the test split."""
    name = program.replace(", ", "_").replace(" ", "_")
    run = folder / f"{name}_{options.minutes:g}_{seed}"
    own = [*PROGRAMS[program], "--seed", str(seed), *common, *settings.split()]
    found = farfield_results(TASK, run, options.minutes, own)

    best = best_validation(found)
    test = next(row for row in found["test"] if row["row"] == "model")
    return {
        "program": program,
        "seed": seed,
        "settings": settings or "chosen before",
        "weights": found["parameters"],
        "steps": found["steps"],
        "minutes": found["cpu_minutes"],
        "val_x": best["x"],
        "val_v": best["v"],
        "x": test["x_mean"],
        "v": test["v_mean"],
    }


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("compare_equiformer", __doc__)
    bench = parser.section("bench", "what is compared")
    bench.add("--data-path", str, "data/nbody", help="folder made by preprocess_nbody")
    bench.add("--run-dir", str, "runs/compare_equiformer", help="folder for the runs")
    bench.add("--minutes", float, 2.0, above=0, help="CPU minutes of training of each row")
    bench.add("--search-minutes", float, 0.5, above=0, help="CPU minutes of each searched setting")
    bench.add("--seeds", int, 1, low=1, help="number of seeds of each program")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    own, common = divide(argv)
    options = build_parser().parse_config(own).bench
    if not Path(options.data_path, "nbody_train.npz").exists():
        raise FileNotFoundError(
            f"there is no nbody_train.npz in {options.data_path}; make it with python -m "
            "preprocess.preprocess_nbody"
        )
    if not equiformer_is_installed():
        raise ValueError(f"{PACKAGE} is not installed: run `make bench` to install it")
    if options.json:
        harness.check_folder(options.json)

    folder = Path(options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--data-path", options.data_path, *BATCHES, *common]
    searched = search_rows(options, folder, common)
    rows = [
        final_row(
            program, seed, searched[0]["settings"] * (program == PACKAGE), options, folder, common
        )
        for seed in range(options.seeds)
        for program in PROGRAMS
    ]

    print(harness.describe_environment(harness.environment(("torch", PACKAGE))))
    print(harness.table(searched, SEARCH_COLUMNS))
    print(harness.table(rows, COLUMNS))
    if options.json:
        write_json(options.json, {"options": dict(options), "search": searched, "rows": rows})


if __name__ == "__main__":
    run_script(main)
