"""The far field's sum by plane waves over the directions of a quadrature rule.

    j_l(kappa r) Y_lm(r^) = Re i^-l <Y_lm(u) exp(i kappa u.r)>_u
        ~ Re i^-l sum_s w_s Y_lm(u_s) exp(i kappa u_s.r_i) exp(-i kappa u_s.r_j)

(the separable form of E2Former-FMM). Formula of the sum: ``expansion.py``; rules of directions u_s
with weights w_s: ``models/so3/quadrature.py``. The real part only needs degrees of the wave that
are even or odd together with l, so one of each pair u, -u of an antipodal rule, with twice the
weight, does the same. Each such direction and each kappa has two moments: cosine and sine.

Error law. With ``e_(lm, LM) = sum_s w_s Y_lm Y_LM - delta / (2 l + 1)`` of the rule, the mean
square error over all directions of r is

    sum_m <error^2> = sum_L (2 L + 1) j_L(kappa r)^2 A_l(L),
    A_l(L) = sum_mM e_(lm, LM)^2,      l + L even,

where a rule of degree p has A_l(L) = 0 for l + L <= p: what remains are waves of degree L > p - l,
small once L > kappa r. The number of directions is the smallest that keeps the error within the
tolerance of the kernel for every l <= lmax, both as root mean squares over pairs of points on the
sphere of radius R, like the truncation in ``addition_theorem.py``. Nearer pairs have smaller
errors, opposite points of the sphere a few times larger ones. Inside R the sum turns with the atoms
up to that error; far beyond, equivariance is lost. For kappa R << 1 a kernel of degree l is a
difference of nearly equal waves: float32 loses (2 l + 1)!! / (kappa r)^l roundings of it.

Cost: moments and their read-back, ``models/kernels/moments.py``, with about (p + 1)^2 / 3 moments
for each kappa (lebedev), p = X + 4 X^(1/3) + 5 and X = 2 kappa R at a tolerance of 1e-5.
"""

from __future__ import annotations

import functools
import warnings
from bisect import bisect_left

import numpy as np
import torch
from torch import Tensor

from farfield.models.far_field.expansion import (
    EXPANSIONS,
    Expansion,
    ExpansionOptions,
    RadiusGuard,
)
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from farfield.models.kernels.moments import MomentReadout
from farfield.models.kernels.node_chunks import Scratch
from farfield.models.kernels.target_factors import TargetFactors
from farfield.models.so3.bessel import spherical_bessel
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows, table
from farfield.models.so3.quadrature import RULES, half

LARGEST_SIZE = 100.0  # kappa x radius; a larger graph is quoted the error of this size
MAX_LAW_ELEMENTS = 2**22  # elements of a temporary of the error law


def _highest_degree(size: float) -> int:
    """Degree of the last wave that matters at distances up to 2 radii; size: kappa x radius."""
    return int(2 * size + 8 * (2 * size + 1) ** (1 / 3)) + 16


@functools.lru_cache(maxsize=512)
def _aliasing(rule: str, count: int, lmax: int, top: int) -> np.ndarray:
    """A_l(L) of the text above for l <= lmax and L <= top: (lmax + 1, top + 1)."""
    directions, weights = (torch.from_numpy(part) for part in half(RULES[rule].sized(count)))
    rows = num_rows(lmax)

    # e_(lm, LM) = sum_s w_s Y_lm Y_LM - delta / (2 l + 1), a few directions at a time.
    errors = torch.zeros(rows, num_rows(top), dtype=torch.float64)
    step = max(1, MAX_LAW_ELEMENTS // num_rows(top))
    for part, weight in zip(directions.split(step), weights.split(step), strict=True):
        waves = spherical_harmonics(part, top)
        errors += (waves[:, :rows] * weight[:, None]).T @ waves
    errors -= torch.eye(*errors.shape, dtype=torch.float64) / (2 * degree_of_row(lmax)[:, None] + 1)

    # Sums of squares over M, then over m: degree l starts at row l^2.
    squares = np.add.reduceat(errors.numpy() ** 2, np.arange(top + 1) ** 2, 1)
    squares = np.add.reduceat(squares, np.arange(lmax + 1) ** 2, 0)
    same_parity = (np.arange(lmax + 1)[:, None] + np.arange(top + 1)) % 2 == 0
    return squares * same_parity


@functools.lru_cache(maxsize=4096)
def direction_error(rule: str, count: int, size: float, lmax: int) -> float:
    """Error of ``count`` directions relative to the kernel, of the worst degree <= lmax.

    size: kappa x radius. Beyond ``LARGEST_SIZE`` no number of directions is of use, and the error
    there is returned.
    """
    size = min(size, LARGEST_SIZE)
    top = _highest_degree(size)

    # Pairs of points on a sphere: (distance / diameter)^2 is uniform in 0 .. 1.
    nodes, weights = np.polynomial.legendre.leggauss(int(size) + 16)
    distances = 2 * size * np.sqrt((nodes + 1) / 2)
    waves = weights / 2 @ spherical_bessel(torch.from_numpy(distances), top).numpy() ** 2

    spurious = _aliasing(rule, count, lmax, top) @ (waves * (2 * np.arange(top + 1) + 1))
    return float(np.sqrt((spurious / waves[: lmax + 1]).max()))


@functools.lru_cache(maxsize=1024)
def directions_for(rule: str, size: float, tolerance: float, lmax: int) -> int:
    """Smallest number of directions of ``rule`` with an error within ``tolerance``.

    size: kappa x radius. Raises ValueError if no rule of this kind is fine enough.
    """
    if size > LARGEST_SIZE:
        raise ValueError(
            f"plane waves need kappa x design_radius <= {LARGEST_SIZE:g}, got {size:.4g}; choose "
            "a smaller design_radius or 'multipole'"
        )

    # Errors fall with the number of directions, so the first good one is found by bisection.
    degrees = [degree for degree in RULES[rule].degrees if degree <= _highest_degree(size)]
    counts = [RULES[rule].count(degree) for degree in degrees]
    found = bisect_left(
        counts, True, key=lambda count: direction_error(rule, count, size, lmax) <= tolerance
    )
    if found == len(counts):
        raise ValueError(
            f"no {rule} rule of up to {counts[-1]} directions keeps degrees <= {lmax} within "
            f"tolerance {tolerance:g} at kappa x design_radius = {size:.3g}; choose another rule, "
            "a larger tolerance or 'multipole'"
        )
    return counts[found]


@table
def _wave_tables(
    rule: str,
    directions: tuple[int, ...],
    wave_numbers: tuple[float, ...],
    lmax: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Wave vectors kappa u of all kappas, (3, waves), and the factors of their moments.

    Factors (rows, 2 waves) are w Y_lm(u) with the sign that i^-l leaves to cosines and sines.
    """
    vectors, factors = [], []
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)[degree_of_row(lmax) % 4]
    for kappa, count in zip(wave_numbers, directions, strict=True):
        units, weights = (torch.from_numpy(part) for part in half(RULES[rule].sized(count)))
        vectors.append(kappa * units.T)
        factors.append((spherical_harmonics(units, lmax) * weights[:, None] * sign).T)

    vectors = torch.cat(vectors, 1)
    factors = torch.cat(factors, 1).repeat(1, 2)  # cosines, then sines
    return vectors.to(device, dtype), factors.to(device, dtype)


class CrossedFactors(TargetFactors):
    """Target factors made of an atom's cosines and sines, (nodes, moments).

    Even degrees take them as they are, odd degrees take (sines, -cosines). With the cosines and
    sines of a source they make the cosine and the sine of the difference of the phases.
    """

    def __init__(self, degree: Tensor):
        self.odd = degree % 2  # (rows,)

    def shape(self, rows: int, moments: int) -> tuple[int, ...]:
        """One node gives its cosines and sines."""
        return (moments,)

    def spread(self, given: Tensor, scratch: Scratch) -> Tensor:
        """Factors (nodes, rows, moments) of ``given`` (nodes, moments)."""
        cosine, sine = given.chunk(2, 1)
        both = torch.stack([given, torch.cat([sine, -cosine], 1)], 1)  # (nodes, 2, moments)
        out = scratch("factors", given.shape[0], self.odd.shape[0], given.shape[1])
        return torch.index_select(both, 1, self.odd, out=out)

    def collect(self, factors: Tensor, scratch: Scratch) -> Tensor:
        """Gradient by the factors -> gradient by cosines and sines."""
        even = factors[:, self.odd == 0].sum(1)
        odd = factors[:, self.odd == 1].sum(1)
        of_sine, of_cosine = odd.chunk(2, 1)
        return even + torch.cat([-of_cosine, of_sine], 1)


@EXPANSIONS.register("planewave")
class PlaneWaveExpansion(Expansion):
    """Plane waves about each graph's centroid: linear cost, equivariant up to the error above.

    ``options.rule`` names the kind of directions. Each kappa gets the smallest number of them that
    keeps every kernel within ``options.tolerance`` in a ball of ``options.design_radius``. With
    ``options.directions`` all kappas get that number, and one warning quotes the error to expect.
    Raises ValueError if no rule of the kind is fine enough.

    Attributes: ``directions``, the number of directions of each kappa (of the whole rule);
    ``moments``, the number of real moments of one graph, head, feature and value.
    """

    largest_size = 50.0

    def __init__(
        self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None
    ):
        super().__init__(wave_numbers, lmax, options)
        options = self.options
        if options.directions is None:
            self.directions = tuple(
                directions_for(options.rule, kappa * options.design_radius, options.tolerance, lmax)
                for kappa in wave_numbers
            )
        else:
            self.directions = (options.directions,) * len(wave_numbers)

        # Where the coefficients of the kernel meet the moments: l of each row, q of each moment.
        used = [len(half(RULES[options.rule].sized(count)).weights) for count in self.directions]
        self.moments = 2 * sum(used)
        self.readout = MomentReadout(options.budget)
        kappa_of_wave = torch.arange(len(used)).repeat_interleave(torch.tensor(used))
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)
        self.register_buffer("kappa_of_moment", kappa_of_wave.repeat(2), persistent=False)

        promised = options.tolerance
        if options.directions is not None:
            error = self.expected_error(options.design_radius)
            promised = max(promised, error)
            warnings.warn(
                f"{options.directions} directions of rule {options.rule!r} for every kappa: the "
                f"far field's error may reach {error:.1e} at design_radius "
                f"{options.design_radius:g}",
                stacklevel=2,
            )
        self.guard = RadiusGuard(options.design_radius, promised)

    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
        cell: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Expansion.forward`; refuses cells."""
        self.check_cell(graph, cell)
        centred = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
        self.guard.check(centred.square().sum(-1), self.expected_error)

        settings = self.options.rule, self.directions, self.wave_numbers, self.lmax
        vectors, factors = _wave_tables(*settings, positions.dtype, positions.device)
        phases = centred @ vectors
        waves = torch.cat([phases.cos(), phases.sin()], 1)  # (nodes, moments)
        moments = self.readout(graph, waves, keys, values)

        scale = coefficients.index_select(0, self.degree).index_select(2, self.kappa_of_moment)
        scale = scale.transpose(0, 1) * factors  # (heads, rows, moments)
        target_factors = CrossedFactors(self.degree)
        return self.readout.read_back(graph, waves, scale, queries, moments, target_factors)

    def expected_error(self, radius: float) -> float:
        """Error in a ball of ``radius`` Angstrom by the law above, of the worst kappa."""
        errors = [
            direction_error(self.options.rule, count, kappa * radius, self.lmax)
            for kappa, count in zip(self.wave_numbers, self.directions, strict=True)
        ]
        return max(errors)

    def extra_repr(self) -> str:
        return (
            f"lmax={self.lmax}, rule={self.options.rule}, directions={self.directions}, "
            f"moments={self.moments}"
        )
