"""Several processes that train or compute together: the one door to ``torch.distributed``.

    torchrun --nproc_per_node=2 -m train.train_md17 --data-path data/md17

A *rank* is one of these processes. ``together()`` reads the environment that torchrun sets (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) and connects them: by gloo on CPUs, by nccl on
GPUs. One process alone is the trivial case, without ``torch.distributed``: it is the first rank of
one, and every function here gives back what it was given.

Functions that "all ranks call" wait for each other. A rank that is lost makes the others raise
``ConnectionError`` in one line: at once where its connection closes, else after ``ANSWER``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from farfield.common.rank_meeting import meet
from farfield.dataloader.commands import called_as

RENDEZVOUS = timedelta(minutes=2)  # in which all ranks must have come
ANSWER = timedelta(minutes=10)  # in which a rank must answer: longer than any work of one alone

BEGUN = "farfield/begun"  # in the store of the job
FAILED = "farfield/failed"  # the rank that speaks of the end


@dataclass(frozen=True)
class Place:
    """Which rank this process is.

    Arguments
        rank   0 .. count - 1
        count  number of ranks
        local  number of the rank on its machine, and of its GPU
    """

    rank: int = 0
    count: int = 1
    local: int = 0


class _Here:
    """What this process knows of the others."""

    place = Place()
    store = None  # of this start of the ranks
    store_of_job = None  # of torchrun, which outlives its ranks


def rank() -> int:
    """Number of this rank."""
    return _Here.place.rank


def count() -> int:
    """Number of ranks; 1 for a process alone."""
    return _Here.place.count


def is_first() -> bool:
    """Whether this is the rank that decides and writes."""
    return rank() == 0


def environment() -> Place:
    """The place that the environment names; ``ValueError`` in one line if it contradicts itself."""
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return Place()

    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={size} announces {size} ranks, but {', '.join(missing)} is not set; start "
            f"them with torchrun --nproc_per_node={size}, or unset WORLD_SIZE for one process"
        )
    number = _number("RANK", 0)
    if not 0 <= number < size:
        raise ValueError(
            f"RANK={number} does not fit WORLD_SIZE={size}; ranks are 0 .. {size - 1}, start them "
            f"with torchrun --nproc_per_node={size}"
        )
    return Place(number, size, _number("LOCAL_RANK", 0))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or (name == "WORLD_SIZE" and int(text) < 1):
        raise ValueError(f"{name}={text} is not a number of ranks; start the ranks with torchrun")
    return int(text)


def refuse() -> None:
    """``ValueError`` where several ranks are started of a script that is one process."""
    size = environment().count
    if size == 1:
        return
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    words = called_as(spec.name) if spec and "." in spec.name else f"python {sys.argv[0]}"
    raise ValueError(
        f"this script is one process, and {size} of it were started (WORLD_SIZE={size}); start it "
        f"with {words}, or unset WORLD_SIZE"
    )


@contextlib.contextmanager
def together(device: str = "cpu") -> Iterator[None]:
    """Context in which the ranks of the environment are connected; nested ones do nothing.

    device: ``--device``. ``ValueError`` for an environment that contradicts itself, and where the
    others do not come.
    """
    place = environment()
    if _Here.store is not None or (place.count == 1 and "TORCHELASTIC_RUN_ID" not in os.environ):
        yield
        return

    _connect(place, device)
    try:
        yield
    finally:
        # an error leaves the group to the end of the process: others may not answer any more
        if place.count > 1 and sys.exc_info()[0] is None:
            import torch.distributed

            torch.distributed.destroy_process_group()
            _Here.place, _Here.store, _Here.store_of_job = Place(), None, None


def _connect(place: Place, device: str) -> None:
    import torch
    import torch.distributed as distributed

    try:
        found = distributed.rendezvous("env://", place.rank, place.count, timeout=RENDEZVOUS)
        _Here.store_of_job, _, _ = next(iter(found))
        _Here.store = meet(_Here.store_of_job, place.rank, place.count, RENDEZVOUS)
        if place.count > 1:
            on_gpus = device.startswith("cuda") and distributed.is_nccl_available()
            if on_gpus and place.local < torch.cuda.device_count():  # else find_device refuses it
                torch.cuda.set_device(place.local)
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                store=_Here.store,
                rank=place.rank,
                world_size=place.count,
                timeout=ANSWER,
            )
    except RuntimeError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ValueError(
            f"rank {place.rank} of {place.count} did not meet the others at {where} "
            f"({_short(error)}); start all ranks with torchrun, and check the address"
        ) from None
    _Here.place = place


def device_name(name: str) -> str:
    """The device of this rank where ``--device`` says ``name``: each rank has a GPU of its own.

    ``ValueError`` for one GPU by number.
    """
    if count() == 1 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise ValueError(
            f"--device {name} is one GPU, and each of {count()} ranks takes one of its own; give "
            "--device cuda"
        )
    return f"cuda:{_Here.place.local}"


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"rank {rank()}: another rank has ended or does not answer ({_short(error)}); start "
            "all ranks again, a training with --resume"
        ) from None


def _short(error: Exception) -> str:
    """First sentence of torch's message, without the place in its source."""
    text = re.sub(r"^\[[^]]*\]\s*", "", " ".join(str(error).split("\n")[0].split()))
    return text.split(". ")[0][:120]


def add_up_(values) -> None:
    """Replace a tensor by its sum over the ranks, the same bits on each; all ranks call it."""
    if count() > 1:
        import torch.distributed

        with _answers():
            torch.distributed.all_reduce(values)


def total(numbers: Sequence[float]) -> list[float]:
    """Sum over the ranks of each number; all ranks call it."""
    if count() == 1:
        return list(numbers)
    import torch

    values = torch.tensor(numbers, dtype=torch.float64)
    add_up_(values)
    return values.tolist()


def gather(value) -> list:
    """The values of all ranks, in the order of the ranks; all ranks call it."""
    if count() == 1:
        return [value]
    import torch.distributed

    values = [None] * count()
    with _answers():
        torch.distributed.all_gather_object(values, value)
    return values


def from_first(value):
    """The value of the first rank; all ranks call it."""
    if count() == 1:
        return value
    import torch.distributed

    values = [value]
    with _answers():
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def copy_first_(tensors: Iterable) -> None:
    """Replace tensors by those of the first rank; all ranks call it."""
    if count() > 1:
        tensors = list(tensors)
        values = from_first([tensor.cpu() for tensor in tensors])
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def wait() -> None:
    """Wait until all ranks are here."""
    total([0.0])


def check_same(what: str, value) -> None:
    """``ValueError`` where the ranks differ in ``value``; all ranks call it."""
    values = gather(value)
    different = [number for number, other in enumerate(values) if other != values[0]]
    if different:
        raise ValueError(
            f"rank {different[0]} has other {what} than rank 0; start all ranks with the same "
            "command, version and data"
        )


def begin() -> None:
    """Note that this job of torchrun has begun its run, for ranks that it may start again."""
    if _Here.store_of_job is not None and is_first():
        _Here.store_of_job.set(BEGUN, "1")


def has_begun() -> bool:
    """Whether torchrun has started the ranks of this job before, and they had begun; all ranks call
    it.
    """
    store = _Here.store_of_job
    return from_first(store is not None and is_first() and store.check([BEGUN]))


def speaks() -> bool:
    """Whether this rank says why all of them end: the first to fail, and no other."""
    if _Here.store is None:
        return os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        return _Here.store.compare_set(FAILED, "", str(rank())).decode() == str(rank())
    except RuntimeError:  # the store has gone with its rank
        return True


def seed_draws(seed: int, step: int) -> None:
    """Give this rank its own random numbers of torch for a step: a pure function of seed, step and
    rank, so that a resumed run draws them again. One process goes on with those it has.
    """
    if count() > 1:
        import numpy as np
        import torch

        words = np.random.SeedSequence((seed, step, rank())).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)
