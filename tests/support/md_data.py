"""A small preprocessed folder of random structures of several sizes, and the options of a network
that learns it in a moment.
"""

import dataclasses
from pathlib import Path

from farfield.dataloader.sources.source_registry import Source
from farfield.dataloader.splits import SplitOptions
from farfield.dataloader.structures import Structures
from farfield.preprocess.lmdb_writing import make_lmdb
from farfield.preprocess.structure_folder import FolderPlan, make_folder
from farfield.train import train_md17
from tests.support.molecule_data import random_structures
from tests.support.run_results import results_of

SIZES = (3, 5, 4, 2, 6, 3, 4, 5, 3, 4, 6, 5, 2, 3, 4, 5)


def flags(**options) -> list[str]:
    """Options as arguments of a command line: ``batch_size=3`` -> ``--batch-size 3``."""
    arguments = []
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments


NETWORK = flags(
    irreps="4x0e+4x1o",
    schedule="hybrid-first-order1",
    near_heads=2,
    radial_hidden=8,
    radial_size=4,
    element_size=4,
    far_heads=1,
    far_key_features=2,
    far_value_channels=2,
    far_radial_terms=2,
)
TRAINING = flags(far_expansion="pairwise", batch_size=3, warmup_steps=2, ema_decay=0.9)
SMALL = [*NETWORK, *TRAINING, "--no-progress"]


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory(Source):
    """Structures that a test has made; its file only stands for them."""

    file: Path
    structures: Structures
    words = {"units": "eV"}

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.file,)

    def read(self, path: Path, progress) -> Structures:
        return self.structures


def make_data(folder, structures: Structures | None = None, cutoff: float = 5.0, sizes=(8, 4, 4)):
    """Preprocess ``structures`` (default: random ones) into ``folder``; returns it."""
    make_folder(folder, _plan(folder, structures, cutoff, sizes))
    return folder


def make_lmdb_data(
    path,
    structures: Structures | None = None,
    cutoff: float = 5.0,
    sizes=None,
    rebuild: bool = False,
):
    """The same as one LMDB file; returns its path. sizes: None for the usual fractions."""
    make_lmdb(path, _plan(path, structures, cutoff, sizes), rebuild)
    return path


def _plan(place, structures: Structures | None, cutoff: float, sizes) -> FolderPlan:
    structures = random_structures(SIZES) if structures is None else structures
    file = place.with_suffix(".source")
    file.write_bytes(b"as it is")
    protocol, options = "fractions", SplitOptions()
    if sizes is not None:
        protocol = "random"
        options = SplitOptions(train=sizes[0], val=sizes[1], test=sizes[2], seed=0)

    # random labels fit no geometry
    return FolderPlan(InMemory(file, structures), protocol, options, cutoff, check_labels="off")


def run_md17(folder, data, *arguments) -> dict | None:
    """Results of the script for small molecules in ``folder``, None if there are none yet."""
    train_md17.main(["--run-dir", str(folder), "--data-path", str(data), *SMALL, *arguments])
    return results_of(folder)


def config_for(data, *arguments, script=train_md17.SCRIPT):
    """The configuration of a script called with ``arguments``."""
    return script.read_options(["--data-path", str(data), *SMALL, *arguments])
