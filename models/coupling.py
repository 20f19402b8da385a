"""Coupling tables of SO(3) in the real basis of e3nn: Clebsch-Gordan isometries and the layout of degrees and orders.

All tables come from ``e3nn.o3.wigner_3j`` (real basis, polar axis y, l = 1 in the order x, y, z), are built in float64 and cached.
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor

from models.irreps import table


@table
def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """Real Clebsch-Gordan tensor C (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) float64 with ``sum_{ab} C_abm C_abn = delta_mn``.

    Raises ValueError outside the triangle ``|l1 - l2| <= l3 <= l1 + l2``.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees ({l1}, {l2}, {l3}) violate the triangle |l1 - l2| <= l3 <= l1 + l2")
    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * (2 * l3 + 1) ** 0.5
