"""Random tensors of the laws."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(*shape: int, seed: int) -> Tensor:
    """Normal random values (shape) in float64, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
