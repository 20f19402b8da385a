"""Random draws of a part of a network that leave those of all other parts alone.

With the same seed a network with the part then starts as the network without it, so that runs with
and without the part compare the part and not two starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_draws() -> Iterator[None]:
    """Inside the with-block torch draws from a state of its own, made from the state outside.

    Afterwards the state outside is what it was before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**31, ())))
        yield
