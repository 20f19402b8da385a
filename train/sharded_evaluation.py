"""Evaluation by several ranks: each asks the network about its share of the batches, the first rank
judges all answers.

Answers travel with their batches, so a task sees every batch of the split in its order, the last
one included, and its errors are those of one process, bit for bit. A task may ask what it likes:
what was not asked before (``Task.asks``) the first rank computes itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from farfield.common import ranks

FORWARD = "forward"


class AnsweredNetwork:
    """A network that gives the known answer for the batch it holds, and computes all else.

    Arguments
        model  the network
        asks   method that was asked
    """

    def __init__(self, model: nn.Module, asks: str):
        self._model, self._asks = model, asks
        self._batch = self._answer = None

    def hold(self, batch, answer) -> None:
        """From now on ``answer`` is known for ``batch``."""
        self._batch, self._answer = batch, answer

    def __call__(self, batch):
        return self._known(batch) if self._asks == FORWARD else self._model(batch)

    def __getattr__(self, name: str):
        return self._known if name == self._asks else getattr(self._model, name)

    def _known(self, batch):
        return self._answer if batch is self._batch else ask(self._model, self._asks, batch)


def ask(model: nn.Module, asks: str, batch):
    """The answer of a network to a batch: by ``model(batch)``, or by another method."""
    return model(batch) if asks == FORWARD else getattr(model, asks)(batch)


def evaluate_together(model: nn.Module, task, loader, settings: Mapping):
    """``task.evaluate`` with the work of all ranks; pictures' pairs on the first rank alone.

    settings: ``device`` and ``dtype`` of the batches. All ranks call it.
    """
    own = loader.every(ranks.rank(), ranks.count())
    answers = [_on(ask(model, task.asks, batch.to(**settings)), "cpu") for batch in own]
    gathered = ranks.gather(answers)

    found = None
    if ranks.is_first():
        network = AnsweredNetwork(model, task.asks)
        found = task.evaluate(network, _answered(network, loader, gathered, settings))
    shared = None if found is None else dataclasses.replace(found, pairs={})
    shared = ranks.from_first(shared)
    return shared if found is None else found


def _answered(network: AnsweredNetwork, loader, gathered, settings: Mapping) -> Iterator:
    """All batches in order, each with its answer in ``network``."""
    for place, batch in enumerate(loader):
        batch = batch.to(**settings)
        turn, rank = divmod(place, len(gathered))
        network.hold(batch, _on(gathered[rank][turn], settings["device"]))
        yield batch


def _on(answer, device):
    """An answer with all its tensors on a device."""
    if isinstance(answer, Tensor):
        return answer.detach().to(device)
    if isinstance(answer, Mapping):
        return {name: _on(value, device) for name, value in answer.items()}
    if isinstance(answer, (list, tuple)):
        return type(answer)(_on(value, device) for value in answer)
    return answer
