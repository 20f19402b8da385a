"""Everything that programs of this project write and read back, small, with the readers that do it.

A value of a reader holds every number that the program would go on with.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.calculators.lj import LennardJones

from benchmarks.reliability.digests import without_clocks
from benchmarks.reliability.forked_programs import Main, learn_imports
from benchmarks.reliability.small_programs import (
    displaced_molecules,
    prepare_inputs,
    structures_arguments,
    without_pictures,
)
from farfield.common import checkpoint
from farfield.common.trained import TrainedRun
from farfield.dataloader.datasets.backbone_data import BackboneDataset, DenoisingRule
from farfield.dataloader.datasets.nbody_data import DRAW_ORDER, NBodyDataset
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.datasets.property_data import PropertyFolder
from farfield.dataloader.datasets.streamed_data import StreamedDataset
from farfield.dataloader.prepared_folder import load_statistics, stored_cutoff
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.dataloader.storage.files import file_checksum
from farfield.models.compiled.library import KeptFiles
from farfield.preprocess import (
    preprocess_backbones,
    preprocess_nbody,
    preprocess_qm9,
    preprocess_structures,
)
from farfield.simulate import dynamics, run_md
from farfield.simulate.batch_folder import BatchFolder
from farfield.simulate.molecule_files import xyz_text
from farfield.simulate.rollout_frames import read_frames
from farfield.train.bad_steps import BadStep
from farfield.train.train_potential import SCRIPT

platform.processor()  # starts a program, once: no reader does it later

BATCHES = 3
BATCH_SETTINGS = {"seed": 3, "steps": 12}


class Stored(NamedTuple):
    """A kind of stored files.

    name: for tables. folder: of the files, below the folder of all. read: the folder -> a value.
    pattern: of the files that are read back.
    """

    name: str
    folder: str
    read: Callable[[Path], Any]
    pattern: str = "**/*"

    def files(self, folder: Path) -> list[Path]:
        """The files that are read back, in a fixed order."""
        return sorted(path for path in folder.glob(self.pattern) if path.is_file())


def make_all(folder: Path) -> None:
    """Write every kind of stored files below ``folder``."""
    prepare_inputs(folder)
    packed = structures_arguments(folder, folder / "lmdb" / "set.lmdb")
    sizes = ["--train", "6", "--val", "3", "--test", "3"]
    molecules = ["--file", str(folder / "molecules.npz"), "--split", "random"]
    (folder / "lmdb").mkdir()

    # each in a process of its own, which never computes here
    for main, arguments in (
        (preprocess_structures.main, packed),
        (preprocess_qm9.main, [*molecules, *sizes, "--out", str(folder / "qm9")]),
        (preprocess_nbody.main, ["--out", str(folder / "nbody"), *sizes]),
        (preprocess_backbones.main, ["--build", "12", "--out", str(folder / "backbones"), *sizes]),
        (run_md.main, _dynamics(folder)),
        (make_sampled, [str(folder / "sampled")]),
        (make_bad_step, [str(folder / "bad")]),
        (make_compiled, [str(folder / "compiled")]),
    ):
        _made(folder, main, arguments)

    # which potential the dynamics belongs to
    potential = file_checksum(folder / "potential" / checkpoint.BEST)
    (folder / "potential_checksum.json").write_text(json.dumps(potential), encoding="utf-8")


def _made(folder: Path, main: Main, arguments: list[str]) -> None:
    ended = learn_imports(without_pictures(main), arguments, folder / "output.txt")
    if ended.code:
        raise RuntimeError(f"stored files cannot be made: {ended.text.strip()[-2000:]}")


def _dynamics(folder: Path) -> list[str]:
    options = ["--steps", "12", "--record-every", "2", "--timestep", "0.2", "--no-progress"]
    paths = ["--checkpoint", str(folder / "potential" / checkpoint.BEST)]
    return [*paths, "--run-dir", str(folder / "md"), "--compile", "off", *options]


# ---- data


def prepared(folder: Path) -> Any:
    """A prepared folder of structures: all batches, statistics, cutoff and split."""
    batches = {}
    for split in SPLITS:
        dataset = MoleculeDataset.open(folder, split, cutoff=stored_cutoff(folder))
        batches[split] = dataset[np.arange(len(dataset))]
    split = Split.load(folder / "split.npz")
    return [batches, load_statistics(folder), stored_cutoff(folder), split]


def packed(folder: Path) -> Any:
    """The same in one LMDB file."""
    path, batches = folder / "set.lmdb", {}
    for split in SPLITS:
        dataset = StreamedDataset(path, split)
        batches[split] = dataset[np.arange(len(dataset))]
    return [batches, load_statistics(path), stored_cutoff(path)]


def with_properties(folder: Path) -> Any:
    """A folder of molecules with properties, with its basis cache and bonds."""
    opened = PropertyFolder.open(folder)
    found = {}
    for split in SPLITS:
        dataset = opened.dataset(split, targets=("mu", "alpha"))
        found[split] = [dataset[np.arange(len(dataset))], dataset.graph_rule, dataset.lmax]
    return found


def nbody(folder: Path) -> Any:
    """Simulations and their basis caches."""
    found = {}
    for split in DRAW_ORDER:
        dataset = NBodyDataset(folder, split, horizon=10)
        cache = dataset.open_cache(lmax=2)
        found[split] = [dataset[np.arange(len(dataset))], dataset.metadata, cache.data_hash]
    return found


def backbones(folder: Path) -> Any:
    """Chains of proteins and their split."""
    chains = {name: _chains(folder, name) for name in SPLITS}
    return [chains, Split.load(folder / "split.npz")]


def _chains(folder: Path, split: str) -> Any:
    return BackboneDataset.open(folder, split, DenoisingRule()).structures


# ---- runs


def training_options(folder: Path) -> Any:
    """The options that a resumed training goes on with."""
    return _options(SCRIPT.read_options(["--run-dir", str(folder), "--resume"]))


def checkpoints(folder: Path) -> Any:
    """Both checkpoints of a run, and the trained network."""
    names = (checkpoint.LAST, checkpoint.BEST)
    contents = [checkpoint.read_run(folder / name) for name in names]
    weights = TrainedRun.read(folder / checkpoint.BEST).network().state_dict()
    return [without_clocks(contents), weights]


def _options(config: Any) -> dict:
    """Options of a configuration but for the folder of the run."""
    found = {name: dict(part) for name, part in config.items() if isinstance(part, dict)}
    found["run"].pop("run_dir")
    return found


def moving(folder: Path) -> Any:
    """What a resumed run of dynamics goes on with, and what the analysis of its frames reads."""
    config = run_md.build_parser().parse_config(["--run-dir", str(folder), "--resume"])
    frames = dataclasses.replace(read_frames(folder), name="")
    state = dynamics.read_state(folder / dynamics.STATE)
    atoms = dynamics.atoms_of_state(state)
    atoms.calc = LennardJones()

    # any potential does: no step is taken
    simulation = dynamics.Simulation(
        atoms,
        config.dynamics,
        folder,
        config.run.seed,
        str(json.loads((folder.parent / "potential_checksum.json").read_text())),
        compiled=bool(state["compiled"]),
    )
    simulation.verify(state)
    simulation.restore(state)

    return [
        _options(config),
        frames,
        without_clocks(state),
        {name: values for name, values in atoms.arrays.items()},
        [repr(one) for one in atoms.constraints],
        simulation.degrees,
        simulation.rng.bit_generator.state,
    ]


def make_sampled(arguments: list[str]) -> None:
    """A run of sampling whose batches are finished but not joined."""
    folder = Path(arguments[0])
    folder.mkdir()
    batches = BatchFolder(folder / "out.xyz", BATCH_SETTINGS, resume=False, overwrite=False)
    batches.begin()
    for number in range(BATCHES):
        batches.add(number, xyz_text(displaced_molecules(4, number)))


def sampled(folder: Path) -> Any:
    """The file that a resumed run of sampling joins."""
    out = folder / "out.xyz"
    batches = BatchFolder(out, BATCH_SETTINGS, resume=True, overwrite=False)
    missing = [number for number in range(BATCHES) if not batches.has(number)]
    if missing:
        raise FileNotFoundError(f"{batches.path(missing[0]).name} is made again")
    batches.join(BATCHES)
    return out.read_bytes()


def make_bad_step(arguments: list[str]) -> None:
    """The record of a step that was not finite."""
    folder = Path(arguments[0])
    folder.mkdir()
    weights = {name: np.linspace(0, 1, 40) for name in ("one", "two")}
    BadStep(7, 1, 3, 1, np.arange(8), 2.5, 0.25, weights).save(folder)


def make_compiled(arguments: list[str]) -> None:
    """A kept program: bytes that nobody runs, and what is known of it."""
    folder = Path(arguments[0])
    folder.mkdir()
    os.environ["XDG_CACHE_HOME"] = str(folder)
    kept = KeptFiles("step", {"one": 1})
    kept.library.parent.mkdir()
    kept.library.write_bytes(np.random.default_rng(0).bytes(3000))
    kept.keep({"places": {"weight": "layer.weight"}, "outputs": ["energy", "forces"]})


def compiled(folder: Path) -> Any:
    """What is known of a kept program; a damaged one is compiled again."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    kept = KeptFiles("step", {"one": 1})
    facts = kept.whole_facts()
    if facts is None:
        raise FileNotFoundError(f"{kept.library.name} is made again")
    return [facts, kept.library.read_bytes()]


STORED = (
    Stored("prepared folder", "data", prepared),
    Stored("one LMDB file", "lmdb", packed),
    Stored("molecules with properties", "qm9", with_properties),
    Stored("n-body simulations", "nbody", nbody),
    Stored("protein chains", "backbones", backbones),
    Stored("options of a run", "potential", training_options, "config.yaml"),
    Stored("checkpoints of a run", "potential", checkpoints, "*.pt"),
    Stored("run of dynamics", "md", moving, "[clst][oart][nga]*.[ynce]*"),
    Stored("batches of sampling", "sampled", sampled),
    Stored("bad step", "bad", BadStep.load),
    Stored("compiled program", "compiled", compiled),
)
