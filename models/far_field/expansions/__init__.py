"""The ways to the far field's sum: every module of this folder registers its own."""

from farfield.models.far_field.expansion import EXPANSIONS

__all__ = ["EXPANSIONS"]
