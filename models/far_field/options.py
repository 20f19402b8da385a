"""Options that all expansions of the far field's kernel share."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor

from models.far_field.quadrature import RULES

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
