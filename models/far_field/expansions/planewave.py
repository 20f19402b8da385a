"""The far field's sum by plane waves over directions of a quadrature rule. Call: ``expansions.py``;
rules: ``quadrature.py``.

    j_l(kappa r) Y_lm(r^) = Re i^-l <Y_lm(u) exp(i kappa u.r)>_u
        ~ Re i^-l sum_s w_s Y_lm(u_s) exp(i kappa u_s.r_i) exp(-i kappa u_s.r_j)

(the separable form of E2Former-FMM). The real part needs degrees of the wave that are even with l
only, so one of each pair u, -u of an antipodal rule with twice the weight does the same: two
moments, cosine and sine, for each of these directions and each kappa.

Error law. With ``e_(lm, LM) = sum_s w_s Y_lm Y_LM - delta / (2 l + 1)`` of the rule, the mean
square error over all directions of r is

    sum_m <error^2> = sum_L (2 L + 1) j_L(kappa r)^2 A_l(L),
    A_l(L) = sum_mM e_(lm, LM)^2,      l + L even,

where a rule of degree p has A_l(L) = 0 for l + L <= p: what remains are waves of degree L > p - l,
small once L > kappa r. The number of directions is the smallest that keeps the error within the
tolerance of the kernel for every l <= lmax, both as root mean squares over pairs of points on the
sphere of radius R, like the truncation of ``waves.py``; nearer pairs have smaller errors, opposite
points of the sphere a few times larger ones. Inside R the sum turns with the atoms up to that
error; far beyond, equivariance is lost. For kappa R << 1 a kernel of degree l is a difference of
nearly equal waves: float32 loses (2 l + 1)!! / (kappa r)^l roundings of it.

Cost: that of moments and read-back, ``readout.py``, with about (p + 1)^2 / 3 moments for each kappa
(lebedev), p = X + 4 X^(1/3) + 5 and X = 2 kappa R at a tolerance of 1e-5.
"""

from __future__ import annotations

import functools
import warnings
from bisect import bisect_left

import numpy as np
import torch
from torch import Tensor, nn

from farfield.models.far_field.expansion import ExpansionOptions, RadiusGuard, refuse_cell
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from farfield.models.kernels.moments import MomentReadout
from farfield.models.kernels.node_chunks import Scratch
from farfield.models.kernels.target_factors import TargetFactors
from farfield.models.so3.bessel import spherical_bessel
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows, table
from farfield.models.so3.quadrature import RULES, half

LARGEST_SIZE = 100.0  # kappa x radius; larger graphs are said to have the error of this size
PIECE = 2**22  # numbers in a temporary of the error law


def _highest_degree(size: float) -> int:
    """Degree beyond which waves do not matter up to distances of 2 radii, for ``size = kappa x
    radius``.
    """
    return int(2 * size + 8 * (2 * size + 1) ** (1 / 3)) + 16


@functools.lru_cache(maxsize=512)
def _aliasing(rule: str, count: int, lmax: int, top: int) -> np.ndarray:
    """A_l(L) of the module's doc string for l <= lmax and L <= top: (lmax + 1, top + 1)."""
    directions, weights = (torch.from_numpy(part) for part in half(RULES[rule].sized(count)))
    rows, step = num_rows(lmax), max(1, PIECE // num_rows(top))
    errors = torch.zeros(rows, num_rows(top), dtype=torch.float64)
    for part, weight in zip(directions.split(step), weights.split(step), strict=True):
        waves = spherical_harmonics(part, top)
        errors += (waves[:, :rows] * weight[:, None]).T @ waves
    errors -= torch.eye(*errors.shape, dtype=torch.float64) / (2 * degree_of_row(lmax)[:, None] + 1)
    squares = np.add.reduceat(
        np.add.reduceat(errors.numpy() ** 2, np.arange(top + 1) ** 2, 1),
        np.arange(lmax + 1) ** 2,
        0,
    )
    return squares * ((np.arange(lmax + 1)[:, None] + np.arange(top + 1)) % 2 == 0)


@functools.lru_cache(maxsize=4096)
def direction_error(rule: str, count: int, size: float, lmax: int) -> float:
    """Error to expect of ``count`` directions, relative to the kernel, for ``size = kappa x
    radius``: the worst degree <= lmax.

    The law of the module's doc string; beyond ``LARGEST_SIZE``, where it is past all use, its value
    there.
    """
    size = min(size, LARGEST_SIZE)
    top = _highest_degree(size)
    nodes, weights = np.polynomial.legendre.leggauss(
        int(size) + 16
    )  # pairs on a sphere: (distance / diameter)^2 is uniform
    distances = 2 * size * np.sqrt((nodes + 1) / 2)
    waves = weights / 2 @ spherical_bessel(torch.from_numpy(distances), top).numpy() ** 2
    spurious = _aliasing(rule, count, lmax, top) @ (waves * (2 * np.arange(top + 1) + 1))
    return float(np.sqrt((spurious / waves[: lmax + 1]).max()))


@functools.lru_cache(maxsize=1024)
def directions_for(rule: str, size: float, tolerance: float, lmax: int) -> int:
    """Smallest number of directions within ``tolerance`` for ``size = kappa x radius``; ValueError
    if the kind of rule has none.
    """
    if size > LARGEST_SIZE:
        raise ValueError(
            f"plane waves need kappa x design_radius <= {LARGEST_SIZE:g}, got {size:.4g}; choose "
            "a smaller design_radius or 'multipole'"
        )
    counts = [
        RULES[rule].count(degree)
        for degree in RULES[rule].degrees
        if degree <= _highest_degree(size)
    ]
    found = bisect_left(
        counts, True, key=lambda count: direction_error(rule, count, size, lmax) <= tolerance
    )
    if found == len(counts):
        raise ValueError(
            f"no {rule} rule of up to {counts[-1]} directions keeps degrees <= {lmax} within "
            f"tolerance {tolerance:g} at kappa x "
            f"design_radius = {size:.3g}; choose another rule, a larger tolerance or 'multipole'"
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
    """Wave vectors of all kappas (3, waves) and what i^-l w Y_lm leaves to cosines and sines:
    (rows, 2 waves).
    """
    vectors, factors = [], []
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)[degree_of_row(lmax) % 4]
    for kappa, count in zip(wave_numbers, directions, strict=True):
        units, weights = (torch.from_numpy(part) for part in half(RULES[rule].sized(count)))
        vectors.append(kappa * units.T)
        factors.append((spherical_harmonics(units, lmax) * weights[:, None] * sign).T)
    return torch.cat(vectors, 1).to(device, dtype), torch.cat(factors, 1).repeat(1, 2).to(
        device, dtype
    )


class CrossedFactors(TargetFactors):
    """Of an atom's cosines and sines, (nodes, moments): themselves for even degrees, sines and
    -cosines for odd ones.

    With the cosines and sines of a source they make the cosine and the sine of the difference.
    """

    def __init__(self, degree: Tensor):
        self.odd = degree % 2

    def shape(self, rows: int, moments: int) -> tuple[int, ...]:
        return (moments,)

    def spread(self, given: Tensor, scratch: Scratch) -> Tensor:
        cosine, sine = given.chunk(2, 1)
        both = torch.stack([given, torch.cat([sine, -cosine], 1)], 1)
        return torch.index_select(
            both,
            1,
            self.odd,
            out=scratch("factors", given.shape[0], self.odd.shape[0], given.shape[1]),
        )

    def collect(self, factors: Tensor, scratch: Scratch) -> Tensor:
        even, odd = (factors[:, self.odd == parity].sum(1) for parity in (0, 1))
        of_sine, of_cosine = odd.chunk(2, 1)
        return even + torch.cat([-of_cosine, of_sine], 1)


class PlaneWaveExpansion(nn.Module):
    """Plane waves about each graph's centroid: linear cost, equivariant up to the error of the rule
    (law above).

    ``options.rule``: kind of directions; their number for each kappa is the smallest that keeps
    every kernel within ``tolerance`` in a ball of ``design_radius``, or ``options.directions`` for
    all, and then one warning quotes the error to expect. ``directions``: numbers of the whole
    rules; ``moments``: the real moments in total. Raises ValueError if no rule of the kind is fine
    enough.
    """

    def __init__(
        self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None
    ):
        super().__init__()
        options = options or ExpansionOptions()
        self.wave_numbers, self.lmax, self.options = tuple(wave_numbers), lmax, options
        sizes = [kappa * options.design_radius for kappa in wave_numbers]
        if options.directions is None:
            self.directions = tuple(
                directions_for(options.rule, size, options.tolerance, lmax) for size in sizes
            )
        else:
            self.directions = (options.directions,) * len(sizes)
        used = [len(half(RULES[options.rule].sized(count)).weights) for count in self.directions]
        self.moments = 2 * sum(used)
        self.readout = MomentReadout(options.budget)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)
        self.register_buffer(
            "kappa_of_moment",
            torch.arange(len(used)).repeat_interleave(torch.tensor(used)).repeat(2),
            persistent=False,
        )
        promised = options.tolerance
        if options.directions is not None:
            promised = max(promised, self.expected_error(options.design_radius))
            warnings.warn(
                f"{options.directions} directions of rule {options.rule!r} for every kappa: the "
                "far field's error may reach "
                f"{self.expected_error(options.design_radius):.1e} at design_radius "
                f"{options.design_radius:g}",
                stacklevel=2,
            )
        self.guard = RadiusGuard(options.design_radius, promised)

    def expected_error(self, radius: float) -> float:
        """Error relative to the kernel, of the worst kappa and degree, in a ball of ``radius``
        Angstrom.
        """
        each = zip(self.wave_numbers, self.directions, strict=True)
        return max(
            direction_error(self.options.rule, count, kappa * radius, self.lmax)
            for kappa, count in each
        )

    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
        cell=None,
    ) -> Tensor:
        """The sum of ``expansions.py``; shapes as there. Raises ValueError for periodic cells."""
        refuse_cell("planewave", cell)
        centred = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
        self.guard.check(centred.square().sum(-1), self.expected_error)
        settings = self.options.rule, self.directions, self.wave_numbers, self.lmax
        vectors, factors = _wave_tables(*settings, positions.dtype, positions.device)
        phases = centred @ vectors
        waves = torch.cat([phases.cos(), phases.sin()], 1)
        moments = self.readout(graph, waves, keys, values)
        scale = (
            coefficients.index_select(0, self.degree)
            .index_select(2, self.kappa_of_moment)
            .transpose(0, 1)
            * factors
        )
        return self.readout.read_back(
            graph, waves, scale, queries, moments, CrossedFactors(self.degree)
        )

    def extra_repr(self) -> str:
        return (
            f"lmax={self.lmax}, rule={self.options.rule}, directions={self.directions}, "
            f"moments={self.moments}"
        )
