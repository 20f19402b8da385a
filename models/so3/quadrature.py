"""Quadrature on the sphere: directions u_s and weights w_s, of sum one, for the average

    <F> = (1 / 4 pi) int F(u) du ~ sum_s w_s F(u_s).

``RULES[name](degree)`` is the smallest rule of its kind that is exact for polynomials up to
``degree``, ``RULES[name].sized(S)`` the best one of S directions. Directions that degree p takes:

    lebedev           about (p + 1)^2 / 3   the fewest; octahedral symmetry; ends at p = 131
                                            (Lebedev and Laikov, Doklady Mathematics 59, 477, 1999)
    gauss_legendre    (p + 1)^2 / 2         Gauss nodes in the cosine x evenly spaced azimuths
    e3nn_grid         (p + 1)^2             evenly spaced polar angles x azimuths, the grid of
                                            e3nn's transforms
    fibonacci         never exact           equal weights on a spiral; harmonics up to p come out
                                            within ``FIBONACCI_ERROR``

The polar axis is y. A rule that holds -u with every u needs half of its directions for sums whose
terms are even, see :func:`half`. Cost: linear in the directions; scipy is imported by the first
Lebedev rule and the first half (1 s).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DEGREE_LIMIT = 301  # rules of any degree below it exist for the kinds without tables
FIBONACCI_ERROR = 1e-3
FIBONACCI_LAW = (120.0, 20.0, 0.26)  # directions: these times powers 0, 1, 2 of (degree + 1)
GOLDEN_ANGLE = math.pi * (3 - 5**0.5)


class Quadrature(NamedTuple):
    """Unit vectors (S, 3) and weights (S,), float64."""

    directions: np.ndarray
    weights: np.ndarray


class Rule:
    """A kind of rule: ``rule(degree)`` and ``rule.sized(count)`` give a :class:`Quadrature`.

    Both raise ValueError for a degree or a count that the kind does not have. degrees: those worth
    asking for; even degrees are odd grids, which have no half.
    """

    name: str
    degrees: Sequence[int] = range(1, DEGREE_LIMIT, 2)

    def count(self, degree: int) -> int:
        """Directions of ``rule(degree)``."""
        raise NotImplementedError

    def sized(self, count: int) -> Quadrature:
        """The rule of ``count`` directions."""
        raise NotImplementedError

    def __call__(self, degree: int) -> Quadrature:
        return self.sized(self.count(degree))

    def _check_degree(self, degree: int) -> None:
        if not 0 <= degree <= self.degrees[-1]:
            raise ValueError(
                f"degree of a {self.name} rule must be in 0 .. {self.degrees[-1]}, got {degree}"
            )

    def _refuse(self, count: int, nearest: int) -> None:
        raise ValueError(
            f"there is no {self.name} rule of {count} directions; the nearest has {nearest}"
        )


class Lebedev(Rule):
    """Octahedral rules; orders 13, 25 and 27 have negative weights and are left out."""

    name = "lebedev"
    degrees = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29, 31, *range(35, 132, 6))

    @functools.cached_property
    def counts(self) -> dict[int, int]:
        """Number of directions -> order of the rule."""
        return {len(_lebedev(order)[1]): order for order in self.degrees}

    def count(self, degree: int) -> int:
        """Directions of ``rule(degree)``."""
        self._check_degree(degree)
        return next(count for count, order in self.counts.items() if order >= degree)

    def sized(self, count: int) -> Quadrature:
        """The rule of ``count`` directions."""
        if count not in self.counts:
            self._refuse(count, min(self.counts, key=lambda known: abs(known - count)))
        points, weights = _lebedev(self.counts[count])
        return Quadrature(points.T.copy(), weights / weights.sum())


def _lebedev(order: int) -> tuple[np.ndarray, np.ndarray]:
    # imported here: scipy.integrate costs a third of a second, also where no rule is used
    from scipy.integrate import lebedev_rule

    return lebedev_rule(order)


class ProductRule(Rule):
    """n polar angles x m evenly spaced azimuths, exact to ``min(polar_degree(n), m - 1)``."""

    def polar(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines of n polar angles, and weights of sum one: (n,), (n,)."""
        raise NotImplementedError

    def shapes(self, count: int) -> list[tuple[int, int]]:
        """Grids (n, m) with ``count`` directions that are neither too flat nor too tall."""
        raise NotImplementedError

    def polar_degree(self, n: int) -> int:
        """Degree to which the polar angles are exact."""
        raise NotImplementedError

    def sized(self, count: int) -> Quadrature:
        """The rule of ``count`` directions."""
        shapes = self.shapes(count)
        if not shapes:
            # the nearest count that has a grid: one less, one more, two less, ...
            around = (
                max(count, 0) + sign * step for step in itertools.count(1) for sign in (-1, 1)
            )
            self._refuse(count, next(near for near in around if self.shapes(near)))

        # of all grids of this count the one that is exact to the highest degree
        n, m = max(shapes, key=lambda shape: min(self.polar_degree(shape[0]), shape[1] - 1))
        cosine, weights = self.polar(n)
        azimuth = 2 * math.pi * np.arange(m) / m
        return _on_sphere(np.repeat(cosine, m), np.tile(azimuth, n), np.repeat(weights / m, m))


class GaussLegendre(ProductRule):
    """Gauss's nodes in the cosine: n of them are exact to 2 n - 1. Shapes from n x n to n x 2 n."""

    name = "gauss_legendre"

    def polar(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines of n polar angles, and weights of sum one: (n,), (n,)."""
        nodes, weights = np.polynomial.legendre.leggauss(n)
        return nodes, weights / 2

    def polar_degree(self, n: int) -> int:
        """Degree to which the polar angles are exact."""
        return 2 * n - 1

    def shapes(self, count: int) -> list[tuple[int, int]]:
        """Grids (n, m) with ``count`` directions that are neither too flat nor too tall."""
        return [
            (n, count // n)
            for n in range(1, math.isqrt(max(count, 0)) + 1)
            if count % n == 0 and count // n <= 2 * n
        ]

    def count(self, degree: int) -> int:
        """Directions of ``rule(degree)``."""
        self._check_degree(degree)
        return (degree // 2 + 1) * (degree + 1)


class E3nnGrid(ProductRule):
    """Evenly spaced polar angles, an even number n, exact to n - 1. Shapes n x n / 2 to n x n.

    The weights (Kostelec and Rockmore, Journal of Fourier Analysis 14, 145, 2008) are made here:
    e3nn 0.6 rounds its own to float32.
    """

    name = "e3nn_grid"

    def polar(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines of n polar angles, and weights of sum one: (n,), (n,)."""
        angle = math.pi * (np.arange(n) + 0.5) / n
        odd = 2 * np.arange(n // 2) + 1
        return np.cos(angle), 2 / n * np.sin(angle) * (np.sin(np.outer(angle, odd)) / odd).sum(1)

    def polar_degree(self, n: int) -> int:
        """Degree to which the polar angles are exact."""
        return n - 1

    def shapes(self, count: int) -> list[tuple[int, int]]:
        """Grids (n, m) with ``count`` directions that are neither too flat nor too tall."""
        rows = range(2, math.isqrt(2 * max(count, 0)) + 1, 2)
        return [(n, count // n) for n in rows if count % n == 0 and count // n <= n]

    def count(self, degree: int) -> int:
        """Directions of ``rule(degree)``."""
        self._check_degree(degree)
        return 2 * (degree // 2 + 1) * (degree + 1)


class Fibonacci(Rule):
    """A spiral: equal steps in the cosine, the golden angle in azimuth, equal weights.

    It exists with any number of directions.
    """

    name = "fibonacci"

    def count(self, degree: int) -> int:
        """Directions of ``rule(degree)``."""
        self._check_degree(degree)
        terms = (factor * (degree + 1) ** power for power, factor in enumerate(FIBONACCI_LAW))
        return math.ceil(sum(terms))

    def sized(self, count: int) -> Quadrature:
        """The rule of ``count`` directions."""
        if count < 1:
            self._refuse(count, 1)
        step = np.arange(count)
        cosine = 1 - (2 * step + 1) / count
        return _on_sphere(cosine, GOLDEN_ANGLE * step, np.full(count, 1 / count))


RULES: dict[str, Rule] = {
    rule.name: rule for rule in (Lebedev(), GaussLegendre(), Fibonacci(), E3nnGrid())
}


def _on_sphere(cosine: np.ndarray, azimuth: np.ndarray, weights: np.ndarray) -> Quadrature:
    """Rule of directions with these polar cosines and azimuths, (S,) each; the polar axis is y."""
    sine = np.sqrt(1 - cosine**2)
    directions = np.stack([sine * np.sin(azimuth), cosine, sine * np.cos(azimuth)], 1)
    return Quadrature(directions, weights)


def half(rule: Quadrature) -> Quadrature:
    """One of each pair of opposite directions, with twice the weight.

    It gives the same averages of even functions, ``F(-u) = F(u)``. A rule that does not hold -u
    with every u comes back unchanged.
    """
    from scipy.spatial import KDTree

    distance, partner = KDTree(rule.directions).query(-rule.directions)
    number = np.arange(len(partner))
    paired = np.array_equal(partner[partner], number) and distance.max() < 1e-12
    if not paired or not np.allclose(rule.weights, rule.weights[partner], rtol=1e-10, atol=0):
        return rule

    kept = number < partner
    return Quadrature(rule.directions[kept], 2 * rule.weights[kept])
