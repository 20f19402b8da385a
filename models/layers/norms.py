"""Norms of equivariant features: every row times one invariant of its node.

    y_lm = gamma_l x_lm (s_l + epsilon_l)^(-1/2) + beta [l = 0],
    s_l  = sum_(l' m) A_ll' / (2 l' + 1) mean_c x_l'm^2,

after the mean over channels has been subtracted from the scalars. The norms differ in A alone,
which says the size of which degrees divides a degree:

    rms_norm_sh     A_ll' = 1 / (lmax + 1)    one size for the whole node (the publication's choice)
    layer_norm_sh   A = 1 (+) 1 / lmax        scalars by themselves, all l > 0 by their common size
                                              (EquiformerV2, sec. 3.3)
    layer_norm      A_ll' = delta_ll'         every degree by itself (Equiformer, sec. 4.1)

The scalars follow Ba et al. 2016; gamma and beta are learned for each channel. Invariants have the
norm of ``layer_norm.py``.

The epsilon inside the root keeps all derivatives finite at zero features. In a symmetric structure
(methane, an atom in a perfect crystal) features of degrees above 0 vanish, and what is left of them
is rounding. A norm makes it epsilon^(-1/2) times larger: with 1e-4, five norms turn 1e-7 into
forces of any direction. So epsilon is larger where the size of a degree has no scalars in it.

Cost: linear in the values of a feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.kernels.recomputation import recomputed, runs_again
from farfield.models.so3.irreps import degree_of_row, num_rows

SCALAR_EPSILON = 1e-4

# name -> A (lmax + 1, lmax + 1) of lmax
NORMS: Registry[Callable[[int], Tensor]] = Registry("norm")


@NORMS.register("rms_norm_sh")
def one_size(lmax: int) -> Tensor:
    """A of "rms_norm_sh": the mean over all degrees."""
    return torch.full((lmax + 1, lmax + 1), 1 / (lmax + 1))


@NORMS.register("layer_norm_sh")
def two_sizes(lmax: int) -> Tensor:
    """A of "layer_norm_sh": the scalars, and the mean over all degrees above them."""
    return torch.block_diag(torch.ones(1, 1), torch.full((lmax, lmax), 1 / max(lmax, 1)))


@NORMS.register("layer_norm")
def size_of_each_degree(lmax: int) -> Tensor:
    """A of "layer_norm": every degree alone."""
    return torch.eye(lmax + 1)


class EquivariantNorm(nn.Module):
    """One of ``NORMS`` with learned gamma and beta; ValueError for another name.

    epsilon: smoothing of degrees whose size may vanish by symmetry; ``SCALAR_EPSILON`` at most for
    those whose size has scalars in it. recompute: keep no temporaries while training.
    """

    recompute = False

    def __init__(self, kind: str, lmax: int, channels: int, epsilon: float):
        super().__init__()
        shares = NORMS.find(kind)(lmax)
        self.kind = kind
        self.scale = nn.Parameter(torch.ones(lmax + 1, channels))
        self.shift = nn.Parameter(torch.zeros(channels))

        # (rows,): the size of a degree has scalars in it, or may vanish
        vanishes = shares[:, 0] == 0
        smoothing = torch.where(vanishes, epsilon, min(epsilon, SCALAR_EPSILON))
        smoothing = smoothing[degree_of_row(lmax)].to(torch.get_default_dtype())
        self.register_buffer("smoothing", smoothing, persistent=False)

        # A / (2 l' + 1) / channels of every pair of rows: (rows that count, rows that are divided)
        degree, dtype = degree_of_row(lmax), torch.get_default_dtype()
        among = shares[degree][:, degree] / (2 * degree + 1)
        share = (among.T / channels).contiguous().to(dtype)
        self.register_buffer("share", share, persistent=False)

        self.register_buffer("degree", degree, persistent=False)
        first = torch.eye(num_rows(lmax), 1, dtype=dtype)  # (rows, 1): 1 in the row of the scalars
        self.register_buffer("first", first, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        if not runs_again(self):
            return self._divided(x, self.scale, self.shift)
        weights = (weight.view_as(weight) for weight in (self.scale, self.shift))
        return recomputed(self._divided, x, *weights)

    def _divided(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """The formula of the module for a gamma (lmax + 1, channels) and a beta (channels,)."""
        x = x - self.first * x[:, :1].mean(-1, keepdim=True)
        size = torch.linalg.vecdot(x, x) @ self.share  # (nodes, rows)
        gamma = scale.index_select(0, self.degree)
        scale = (size + self.smoothing).rsqrt().unsqueeze(-1) * gamma
        return torch.addcmul(self.first * shift, x, scale)

    def extra_repr(self) -> str:
        """Name of the norm."""
        return self.kind
