"""Expansions of the far field's kernel: several ways to the same sum over all pairs of atoms of a
graph,

    out_i[h, lm, v] = sum_j <q_i, k_j>_h f_lh(r_ij) Y_lm(r^_ij) v_j[h, v],
    f_lh(r) = sum_q a_lhq j_l(kappa_q r),      r_ij = r_i - r_j,

j = i included (it contributes ``f_0(0)``). All are modules with one call, ``expansion(graph,
positions (nodes, 3), queries, keys (nodes, heads, features), values (nodes, heads, V), coefficients
(lmax + 1, heads, Q), cell=None) -> (nodes, heads, (lmax + 1)^2, V)``, none has parameters, and all
are differentiable to any order in every argument. Cells (graphs, 3, 3) are for periodic structures
only: ``lattice`` needs them, the others refuse them.
"""

from __future__ import annotations

from farfield.models.far_field.expansions.auto import AutoExpansion
from farfield.models.far_field.expansions.lattice import LatticeExpansion
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.expansions.planewave import PlaneWaveExpansion

EXPANSIONS = {
    "pairwise": PairwiseExpansion,
    "multipole": MultipoleExpansion,
    "planewave": PlaneWaveExpansion,
    "lattice": LatticeExpansion,
    "auto": AutoExpansion,
}
