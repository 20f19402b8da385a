"""Radial functions of the far field as mixtures of spherical Bessel functions.

``f_lh(r) = sum_q a_lhq j_l(kappa_q r)``, l the degree of the kernel, h the head. Each term is a
standing wave, which is what lets a kernel between two atoms be written as a sum of (target factor)
x (source factor); see ``expansions.py``.

Nodes: Gauss-Legendre on (kappa_min, kappa_max], kappa_min = 0 by default, or the uniform grid of
the original E2Former-FMM. With weights w_q, b the low-kappa bias, and ``s^2 = 2 b / kappa_max^2``,

    a_lq = gain init_scale (kappa_q / kappa_max)^l
           w_q exp(-kappa_q^2 s^2 / 2) / sum_q' w_q' exp(-kappa_q'^2 s^2 / 2),

is a quadrature of a smoothed Coulomb kernel: ``f_0 ~ erf(r / (sqrt(2) s)) / r`` as long as the
nodes resolve r (spacing < pi / r), and ``f_l`` has the tail of its derivatives, ``1 / r^(l + 1)``.
The uniform grid starts as the original does: the same for all l, falling as ``exp(-b (kappa -
kappa_min) / (kappa_max - kappa_min))``. It is a narrow band and cannot represent long tails.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

MODES = {  # name -> (a table for every degree, a table for every head)
    "per_l_head": (True, True),
    "per_l_shared": (True, False),
    "head": (False, True),
    "shared": (False, False),
}


def gauss_legendre_nodes(options: RadialOptions) -> tuple[np.ndarray, np.ndarray, float]:
    """Nodes and Coulomb-like weights of (kappa_min, kappa_max], and the power of kappa that each
    degree adds: (Q,), (Q,), 1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(options.fmm_num_kappa)
    width = options.fmm_kappa_max - options.fmm_kappa_min
    kappa = options.fmm_kappa_min + width * (nodes + 1) / 2
    return (
        kappa,
        weights * np.exp(-options.fmm_radial_low_kappa_bias * (kappa / options.fmm_kappa_max) ** 2),
        1.0,
    )


def uniform_nodes(options: RadialOptions) -> tuple[np.ndarray, np.ndarray, float]:
    """Nodes of the original grid and its falling weights, the same for all degrees: (Q,), (Q,),
    0.
    """
    position = np.linspace(0, 1, options.fmm_num_kappa)
    kappa = options.fmm_kappa_min + (options.fmm_kappa_max - options.fmm_kappa_min) * position
    return kappa, np.exp(-options.fmm_radial_low_kappa_bias * position), 0.0


KAPPA_GRIDS = {"gauss_legendre": gauss_legendre_nodes, "uniform": uniform_nodes}


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
    """Wave numbers ``kappa`` (Q,) and coefficients ``a[l, head, q]`` of the far field's radial
    functions.

    Attributes: ``wave_numbers``, Q floats; ``gain`` (heads,) and, if learnable, ``table``
    parameters. ``forward() -> (lmax + 1, heads, Q)``.
    """

    def __init__(self, lmax: int, heads: int, options: RadialOptions | None = None):
        super().__init__()
        options = options or RadialOptions()
        self.lmax, self.heads, self.options = lmax, heads, options
        kappa, weights, power = KAPPA_GRIDS[options.fmm_kappa_grid](options)
        self.wave_numbers = tuple(float(k) for k in kappa)
        start = torch.tensor(options.fmm_radial_init_scale * weights / weights.sum()).to(
            torch.get_default_dtype()
        )
        per_degree, per_head = MODES[options.fmm_radial_coeffs_mode]
        table = start.repeat(lmax + 1 if per_degree else 1, heads if per_head else 1, 1)
        self.gain = nn.Parameter(torch.ones(heads))
        if options.fmm_learnable_radial_coeffs:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        powers = (kappa[None, :] / options.fmm_kappa_max) ** (power * np.arange(lmax + 1)[:, None])
        self.register_buffer(
            "powers", torch.tensor(powers).to(start.dtype)[:, None], persistent=False
        )

    def forward(self) -> Tensor:
        """Coefficients (lmax + 1, heads, Q)."""
        return (self.table * self.powers) * self.gain[:, None]

    def extra_repr(self) -> str:
        return (
            f"lmax={self.lmax}, heads={self.heads}, kappa={self.wave_numbers[0]:.3g} .. "
            f"{self.wave_numbers[-1]:.3g}"
        )
