"""How features turn under O(3), solved from the definition Y(M x) = D(M) Y(x) alone.

No angles, no edge frames, no tables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_slice, num_rows


def turn_matrix(matrix: Tensor, lmax: int) -> Tensor:
    """Block matrix (rows, rows) of an orthogonal matrix (3, 3).

    One block for each degree; an inversion gives (-1)^l.
    """
    points = torch.randn(
        4 * num_rows(lmax), 3, dtype=matrix.dtype, generator=torch.Generator().manual_seed(0)
    )
    before, after = spherical_harmonics(points, lmax), spherical_harmonics(points @ matrix.T, lmax)
    degrees = [degree_slice(l) for l in range(lmax + 1)]
    return torch.block_diag(
        *(torch.linalg.lstsq(before[:, rows], after[:, rows]).solution.T for rows in degrees)
    )


def turned(x: Tensor, matrix: Tensor, lmax: int, pseudo: int = 0) -> Tensor:
    """Features (nodes, rows, channels) under an orthogonal matrix.

    The last ``pseudo`` channels take its determinant as well.
    """
    sign = torch.ones(x.shape[-1], dtype=x.dtype)
    if pseudo:
        sign[-pseudo:] = torch.linalg.det(matrix).sign()
    return torch.einsum("pq,nqc->npc", turn_matrix(matrix, lmax), x) * sign


def orthogonal(seed: int, proper: bool = True) -> Tensor:
    """A random orthogonal matrix (3, 3) in float64 of determinant +1, or -1 if not ``proper``."""
    q, r = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q) * (1 if proper else -1)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    return float(((found - expected).abs().max() / expected.abs().max()).detach())
