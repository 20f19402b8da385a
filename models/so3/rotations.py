"""Orthogonal matrices (3, 3): of quaternions, of mirrors, and spread evenly over all rotations.

    q = (w, x, y, z), |q| = 1   ->   R(q)            rotation; q and -q give the same one
    n, |n| = 1                  ->   1 - 2 n n^T     Householder reflection about the plane with
                                                     the normal n

:func:`even_rotations` walks a super-Fibonacci spiral on the unit quaternions (M. Alexa,
"Super-Fibonacci Spirals: Fast, Low-Discrepancy Sampling of SO(3)", CVPR 2022, algorithm 1): with
s = i + 1/2, t = s / n, a = 2 pi s / sqrt(2), b = 2 pi s / psi:

    q_i = (sqrt(1 - t) cos b, sqrt(t) sin a, sqrt(t) cos a, sqrt(1 - t) sin b)

Cost: linear in the number of matrices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PSI = 1.533751168755204288118041  # positive root of psi^4 = psi + 4


def matrices_of_quaternions(quaternions: Tensor) -> Tensor:
    """Rotations (n, 3, 3) of quaternions (n, 4) of any length > 0, real part first."""
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def householder_matrices(normals: Tensor) -> Tensor:
    """Reflections (n, 3, 3) about the planes with normals (n, 3) of any length > 0."""
    unit = normals / normals.norm(dim=-1, keepdim=True)
    identity = torch.eye(3, dtype=unit.dtype, device=unit.device)
    return identity - 2 * unit.unsqueeze(-1) * unit.unsqueeze(-2)


def even_rotations(count: int) -> Tensor:
    """Rotations (count, 3, 3) float64, spread evenly over all rotations, the same in every call.

    ValueError for less than one.
    """
    if count < 1:
        raise ValueError(f"the number of rotations must be >= 1, got {count}")
    place = torch.arange(count, dtype=torch.float64) + 0.5
    one, other = (2 * math.pi * place / ratio for ratio in (math.sqrt(2.0), PSI))
    inner, outer = (place / count).sqrt(), (1 - place / count).sqrt()
    parts = [outer * other.cos(), inner * one.sin(), inner * one.cos(), outer * other.sin()]
    return matrices_of_quaternions(torch.stack(parts, -1))
