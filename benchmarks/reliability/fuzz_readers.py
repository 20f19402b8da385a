"""Damaged and hostile files for every reader: it reads them, or refuses them in a line.

    python -m benchmarks.reliability.fuzz_readers --minutes 0.5
    python -m benchmarks.reliability.fuzz_readers --only "npz of the user" --minutes 5 --keep odd

Each reader gets files with wrong, lost and repeated bytes, words that no program writes, headers
that promise more than a disk holds, nested and missing entries, records and pickles that try to run
code. A file of a prepared folder is entered into its manifest afterwards, half of the time, so that
more than checksums is tried. An input may take 10 seconds and 1 GB; what else may become of it is
listed in ``guarded_reader.py``. The inputs follow from --seed; how many come in the time does not.
Cost: --minutes of CPU time for each reader.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.reliability.foreign_files import FOREIGN, NPZ, Foreign
from benchmarks.reliability.guarded_reader import FAULTS, OUTCOMES, GuardedReader, Outcome
from benchmarks.reliability.mutations import (
    BYTES,
    TEXT,
    Generator,
    changed_json,
    changed_value,
    mutated,
)
from benchmarks.reliability.stored_files import STORED, Stored, make_all
from farfield.common import checkpoint
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.storage.files import file_checksum

COLUMNS = {"reader": "reader", "inputs": "inputs", **{kind: kind for kind in OUTCOMES}}
MOST_SHOWN = 12  # faults of a reader that are told
SECONDS = 20.0  # for one input, on a busy machine
Change = Callable[[Generator, bytes], bytes]


class Target(NamedTuple):
    """A reader to try: its name, folders with one sample each, and changes of each suffix."""

    name: str
    samples: list[Path]
    read: Callable[[Path], Any]
    changes: Callable[[str], tuple[Change, ...]]
    pattern: str = "**/*"


def foreign_target(foreign: Foreign, folder: Path) -> Target:
    """A format of the users; its samples are made below ``folder``."""
    made = folder / "made"
    made.mkdir(parents=True)
    foreign.make(made)

    # a folder for each file or folder
    samples = []
    for number, sample in enumerate(sorted(made.iterdir())):
        place = folder / str(number) / "sample"
        if sample.is_dir():
            shutil.copytree(sample, place)
        else:
            place.mkdir(parents=True)
            shutil.copy(sample, place)
        samples.append(place)
    return Target(foreign.name, samples, foreign.read, lambda suffix: foreign.changes)


def stored_target(stored: Stored, folder: Path) -> Target:
    """What a program of the project has stored below ``folder``."""
    return Target(stored.name, [folder / stored.folder], stored.read, changes_of, stored.pattern)


def changes_of(suffix: str) -> tuple[Change, ...]:
    """Changes of a stored file by its suffix."""
    known = {
        ".json": (*TEXT, *(changed_json,) * 8),
        ".npz": NPZ,
        ".pt": (*BYTES, *(changed_checkpoint,) * 6),
    }
    return known.get(suffix, BYTES if suffix in (".npy", ".so", ".lmdb") else TEXT)


def changed_checkpoint(generator: Generator, content: bytes) -> bytes:
    """A whole checkpoint, with a right seal, in which one entry is odd."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.pt"
        path.write_bytes(content)
        try:
            found = checkpoint.read_checkpoint(path)
        except ValueError:  # damaged by an earlier change
            return content[:-1]

        # written again, with a right seal
        changed = changed_value(generator, found)
        try:
            checkpoint.save_checkpoint(path, changed if isinstance(changed, dict) else {"x": 1})
        except (OSError, RecursionError, TypeError):  # what torch cannot write
            return content[:-1]
        return path.read_bytes()


def enter_in_manifest(folder: Path, file: Path) -> None:
    """Let the manifest in the folder of a file say that the file is as it must be."""
    for manifest in folder.glob("*manifest.json"):
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            if file != manifest and file.name in content["files"]:
                content["files"][file.name] = file_checksum(file)
                manifest.write_text(json.dumps(content), encoding="utf-8")
        except (ValueError, KeyError, TypeError):
            return


class Tried(NamedTuple):
    """One input: where it stands, what was changed, and what became of it."""

    sample: int
    file: str
    number: int
    outcome: Outcome


def try_one(
    target: Target, reader: GuardedReader, folder: Path, seed: tuple[int, ...], number: int
) -> Tried:
    """Make input ``number`` of a target below ``folder``, and read it."""
    generator = np.random.default_rng((*seed, number))
    sample = int(generator.integers(len(target.samples)))
    original = target.samples[sample]
    place = folder / original.name
    shutil.copytree(original, place)
    for further in original.parent.glob("*.json"):
        shutil.copy(further, folder)

    # one file is changed
    files = sorted(path for path in place.glob(target.pattern) if path.is_file())
    file = files[int(generator.integers(len(files)))]
    changes = target.changes(file.suffix)
    file.write_bytes(mutated(generator, file.read_bytes(), (), changes))
    if generator.random() < 0.5:
        enter_in_manifest(place, file)
    return Tried(sample, file.name, number, reader.outcome(place))


def measure(
    target: Target, minutes: float, seed: tuple[int, ...], keep: Path | None, most: int
) -> dict:
    """Try a reader for some CPU minutes; a row of the table, and the faults."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, GuardedReader(target.read, SECONDS) as reader:
        for number, sample in enumerate(target.samples):
            whole = reader.outcome(sample)
            if whole.kind != "read":
                raise RuntimeError(f"{target.name}, sample {number}: {whole.kind} {whole.words}")

        start = _cpu_seconds(reader)
        while counts.total() < most and _cpu_seconds(reader) - start < 60 * minutes:
            place = Path(scratch) / str(counts.total())
            place.mkdir()
            tried = try_one(target, reader, place, seed, counts.total())
            counts[tried.outcome.kind] += 1
            if tried.outcome.kind in FAULTS:
                faults.append(
                    f"{target.name}, input {tried.number}, sample {tried.sample}, {tried.file}: "
                    f"{tried.outcome.kind}: {tried.outcome.words}"
                )
                if keep is not None:
                    shutil.copytree(place, keep / f"{target.name}_{tried.number}".replace(" ", "_"))
            shutil.rmtree(place)
    row = {"reader": target.name, "inputs": counts.total()}
    return row | dict.fromkeys(OUTCOMES, 0) | counts | {"faults": faults}


def _cpu_seconds(reader: GuardedReader) -> float:
    """Of this process, of its children that have ended, and of the reader."""
    return sum(os.times()[:4]) + reader.cpu_seconds()


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("fuzz_readers", __doc__)
    bench = parser.section("bench", "which readers are tried, and for how long")
    bench.add("--minutes", float, 0.5, above=0, help="CPU minutes for each reader")
    bench.add("--only", str, "all", help="names of readers, joined by commas, or all")
    bench.add("--seed", int, 0, low=0, help="seed of the inputs")
    most = "largest number of inputs of each reader"
    bench.add("--most-inputs", int, 10**9, low=1, help=most)
    bench.add("--keep", str, None, help="folder for the inputs that a reader failed on")
    bench.add("--json", str, None, help="file for the rows, with the faults")
    return parser


def makers(folder: Path) -> dict[str, Callable[[], Target]]:
    """Name of a reader -> what makes its target."""
    found: dict[str, Callable[[], Target]] = {}
    for number, foreign in enumerate(FOREIGN):
        found[foreign.name] = partial(foreign_target, foreign, folder / f"foreign_{number}")
    for stored in STORED:
        found[stored.name] = partial(stored_target, stored, folder / "stored")
    return found


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)
    keep = None if options.keep is None else Path(options.keep)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)

    # what is stored is made once for all readers
    with tempfile.TemporaryDirectory() as folder:
        known, rows = makers(Path(folder)), []
        names = harness.chosen(options.only, known, "--only")
        if any(stored.name in names for stored in STORED):
            make_all(Path(folder) / "stored")

        for name in names:
            seed = (options.seed, list(known).index(name))
            limit = options.most_inputs
            rows.append(measure(known[name](), options.minutes, seed, keep, limit))
            print(f"{name}: {rows[-1]['inputs']} inputs", flush=True)
            for fault in rows[-1]["faults"][:MOST_SHOWN]:
                print(fault, flush=True)
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
