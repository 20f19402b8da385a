"""Constants of a head that keep their digits when the network is cast."""

from __future__ import annotations

from torch import nn


class ExactBuffers(nn.Module):
    """A module whose own buffers keep their type and digits when the network is cast (``.float()``,
    ``.to(torch.float32)``).
    """

    def _apply(self, fn, recurse: bool = True):
        exact = {name: buffer.clone() for name, buffer in self._buffers.items()}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            self._buffers[name] = buffer.to(self._buffers[name].device)
        return self
