"""Wrong bits and lost ends of files that programs read back: refused, or the same numbers.

    python -m benchmarks.reliability.flip_files --number 60

Every kind of file that a program of this project writes and reads again is made once, small. Then,
in a copy, one bit of one file is flipped or its end is cut off, and the folder is read as the
programs do. ``refused``: one line; ``same``: every number is as before; ``wrong``: another number,
a traceback, a hang or a crash. Files in formats of exchange that a user gives (xyz, npz, sdf) hold
no checksum, and are not among them. Cost: 0.1 s for each change.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.reliability.guarded_reader import GuardedReader, Outcome
from benchmarks.reliability.mutations import truncate
from benchmarks.reliability.stored_files import STORED, Stored, make_all
from farfield.common.command_line import OptionParser, run_script

SECONDS = 60.0  # for one reading, on a busy machine
COLUMNS = {
    "kind": "kind of files",
    "files": "files",
    "flips": "flips",
    "cuts": "cuts",
    "refused": "refused",
    "same": "same numbers",
    "wrong": "wrong",
}
OF_CUTS = 6  # one change in so many cuts the end off


def flip_one(generator: np.random.Generator, content: bytes) -> bytes:
    """The same with one wrong bit."""
    found = bytearray(content)
    found[int(generator.integers(len(found)))] ^= 1 << int(generator.integers(8))
    return bytes(found)


def verdict(found: Outcome, whole: str) -> str:
    """What a reading of changed files is worth; whole: checksum of the value before."""
    if found.kind in ("refused", "unnamed"):
        return "refused"
    return "same" if found.kind == "read" and found.value == whole else "wrong"


def measure(stored: Stored, folder: Path, number: int, seed: int) -> dict:
    """Change the files of one kind ``number`` times; a row of the table, and what went wrong."""
    generator = np.random.default_rng((seed, STORED.index(stored)))
    files = stored.files(folder / stored.folder)
    counts: Counter[str] = Counter()
    faults = []

    with (
        GuardedReader(stored.read, SECONDS) as reader,
        tempfile.TemporaryDirectory(dir=folder) as scratch,
    ):
        # in one folder with the others, so that relative names are found
        whole = reader.outcome(copied(folder / stored.folder, Path(scratch) / "whole", folder))
        if whole.kind != "read":
            raise RuntimeError(f"{stored.name} cannot be read undamaged: {whole.words}")
        for change in range(number):
            file = files[int(generator.integers(len(files)))]
            alter, name = (truncate, "cuts") if change % OF_CUTS == 0 else (flip_one, "flips")
            place = copied(folder / stored.folder, Path(scratch) / str(change), folder)
            changed = place / file.relative_to(folder / stored.folder)
            changed.write_bytes(alter(generator, file.read_bytes()))

            found = reader.outcome(place)
            judged = verdict(found, whole.value)
            counts.update([name, judged])
            if judged == "wrong":
                faults.append(f"{file.name}, change {change}: {found.kind} {found.words}")
            shutil.rmtree(place.parent)

    zero = dict.fromkeys(("flips", "cuts", "refused", "same", "wrong"), 0)
    return {"kind": stored.name, "files": len(files), **zero, **counts, "faults": faults}


def copied(original: Path, place: Path, folder: Path) -> Path:
    """A copy of a folder with the same name below ``place``, with what it refers to next to it."""
    place.mkdir()
    for one in folder.glob("*.json"):
        shutil.copy(one, place)
    return Path(shutil.copytree(original, place / original.name))


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("flip_files", __doc__)
    bench = parser.section("bench", "what is changed")
    bench.add("--number", int, 60, low=1, help="number of changes of each kind of files")
    bench.add("--seed", int, 0, low=0, help="seed of the changes")
    bench.add("--json", str, None, help="file for the rows, with what went wrong")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)
    with tempfile.TemporaryDirectory() as folder:
        make_all(Path(folder) / "all")
        rows = []
        for stored in STORED:
            rows.append(measure(stored, Path(folder) / "all", options.number, options.seed))
            print(*rows[-1]["faults"], sep="\n", end="", flush=True)
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
