"""Radial functions of the far field as mixtures of spherical Bessel functions.

    f_lh(r) = sum_q a_lhq j_l(kappa_q r),      l the degree of the kernel, h the head.

Each term is a standing wave, and therefore a kernel between two atoms can be written as a sum of
(target factor) x (source factor); see ``expansion.py``.

The nodes kappa_q are Gauss-Legendre nodes of (kappa_min, kappa_max], kappa_min = 0 by default, or
the uniform grid of the original E2Former-FMM. With Gauss-Legendre weights w_q, b the low-kappa
bias, and ``s^2 = 2 b / kappa_max^2``, the coefficients start as

    a_lq = gain init_scale (kappa_q / kappa_max)^l
           w_q exp(-kappa_q^2 s^2 / 2) / sum_q' w_q' exp(-kappa_q'^2 s^2 / 2),

a quadrature of a smoothed Coulomb kernel: ``f_0 ~ erf(r / (sqrt(2) s)) / r`` as long as the nodes
resolve r (spacing < pi / r), and ``f_l`` has the tail of its derivatives, ``1 / r^(l + 1)``. The
uniform grid starts as the original does, with the same coefficients for all l, which fall as
``exp(-b (kappa - kappa_min) / (kappa_max - kappa_min))``. It is a narrow band and cannot represent
long tails.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from farfield.models.choices import Registry


class TableMode(NamedTuple):
    """Which of degree and head have coefficients of their own."""

    per_degree: bool
    per_head: bool


MODES: Registry[TableMode] = Registry("mode of the radial coefficients")
MODES.register("per_l_head")(TableMode(per_degree=True, per_head=True))
MODES.register("per_l_shared")(TableMode(per_degree=True, per_head=False))
MODES.register("head")(TableMode(per_degree=False, per_head=True))
MODES.register("shared")(TableMode(per_degree=False, per_head=False))


class KappaGrid(NamedTuple):
    """Wave numbers ``kappa`` (Q,), the ``weights`` (Q,) that coefficients start with up to a
    factor, and ``power``: degree l multiplies them by ``(kappa / kappa_max)^(power l)``.
    """

    kappa: np.ndarray
    weights: np.ndarray
    power: float


KAPPA_GRIDS: Registry[Callable[[RadialOptions], KappaGrid]] = Registry("grid of wave numbers")


@KAPPA_GRIDS.register("gauss_legendre")
def gauss_legendre_nodes(options: RadialOptions) -> KappaGrid:
    """Gauss-Legendre nodes of (kappa_min, kappa_max] with Coulomb-like weights."""
    nodes, weights = np.polynomial.legendre.leggauss(options.fmm_num_kappa)
    width = options.fmm_kappa_max - options.fmm_kappa_min
    kappa = options.fmm_kappa_min + width * (nodes + 1) / 2
    falling = np.exp(-options.fmm_radial_low_kappa_bias * (kappa / options.fmm_kappa_max) ** 2)
    return KappaGrid(kappa, weights * falling, power=1.0)


@KAPPA_GRIDS.register("uniform")
def uniform_nodes(options: RadialOptions) -> KappaGrid:
    """The original grid with its falling weights, the same for all degrees."""
    position = np.linspace(0, 1, options.fmm_num_kappa)
    kappa = options.fmm_kappa_min + (options.fmm_kappa_max - options.fmm_kappa_min) * position
    return KappaGrid(kappa, np.exp(-options.fmm_radial_low_kappa_bias * position), power=0.0)


@dataclasses.dataclass(frozen=True)
class RadialOptions:
    """Choices of a :class:`RadialSpectrum`; wave numbers in 1 / Angstrom (or 1 / length unit of the
    positions).

    fmm_kappa_grid: name in ``KAPPA_GRIDS``. fmm_radial_coeffs_mode: name in ``MODES``: which of
    degree and head have tables of their own. Raises ValueError in one line for values out of range.
    """

    fmm_num_kappa: Annotated[int, "standing waves in a radial function of the far field"] = 8
    fmm_kappa_min: Annotated[float, "their smallest wave number, 1/Angstrom"] = 0.0
    fmm_kappa_max: Annotated[float, "their largest wave number, 1/Angstrom"] = 0.8
    fmm_kappa_grid: Annotated[str, "where between the two they lie", KAPPA_GRIDS] = "gauss_legendre"
    fmm_learnable_radial_coeffs: Annotated[bool, "learn the radial functions"] = True
    fmm_radial_coeffs_mode: Annotated[
        str, "which of degree and head have radial functions of their own", MODES
    ] = "per_l_head"
    fmm_radial_init_scale: Annotated[float, "size of the radial functions at the start"] = 0.05
    fmm_radial_low_kappa_bias: Annotated[float, "how much they start with long waves"] = 2.0

    def __post_init__(self):
        if self.fmm_num_kappa < 1:
            raise ValueError(f"fmm_num_kappa must be >= 1, got {self.fmm_num_kappa}")
        if not (math.isfinite(self.fmm_kappa_max) and self.fmm_kappa_max > 0):
            raise ValueError(
                f"fmm_kappa_max must be > 0 and finite (1 / Angstrom), got {self.fmm_kappa_max}"
            )
        if not 0 <= self.fmm_kappa_min < self.fmm_kappa_max:
            raise ValueError(
                f"fmm_kappa_min must be in 0 .. fmm_kappa_max = {self.fmm_kappa_max}, got "
                f"{self.fmm_kappa_min}"
            )
        for name, known in (("fmm_kappa_grid", KAPPA_GRIDS), ("fmm_radial_coeffs_mode", MODES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )


class RadialSpectrum(nn.Module):
    """Wave numbers kappa_q and learned coefficients a[l, head, q] of the radial functions.

    lmax: highest degree of the kernel. Attributes: ``wave_numbers``, a tuple of Q floats;
    ``table``, the coefficients that degrees and heads share or own; ``gain`` (heads,), a factor of
    each head. ``table`` is a parameter if it is learnable, otherwise a buffer.
    """

    def __init__(self, lmax: int, heads: int, options: RadialOptions | None = None):
        super().__init__()
        options = options or RadialOptions()
        self.lmax, self.heads, self.options = lmax, heads, options
        grid = KAPPA_GRIDS[options.fmm_kappa_grid](options)
        self.wave_numbers = tuple(float(kappa) for kappa in grid.kappa)

        # Every table starts with the same coefficients: (degrees or 1, heads or 1, Q).
        start = options.fmm_radial_init_scale * grid.weights / grid.weights.sum()
        start = torch.tensor(start).to(torch.get_default_dtype())
        mode = MODES[options.fmm_radial_coeffs_mode]
        degrees = lmax + 1 if mode.per_degree else 1
        table = start.repeat(degrees, heads if mode.per_head else 1, 1)

        self.gain = nn.Parameter(torch.ones(heads))
        if options.fmm_learnable_radial_coeffs:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)

        # (kappa / kappa_max)^l stays outside the table, as a fixed factor: (lmax + 1, 1, Q).
        exponents = grid.power * np.arange(lmax + 1)[:, None]
        powers = torch.tensor((grid.kappa[None, :] / options.fmm_kappa_max) ** exponents)
        self.register_buffer("powers", powers.to(start.dtype)[:, None], persistent=False)

    def forward(self) -> Tensor:
        """Coefficients (lmax + 1, heads, Q)."""
        return (self.table * self.powers) * self.gain[:, None]

    def extra_repr(self) -> str:
        first, last = self.wave_numbers[0], self.wave_numbers[-1]
        return f"lmax={self.lmax}, heads={self.heads}, kappa={first:.3g} .. {last:.3g}"
