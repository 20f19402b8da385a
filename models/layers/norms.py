"""Norms of equivariant features: every row times one invariant number of its node.

    y_lm = gamma_l x_lm (s_l + epsilon)^(-1/2) + beta [l = 0],
    s_l = sum_(l' m) A_ll' / (2 l' + 1) mean_c x_l'm^2,

after the mean over channels has been taken off the scalars. The norms differ in A alone, which says
whose size divides whom:

    rms_norm_sh     A_ll' = 1 / (lmax + 1)                       one size for the whole node (the
                    publication's choice)
    layer_norm_sh   scalars by themselves, all l > 0 by their common size (EquiformerV2, sec. 3.3)
    layer_norm      A_ll' = delta_ll'                            every degree by itself (Equiformer,
                    sec. 4.1)

Lei Ba et al. 2016 for the scalars; gamma and beta are learned for each channel. The epsilon inside
the root keeps all derivatives finite at zero features. Cost: linear in the numbers of a feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.so3.irreps import degree_of_row, num_rows


def _rms_norm_sh(lmax: int) -> Tensor:
    return torch.full((lmax + 1, lmax + 1), 1 / (lmax + 1))


def _layer_norm_sh(lmax: int) -> Tensor:
    return torch.block_diag(torch.ones(1, 1), torch.full((lmax, lmax), 1 / max(lmax, 1)))


def _layer_norm(lmax: int) -> Tensor:
    return torch.eye(lmax + 1)


NORMS = {
    "rms_norm_sh": _rms_norm_sh,
    "layer_norm_sh": _layer_norm_sh,
    "layer_norm": _layer_norm,
}  # name -> A of lmax


class EquivariantNorm(nn.Module):
    """One of ``NORMS``: ``forward(x (nodes, rows, channels)) -> (nodes, rows, channels)``. Raises
    ValueError for another name.
    """

    def __init__(self, kind: str, lmax: int, channels: int, epsilon: float = 1e-4):
        super().__init__()
        if kind not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {kind!r}")
        self.kind, self.epsilon = kind, epsilon
        self.scale = nn.Parameter(torch.ones(lmax + 1, channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        degree = degree_of_row(lmax)
        among = NORMS[kind](lmax)[degree][:, degree] / (
            2 * degree + 1
        )  # (rows of the size, rows that count)
        self.register_buffer(
            "share",
            (among.T / channels).contiguous().to(torch.get_default_dtype()),
            persistent=False,
        )
        self.register_buffer("degree", degree, persistent=False)
        self.register_buffer(
            "first", torch.eye(num_rows(lmax), 1, dtype=torch.get_default_dtype()), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        x = x - self.first * x[:, :1].mean(-1, keepdim=True)
        size = torch.linalg.vecdot(x, x) @ self.share  # (nodes, rows)
        scale = (size + self.epsilon).rsqrt().unsqueeze(-1) * self.scale.index_select(
            0, self.degree
        )
        return torch.addcmul(self.first * self.shift, x, scale)

    def extra_repr(self) -> str:
        return self.kind
