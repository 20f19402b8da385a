"""Make the N-body data: three splits of simulations by the public protocol, with basis caches.

    # 5000 / 1000 / 1000, seed 42: the public data
    python -m preprocess.preprocess_nbody --out data/nbody
    python -m preprocess.preprocess_nbody --out data/small --train 400 --test 100 --val 100
    python -m preprocess.preprocess_nbody --out data/nbody20 --bodies 20
    python -m preprocess.preprocess_nbody --out data/springs --dynamics springs
    # the files of public programs instead of simulations
    python -m preprocess.preprocess_nbody --train-file nbody_train.pkl \\
        --test-file nbody_test.pkl --train 4000 --val 1000 --test 1000 --out data/public

It writes nbody_{train,test,val}.npz (see dataloader.datasets.nbody_data),
nbody_{train,test,val}_basis/ (see dataloader.storage.basis_cache) and nbody_manifest.json (settings
and SHA-256 of the files), and prints the Linear and constant rows of the test split, which tell
whether the data are the public ones. Finished files whose settings and checksums fit are used
again; the same command continues after an interruption. Cost: 15 CPU seconds and 55 MB for the
public data.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_nbody.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
from collections.abc import Iterator
from functools import partial

import numpy as np

from farfield.common.command_line import OptionParser, add_config_option, run_script
from farfield.common.log import count_bar
from farfield.common.quantities import file_size
from farfield.dataloader.datasets.nbody_data import (
    DRAW_ORDER,
    MANIFEST,
    NBodyDataset,
    baseline_errors,
    cache_folder,
    split_file,
)
from farfield.dataloader.sources.nbody_pickles import read_public_nbody
from farfield.dataloader.sources.nbody_simulation import (
    BOX,
    DYNAMICS,
    FRAME_TIME,
    FRAMES,
    STEPS_PER_FRAME,
    TIME_STEP,
    draw_starts,
    integrate,
)
from farfield.dataloader.storage import files
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.dataloader.storage.basis_rows import DTYPES, CacheSettings
from farfield.dataloader.storage.edge_layout import COMPLETE, GraphEdges, complete_pairs
from farfield.models.networks.nbody_transformer import NBodyOptions
from farfield.preprocess.manifest import Manifest, being_made, remove
from farfield.train.tasks.nbody_windows import PROTOCOLS

FORMAT = 2
PUBLIC_SIZES = {"train": 5000, "test": 1000, "val": 1000}  # simulations
LARGEST_DEGREE = 11  # with coupling tables


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("preprocess_nbody", __doc__)
    add_config_option(parser)
    data = parser.section("data", "simulations")
    data.add("--out", str, "data/nbody", help="folder to write to")
    for split in DRAW_ORDER:
        words = f"number of simulations of the {split} split"
        data.add(f"--{split}", int, PUBLIC_SIZES[split], low=1, help=words)
    data.add("--seed", int, 42, low=0, high=2**32 - 1, help="seed of NumPy's legacy generator")
    data.add("--bodies", int, 5, low=2, high=128, help="number of particles in a box")
    data.add(
        "--dynamics", str, "charged", choices=list(DYNAMICS), help="forces between the particles"
    )
    data.add("--rebuild", bool, False, help="replace what is in the folder")
    words = "public file (.pkl) to read instead of simulating; its first {} simulations are taken"
    data.add("--train-file", str, None, help=words.format("--train, then --val"))
    data.add("--test-file", str, None, help=words.format("--test"))

    cache = parser.section("cache", "basis cache")
    cache.add(
        "--lmax",
        int,
        NBodyOptions.lmax,
        low=1,
        high=LARGEST_DEGREE,
        help="largest degree of the basis; must be the degree of the network",
    )
    cache.add(
        "--cache-dtype",
        str,
        "float32",
        choices=list(DTYPES),
        key="dtype",
        help="precision of the packed frames",
    )
    cache.add(
        "--cache-starts",
        str,
        "0",
        key="starts",
        help="start frames to cache, e.g. 0 or 0,10,20, or all, or none",
    )
    return parser


def cached_starts(text: str) -> list[int]:
    """Frames of ``--cache-starts``; ``ValueError`` unless they are in 0 .. FRAMES - 2."""
    named = {"all": list(range(FRAMES - 1)), "none": []}
    try:
        starts = named[text] if text in named else sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise ValueError(
            f"--cache-starts must be frames like 0 or 0,10,20, or all, or none; got {text!r}"
        ) from None
    if starts and not 0 <= starts[0] <= starts[-1] <= FRAMES - 2:
        raise ValueError(f"--cache-starts must lie in 0 .. {FRAMES - 2}, got {text}")
    return starts


def data_settings(data) -> dict:
    """Everything that the values in the npz files depend on, as it is stored with them."""
    if data.train_file or data.test_file:
        return public_settings(data)

    # of simulations
    return {
        "protocol": "kick-drift, NumPy legacy generator, splits in the order "
        + ", ".join(DRAW_ORDER),
        "format": FORMAT,
        **{name: data[name] for name in (*DRAW_ORDER, "seed", "bodies", "dynamics")},
        "frames": FRAMES,
        "time_step": TIME_STEP,
        "steps_per_frame": STEPS_PER_FRAME,
        "frame_time": FRAME_TIME,
        "box": BOX,
    }


def public_settings(data) -> dict:
    """The same for public files; ``ValueError`` or ``FileNotFoundError`` where one is missing."""
    if not (data.train_file and data.test_file):
        raise ValueError("--train-file and --test-file are read together; give both")

    # sizes of the arrays, and which files they come from
    content = read_public_nbody(data.train_file)
    return {
        "protocol": "public files",
        "format": FORMAT,
        **{name: data[name] for name in DRAW_ORDER},
        "bodies": content["charges"].shape[1],
        "dynamics": "springs" if "springs" in content else "charged",
        "frames": content["positions"].shape[1],
        "frame_time": FRAME_TIME,
        "source": {
            "train": files.file_checksum(data.train_file),
            "test": files.file_checksum(data.test_file),
        },
    }


def public_splits(data) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of each split out of the public files; ``ValueError`` for too few simulations."""
    train, test = read_public_nbody(data.train_file), read_public_nbody(data.test_file)
    if train.keys() != test.keys() or train["charges"].shape[1:] != test["charges"].shape[1:]:
        raise ValueError(
            f"{data.train_file} and {data.test_file} hold other kinds or numbers of bodies; give "
            "two files of one set"
        )

    # training and validation come from one file
    both = data.train + data.val
    for path, content, needed in (
        (data.train_file, train, both),
        (data.test_file, test, data.test),
    ):
        held = len(content["charges"])
        if held < needed:
            raise ValueError(
                f"{path} has {held} simulations, {needed} are asked for; give smaller --train, "
                "--val or --test"
            )
    return {
        "train": {name: values[: data.train] for name, values in train.items()},
        "val": {name: values[data.train : both] for name, values in train.items()},
        "test": {name: values[: data.test] for name, values in test.items()},
    }


def make_public(folder: Path, settings: dict, data) -> None:
    """Write the npz files that are missing, from the public files."""
    names = {split: split_file(folder, split).name for split in DRAW_ORDER}
    manifest = Manifest(folder / MANIFEST, settings, names.values())
    if set(names.values()) <= manifest.finished.keys():
        return
    for split, content in public_splits(data).items():
        manifest.add(names[split], partial(write_split, split, content, settings))


def remove_all(folder: Path):
    """Remove what this script has written into ``folder``."""
    pieces = [split_file(folder, split) for split in DRAW_ORDER]
    pieces += [cache_folder(folder, split) for split in DRAW_ORDER]
    remove([folder / MANIFEST, *pieces])


def make_simulations(folder: Path, settings: dict):
    """Write the npz files that are missing.

    ``ValueError`` if the folder holds other or damaged data.
    """
    names = {split: split_file(folder, split).name for split in DRAW_ORDER}
    manifest = Manifest(folder / MANIFEST, settings, names.values())
    rng = np.random.RandomState(settings["seed"])  # noqa: NPY002 - part of the protocol

    # the splits share one stream: all before a missing one are drawn again
    for split in DRAW_ORDER:
        if set(names.values()) <= manifest.finished.keys():
            return
        start = draw_starts(settings[split], rng, settings["bodies"], settings["dynamics"])
        manifest.add(names[split], partial(simulate, split, start, settings))


def simulate(split: str, start, settings: dict, path: Path):
    """Write the simulations of a split from their first frames."""
    frames = settings[split] * FRAMES
    with count_bar(frames, f"simulate {split}", "frames") as bar:
        content = integrate(start, settings["dynamics"], progress=bar.update)
    write_split(split, content, settings, path)


def write_split(split: str, content: dict[str, np.ndarray], settings: dict, path: Path):
    """Write the simulations of a split, atomically."""
    with files.atomic_write(path) as temporary, open(temporary, "wb") as file:
        metadata = json.dumps({"split": split, **settings})
        np.savez(
            file,
            metadata=metadata,
            **{name: values.astype(np.float32) for name, values in content.items()},
        )


def make_cache(folder: Path, split: str, settings: CacheSettings) -> BasisCache:
    """The basis cache of a split: opened if it exists and fits, else built."""
    dataset = NBodyDataset(folder, split, horizon=1)
    target = cache_folder(folder, split)
    if target.exists():
        cache = dataset.open_cache(settings.lmax)
        if cache.settings.hash != settings.hash:
            raise ValueError(
                f"{target} was made with {cache.settings}, but {settings} are needed; give "
                "--rebuild to replace it"
            )
        return cache

    starts = settings.selection["starts"]
    graphs = graphs_of(dataset, starts)
    total = dataset.num_simulations * len(starts)
    with count_bar(total, f"basis {split}", "graphs") as bar:
        return BasisCache.build(target, graphs, settings, dataset.data_hash, bar.update)


def graphs_of(dataset: NBodyDataset, starts: list[int]) -> Iterator[GraphEdges]:
    """Complete graphs of the start frames, simulation by simulation."""
    pairs = complete_pairs(dataset.bodies)
    a, b = pairs.T
    for frames in dataset.positions:
        for start in starts:
            yield GraphEdges(dataset.bodies, pairs, frames[start, b] - frames[start, a])


def baseline_table(folder: Path) -> str:
    """Mean squared errors of the guesses Linear and constant on the test split, as a table."""
    lines = [f"{'test split':<12}{'row':<10}{'x':>8}{'v':>8}"]
    for name, protocol in PROTOCOLS.items():
        dataset = NBodyDataset(folder, "test", protocol.horizon, protocol.starts)
        for row, error in baseline_errors(dataset).items():
            lines.append(f"{name:<12}{row:<10}{error['x']:8.4f}{error['v']:8.4f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    folder = Path(config.data.out)
    starts = cached_starts(config.cache.starts)
    selection = {"starts": starts}
    cache = CacheSettings(config.cache.lmax, COMPLETE, config.cache.dtype, selection)

    cache_bytes = 0
    with being_made(folder):
        if config.data.rebuild:
            remove_all(folder)
        settings = data_settings(config.data)
        if config.data.train_file:
            make_public(folder, settings, config.data)
        else:
            make_simulations(folder, settings)
        for split in DRAW_ORDER if starts else ():
            cache_bytes += make_cache(folder, split, cache).num_bytes

    data_bytes = sum(split_file(folder, split).stat().st_size for split in DRAW_ORDER)
    print(
        f"{folder}: {file_size(data_bytes)} of simulations, {file_size(cache_bytes)} of basis "
        "caches"
    )
    print(baseline_table(folder))


if __name__ == "__main__":
    run_script(main)
