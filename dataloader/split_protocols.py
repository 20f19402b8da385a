"""Split protocols: the named rules that say which structures train, validate and test.

    fractions  80 % train, 10 % val, 10 % test at random, at least one structure each; a size that
               is given replaces its share
    random     sizes drawn at random (default 950 / 50 / rest; a set too small for them is divided
               like fractions)
    md17       950 / 50 / rest at random, the usual split of MD17 and rMD17
    rmd17      one of the five published splits of rMD17: index_train_0k.csv and index_test_0k.csv
               (1000 / 1000), the first divided into 950 / 50
    lsr-mp     MD22: a sample whose size depends on the molecule, 95 % train, 5 % val, all other
               frames test (Li et al. 2023, LSR-MP)
    qm7x       molecules of QM7-X at random, 4500 / 1250 / rest, and fewer in the same shares
    time       the first part trains, then val, the last part is the test set, with a gap of frames
               between them, for correlated trajectories (default 80 / 10 / 10 %; 8 : 1 where the
               test set is given)
    file       index lists train, val, test of an npz file

QM9 has three more, in the order of its numbers, without the uncharacterised molecules (130,831 are
left):

    3dml       blocks of 100,000 / 18,000 / 12,831: molecules grow with their number, so test
               molecules are larger than training molecules
    nvidia     100,000 / 17,748 / 13,083, the order of PyTorch's ``randperm``, published with seed 0
               (NVIDIA's SE(3)-Transformer)
    cormorant  100,000 / 17,748 / 13,083, the order of NumPy's old ``RandomState(0).permutation``
               (Anderson et al. 2019; used by EGNN, EDM)

With both --train and --val the same three orders divide data of any size. Random orders come from
NumPy's ``default_rng(seed)`` unless the protocol says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from farfield.dataloader.storage import files
from farfield.models.choices import Registry

SPLITS = ("train", "val", "test")
USUAL_SIZES = (950, 50)  # training and validation structures of the splits random and md17
SHARES = {"train": 0.8, "val": 0.1}  # of a split without sizes of its own; the rest is the test set
SAMPLE_SHARE = 0.95  # of the sample of lsr-mp trains
QM7X_SIZES = (4500, 1250)  # training and validation molecules of QM7-X
QM7X_COUNT = 6950  # its molecules
QM9_COUNT = 130_831  # molecules of QM9 without the uncharacterised ones
FILE_HINT = "give an npz file with the index lists train, val and test"

# what a protocol can divide
FOR_STRUCTURES = "structures with energies and forces"
FOR_MOLECULES = "molecules with properties"


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """What a protocol may ask for.

    train, val, test: structures of each split (None: as the protocol says; test: all the others).
    seed: of the random order. sample: structures of lsr-mp's sample. gap: frames left out between
    the splits of the protocol time. number: 1 .. 5, which published split of rMD17. path: folder of
    the index files, or the index file.
    """

    train: int | None = None
    val: int | None = None
    test: int | None = None
    seed: int = 0
    sample: int | None = None
    gap: int = 0
    number: int = 1
    path: str | None = None


Indices = tuple[np.ndarray, ...]  # train, val, test


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One rule.

    divide: (number of structures, options) -> train, val, test. reads: fields of SplitOptions that
    change the result. divides: what it is made for. uses_shares: its default sizes are shares of
    the data, so that it can divide any number of structures.
    """

    divide: Callable[[int, SplitOptions], Indices]
    reads: tuple[str, ...]
    divides: tuple[str, ...]
    uses_shares: bool


PROTOCOLS: Registry[Protocol] = Registry("split")


def protocol(
    name: str, *reads: str, divides: tuple[str, ...] = (FOR_STRUCTURES,), uses_shares: bool = False
):
    """Decorator that registers a dividing function as the protocol ``name``."""

    def add(divide: Callable[[int, SplitOptions], Indices]):
        """``divide`` itself."""
        PROTOCOLS.register(name)(Protocol(divide, reads, divides, uses_shares))
        return divide

    return add


def protocols_for(what: str) -> list[str]:
    """Names of the protocols that divide ``what`` (FOR_STRUCTURES or FOR_MOLECULES)."""
    return [name for name, rule in PROTOCOLS.items() if what in rule.divides]


def take(count: int, options: SplitOptions, order: np.ndarray) -> Indices:
    """The first structures of ``order`` (count,) train, the next validate, the next are the test
    set; each sorted.
    """
    train, val = options.train, options.val
    test = count - train - val if options.test is None else options.test
    if train + val + test > count or test < 0:
        asked = f"{train} + {val}" + ("" if options.test is None else f" + {options.test}")
        raise ValueError(
            f"the split asks for {asked} structures, the data have {count}; lower --train, "
            "--val or --test"
        )
    chosen = order[: train + val + test]
    return tuple(np.sort(part) for part in np.split(chosen, [train, train + val]))


def _with_defaults(options: SplitOptions, train: int, val: int) -> SplitOptions:
    return dataclasses.replace(
        options,
        train=train if options.train is None else options.train,
        val=val if options.val is None else options.val,
    )


@protocol("random", "train", "val", "test", "seed", divides=(FOR_STRUCTURES, FOR_MOLECULES))
def _random(count: int, options: SplitOptions) -> Indices:
    if too_small_for_usual_sizes(count, options):
        return _fractions(count, options)
    options = _with_defaults(options, *USUAL_SIZES)
    return take(count, options, np.random.default_rng(options.seed).permutation(count))


def too_small_for_usual_sizes(count: int, options: SplitOptions) -> bool:
    """Whether the protocol random divides ``count`` structures by fractions: nobody gave a size,
    and the usual sizes leave no test set.
    """
    nothing_given = (options.train, options.val, options.test) == (None, None, None)
    return nothing_given and count <= sum(USUAL_SIZES)


@protocol("fractions", "train", "val", "test", "seed", uses_shares=True)
def _fractions(count: int, options: SplitOptions) -> Indices:
    least = 2 if options.test == 0 else 3
    if count < least:
        raise ValueError(
            f"a set of {count} structures cannot be divided into train, val and test; give at "
            f"least {least} structures"
        )

    # what nobody gave: a tenth for val and for test, the rest for train
    tenth = max(1, round(SHARES["val"] * count))
    if options.train is None:
        val = tenth if options.val is None else options.val
        test = tenth if options.test is None else options.test
        options = dataclasses.replace(options, train=max(1, count - val - test), val=val)
    elif options.val is None:
        left = count - options.train - (options.test or 0)
        share = left // 2 if options.test is None else left
        options = dataclasses.replace(options, val=max(1, min(tenth, share)))
    return take(count, options, np.random.default_rng(options.seed).permutation(count))


@protocol("md17", "train", "val", "test", "seed")
def _md17(count: int, options: SplitOptions) -> Indices:
    train, val = USUAL_SIZES
    if (options.train or train, options.val or val) != USUAL_SIZES:
        given = f"--train {options.train} --val {options.val}"
        raise ValueError(
            f"the split md17 is 950 / 50 / rest, got {given}; give --split random for others"
        )
    return _random(count, _with_defaults(options, train, val))


@protocol("rmd17", "train", "seed", "number", "path")
def _rmd17(count: int, options: SplitOptions) -> Indices:
    if not 1 <= options.number <= 5:
        raise ValueError(f"rMD17 has the published splits 1 .. 5, got {options.number}")
    folder = Path(options.path or ".")
    trained = _read_index(folder, f"index_train_{options.number:02d}.csv", count)
    tested = _read_index(folder, f"index_test_{options.number:02d}.csv", count)

    # the published training structures also give the validation split
    train = USUAL_SIZES[0] if options.train is None else options.train
    if not 1 <= train < len(trained):
        raise ValueError(
            f"--train must lie in 1 .. {len(trained) - 1} of the {len(trained)} published "
            f"training structures, got {train}"
        )
    order = np.random.default_rng(options.seed).permutation(trained)
    return np.sort(order[:train]), np.sort(order[train:]), np.sort(tested)


def _read_index(folder: Path, name: str, count: int) -> np.ndarray:
    """Indices of one published csv file, all below ``count``."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; put the published index files there (folder splits of the "
            "rMD17 archive)"
        )

    words = path.read_text(encoding="utf-8", errors="replace").replace(",", "\n").split()
    try:
        values = np.array([int(word) for word in words])
    except ValueError:
        raise ValueError(
            f"{path} must hold one index a line; take it from the rMD17 archive again"
        ) from None
    if len(values) and values.max() >= count:
        raise ValueError(
            f"{path} holds the index {values.max()}, the data have {count} structures; give the "
            "whole file of the molecule"
        )
    return values


@protocol("lsr-mp", "test", "seed", "sample")
def _lsr_mp(count: int, options: SplitOptions) -> Indices:
    if options.sample is None:
        raise ValueError(
            "the split lsr-mp needs the size of its sample; give --sample-size (molecules of "
            "MD22 have theirs)"
        )
    if options.sample >= count:
        raise ValueError(
            f"the sample of lsr-mp has {options.sample} structures, the data only {count}; lower "
            "--sample-size"
        )
    train = round(SAMPLE_SHARE * options.sample)
    return _random(count, dataclasses.replace(options, train=train, val=options.sample - train))


@protocol("qm7x", "train", "val", "test", "seed", uses_shares=True)
def _qm7x(count: int, options: SplitOptions) -> Indices:
    train, val = QM7X_SIZES
    if count <= train + val:
        train, val = (max(1, round(size * count / QM7X_COUNT)) for size in QM7X_SIZES)
        train = max(1, min(train, count - val - 1))
    options = _with_defaults(options, train, val)
    return take(count, options, np.random.default_rng(options.seed).permutation(count))


@protocol("time", "train", "val", "test", "gap", uses_shares=True)
def _time(count: int, options: SplitOptions) -> Indices:
    # without a test set of its own there is only one gap, between train and val
    usable = count - options.gap * (1 if options.test == 0 else 2)
    if usable < 2:
        raise ValueError(
            f"a gap of {options.gap} frames leaves nothing of {count} for the time split; "
            "lower --gap"
        )

    # 80 / 10 / 10 %, or 8 : 1 of what the test set leaves
    train = (
        int(SHARES["train"] * usable)
        if options.test is None
        else int(8 / 9 * (usable - options.test))
    )
    options = _with_defaults(options, train, max(1, train // 8))
    least = 1 if options.test is None else options.test
    if usable < options.train + options.val + least:
        rest = "rest" if options.test is None else options.test
        gap = f"{options.gap} (gap)"
        raise ValueError(
            f"the time split asks for {options.train} + {gap} + {options.val} + {gap} + {rest} "
            f"frames, the data have {count}; lower --train, --val, --test or --gap"
        )

    test = usable - options.train - options.val if options.test is None else options.test
    first_val = options.train + options.gap
    return (
        np.arange(options.train),
        np.arange(first_val, first_val + options.val),
        np.arange(count - test, count),
    )


@protocol("file", "path", divides=(FOR_STRUCTURES, FOR_MOLECULES))
def _file(count: int, options: SplitOptions) -> Indices:
    if options.path is None:
        raise ValueError(
            "the split file needs --split-path with an npz file that holds the index lists "
            "train, val and test"
        )
    content = files.read_npz(options.path, SPLITS, FILE_HINT)
    return tuple(content[name] for name in SPLITS)


@protocol("3dml", "train", "val", "test", divides=(FOR_MOLECULES,))
def _3dml(count: int, options: SplitOptions) -> Indices:
    options = _qm9_sizes("3dml", count, options, 100_000, 18_000)
    return take(count, options, np.arange(count))


@protocol("nvidia", "train", "val", "test", "seed", divides=(FOR_MOLECULES,))
def _nvidia(count: int, options: SplitOptions) -> Indices:
    options = _qm9_sizes("nvidia", count, options, 100_000, 17_748)
    generator = torch.Generator().manual_seed(options.seed)
    return take(count, options, torch.randperm(count, generator=generator).numpy())


@protocol("cormorant", "train", "val", "test", "seed", divides=(FOR_MOLECULES,))
def _cormorant(count: int, options: SplitOptions) -> Indices:
    options = _qm9_sizes("cormorant", count, options, 100_000, 17_748)
    generator = np.random.RandomState(options.seed)  # noqa: NPY002 - the published order
    return take(count, options, generator.permutation(count))


def _qm9_sizes(name: str, count: int, options: SplitOptions, train: int, val: int) -> SplitOptions:
    """Options with the published sizes, which divide all of QM9, or with the sizes given."""
    given = options.train is not None and options.val is not None

    # the published sizes belong to the whole set
    if not given and (options.train, options.val, options.test) != (None, None, None):
        asked = f"--train {options.train} --val {options.val} --test {options.test}"
        raise ValueError(
            f"the split {name} of other sizes needs --train and --val (the test set may be all "
            f"others), got {asked}"
        )
    if not given and count != QM9_COUNT:
        raise ValueError(
            f"the split {name} divides {QM9_COUNT} molecules of QM9, the data have {count}; take "
            "all of QM9 but the uncharacterised molecules, or give --train and --val"
        )
    return options if given else dataclasses.replace(options, train=train, val=val)
