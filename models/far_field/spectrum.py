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
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from farfield.models.choices import Registry, check_at_least, check_choices, check_positive
from farfield.models.far_field.expansion import Expansion, ExpansionOptions
from farfield.models.option_fields import Alias


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
    """Wave numbers and how their coefficients start.

    kappa: (Q,). weights: (Q,), up to a common factor. power: coefficients of degree l have a factor
    ``(kappa / kappa_max)^(power l)``.
    """

    kappa: np.ndarray
    weights: np.ndarray
    power: float


KAPPA_GRIDS: Registry[Callable[[SpectrumOptions], KappaGrid]] = Registry("grid of wave numbers")


@KAPPA_GRIDS.register("gauss_legendre")
def gauss_legendre_nodes(options: SpectrumOptions) -> KappaGrid:
    """Gauss-Legendre nodes of (kappa_min, kappa_max] with Coulomb-like weights."""
    nodes, weights = np.polynomial.legendre.leggauss(options.num_kappa)
    width = options.kappa_max - options.kappa_min
    kappa = options.kappa_min + width * (nodes + 1) / 2
    falling = np.exp(-options.low_kappa_bias * (kappa / options.kappa_max) ** 2)
    return KappaGrid(kappa, weights * falling, power=1.0)


@KAPPA_GRIDS.register("uniform")
def uniform_nodes(options: SpectrumOptions) -> KappaGrid:
    """The original grid with its falling weights, the same for all degrees."""
    position = np.linspace(0, 1, options.num_kappa)
    kappa = options.kappa_min + (options.kappa_max - options.kappa_min) * position
    return KappaGrid(kappa, np.exp(-options.low_kappa_bias * position), power=0.0)


@dataclasses.dataclass(frozen=True)
class SpectrumOptions:
    """Choices of a :class:`RadialSpectrum`; wave numbers in 1 / Angstrom.

    (Or in 1 / length unit of the positions.) kappa_grid: name in ``KAPPA_GRIDS``. radial_mode: name
    in ``MODES``, which of degree and head have tables of their own. Raises ValueError in one line
    for values out of range.
    """

    num_kappa: Annotated[
        int, "standing waves in a radial function of the far field", Alias("fmm_num_kappa")
    ] = 8
    kappa_min: Annotated[
        float, "smallest wave number of the far field, 1/Angstrom", Alias("fmm_kappa_min")
    ] = 0.0
    kappa_max: Annotated[
        float, "largest wave number of the far field, 1/Angstrom", Alias("fmm_kappa_max")
    ] = 1.6
    kappa_grid: Annotated[
        str, "rule that places the wave numbers", KAPPA_GRIDS, Alias("fmm_kappa_grid")
    ] = "gauss_legendre"
    learnable_radial: Annotated[
        bool, "learn the far field's radial functions", Alias("fmm_learnable_radial_coeffs")
    ] = True
    radial_mode: Annotated[
        str,
        "which of degree and head have radial functions of their own",
        MODES,
        Alias("fmm_radial_coeffs_mode"),
    ] = "per_l_head"
    radial_scale: Annotated[
        float,
        "size of the far field's radial functions at the start",
        Alias("fmm_radial_init_scale"),
    ] = 1.0
    low_kappa_bias: Annotated[
        float, "preference for long waves at the start", Alias("fmm_radial_low_kappa_bias")
    ] = 2.0

    def __post_init__(self):
        of = "of the far field"
        check_choices(self, {"kappa_grid": KAPPA_GRIDS, "radial_mode": MODES}, of)
        check_at_least(self, 1, ["num_kappa"], of)
        check_positive(self, ["kappa_max"], of)
        if not 0 <= self.kappa_min < self.kappa_max:
            raise ValueError(
                f"kappa_min {of} must be in 0 .. kappa_max = {self.kappa_max}, got {self.kappa_min}"
            )


class RadialSpectrum(nn.Module):
    """Wave numbers kappa_q and learned coefficients a[l, head, q] of the radial functions.

    lmax: highest degree of the kernel. Attributes: ``wave_numbers``, a tuple of Q floats;
    ``table``, the coefficients that degrees and heads share or own; ``gain`` (heads,), a factor of
    each head. ``table`` is a parameter if it is learnable, otherwise a buffer.
    """

    def __init__(self, lmax: int, heads: int, options: SpectrumOptions | None = None):
        super().__init__()
        options = options or SpectrumOptions()
        self.lmax, self.heads, self.options = lmax, heads, options
        grid = KAPPA_GRIDS[options.kappa_grid](options)
        self.wave_numbers = tuple(float(kappa) for kappa in grid.kappa)

        # Every table starts with the same coefficients: (degrees or 1, heads or 1, Q).
        start = options.radial_scale * grid.weights / grid.weights.sum()
        start = torch.tensor(start).to(torch.get_default_dtype())
        mode = MODES[options.radial_mode]
        degrees = lmax + 1 if mode.per_degree else 1
        table = start.repeat(degrees, heads if mode.per_head else 1, 1)

        self.gain = nn.Parameter(torch.ones(heads))
        if options.learnable_radial:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)

        # (kappa / kappa_max)^l stays outside the table, as a fixed factor: (lmax + 1, 1, Q).
        exponents = grid.power * np.arange(lmax + 1)[:, None]
        powers = torch.tensor((grid.kappa[None, :] / options.kappa_max) ** exponents)
        self.register_buffer("powers", powers.to(start.dtype)[:, None], persistent=False)

    def forward(self) -> Tensor:
        """Coefficients (lmax + 1, heads, Q)."""
        return (self.table * self.powers) * self.gain[:, None]

    def sum_by(self, make: type[Expansion], options: ExpansionOptions) -> Expansion:
        """The sum over all atoms by the expansion of class ``make``."""
        return make(self.wave_numbers, self.lmax, options)

    def extra_repr(self) -> str:
        first, last = self.wave_numbers[0], self.wave_numbers[-1]
        return f"lmax={self.lmax}, heads={self.heads}, kappa={first:.3g} .. {last:.3g}"
