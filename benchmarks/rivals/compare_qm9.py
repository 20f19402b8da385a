"""Farfield and PaiNN of schnetpack on QM9: the same molecules, split, thread and CPU minutes.

    # an environment for schnetpack alone: it needs an older sympy than torch
    python3.11 -m venv .venv-spk
    .venv-spk/bin/pip install torch==2.13.0 tqdm pytorch-lightning torchmetrics torch-ema ase \\
        h5py hydra-core hydra-colorlog fasteners dirsync matscipy tensorboardX rich
    .venv-spk/bin/pip install --no-deps schnetpack==2.1.1

    python -m preprocess.preprocess_qm9 --file qm9_props.npz --graph cutoff \\
        --train 16000 --val 2000 --test 2000 --out data/qm9
    python -m benchmarks.rivals.compare_qm9 --data-path data/qm9 --minutes 60 \\
        -- --batch-size 16

All programs learn all targets at once. Farfield trains by ``train.train_qm9``, once with each
backbone (further options for both after ``--``, for one of them in ``--se3-options`` and
``--e2former-options``), schnetpack by ``qm9_program.py`` with the settings named there. One table
of the test split: the mean of the training labels, a linear fit on the counts of the elements, and
the programs. Then the validation errors against CPU minutes of training. No program chooses
checkpoints or settings on the test split. Finished programs are not run again: their results are
in ``--run-dir``; stopped ones go on. On several cores, start each program by itself with
``--programs``, and at the end all of them for the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/rivals/compare_qm9.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks import harness
from benchmarks.rivals.side_by_side import curve_rows, divide, farfield_results, start
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.sources.qm9_targets import TARGETS
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.dataloader.storage.files import write_json
from farfield.dataloader.structures import Structures
from farfield.train.tasks.properties import metric_name
from farfield.train.tasks.property_baselines import Baselines

UNITS = {
    target: TARGETS[target].shown_unit for target in ("alpha", "homo", "gap", "mu", "U0", "Cv")
}

# Names of the errors in reports of qm9_program.py, in histories and in tables of train_qm9.
PLAIN = {target: target for target in UNITS}
IN_HISTORY = {target: metric_name(target) for target in UNITS}
IN_TABLE = {target: f"{target} ({unit})" for target, unit in UNITS.items()}

# Option that has further options for one backbone alone.
OWN_OPTIONS = {
    "se3_transformer_properties": "se3_options",
    "e2former_properties": "e2former_options",
}
HEADINGS = {"program": "program", "weights": "weights", "minutes": "CPU minutes", "steps": "steps"}


def simple_rows(structures: Structures, split: Split) -> list[dict]:
    """Test errors of the fits to the training labels that know no geometry."""
    train, test = structures[split.train], structures[split.test]
    labels = {target: train.extra[target].astype(np.float64) for target in UNITS}
    fitted = Baselines.fit(train.atomic_numbers, train.counts, labels)

    rows = []
    for name, fits in fitted.coefficients.items():
        weights = int(sum(np.count_nonzero(fit) for fit in fits.values()))
        row = {"program": name, "weights": weights, "split": "test"}
        for target in UNITS:
            guess = fitted.guess(name, target, test.atomic_numbers, test.counts)
            error = float(np.abs(guess - test.extra[target]).mean())
            row[target] = TARGETS[target].shown_factor * error
        rows.append(row)
    return rows


def run_schnetpack(representation: str, options, folder: Path, more: Sequence[str]) -> list[dict]:
    """Rows of ``qm9_program.py``; ``more`` is for our own program."""
    target = folder / f"{representation}_{options.minutes:g}.json"
    if not target.exists():
        script = str(Path(__file__).with_name("qm9_program.py"))
        command = [options.schnetpack_python, script, options.data_path]
        command += ["--minutes", f"{options.minutes:g}", "--seed", str(options.seed)]
        command += ["--representation", representation, "--targets", ",".join(UNITS)]
        command += ["--json", str(target)]
        start([*command, *shlex.split(options.schnetpack_options or "")])

    report = json.loads(target.read_text())
    common = {"program": f"schnetpack {representation}", "weights": report["weights"]}
    place = {"split": "test", "minutes": report["minutes"], "steps": report["steps"]}
    test = {**common, **place, **errors_of(report["test"], PLAIN, target)}
    history = [
        {"minutes": row["minutes"], "steps": row["step"], **errors_of(row["errors"], PLAIN, target)}
        for row in report["curve"]
    ]
    return [test, *curve_rows(common, history, options.minutes)]


def run_farfield(model: str, title: str, options, folder: Path, more: Sequence[str]) -> list[dict]:
    """Rows of our program with one backbone."""
    run = folder / f"{model}_{options.minutes:g}"
    own = farfield_options(model, options, more)
    results = farfield_results("train.train_qm9", run, options.minutes, own)
    check_split(results, options.data_path)

    common = {"program": title, "weights": results["parameters"]}
    model_row = next(row for row in results["test"] if row["row"] == "model")
    place = {"split": "test", "minutes": results["cpu_minutes"], "steps": results["steps"]}
    test = {**common, **place, **errors_of(model_row, IN_TABLE, run)}
    history = [
        {"minutes": row["cpu_minutes"], "steps": row["step"], **errors_of(row, IN_HISTORY, run)}
        for row in results["history"]
    ]
    return [test, *curve_rows(common, history, options.minutes)]


def farfield_options(model: str, options, more: Sequence[str]) -> list[str]:
    """Options of train_qm9 for a new run of one backbone."""
    common = ["--data-path", options.data_path, "--model", model]
    common += ["--targets", ",".join(UNITS), "--seed", str(options.seed)]
    return [*common, *more, *shlex.split(options[OWN_OPTIONS[model]] or "")]


PROGRAMS: dict[str, Callable[..., list[dict]]] = {
    "painn": partial(run_schnetpack, "painn"),
    "schnet": partial(run_schnetpack, "schnet"),
    "se3_transformer": partial(
        run_farfield, "se3_transformer_properties", "Farfield SE(3)-Transformer"
    ),
    "e2former": partial(run_farfield, "e2former_properties", "Farfield E2Former"),
}


def errors_of(row: dict, names: dict[str, str], source: Path) -> dict[str, float]:
    """Errors of all targets by name.

    names: target -> its name in ``row``. source: where the row is from. Raises ValueError if an
    error is missing.
    """
    missing = [target for target in UNITS if row.get(names[target]) is None]
    if missing:
        raise ValueError(
            f"{source} has no error of {', '.join(missing)}: it was trained on other targets; "
            "give another --run-dir"
        )
    return {target: row[names[target]] for target in UNITS}


def check_split(results: dict, data_path: str):
    """Raise ValueError unless a run learned from the molecules and the split of ``data_path``.

    Its graphs may be different.
    """
    own = results["config"]["data"]["data_path"]
    one, other = (Split.load(Path(path) / "split.npz") for path in (own, data_path))
    same_parts = [np.array_equal(getattr(one, name), getattr(other, name)) for name in SPLITS]
    if one.data_hash != other.data_hash or not all(same_parts):
        raise ValueError(
            f"the run learned from {own}, whose molecules or split are not those in {data_path}; "
            "preprocess both alike"
        )


def shown(row: dict) -> dict:
    """The row with errors as text: a tenth of a meV, a thousandth of other units."""
    errors = {
        target: f"{row[target]:.1f}" if unit == "meV" else f"{row[target]:.3f}"
        for target, unit in UNITS.items()
    }
    return {**row, **errors}


def verdicts(rows: list[dict]) -> list[str]:
    """On how many targets each of our models has a smaller test error than each other program."""
    test = [row for row in rows if row["split"] == "test" and "minutes" in row]
    ours = [row for row in test if row["program"].startswith("Farfield")]
    others = [row for row in test if not row["program"].startswith("Farfield")]

    lines = []
    for own in ours:
        for other in others:
            better = [target for target in UNITS if own[target] < other[target]]
            lines.append(
                f"{own['program']} better than {other['program']} on {len(better)} of "
                f"{len(UNITS)}: {' '.join(better) or 'none'}"
            )
    return lines


def report(rows: list[dict]) -> str:
    """The table of the test split, the verdicts, and the validation errors on the way."""
    columns = HEADINGS | {target: f"{target} {unit}" for target, unit in UNITS.items()}
    tables = {
        part: harness.table([shown(row) for row in rows if row["split"] == part], columns)
        for part in ("test", "validation")
    }
    lines = ["test split, mean absolute errors", tables["test"], *verdicts(rows), ""]
    lines += ["validation split on the way", tables["validation"]]
    return "\n".join(lines)


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("compare_qm9", __doc__)
    bench = parser.section("bench", "what is compared")
    bench.add("--data-path", str, "data/qm9", help="folder made by preprocess_qm9")
    bench.add("--run-dir", str, "runs/compare_qm9", help="folder for the runs")
    bench.add("--minutes", float, 60.0, above=0, help="CPU minutes of training of each program")
    bench.add(
        "--programs",
        str,
        "painn,se3_transformer,e2former",
        help=f"comma list of {', '.join(PROGRAMS)}, or all",
    )
    bench.add("--seed", int, 0, low=0, help="seed of all programs")
    bench.add("--json", str, None, help="file for the rows")

    # The other program has an environment of its own.
    bench.add(
        "--schnetpack-python",
        str,
        ".venv-spk/bin/python",
        help="python of the environment that has schnetpack",
    )

    # Further options of one program, each as one text.
    own = {
        "--schnetpack-options": "options of qm9_program.py, as one text",
        "--se3-options": "options of train_qm9 for the SE(3)-Transformer alone, as one text",
        "--e2former-options": "options of train_qm9 for the E2Former alone, as one text",
    }
    for flag, text in own.items():
        bench.add(flag, str, None, help=f"further {text}")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    own, more = divide(argv)
    options = build_parser().parse_config(own).bench
    names = harness.chosen(options.programs, PROGRAMS, "--programs")
    hint = "make it with python -m preprocess.preprocess_qm9"
    structures = Structures.load(Path(options.data_path, "molecules.npz"), hint)
    rows = simple_rows(structures, Split.load(Path(options.data_path, "split.npz")))

    folder = Path(options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rows += PROGRAMS[name](options, folder, more)

    print(harness.describe_environment(harness.environment(("torch",))))
    print(report(rows))
    if options.json:
        write_json(options.json, {"options": dict(options), "rows": rows})


if __name__ == "__main__":
    run_script(main)
