"""Radial functions of the far field as smooth functions of the wave number.

    f_lh(r) = int_0^inf a_lh(kappa) j_l(kappa r) dkappa,       l the degree, h the head.

The density a is a Gaussian times a polynomial of few learned coefficients c. With ``u = kappa s``
and the Laguerre polynomials ``L_n`` of order l + 1/2,

    screened    a_lh = sqrt(2 / pi) s u^(l + 2) exp(-u^2 / 2) sum_n c_lhn (-1)^n L_n(u^2)
    coulomb     a_lh = (2 / pi) s u^l           exp(-u^2 / 2) sum_n c_lhn L_n(u^2)

The first has a closed form, the functions of the harmonic oscillator,

    f_lh(r) = (r / s)^l exp(-r^2 / 2 s^2) sum_n c_lhn L_n(r^2 / s^2),

which falls faster than any power: pieces of a system that are far apart do not hear each other. s
is such that every function has fallen to ``EDGE`` of its largest value at the option ``range``. The
second has a tail ``1 / r^(l + 1)``, so messages depend on everything at any distance, and an energy
read from them is not extensive.

Expansions in standing waves read a density at Gauss-Legendre nodes, as many as the extent of each
structure needs (:func:`wave_nodes`), so that no structure sees the sum of too few waves revive.

Source: oscillator functions and their transforms, e.g. Kaufmann & Baumeister, J. Phys. B 22, 1
(1989). Cost: one exponential and a short polynomial for a value.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import math
from bisect import bisect_left
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from farfield.models.kernels.pair_sum import gaussian_powers
from farfield.models.so3.bessel import spherical_bessel

EDGE = 1e-2  # of the largest value of a screened function, left at its range
BAND_EDGE = 1e-6  # of the largest value of a density, left at kappa_max
START_WIDTH = 1.5  # width of the first screened kernel in units of s
MAX_TERMS = 8  # powers of more terms lose the digits of float32


@functools.cache
def _reach(terms: int, lmax: int, power: int, level: float) -> float:
    """Smallest x beyond which ``x^(l + power) L_n(x^2) exp(-x^2 / 2)`` stays below ``level``.

    Of its largest value, for all l <= lmax and n < terms.
    """
    x = np.linspace(0, 20, 40001)
    edge = 0.0
    for l in range(lmax + 1):
        envelope = x ** (l + power) * np.exp(-(x**2) / 2)
        for values in np.abs(envelope * _laguerre(terms, l, x**2)):
            edge = max(edge, x[np.flatnonzero(values > level * values.max())[-1]])
    return float(edge)


@functools.cache
def _laguerre_coefficients(terms: int, lmax: int) -> Tensor:
    """Coefficients of x^p in ``L_n^(l + 1/2)(x)``, float64: (l, n, p).

    ``(-1)^p Gamma(n + l + 3/2) / (p! (n - p)! Gamma(p + l + 3/2))``.
    """
    table = torch.zeros(lmax + 1, terms, terms, dtype=torch.float64)
    for l, n in itertools.product(range(lmax + 1), range(terms)):
        for p in range(n + 1):
            below = math.factorial(p) * math.factorial(n - p) * math.gamma(p + l + 1.5)
            table[l, n, p] = (-1) ** p * math.gamma(n + l + 1.5) / below
    return table


def _laguerre(terms: int, l: int, x: np.ndarray) -> np.ndarray:
    """``L_n^(l + 1/2)`` of x (points,), n < terms: (terms, points)."""
    powers = x ** np.arange(terms)[:, None]
    return _laguerre_coefficients(terms, l)[l].numpy() @ powers


@dataclasses.dataclass(frozen=True)
class SpectralShape(abc.ABC):
    """A family of densities; its coefficients c (lmax + 1, heads, terms) come with every call.

    lmax: highest degree of the kernel. terms: coefficients of a function. range: Angstrom.
    """

    lmax: int
    terms: int
    range: float

    power: ClassVar[int]
    """Power of u in the density of degree 0."""
    factor: ClassVar[float]
    """Number in front of the density."""
    alternating: ClassVar[bool]
    """Whether the sign of the density changes from one n to the next."""

    @functools.cached_property
    def scale(self) -> float:
        """s, Angstrom."""
        return self.range / _reach(self.terms, self.lmax, 0, EDGE)

    @functools.cached_property
    def kappa_max(self) -> float:
        """Wave number above which densities are below ``BAND_EDGE``, 1 / Angstrom."""
        return _reach(self.terms, self.lmax, self.power, BAND_EDGE) / self.scale

    @property
    @abc.abstractmethod
    def reach(self) -> float:
        """Distance beyond which the kernel is below ``BAND_EDGE``, Angstrom; inf for a tail."""

    @abc.abstractmethod
    def start(self) -> np.ndarray:
        """Coefficients at the start, (lmax + 1, terms)."""

    def density(self, kappa: Tensor, coefficients: Tensor) -> Tensor:
        """``a_lh(kappa)`` of kappa (...), 1 / Angstrom: (lmax + 1, heads, ...)."""
        return self._gaussian(kappa, coefficients, self.power) * (self.factor * self.scale)

    def transform(self, kappa: Tensor, coefficients: Tensor) -> Tensor:
        """``g_lh = 2 pi^2 a_lh / kappa^2``: (lmax + 1, heads, ...).

        ``(-i)^l g_lh(k) Y_lm(k^)`` is the Fourier transform of ``f_lh(r) Y_lm(r^)``.
        """
        factor = 2 * math.pi**2 * self.factor * self.scale**3
        return self._gaussian(kappa, coefficients, self.power - 2) * factor

    def _gaussian(self, kappa: Tensor, coefficients: Tensor, power: int) -> Tensor:
        """``u^(l + power) exp(-u^2 / 2) sum_n (+-1)^n c_lhn L_n(u^2)``."""
        u = kappa * self.scale
        if self.alternating:
            signs = 1.0 - 2.0 * (torch.arange(self.terms, device=u.device) % 2)
            coefficients = coefficients * signs.to(coefficients)
        monomials = self.monomials(coefficients).to(u)
        polynomial = (monomials @ gaussian_powers(u.square(), self.terms)).unflatten(2, u.shape)
        powers = torch.stack([u ** (l + power) for l in range(self.lmax + 1)])
        return powers.unsqueeze(1) * polynomial

    def monomials(self, coefficients: Tensor) -> Tensor:
        """c of Laguerre polynomials -> coefficients of powers, both (lmax + 1, heads, terms)."""
        table = _laguerre_coefficients(self.terms, self.lmax)
        return coefficients @ table.to(coefficients)


@dataclasses.dataclass(frozen=True)
class ScreenedShape(SpectralShape):
    """Oscillator functions: a kernel that ends."""

    power = 2
    factor = math.sqrt(2 / math.pi)
    alternating = True

    @functools.cached_property
    def reach(self) -> float:
        return self.scale * _reach(self.terms, self.lmax, 0, BAND_EDGE)

    def radial(self, squared: Tensor, coefficients: Tensor) -> Tensor:
        """``f_lh(r) / r^l`` of r^2 (n,), Angstrom^2: (lmax + 1, heads, n)."""
        basis = gaussian_powers(squared, self.terms, self.scale)  # (terms, n)
        powers = self.powers(coefficients)
        return (powers.flatten(0, 1) @ basis).unflatten(0, powers.shape[:2])

    def powers(self, coefficients: Tensor) -> Tensor:
        """Coefficients of ``r^(2 p) exp(-r^2 / 2 s^2)`` in ``f_lh(r) / r^l``: the same shape."""
        return torch.bmm(coefficients, self._powers_of_laguerre.to(coefficients))

    @functools.cached_property
    def _powers_of_laguerre(self) -> Tensor:
        """Powers of r in ``s^-l L_n(r^2 / s^2)``, float64: (l, n, p)."""
        degree = torch.arange(self.lmax + 1, dtype=torch.float64).view(-1, 1, 1)
        lengths = self.scale ** (-degree - 2 * torch.arange(self.terms, dtype=torch.float64))
        return _laguerre_coefficients(self.terms, self.lmax) * lengths

    def start(self) -> np.ndarray:
        """``(r / s)^l exp(-r^2 / 2 w^2)`` with w = ``START_WIDTH`` s, cut off.

        f_0(0) is 1. By the generating function of the Laguerre polynomials,
        ``sum_n t^n L_n(x) = (1 - t)^(-l - 3/2) exp(-t x / (1 - t))``.
        """
        exponent = (1 - START_WIDTH**-2) / 2
        t = -exponent / (1 - exponent)
        degrees = np.arange(self.lmax + 1)[:, None]
        terms = np.arange(self.terms)
        start = (1 - t) ** (degrees + 1.5) * t**terms
        return start / (start[0] @ _laguerre(self.terms, 0, np.zeros(1)))  # f_0(0) = 1


@dataclasses.dataclass(frozen=True)
class CoulombShape(SpectralShape):
    """Multipole tails, ``1 / r^(l + 1)``, smoothed at short range."""

    power = 0
    factor = 2 / math.pi
    alternating = False
    reach = math.inf

    def start(self) -> np.ndarray:
        """``erf(r / sqrt(2) s) s / r`` and its kin."""
        first = np.zeros((self.lmax + 1, self.terms))
        first[:, 0] = 1.0
        return first


@functools.cache
def wave_nodes(
    shape: SpectralShape, radius: float, tolerance: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fewest Gauss-Legendre nodes of (0, kappa_max] for all pairs in a ball, and their weights.

    radius: of the ball, Angstrom. tolerance: largest error of a radial function at distances up to
    2 radius, relative to its largest value.
    """
    # every density is made of the first functions of its family: they are tried one by one
    distances = np.linspace(0, 2 * radius, 200)
    lmax, terms = shape.lmax, shape.terms
    every = torch.eye(terms, dtype=torch.float64).expand(lmax + 1, terms, terms)

    def functions(count: int) -> np.ndarray:
        kappa, weights = _gauss_legendre(count, shape.kappa_max)
        density = shape.density(torch.from_numpy(kappa), every).numpy() * weights
        waves = spherical_bessel(torch.from_numpy(np.outer(kappa, distances)), lmax)
        return density @ waves.permute(2, 0, 1).numpy()  # (l, terms, distances)

    # the error falls with the number of nodes, so the first good one is found by bisection
    most = 2 * int(shape.kappa_max * radius / 2) + 60
    exact = functions(most)
    allowed = tolerance * np.abs(exact).max(-1, keepdims=True)
    count = bisect_left(
        range(4, most),
        True,
        key=lambda count: bool((abs(functions(count) - exact) <= allowed).all()),
    )
    kappa, weights = _gauss_legendre(4 + count, shape.kappa_max)
    return tuple(kappa.tolist()), tuple(weights.tolist())


def _gauss_legendre(count: int, limit: float) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return limit * (nodes + 1) / 2, limit * weights / 2
