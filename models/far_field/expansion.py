"""Options that all expansions of the far field's kernel share."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable

from torch import Tensor

from farfield.models.so3.quadrature import RULES

LARGEST_RADIUS = 1000.0  # Angstrom; the error law of a larger one takes seconds


@dataclasses.dataclass(frozen=True)
class ExpansionOptions:
    """Accuracy and memory of an expansion.

    tolerance: relative error of the kernel inside the design radius. design_radius: distance from
    the centroid (Angstrom) up to which ``tolerance`` holds; larger graphs are announced by one
    warning. budget: numbers in a temporary tensor. rule, directions: of plane waves, a name in
    ``RULES`` and, if not what ``tolerance`` asks for, the number of directions for every kappa.
    Raises ValueError for a tolerance outside (0, 0.1], lengths or budgets that are not positive,
    and rules that do not exist.
    """

    tolerance: float = 1e-4
    design_radius: float = 10.0
    budget: int = 2**22
    rule: str = "lebedev"
    directions: int | None = None

    def __post_init__(self):
        if not 0 < self.tolerance <= 0.1:
            raise ValueError(
                f"tolerance of the far field must be in (0, 0.1], got {self.tolerance}"
            )
        if not (math.isfinite(self.design_radius) and self.design_radius > 0):
            raise ValueError(
                "design radius of the far field must be > 0 Angstrom and finite, got "
                f"{self.design_radius}"
            )
        if self.design_radius > LARGEST_RADIUS:
            reason = (
                f"design radius of the far field must be <= {LARGEST_RADIUS:g} Angstrom, "
                f"got {self.design_radius:g}"
            )
            raise ValueError(
                f"{reason}; leave out a structure with an atom so far from the others, or give a "
                "smaller radius"
            )
        if self.budget < 1:
            raise ValueError(f"budget of the far field must be >= 1 number, got {self.budget}")
        if self.rule not in RULES:
            raise ValueError(
                f"rule of the far field's directions must be one of {', '.join(RULES)}, got "
                f"{self.rule!r}"
            )
        if self.directions is not None:
            RULES[self.rule].sized(self.directions)  # says which number is nearest


def refuse_cell(expansion: str, cell: Tensor | None) -> None:
    """ValueError if an expansion for open systems is given periodic cells."""
    if cell is not None:
        raise ValueError(
            f"expansion {expansion!r} is for open systems, got periodic cells; choose expansion "
            "'lattice' or 'auto'"
        )


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
