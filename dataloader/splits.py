"""Which structures train, which validate, which test: named protocols, written to a file with the
hash of the data.

    random   counts drawn at random                                          (default 950 / 50 /
             rest)
    md17     950 / 50 / rest at random, the usual one of MD17 and rMD17
    rmd17    one of the five published splits of rMD17: index_train_0k.csv and index_test_0k.csv
             (1000 / 1000), the first cut 950 / 50
    lsr-mp   MD22: a sample of each molecule's own size, 95 % train, 5 % val, everything else test
             (Li et al. 2023, LSR-MP)
    time     first part train, then val, last part test, with a gap of frames between, for
             correlated trajectories (default 80 / 10 / 10 %; 8 : 1 where the test set is given)
    file     index lists train, val, test of an npz file

and those of QM9, in the order of its numbers, without the uncharacterised molecules (130,831 are
left):

    3dml       blocks of 100,000 / 18,000 / 12,831: molecules grow with their number, test molecules
               are larger than those of the training
    nvidia     100,000 / 17,748 / 13,083, the order of PyTorch's ``randperm``, which is published
               with seed 0 (NVIDIA's SE(3)-Transformer)
    cormorant  100,000 / 17,748 / 13,083, the order of NumPy's old ``RandomState(0).permutation``
               (Anderson et al. 2019; used by EGNN, EDM)

With both of --train and --val the same three orders divide data of any size. The test set of every
protocol is meant to be evaluated. Random numbers are NumPy's ``default_rng(seed)`` where nothing
else is said.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from farfield.dataloader.storage import files

PARTS = ("train", "val", "test")
MEND = "preprocess the data again with --rebuild"
SAMPLE_SHARE = 0.95  # of the sample of lsr-mp trains
QM9_COUNT = 130_831  # molecules of QM9 without the uncharacterised


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """What a protocol may ask for.

    train, val, test: counts (None: the protocol's, test: all the others). seed. sample: structures
    of lsr-mp's sample. gap: frames left out between the parts of a time split. number: 1 .. 5, of
    the published splits. path: folder of the index files, or index file.
    """

    train: int | None = None
    val: int | None = None
    test: int | None = None
    seed: int = 0
    sample: int | None = None
    gap: int = 0
    number: int = 1
    path: str | None = None


@dataclasses.dataclass
class Split:
    """Indices (…,) int64 into the data of hash ``data_hash``; ``settings`` say how they came about.
    ``ValueError`` for an overlap.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    count: int
    data_hash: str
    settings: dict

    def __post_init__(self):
        owner = np.full(self.count, -1, np.int64)
        for number, name in enumerate(PARTS):
            part = np.asarray(getattr(self, name))
            if part.ndim != 1 or not np.issubdtype(part.dtype, np.integer):
                raise ValueError(
                    f"{name} of a split must be a list of whole numbers, got {part.dtype} of the "
                    f"shape {part.shape}"
                )
            if not len(part):
                rule = self.settings.get("name")
                raise ValueError(
                    f"the split {rule} of {self.count} structures leaves none for {name}; choose "
                    "smaller parts"
                )
            if not 0 <= part.min() <= part.max() < self.count:
                raise ValueError(
                    f"{name} must hold indices 0 .. {self.count - 1} of the data, got "
                    f"{part.min()} .. {part.max()}"
                )
            if len(np.unique(part)) < len(part):
                raise ValueError(
                    f"{name} holds the structure {_repeated(part)} twice; mend the index file"
                )
            taken = owner[part] >= 0
            if taken.any():
                twice = part[taken][0]
                raise ValueError(
                    f"structure {twice} is in {PARTS[owner[twice]]} and in {name}; the parts "
                    "must not overlap"
                )
            owner[part] = number
            setattr(self, name, part.astype(np.int64))

    def save(self, path: str | Path):
        """Write an npz file, atomically."""
        words = json.dumps(
            {"count": self.count, "data_hash": self.data_hash, "settings": self.settings}
        )
        with files.atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, metadata=np.array(words), **{name: getattr(self, name) for name in PARTS}
            )

    @classmethod
    def load(cls, path: str | Path, data_hash: str | None = None) -> Split:
        """Read what :meth:`save` wrote; ``ValueError`` if it is damaged or belongs to data of
        another hash (None: any).
        """
        content = files.read_npz(path, (*PARTS, "metadata"), MEND)
        words = json.loads(str(content.pop("metadata")))
        if data_hash is not None and words["data_hash"] != data_hash:
            held, wanted = words["data_hash"][:12], data_hash[:12]
            raise ValueError(
                f"{path} splits another data set (hash {held}..., the data here have "
                f"{wanted}...); {MEND}"
            )
        return cls(**content, **words)


def _repeated(part: np.ndarray) -> int:
    values, counts = np.unique(part, return_counts=True)
    return int(values[counts > 1][0])


def _take(count: int, options: SplitOptions, order: np.ndarray) -> tuple[np.ndarray, ...]:
    """First train, then val, then test of ``order``."""
    train, val = options.train, options.val
    test = count - train - val if options.test is None else options.test
    if train + val + test > count or test < 0:
        wanted = f"{train} + {val}" + ("" if options.test is None else f" + {options.test}")
        raise ValueError(
            f"the split asks for {wanted} structures, the data have {count}; lower --train, "
            "--val or --test"
        )
    return tuple(
        np.sort(part) for part in np.split(order[: train + val + test], [train, train + val])
    )


def _random(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
    options = _with_defaults(options, 950, 50)
    return _take(count, options, np.random.default_rng(options.seed).permutation(count))


def _md17(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
    if (options.train or 950, options.val or 50) != (950, 50):
        given = f"--train {options.train} --val {options.val}"
        raise ValueError(
            f"the split md17 is 950 / 50 / rest, got {given}; give --split random for others"
        )
    return _random(count, options)


def _lsr_mp(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
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


def _time(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
    usable = count - options.gap * (1 if options.test == 0 else 2)
    if usable < 2:
        raise ValueError(
            f"a gap of {options.gap} frames leaves nothing of {count} for the time split; "
            "lower --gap"
        )
    least, rest = (1, "rest") if options.test is None else (options.test, options.test)
    train = int(0.8 * usable) if options.test is None else int(8 / 9 * (usable - options.test))
    options = _with_defaults(options, train, max(1, train // 8))
    if usable < options.train + options.val + least:
        wanted = (
            f"{options.train} + {options.gap} (gap) + {options.val} + {options.gap} (gap) + {rest}"
        )
        raise ValueError(
            f"the time split asks for {wanted} frames, the data have {count}; lower --train, "
            "--val, --test or --gap"
        )
    test = usable - options.train - options.val if options.test is None else options.test
    first = options.train + options.gap
    return (
        np.arange(options.train),
        np.arange(first, first + options.val),
        np.arange(count - test, count),
    )


def _rmd17(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
    if not 1 <= options.number <= 5:
        raise ValueError(f"rMD17 has the published splits 1 .. 5, got {options.number}")
    lists = [
        _read_csv(Path(options.path or "."), f"index_{part}_{options.number:02d}.csv", count)
        for part in ("train", "test")
    ]
    train = 950 if options.train is None else options.train
    if not 1 <= train < len(lists[0]):
        raise ValueError(
            f"--train must lie in 1 .. {len(lists[0]) - 1} of the {len(lists[0])} published "
            f"training structures, got {train}"
        )
    order = np.random.default_rng(options.seed).permutation(lists[0])
    return np.sort(order[:train]), np.sort(order[train:]), np.sort(lists[1])


def _read_csv(folder: Path, name: str, count: int) -> np.ndarray:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; put the published index files there (folder splits of the "
            "rMD17 archive)"
        )
    try:
        values = np.array(
            [int(word) for word in path.read_text(encoding="utf-8").replace(",", "\n").split()]
        )
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


def _file(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
    if options.path is None:
        raise ValueError(
            "the split file needs --split-path with an npz file that holds the index lists "
            "train, val and test"
        )
    content = files.read_npz(
        options.path, PARTS, "give an npz file with the index lists train, val and test"
    )
    return tuple(content[name] for name in PARTS)


def _qm9(
    count: int,
    options: SplitOptions,
    name: str,
    sizes: tuple[int, int],
    order: Callable[[], np.ndarray],
):
    given = options.train is not None and options.val is not None
    if not given and (options.train, options.val, options.test) != (None, None, None):
        asked = f"--train {options.train} --val {options.val} --test {options.test}"
        raise ValueError(
            f"the split {name} of other sizes needs --train and --val (the test set may be all "
            f"others), got {asked}"
        )
    if not given and count != QM9_COUNT:
        mend = "take all of QM9 but the uncharacterised molecules, or give --train and --val"
        raise ValueError(
            f"the split {name} divides {QM9_COUNT} molecules of QM9, the data have {count}; {mend}"
        )
    return _take(
        count,
        options if given else dataclasses.replace(options, train=sizes[0], val=sizes[1]),
        order(),
    )


def _3dml(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
    return _qm9(count, options, "3dml", (100_000, 18_000), lambda: np.arange(count))


def _nvidia(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
    def order():
        return torch.randperm(count, generator=torch.Generator().manual_seed(options.seed)).numpy()

    return _qm9(count, options, "nvidia", (100_000, 17_748), order)


def _cormorant(count: int, options: SplitOptions) -> tuple[np.ndarray, ...]:
    def order():
        return np.random.RandomState(options.seed).permutation(count)  # noqa: NPY002 - the published order is that of the old generator

    return _qm9(count, options, "cormorant", (100_000, 17_748), order)


def _with_defaults(options: SplitOptions, train: int, val: int) -> SplitOptions:
    chosen = {
        "train": train if options.train is None else options.train,
        "val": val if options.val is None else options.val,
    }
    return dataclasses.replace(options, **chosen)


# name -> (number of structures, options) -> train, val, test
SPLITS: dict[str, Callable[[int, SplitOptions], tuple[np.ndarray, ...]]] = {
    "random": _random,
    "md17": _md17,
    "rmd17": _rmd17,
    "lsr-mp": _lsr_mp,
    "time": _time,
    "file": _file,
    "3dml": _3dml,
    "nvidia": _nvidia,
    "cormorant": _cormorant,
}

DIVIDES_ANY = ("time",)  # protocols whose default sizes are shares of the data
# protocol -> what it reads of SplitOptions
READS = {
    "random": ("train", "val", "test", "seed"),
    "md17": ("train", "val", "test", "seed"),
    "rmd17": ("train", "seed", "number", "path"),
    "lsr-mp": ("test", "seed", "sample"),
    "time": ("train", "val", "test", "gap"),
    "file": ("path",),
}


def make_split(
    name: str, count: int, data_hash: str, options: SplitOptions, test_count: int = 0
) -> Split:
    """The split ``name`` of ``count`` structures with the hash ``data_hash``.

    test_count: the last so many structures come from test files of their own: they are the test set
    (or ``options.test`` of them at random), and the protocol divides only the others, into train
    and val. ``ValueError`` for an unknown name, for more structures than there are, and for parts
    that are empty or overlap.
    """
    if name not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
    settings = {"name": name, **dataclasses.asdict(options), "test_count": test_count}
    if test_count == 0:
        return Split(*SPLITS[name](count, options), count, data_hash, settings)
    own = np.arange(count - test_count, count)
    if options.test is not None:
        if options.test > test_count:
            raise ValueError(
                f"--test asks for {options.test} structures, the test files have {test_count}; "
                "lower --test"
            )
        own = np.sort(np.random.default_rng((options.seed, 1)).permutation(own)[: options.test])
    pool = count - test_count
    if name not in DIVIDES_ANY and (options.train is None or options.val is None):
        share = max(1, round(0.05 * pool)) if options.val is None else options.val
        options = dataclasses.replace(
            options, val=share, train=pool - share if options.train is None else options.train
        )
    train, val, _ = SPLITS[name](pool, dataclasses.replace(options, test=0))
    return Split(train, val, own, count, data_hash, settings)
