"""Extensivity: what a trained potential does far away, compared with GFN2-xTB.

    python -m benchmarks.accuracy.bench_extensivity --checkpoint runs/ethanol/checkpoint_best.pt
    python -m benchmarks.accuracy.bench_extensivity --checkpoint runs/ethanol/checkpoint_best.pt \\
        --probes data/probes --json extensivity.json

Three tables, in float64:

pairs    E(AB) - E(A) - E(B), and the largest change of a force by the other molecule; the largest
         over the orientations of a kind and distance (of the nearest atoms), next to the same of
         GFN2-xTB, where the file has it
decay    what a fit of the pairs from ``FIRST_FITTED`` Angstrom on says. Neutral kinds: n of
         E ~ r^-n. Charged ones: the slope dE / d(1/r), r between the centroids, next to
         14.4 q_A q_B and GFN2-xTB's.
ghosts   the largest change of a force on a molecule by 20 Ne, H2 or H2O, or one H, far away

Pairs of one molecule and its ghosts are made here from a molecule of the checkpoint's elements;
``--probes`` adds the kinds of a folder. Structures with elements that the checkpoint does not know
are skipped, with a line. Any potential can be asked: the checkpoint says how it is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/bench_extensivity.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Iterable, Sequence

import numpy as np
from ase.data import chemical_symbols

from benchmarks import harness
from benchmarks.accuracy.extensivity_probes import Probe, ghosts, pairs
from benchmarks.accuracy.far_sight_checks import COULOMB
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.structure_inputs import OTHER_NAME
from farfield.models.network import POTENTIAL
from farfield.train.prediction import PotentialPredictor, load

MEV = 1e3  # meV in an eV
FIRST_FITTED = 15.0  # Angstrom
SMALLEST_FITTED = 1e-6  # meV; rounding lies below
PAIR_COLUMNS = {
    "kind": "pair",
    "distance": "A",
    "structures": "pairs",
    "energy": "E meV",
    "forces": "F meV/A",
    "energy_gfn2": "GFN2 E",
    "forces_gfn2": "GFN2 F",
}
DECAY_COLUMNS = {
    "kind": "pair",
    "exponent": "n",
    "exponent_gfn2": "GFN2 n",
    "slope": "slope eV A",
    "slope_gfn2": "GFN2 slope",
    "slope_of_charges": "14.4 q q",
}
GHOST_COLUMNS = {
    "kind": "ghosts",
    "distance": "nearest A",
    "structures": "structures",
    "forces": "F meV/A",
    "forces_gfn2": "GFN2 F",
}


def open_potential(checkpoint: str) -> PotentialPredictor:
    """The potential of a checkpoint in float64; ValueError unless probes have all its inputs."""
    model = load(checkpoint, dtype="float64")
    model.run.check_predicts(POTENTIAL)
    others = [name for name in model.network.inputs if name not in OTHER_NAME]
    if others:
        raise ValueError(
            f"{checkpoint} reads {', '.join(others)}, which the structures here do not have; give "
            "a network that reads the total charge alone, or nothing"
        )
    return model


def askable(probes: Iterable[Probe], known: set[int]) -> list[Probe]:
    """Probes whose elements are known; one line for every kind that is left out."""
    kept, left_out = [], {}
    for probe in probes:
        unknown = probe.elements - known
        if unknown:
            left_out[probe.kind] = ", ".join(chemical_symbols[number] for number in sorted(unknown))
        else:
            kept.append(probe)
    for kind, symbols in left_out.items():
        print(f"{kind}: skipped, the checkpoint does not know {symbols}", flush=True)
    return kept


def interactions(model: PotentialPredictor, probes: Sequence[Probe]) -> list[dict]:
    """What the parts of each probe do to each other.

    energy: E(whole) - E(parts), meV; of pairs. forces: largest change of a force on
    the parts, meV/Angstrom, where the network predicts forces. ``..._gfn2``: the same of GFN2-xTB.
    """
    counts = [1 + len(probe.parts) for probe in probes]
    every = [atoms for probe in probes for atoms in (probe.whole, *probe.parts)]
    predicted = iter(model.predict(every) if every else [])

    found = []
    for probe, count in zip(probes, counts, strict=True):
        whole, *parts = (next(predicted) for _ in range(count))
        row = {"kind": probe.kind, "distance": probe.distance}
        if len(parts) > 1:
            row["energy"] = MEV * (whole["energy"] - sum(part["energy"] for part in parts))
        if "forces" in whole:
            alone = np.concatenate([part["forces"] for part in parts])
            change = whole["forces"][: len(alone)] - alone
            row["forces"] = MEV * float(np.linalg.norm(change, axis=1).max())
        row |= {f"{name}_gfn2": MEV * value for name, value in probe.truth.items()}
        found.append(row | {"axis": probe.axis, "charges": probe.charges})
    return found


def largest_rows(found: Sequence[dict], by_distance: bool = True) -> list[dict]:
    """The largest interaction of every kind and distance, or of every kind.

    distance: the nearest of the structures of a row.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in found:
        key = (row["kind"], row["distance"] if by_distance else None)
        groups.setdefault(key, []).append(row)

    rows = []
    for (kind, _), members in groups.items():
        nearest = min(member["distance"] for member in members)
        row = {"kind": kind, "distance": nearest, "structures": len(members)}
        for name in ("energy", "forces", "energy_gfn2", "forces_gfn2"):
            if name in members[0]:
                row[name] = max(abs(member[name]) for member in members)
        rows.append(row)
    return rows


def decay_exponent(rows: Sequence[dict], name: str) -> float | None:
    """n of ``|row[name]| ~ distance^-n`` over the rows; None where fewer than two are there."""
    points = [
        (np.log(row["distance"]), np.log(abs(row[name])))
        for row in rows
        if row["distance"] >= FIRST_FITTED and abs(row.get(name, 0)) > SMALLEST_FITTED
    ]
    return -float(np.polyfit(*np.transpose(points), 1)[0]) if len(points) > 1 else None


def slope(found: Sequence[dict], name: str) -> float | None:
    """dE / d(1/r), eV Angstrom, over all pairs from ``FIRST_FITTED`` on; r between centroids."""
    points = [
        (1 / row["axis"], row[name] / MEV)
        for row in found
        if row["distance"] >= FIRST_FITTED and name in row
    ]
    return float(np.polyfit(*np.transpose(points), 1)[0]) if len(points) > 1 else None


def decay_rows(found: Sequence[dict]) -> list[dict]:
    """How the energy of every kind falls with the distance."""
    rows = []
    for kind in dict.fromkeys(row["kind"] for row in found):
        members = [row for row in found if row["kind"] == kind]
        one, two = members[0]["charges"]
        row = {"kind": kind}

        # charged pairs have a tail, others fall like a power
        if one * two:
            row["slope"] = slope(members, "energy")
            row["slope_gfn2"] = slope(members, "energy_gfn2")
            row["slope_of_charges"] = COULOMB * one * two
        else:
            largest = largest_rows(members)
            row["exponent"] = decay_exponent(largest, "energy")
            row["exponent_gfn2"] = decay_exponent(largest, "energy_gfn2")
        rows.append(row)
    return rows


def readable(rows: Sequence[dict]) -> list[dict]:
    """Rows for people: three digits of a number, whatever its size."""
    return [
        {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]


def measure(checkpoint: str, folder: str | None) -> dict[str, list[dict]]:
    """The rows of the three tables."""
    model = open_potential(checkpoint)
    known = set(model.network.reference.values())
    of_pairs = pairs(known, reads_charge=bool(model.network.inputs), folder=folder)
    found = interactions(model, askable(of_pairs, known))
    haunted = interactions(model, askable(ghosts(known, folder), known))
    return {
        "pairs": largest_rows(found),
        "decay": decay_rows(found),
        "ghosts": largest_rows(haunted, by_distance=False),
    }


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_extensivity", __doc__)
    bench = parser.section("bench", "what is measured")

    # what is asked, with which structures
    bench.add(
        "--checkpoint", str, "runs/ethanol/checkpoint_best.pt", help="checkpoint of a potential"
    )
    bench.add(
        "--probes",
        str,
        None,
        help="folder with pairs_neutral.npz, pairs_charged.npz and locality.npz",
    )
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)
    tables = measure(options.checkpoint, options.probes)
    columns = {"pairs": PAIR_COLUMNS, "decay": DECAY_COLUMNS, "ghosts": GHOST_COLUMNS}
    for name, rows in tables.items():
        print(harness.table(readable(rows), columns[name]))
    harness.keep(options, report, **tables)


if __name__ == "__main__":
    run_script(main)
