"""Far sight: what a far field learns that a near field cannot, on six small sets of long-ranged
labels.

    python -m benchmarks.accuracy.bench_far_sight --data-path data/long_range
    python -m benchmarks.accuracy.bench_far_sight --data-path data/long_range \\
        --sets two_atoms,sn2 \\
        --models near,hybrid --seeds 2 --minutes 4

Sets (npz files anywhere below ``--data-path``); the first five belong to Euclidean Fast Attention
(Frank et al.), the last to LODE:

    two_atoms   two opposite charges, 1 .. 10 Angstrom apart               two_atoms.npz
    sn2         F- + CH3I -> CH3F + I-, energies alone                     sn2_F_I.npz
    cumulene    a rigid carbon chain that is turned at one end             cumulene_profile.npz
    cluster_32  32 attracting atoms in a ball, up to 10 Angstrom apart
                3D_cluster_32_atoms_radius_5.npz
    cluster_16  16 in a smaller ball, all within 5 Angstrom: the control
                3D_cluster_16_atoms_radius_2point5.npz
    dimers      binding energies of charged pairs: seven short             charge_charge.npz
                separations train, the next one validates, the five
                longest test

Networks, all with edges up to 5 Angstrom: ``near`` two layers of the near field, ``deep`` four,
``hybrid`` near and far field together. The channels of ``near`` and ``deep`` are chosen so that
they have as many weights as ``hybrid``; split, seed, optimiser, batches and CPU minutes are equal.
A row gives errors on the held-back test split of the weights that were best on the validation
split, means over seeds; "/ hybrid" is the mean energy error, its mean square (what is published for
some of the sets), or the force error over the hybrid's; "bar" is how large the first of them shall
be for ``near``, and for dimers how large a part of the binding energy the error may be.

A finished run is read back from its folder, an unfinished one goes on. Run folders also hold
learning curves and checkpoints.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/bench_far_sight.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dataclasses
import json
import statistics
from collections.abc import Callable

from benchmarks import harness  # before torch: it sets the thread count

import numpy as np  # isort: skip
from easydict import EasyDict

from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import RunLog
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.sources.npz import ABSENT, read_npz
from farfield.dataloader.splits import SplitOptions, make_split
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from farfield.models.factory import build_model
from farfield.train.data_order import EpochLoader
from farfield.train.launch import Script
from farfield.train.network_options import restore_network
from farfield.train.results import finish_run, prepare_run_folder, save_config
from farfield.train.run_options import prepare_process
from farfield.train.tasks.energy_forces import build_task, set_references
from farfield.train.trainer import Trainer

PARTS = ("train", "val", "test")
CUTOFF = 5.0  # Angstrom, of the near field
TOLERANCE = 0.1  # most difference of the numbers of weights
EVALUATION_STRUCTURES = 200  # in a batch of an evaluation
LAST_TRAINED, LAST_VALIDATED, SEPARATIONS = (
    7,
    8,
    13,
)  # of the dimers: separations 0 .. 6 train, 7 validates, 8 .. 12 test

COMMON = {
    "cutoff": CUTOFF,
    "radial_basis": "bessel",
    "radial_size": 8,
    "radial_hidden": 32,
    "near_heads": 2,
    "near_score_width": 4,
    "drop_path": 0.0,
    # two atoms act on one another by the product of learned charges, a sum that is neither averaged
    # nor cut off
    "far_feature_map": "identity",
    "far_key_features": 1,
    "far_normalisation": "none",
    "far_heads": 4,
    "far_value_channels": 4,
    # Gauss-Legendre nodes up to 0.8: spacing <= pi / r for r < 30 Angstrom; the near field has the
    # shorter waves
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
MODELS = {
    "near": "first-order2",
    "deep": "first-order4",
    "hybrid": None,
}  # name -> schedule; that of the hybrid is the case's


COLUMNS = {
    "set": "set",
    "model": "model",
    "weights": "weights",
    "seeds": "seeds",
    "cpu_minutes": "CPU min",
    "steps": "steps",
}
COLUMNS |= {
    "energy_mae": "E meV",
    "energy_rmse": "E rms meV",
    "force_mae": "F meV/A",
    "part": "of binding",
}
COLUMNS |= {
    "bar": "bar",
    "ratio": "E / hybrid",
    "square_ratio": "E^2 / hybrid",
    "force_ratio": "F / hybrid",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One data set: its file, how many structures train, validate and test, and what is set for all
    networks alike.

    bar: what is asked for, see above. forces: whether they are learned. binding: energies less
    those of the parts, no reference energies (they vanish at large separation). lmax: of the
    features of all networks. schedule, channels: of the hybrid, whose number of weights the others
    match. loss, model, training: what differs from the training script's options and from
    ``COMMON``, for all networks.
    """

    file: str
    sizes: tuple[int, int, int]
    bar: float
    forces: bool = True
    binding: bool = False
    lmax: int = 2
    schedule: str = "hybrid-first-order2"
    channels: int = 16
    batch_size: int = 32
    validate_every: int = 5
    loss: dict = dataclasses.field(
        default_factory=lambda: {"weight_energy": 1.0, "weight_forces": 1.0}
    )  # energies of whole structures
    model: dict = dataclasses.field(default_factory=dict)
    training: dict = dataclasses.field(default_factory=dict)


ENERGY_ALONE = {"weight_energy": 1.0, "weight_forces": 0.0}
# What lies beyond the data is foretold, so the network is small and its far field keeps the tail 1
# / r that it starts with.
CHARGES = {
    "lmax": 1,
    "schedule": "hybrid-first-order1",
    "model": {
        "far_kernel_lmax": 0,
        "far_learnable_radial": False,
        "far_radial_scale": 1.0,
    },
}
# Scalars and vectors and one hybrid layer (beside two near ones) say all about a sum over pairs; 32
# atoms in reach of one another are dear, so that the minutes go into steps: small batches, a high
# rate. Energies spread over 30 eV, so they weigh less than forces.
PAIR_SUM = {
    "lmax": 1,
    "schedule": "hybrid-first-order1",
    "channels": 20,
    "batch_size": 4,
    "validate_every": 1,
    "training": {"lr": 1e-2},
    "loss": {"weight_energy": 0.1, "weight_forces": 1.0},
    "model": {"far_kernel_lmax": 0},
}
CASES = {
    "two_atoms": Case("two_atoms.npz", (800, 100, 2000), 30.0, batch_size=50),
    "sn2": Case("sn2_F_I.npz", (280, 40, 81), 30.0, forces=False, batch_size=28, loss=ENERGY_ALONE),
    "cumulene": Case("cumulene_profile.npz", (800, 100, 100), 3.0, batch_size=16, validate_every=2),
    "cluster_32": Case("3D_cluster_32_atoms_radius_5.npz", (1600, 50, 350), 10.0, **PAIR_SUM),
    "cluster_16": Case(
        "3D_cluster_16_atoms_radius_2point5.npz", (1600, 50, 350), 1 / 1.1, **PAIR_SUM
    ),
    "dimers": Case(
        "charge_charge.npz",
        (63, 9, 45),
        0.1,
        forces=False,
        binding=True,
        batch_size=9,
        loss=ENERGY_ALONE,
        **CHARGES,
    ),
}


def find_file(folder: str | Path, name: str) -> Path:
    """The file ``name`` anywhere below ``folder``; ``FileNotFoundError`` in one line."""
    found = sorted(Path(folder).rglob(name))
    if not found:
        raise FileNotFoundError(
            f"there is no {name} below {folder}; put it there, or give --data-path or --sets"
        )
    return found[0]


def read_case(case: Case, folder: str | Path, split_seed: int) -> dict[str, Structures]:
    """Structures of train, val and test."""
    path = find_file(folder, case.file)
    keys = {} if case.forces else {"forces": ABSENT}
    structures = read_npz(path, Units("eV", "Angstrom"), keys, periodic=False)
    if case.binding:
        energy = structures.energy - structures.extra["E_A"] - structures.extra["E_B"]
        structures = dataclasses.replace(structures, energy=energy)
        return by_separation(structures)
    train, val, test = case.sizes
    split = make_split(
        "random",
        len(structures),
        structures.data_hash,
        SplitOptions(train=train, val=val, test=test, seed=split_seed),
    )
    return {part: structures[getattr(split, part)] for part in PARTS}


def by_separation(structures: Structures) -> dict[str, Structures]:
    """Dimers of ``SEPARATIONS`` successive separations each: the shortest train, the next one
    validates, the others test.
    """
    if len(structures) % SEPARATIONS or not len(structures):
        raise ValueError(
            f"the dimers must come in groups of {SEPARATIONS} separations, got {len(structures)} "
            "structures"
        )
    distance = structures.extra["distance"].reshape(-1, SEPARATIONS)
    if not (np.diff(distance) > 0).all():
        raise ValueError("the separations of every dimer must rise; give the file in its order")
    place = np.tile(np.arange(SEPARATIONS), len(distance))
    chosen = {
        "train": place < LAST_TRAINED,
        "val": (place >= LAST_TRAINED) & (place < LAST_VALIDATED),
        "test": place >= LAST_VALIDATED,
    }
    return {part: structures[np.flatnonzero(mask)] for part, mask in chosen.items()}


@dataclasses.dataclass
class Problem:
    """The data of a case as batches need them, and what the training split says about itself."""

    case: Case
    parts: dict[str, MoleculeDataset]
    statistics: Statistics
    radius: float

    @classmethod
    def read(cls, case: Case, folder: str | Path, split_seed: int) -> Problem:
        """Read the files of ``case`` and find all neighbours."""
        structures = read_case(case, folder, split_seed)
        train = MoleculeDataset(structures["train"], CUTOFF)
        statistics = Statistics.of(structures["train"], int(train.edges_per_structure.sum()))
        if case.binding:
            size = float(
                np.sqrt(np.mean((structures["train"].energy / structures["train"].counts) ** 2))
            )
            statistics = dataclasses.replace(
                statistics,
                references=dict.fromkeys(statistics.references, 0.0),
                energy_per_atom_std=size,
            )
        parts = {
            part: MoleculeDataset(structures[part], CUTOFF, statistics.references) for part in PARTS
        }
        radius = max(float(dataset.positions.norm(dim=1).max()) for dataset in parts.values())
        return cls(case, parts, statistics, radius)

    def model_options(self, schedule: str, channels: int) -> dict[str, object]:
        """Options of one network."""
        statistics, case = self.statistics, self.case
        found = {
            "irreps": "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(case.lmax + 1)),
            "schedule": schedule,
            "avg_degree": statistics.average_neighbors or 1.0,
            "avg_atoms": statistics.average_atoms,
            "far_design_radius": max(1.0, self.radius),
            "forces": "conservative" if case.forces else "none",
        }
        return {"name": "e2former", **COMMON, **found, **case.model}

    def loaders(self, batch_size: int, seed: int) -> dict[str, EpochLoader]:
        """Batches of every part."""
        train = self.parts["train"]
        plans = {"train": BatchPlan(train, batch_size, seed=seed)}
        plans |= {
            part: BatchPlan(self.parts[part], EVALUATION_STRUCTURES, shuffle=False)
            for part in ("val", "test")
        }
        return {part: EpochLoader(self.parts[part], plan, 0, seed) for part, plan in plans.items()}


def count_weights(options: dict[str, object]) -> int:
    """Weights of the network of ``options``."""
    return sum(weight.numel() for weight in build_model(options).parameters())


def matched_channels(wanted: int, options_of: Callable[[int], dict[str, object]], step: int) -> int:
    """Channels, a multiple of ``step``, whose network is nearest to ``wanted`` weights;
    ``ValueError`` beyond ``TOLERANCE``.
    """
    channels, sizes = step, {}
    while not sizes or sizes[channels - step] < wanted:
        sizes[channels] = count_weights(options_of(channels))
        channels += step
    best = min(sizes, key=lambda channels: abs(sizes[channels] - wanted))
    if abs(sizes[best] - wanted) > TOLERANCE * wanted:
        raise ValueError(
            f"no multiple of {step} channels gives {wanted} weights within {TOLERANCE:.0%}: "
            f"{best} give {sizes[best]}"
        )
    return best


def network(problem: Problem, model: str) -> dict[str, object]:
    """Options of the network ``model``, as many weights as the hybrid has."""
    case = problem.case
    hybrid = problem.model_options(case.schedule, case.channels)
    schedule = MODELS[model]
    if schedule is None:
        return hybrid
    channels = matched_channels(
        count_weights(hybrid),
        lambda n: problem.model_options(schedule, n),
        int(COMMON["near_heads"]),
    )
    return problem.model_options(schedule, channels)


def run_config(
    problem: Problem, options: dict[str, object], folder: Path, seed: int, minutes: float
) -> EasyDict:
    """Configuration of one run: the training script's own, with what this benchmark sets."""
    case = problem.case
    chosen = {
        "run_dir": str(folder),
        "seed": seed,
        "resume": True,
        "progress": False,
        "data_path": case.file,
    }
    chosen |= {key: value for key, value in options.items() if key != "name"}
    chosen |= {
        "batch_size": case.batch_size,
        "validate_every": case.validate_every,
        "max_cpu_minutes": minutes,
    }
    chosen |= TRAINING | case.training | {"energy_per": "structure"} | case.loss
    script = Script("benchmarks.accuracy.bench_far_sight", "energy_forces", "")
    return script.parser().parse_config([], lambda values: chosen)


def train(
    problem: Problem, options: dict[str, object], folder: Path, seed: int, minutes: float
) -> dict:
    """Results of one run; read from its folder if it is finished."""
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
    }
    row |= {"cpu_minutes": statistics.mean(result["cpu_minutes"] for result in results)}
    row |= {"steps": round(statistics.mean(result["steps"] for result in results))}
    row |= {
        name: statistics.mean(test[name] for test in tests)
        for name in ("energy_mae", "energy_rmse", "force_mae")
        if name in tests[0]
    }
    return row | {
        "energy_mae_of_seed": [test["energy_mae"] for test in tests],
        "baseline": results[0]["test"][1]["energy_mae"],
    }


def add_ratios(rows: list[dict]) -> None:
    """How many times larger an error is than the hybrid's on the same set: of the energy, of its
    square, of the force.
    """
    hybrids = {row["set"]: row for row in rows if row["model"] == "hybrid"}
    for row in rows:
        best = hybrids.get(row["set"])
        if best is not None and best is not row:
            row["ratio"] = row["energy_mae"] / best["energy_mae"]
            row["square_ratio"] = (row["energy_rmse"] / best["energy_rmse"]) ** 2
            if "force_mae" in row:
                row["force_ratio"] = row["force_mae"] / best["force_mae"]


def binding_energy(problem: Problem) -> float | None:
    """Mean size of the binding energies of the test split (meV), of which the error is a part; None
    where there are none.
    """
    return 1e3 * float(problem.parts["test"].energy.abs().mean()) if problem.case.binding else None


def measure(options: EasyDict) -> list[dict]:
    """Rows of all sets and networks; run folders ``RUN_DIR/SET/MODEL/MINUTES/seed_N``."""
    rows = []
    for name in chosen(options.sets, CASES, "--sets"):
        problem = Problem.read(CASES[name], options.data_path, options.split_seed)
        size = binding_energy(problem)
        for model in chosen(options.models, MODELS, "--models"):
            sizes = network(problem, model)
            folder = Path(options.run_dir) / name / model / f"{options.minutes:g}_minutes"
            results = [
                train(problem, sizes, folder / f"seed_{seed}", seed, options.minutes)
                for seed in range(options.seeds)
            ]
            rows.append(row_of(name, model, sizes, results))
            if size is not None:
                rows[-1]["part"] = rows[-1]["energy_mae"] / size
            if model == ("near" if size is None else "hybrid"):
                rows[-1]["bar"] = problem.case.bar
            add_ratios(rows)
            if options.json:
                files.write_json(
                    options.json,
                    {"environment": harness.environment(), "options": dict(options), "rows": rows},
                )
    return rows


def chosen(text: str, known: dict, flag: str) -> list[str]:
    """Names of a list "a,b" or "all"; ``ValueError`` for one that is not known."""
    names = list(known) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{flag} must be 'all' or some of {', '.join(known)}, got {unknown[0]!r}")
    return names


def build_parser() -> OptionParser:
    """All options of the benchmark."""
    parser = OptionParser("bench_far_sight", __doc__)
    bench = parser.section("bench", "what is compared")
    parser.add_argument(
        "--config", metavar="FILE", help="yaml file with options (explicit arguments win over it)"
    )
    bench.add("--data-path", str, "data/long_range", help="folder below which the npz files lie")
    bench.add("--sets", str, "all", help=f"comma list of {', '.join(CASES)}, or all")
    bench.add("--models", str, "all", help=f"comma list of {', '.join(MODELS)}, or all")
    bench.add("--seeds", int, 1, low=1, high=100, help="seeds 0, 1, ...")
    bench.add(
        "--split-seed",
        int,
        1,
        low=0,
        help="of the random splits; settings were chosen with the test split of 0 in view",
    )
    bench.add("--minutes", float, 1.0, above=0, help="CPU minutes of each run")
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
