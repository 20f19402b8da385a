"""First and second derivatives against central differences."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# torch compares whole matrices of derivatives to rtol 1e-3; one wrong element must be seen here too
DIRECTIONAL = {"fast_mode": True, "rtol": 1e-6, "atol": 1e-7}


def assert_all_derivatives(function: Callable[..., Tensor], inputs: Sequence[Tensor]):
    """Gradient and second derivatives of ``function(*inputs)`` in float64, along random directions.

    One product with a random vector stands for a matrix of derivatives: the cost is that of a few
    calls, whatever the number of elements.
    """
    assert torch.autograd.gradcheck(function, inputs, **DIRECTIONAL)
    assert torch.autograd.gradgradcheck(function, inputs, **DIRECTIONAL)
