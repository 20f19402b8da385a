"""Warns once when a graph is larger than its expansion was made for."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import Tensor

SLACK = 1e-5  # part of the design radius that is rounding


class RadiusGuard:
    """One warning with the error to expect, the first time an atom is so far from its centroid that
    the error exceeds ``promised``.
    """

    def __init__(self, design_radius: float, promised: float):
        self.design_radius, self.promised = design_radius, promised
        self._warned, self._largest = False, design_radius * (1 + SLACK)

    def check(self, squared: Tensor, error: Callable[[float], float]) -> None:
        """squared: distances^2 from the centroids (nodes,); error: of a radius, asked for larger
        graphs only. To be called by a forward.
        """
        if self._warned or not squared.numel():
            return
        radius = float(squared.detach().max().sqrt())
        if not radius > self._largest:
            return
        self._largest = radius
        expected = error(radius)
        if expected > self.promised:
            warnings.warn(
                f"an atom is {radius:.3g} Angstrom from its graph's centroid, beyond the design "
                f"radius {self.design_radius:g}: the "
                f"far field's error may reach {expected:.1e} instead of {self.promised:.1e}; "
                f"make the design radius (far_design_radius of a network) {radius:.3g} or more",
                stacklevel=3,
            )
            self._warned = True
