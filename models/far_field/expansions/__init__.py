"""The ways to the far field's sum; importing this folder registers them all in ``EXPANSIONS``."""

from farfield.models.far_field.expansion import EXPANSIONS
from farfield.models.far_field.expansions.auto import AutoExpansion
from farfield.models.far_field.expansions.lattice import LatticeExpansion
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.expansions.planewave import PlaneWaveExpansion

__all__ = [
    "EXPANSIONS",
    "AutoExpansion",
    "LatticeExpansion",
    "MultipoleExpansion",
    "PairwiseExpansion",
    "PlaneWaveExpansion",
]
