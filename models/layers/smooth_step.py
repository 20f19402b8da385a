"""A step that is smooth: no kink in energy or forces where something begins to count.

    S(x) = x^3 (10 - 15 x + 6 x^2)   between 0 and 1,    0 below, 1 above

with two continuous derivatives, all zero at both ends. Cost: linear in the values.
"""

from __future__ import annotations

from torch import Tensor


def smooth_step(x: Tensor) -> Tensor:
    """S of every value of x, in its shape."""
    x = x.clamp(0, 1)
    return x**3 * (10 - 15 * x + 6 * x.square())
