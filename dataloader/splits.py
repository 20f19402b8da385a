"""Which structures train, validate and test: made by a protocol, kept in a file with the hash of
the data.

The protocols are in dataloader.split_protocols. The test split of every protocol is there to be
evaluated.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

from farfield.dataloader.split_protocols import (
    PROTOCOLS,
    SPLITS,
    Indices,
    Protocol,
    SplitOptions,
)
from farfield.dataloader.storage import files
from farfield.dataloader.storage.files import REBUILD_HINT

OWN_TEST_VAL_SHARE = 0.05  # validation structures where test files are given


@dataclasses.dataclass
class Split:
    """Indices of each split into the data with the hash ``data_hash``, checked.

    train, val, test: (structures of the split,) int64. count: structures of the data. settings: how
    the split was made. ``ValueError`` for an empty split, an index outside the data, and a
    structure that occurs twice.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    count: int
    data_hash: str
    settings: dict

    def __post_init__(self):
        for name in SPLITS:
            part = np.asarray(getattr(self, name))
            self._check_part(name, part)
            setattr(self, name, part.astype(np.int64))

        # no structure may be in two splits
        for one, other in itertools.combinations(SPLITS, 2):
            twice = np.intersect1d(getattr(self, one), getattr(self, other))
            if len(twice):
                raise ValueError(
                    f"structure {twice[0]} is in {one} and in {other}; the splits must not overlap"
                )

    def _check_part(self, name: str, part: np.ndarray) -> None:
        """Indices of one split: whole numbers, some, inside the data, each once."""
        if part.ndim != 1 or not np.issubdtype(part.dtype, np.integer):
            raise ValueError(
                f"{name} of a split must be a list of whole numbers, got {part.dtype} of the "
                f"shape {part.shape}"
            )
        if not len(part):
            raise ValueError(
                f"the split {self.settings.get('name')} of {self.count} structures leaves none "
                f"for {name}; choose smaller splits"
            )
        if not 0 <= part.min() <= part.max() < self.count:
            raise ValueError(
                f"{name} must hold indices 0 .. {self.count - 1} of the data, got "
                f"{part.min()} .. {part.max()}"
            )

        values, counts = np.unique(part, return_counts=True)
        if len(values) < len(part):
            raise ValueError(
                f"{name} holds the structure {values[counts > 1][0]} twice; correct the index file"
            )

    def save(self, path: str | Path):
        """Write an npz file, atomically."""
        words = {"count": self.count, "data_hash": self.data_hash, "settings": self.settings}
        metadata = np.array(json.dumps(words))
        with files.atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, metadata=metadata, **{name: getattr(self, name) for name in SPLITS})

    @classmethod
    def load(cls, path: str | Path, data_hash: str | None = None) -> Split:
        """Read what :meth:`save` wrote.

        ``ValueError`` if the file is damaged or belongs to data with another hash than
        ``data_hash`` (None: any).
        """
        content = files.read_npz(path, (*SPLITS, "metadata"), REBUILD_HINT)
        try:
            words = files.parse_json(str(content.pop("metadata")))
            found = cls(**content, **words)
            if not isinstance(found.data_hash, str) or not isinstance(found.settings, dict):
                raise TypeError("its hash is no text, or its settings have no names")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); {REBUILD_HINT}") from None
        if data_hash is not None and found.data_hash != data_hash:
            raise ValueError(
                f"{path} splits another data set (hash {found.data_hash[:12]}..., the data here "
                f"have {data_hash[:12]}...); {REBUILD_HINT}"
            )
        return found


def make_split(
    name: str,
    count: int,
    data_hash: str,
    options: SplitOptions,
    test_count: int = 0,
    groups: np.ndarray | None = None,
) -> Split:
    """The split ``name`` of ``count`` structures with the hash ``data_hash``.

    test_count: the last ``test_count`` structures come from test files: they are the test split (or
    ``options.test`` of them at random), and the protocol divides only the others, into train and
    val. groups (count,): structures of one number stay together, and the protocol divides groups;
    where it reads index lists, these are of structures. ``ValueError`` for an unknown name, for
    more structures than there are, and for splits that are empty or overlap.
    """
    # lists of a file: the message says which one
    with files.naming(options.path if "path" in PROTOCOLS.find(name).reads else None):
        return _split_by_rule(name, count, data_hash, options, test_count, groups)


def _split_by_rule(
    name: str,
    count: int,
    data_hash: str,
    options: SplitOptions,
    test_count: int,
    groups: np.ndarray | None,
) -> Split:
    """The same, without the file in messages."""
    rule = PROTOCOLS.find(name)
    settings = {"name": name, **dataclasses.asdict(options), "test_count": test_count}
    members = None if groups is None or "path" in rule.reads else groups[: count - test_count]
    if test_count == 0:
        return Split(*_divided(rule, count, members, options), count, data_hash, settings)

    test = np.arange(count - test_count, count)
    if options.test is not None:
        if options.test > test_count:
            raise ValueError(
                f"--test asks for {options.test} structures, the test files have {test_count}; "
                "lower --test"
            )
        generator = np.random.default_rng((options.seed, 1))
        test = np.sort(generator.permutation(test)[: options.test])

    # the protocol divides what does not come from test files
    pool = count - test_count
    if not rule.uses_shares:
        options = _sizes_of_pool(pool if members is None else len(np.unique(members)), options)
    train, val, _ = _divided(rule, pool, members, dataclasses.replace(options, test=0))
    return Split(train, val, test, count, data_hash, settings)


def _divided(
    rule: Protocol, count: int, members: np.ndarray | None, options: SplitOptions
) -> Indices:
    """Structures of each split; members: number of the group of each (count,), or None."""
    if members is None:
        return rule.divide(count, options)
    numbers, place = np.unique(members, return_inverse=True)
    try:
        parts = rule.divide(len(numbers), options)
    except ValueError as error:
        raise ValueError(
            f"{count} structures are divided as {len(numbers)} groups that stay together: {error}"
        ) from None
    return tuple(np.flatnonzero(np.isin(place, part)) for part in parts)


def split_by_files(train: int, val: int, test: int, data_hash: str) -> Split:
    """The split of structures that come from training, validation and test files, in this order.

    train, val, test: structures of the files.
    """
    settings = {"name": "files", **dataclasses.asdict(SplitOptions())}
    settings |= {"val_count": val, "test_count": test}
    order = np.arange(train + val + test)
    parts = np.split(order, [train, train + val])
    return Split(*parts, len(order), data_hash, settings)


def _sizes_of_pool(pool: int, options: SplitOptions) -> SplitOptions:
    """Options with sizes of train and val: val is 5 %, train the rest, unless they are given."""
    val = max(1, round(OWN_TEST_VAL_SHARE * pool)) if options.val is None else options.val
    train = pool - val if options.train is None else options.train
    return dataclasses.replace(options, train=train, val=val)
