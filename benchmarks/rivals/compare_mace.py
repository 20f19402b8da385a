"""Farfield and mace-torch: the same data, split, thread and CPU minutes, one after the other.

    # an environment for mace-torch alone: it needs e3nn 0.4
    python3.11 -m venv .venv-mace
    .venv-mace/bin/pip install torch==2.13.0 mace-torch==0.3.16

    python -m preprocess.preprocess_md17 --molecule ethanol --out data/md17/ethanol
    python -m benchmarks.rivals.compare_mace --data-path data/md17/ethanol --minutes 30

    # the near field alone
    python -m benchmarks.rivals.compare_mace --data-path data/md17/ethanol \\
        -- --schedule first-order1+second-order1

Farfield trains by ``train.train_md17`` with the edges of the folder (further options after ``--``),
mace-torch with r_max 5 by ``mace_program.py`` with the settings named there. The table gives errors
of the validation split against CPU minutes of training, then errors of the test split; neither
program chooses checkpoints or settings on the test split. Finished programs are not run again:
their results are in ``--run-dir``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/rivals/compare_mace.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
from collections.abc import Sequence

from benchmarks import harness
from benchmarks.rivals.side_by_side import curve_rows, divide, farfield_results, start
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.storage.files import write_json

COLUMNS = {
    "program": "program",
    "weights": "weights",
    "minutes": "CPU minutes",
    "steps": "steps",
    "split": "split",
    "energy": "energy MAE meV",
    "forces": "force MAE meV/A",
}


def run_mace(options, folder: Path) -> list[dict]:
    """Rows of mace-torch."""
    target = folder / f"mace_{options.minutes:g}.json"
    if not target.exists():
        script = str(Path(__file__).with_name("mace_program.py"))
        command = [options.mace_python, script, options.data_path]
        command += ["--minutes", f"{options.minutes:g}", "--seed", str(options.seed)]
        start([*command, "--json", str(target)])

    report = json.loads(target.read_text())
    common = {"program": f"mace-torch {report['options']['irreps']}", "weights": report["weights"]}
    rows = []
    for at in report["curve"]:
        place = {"split": "validation", "minutes": at["minutes"], "steps": at["step"]}
        rows.append({**common, **place, **errors_of(at)})
    place = {"split": "test", "minutes": report["minutes"], "steps": report["steps"]}
    rows.append({**common, **place, **errors_of(report["test"])})
    return rows


def errors_of(report: dict) -> dict[str, float]:
    """Both errors of a report of ``mace_program.py``."""
    return {"energy": report["energy"], "forces": report["forces"]}


def run_farfield(options, folder: Path, more: Sequence[str]) -> list[dict]:
    """Rows of our program; more: further options of its training script."""
    run = folder / f"farfield_{options.minutes:g}"
    own = ["--data-path", options.data_path, "--seed", str(options.seed), *more]
    results = farfield_results("train.train_md17", run, options.minutes, own)

    common = {
        "program": f"Farfield {results['config']['model']['schedule']}",
        "weights": results["parameters"],
    }
    history = [
        {
            "minutes": row["cpu_minutes"],
            "steps": row["step"],
            "energy": row["energy_mae"],
            "forces": row["force_mae"],
        }
        for row in results["history"]
    ]
    rows = curve_rows(common, history, options.minutes)
    return [*rows, {**common, "split": "test", **errors_on_test(results)}]


def errors_on_test(results: dict) -> dict[str, float]:
    """Errors of the model on the test split, meV and meV / Angstrom."""
    row = next(row for row in results["test"] if row["row"] == "model")
    return {
        "minutes": results["cpu_minutes"],
        "steps": results["steps"],
        "energy": row["energy_mae"],
        "forces": row["force_mae"],
    }


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("compare_mace", __doc__)
    bench = parser.section("bench", "what is compared")
    bench.add("--data-path", str, "data/md17/ethanol", help="folder made by preprocess_md17")
    bench.add("--run-dir", str, "runs/compare_mace", help="folder for the runs")
    bench.add("--minutes", float, 30.0, above=0, help="CPU minutes of training of each program")

    # The other program has an environment of its own.
    bench.add(
        "--mace-python",
        str,
        ".venv-mace/bin/python",
        help="python of the environment that has mace-torch",
    )
    bench.add("--seed", int, 0, low=0, help="seed of both programs")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    own, more = divide(argv)
    options = build_parser().parse_config(own).bench
    if not Path(options.data_path, "train.npz").exists():
        raise FileNotFoundError(
            f"there is no train.npz in {options.data_path}; make it with python -m "
            "preprocess.preprocess_md17"
        )

    folder = Path(options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows = run_mace(options, folder) + run_farfield(options, folder, more)

    print(harness.describe_environment(harness.environment(("torch",))))
    print(harness.table(rows, COLUMNS))
    if options.json:
        write_json(options.json, {"options": dict(options), "rows": rows})


if __name__ == "__main__":
    run_script(main)
