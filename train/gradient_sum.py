"""What all ranks have found in one step, added up in one message.

Rank r has the mean gradient g_r and the mean scalars over its n_r samples. All get

    g = sum_r n_r g_r / N,    N = sum_r n_r

the gradient of the mean over the samples of all, as one process has it from the whole batch. Every
rank gets the same bits, so the weights of the ranks never part.

The message is one tensor: all gradients, then which weights have one (a weight without any keeps
none, so that no weight decay acts on it), then samples, flags and scalars. There is no hook in the
backward pass: losses of forces differentiate twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from farfield.common import ranks


class GradientSum:
    """``gradient_sum(scalars, finite, samples)``: the same three of all ranks together; the
    gradients of ``weights`` change in place.
    """

    def __init__(self, weights: Sequence[Tensor]):
        self.weights = weights
        self.names: list[str] = []  # of scalars, in the order of the message

    def __call__(
        self, scalars: dict[str, float], finite: bool, samples: int
    ) -> tuple[dict[str, float], bool, int]:
        if not self.names:  # on all ranks alike: the first step of this session
            self._learn_names(scalars)
        unknown = set(scalars) - set(self.names)
        numbers = [samples, not finite, len(unknown)]
        numbers += [samples * scalars.get(name, 0.0) for name in self.names]

        message = self._message(finite, samples, numbers)
        ranks.add_up_(message)
        together, bad, news, *sums = message[-len(numbers) :].tolist()
        self._take_gradients(message, together)
        if news:
            sums = self._scalars_of_all(scalars, samples)
        means = {name: value / together for name, value in zip(self.names, sums, strict=True)}
        return means, not bad, round(together)

    def _message(self, finite: bool, samples: int, numbers: Sequence[float]) -> Tensor:
        """This rank's part of the sum; a flag, and no gradients, where its loss is not finite."""
        has_gradient = [finite and weight.grad is not None for weight in self.weights]
        pieces = [
            (samples * weight.grad if has else torch.zeros_like(weight)).flatten()
            for weight, has in zip(self.weights, has_gradient, strict=True)
        ]
        more = [*map(float, has_gradient), *map(float, numbers)]
        return torch.cat([*pieces, pieces[0].new_tensor(more)]).detach()

    def _take_gradients(self, message: Tensor, samples: float) -> None:
        sizes = [weight.numel() for weight in self.weights]
        gradients, rest = message.split([sum(sizes), message.numel() - sum(sizes)])
        has_gradient = rest[: len(sizes)].tolist()
        for weight, piece, ranks_with in zip(
            self.weights, gradients.split(sizes), has_gradient, strict=True
        ):
            weight.grad = piece.view_as(weight) / samples if ranks_with else None

    def _scalars_of_all(self, scalars: dict[str, float], samples: int) -> list[float]:
        """Sums by name where a rank has a name that the message does not."""
        found = ranks.gather((scalars, samples))
        self._learn_names(scalars)
        return [sum(count * one.get(name, 0.0) for one, count in found) for name in self.names]

    def _learn_names(self, scalars: dict[str, float]) -> None:
        """Take in the names of all ranks; one without a batch knows none."""
        names = [name for one in ranks.gather(list(scalars)) for name in one]
        self.names = list(dict.fromkeys([*self.names, *names]))
