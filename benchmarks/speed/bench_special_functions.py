"""Special functions of the far field: times and errors of harmonics and spherical Bessel functions.

    python -m benchmarks.speed.bench_special_functions
    python -m benchmarks.speed.bench_special_functions --vectors 20000 \\
        --json special_functions.json

Harmonics: ``Y_lm`` of all degrees to l of random vectors, float32, against e3nn (which ends at l =
11, and has no guard at zero here): forward, with gradient, and with the gradient of the gradient's
square. Bessel functions: ``j_0 .. j_l`` of x in 0 .. 32, against scipy in float64, and ``G_l`` of
x^2. All tasks of a table take turns in one process; times are medians of CPU milliseconds.

Errors are against 60 digits. Harmonics: relative to the largest component of the highest degree,
near the pole too. Bessel functions: in units of rounding, relative to ``|j_l|`` for l >= x and to
1 / x for l < x, the worst over all degrees.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_special_functions.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import functools
import math
import statistics
from collections.abc import Callable

from benchmarks import harness  # before torch: it sets the thread count

import mpmath  # isort: skip
import torch
from e3nn import o3
from scipy.special import spherical_jn
from torch import Tensor

from farfield.common.command_line import OptionParser, run_script
from farfield.models.so3.bessel import scaled_bessel, spherical_bessel
from farfield.models.so3.harmonics import spherical_harmonics

DIGITS = 60
SPARE_DIGITS = 20  # for what a recurrence loses
DEGREES = (1, 2, 3, 4, 6, 11, 20, 40)
BESSEL_DEGREES = (6, 20, 60)
LARGEST_TABULATED = 11  # degree of e3nn
ORDERS = {0: "forward", 1: "gradient", 2: "double"}
# Points of the errors: zero, small, near zeros of j_l, and beyond all degrees.
ARGUMENTS = [
    0.0,
    1e-12,
    1e-6,
    1e-3,
    0.1,
    0.7,
    1.0,
    2.5,
    4.493409457909064,
    7.0,
    12.9,
    20.0,
    29.0,
    31.9,
    46.0,
    59.0,
    61.0,
    99.9,
    1000.0,
]
COLUMNS = {
    "function": "function",
    "degree": "l",
    "forward": "forward",
    "gradient": "+ gradient",
    "double": "+ second",
    "error32": "error float32",
    "error64": "error float64",
}
DTYPES = {"error32": torch.float32, "error64": torch.float64}


def exact_harmonics(vector: Tensor, degree: int) -> Tensor:
    """``Y_lm(v / |v|)`` of one vector and one degree with 60 digits: (2 l + 1,) float64.

    From the coefficients of Legendre polynomials; y is the axis, as in e3nn.
    """
    with mpmath.workdps(DIGITS):
        x, y, z = (mpmath.mpf(float(part)) for part in vector)
        length = mpmath.sqrt(x * x + y * y + z * z)
        cosine, azimuth = y / length, mpmath.mpc(z, x) / length

        # Orders -m and m are the imaginary and the real part of one function.
        rows = [mpmath.mpf(0)] * (2 * degree + 1)
        for m in range(degree + 1):
            ratio = mpmath.factorial(degree - m) / mpmath.factorial(degree + m)
            norm = mpmath.sqrt((2 if m else 1) * ratio)
            value = norm * legendre_derivative(degree, m, cosine) * azimuth**m
            rows[degree - m], rows[degree + m] = value.imag, value.real
        return torch.tensor([float(row) for row in rows], dtype=torch.float64)


def legendre_derivative(degree: int, m: int, t: mpmath.mpf) -> mpmath.mpf:
    """The m-th derivative of the Legendre polynomial of one degree, from its coefficients."""
    total = mpmath.mpf(0)
    for k in range((degree - m) // 2 + 1):
        top = (-1) ** k * math.factorial(2 * degree - 2 * k)
        power = degree - 2 * k - m
        bottom = 2**degree * math.factorial(k) * math.factorial(degree - k) * math.factorial(power)
        total += mpmath.mpf(top) / bottom * t**power
    return total


def exact_bessel(x: float, lmax: int) -> list[mpmath.mpf]:
    """``j_0 .. j_lmax`` of x >= 0 with 60 digits.

    The two highest degrees come from cylindrical functions of half order, the others from
    ``j_(l-1) = (2 l + 1) / x j_l - j_(l+1)``: downward, rounding never grows faster than ``j``.
    """
    if x == 0:
        return [mpmath.mpf(l == 0) for l in range(lmax + 1)]
    with mpmath.workdps(DIGITS + SPARE_DIGITS):
        x = mpmath.mpf(x)
        above, here = (
            mpmath.sqrt(mpmath.pi / (2 * x)) * mpmath.besselj(l + mpmath.mpf(1) / 2, x)
            for l in (lmax + 1, lmax)
        )
        values = [here]
        for l in range(lmax, 0, -1):
            above, here = here, (2 * l + 1) / x * here - above
            values.append(here)
        return values[::-1]


def bessel_error(values: Tensor, x: float, exact: list[mpmath.mpf]) -> float:
    """Largest error of ``j_0 .. j_lmax`` (lmax + 1,) of x, in roundings of the dtype.

    A rounding is relative to ``|j_l|`` for l >= x, and to 1 / x for l < x.
    """
    limits = torch.finfo(values.dtype)
    worst = 0.0
    for l, (value, right) in enumerate(zip(values.tolist(), exact, strict=True)):
        scale = (abs(right) if l >= x else 1 / mpmath.mpf(x)) * limits.eps + limits.tiny
        worst = max(worst, float(abs(value - right) / scale))
    return worst


def tabulated(vectors: Tensor, lmax: int) -> Tensor:
    """Harmonics of unit vectors from e3nn."""
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    return o3.spherical_harmonics(
        list(range(lmax + 1)), unit, normalize=False, normalization="norm"
    )


def task(function: Callable[[Tensor], Tensor], argument: Tensor, order: int) -> Callable[[], None]:
    """Values and derivatives of ``function`` up to ``order``, as in training.

    Derivatives are taken of the values contracted with fixed weights.
    """
    point = argument.clone().requires_grad_(order > 0)
    weights = torch.randn_like(function(argument))  # laid out like the values

    def run() -> None:
        """One evaluation."""
        with torch.set_grad_enabled(order > 0):
            values = function(point)
        if order:
            (gradient,) = torch.autograd.grad(
                (values * weights).sum(), point, create_graph=order == 2
            )
        if order == 2:
            torch.autograd.grad(gradient.square().sum(), point)

    return run


def timed(
    functions: dict[tuple, tuple[Callable[[Tensor], Tensor], Tensor, tuple[int, ...]]], rounds: int
) -> list[dict]:
    """A row for each (name, degree) with the milliseconds of each order.

    functions: (name, degree) -> function, argument, orders of derivatives.
    """
    tasks = {
        (*key, order): task(f, x, order)
        for key, (f, x, orders) in functions.items()
        for order in orders
    }
    times = harness.interleave(tasks, rounds)

    rows = []
    for key, (_, _, orders) in functions.items():
        row = {ORDERS[order]: 1e3 * statistics.median(times[(*key, order)]) for order in orders}
        rows.append({"function": key[0], "degree": key[1]} | row)
    return rows


def harmonics_error(function: Callable[[Tensor, int], Tensor], l: int, points: Tensor) -> float:
    """Largest error of degree l relative to the largest component: a number of the dtype's."""
    exact = torch.stack([exact_harmonics(point, l) for point in points])
    found = function(points, l)[:, l * l :].double()
    return float(((found - exact).abs().amax(1) / exact.abs().amax(1)).max())


def harmonics_rows(options) -> list[dict]:
    """Times and errors of harmonics."""
    vectors = torch.randn(options.vectors, 3, generator=torch.Generator().manual_seed(0))
    programs = {"ours": spherical_harmonics, "e3nn": tabulated}
    functions = {}
    for l in DEGREES:
        for name, program in programs.items():
            if name == "ours" or l <= LARGEST_TABULATED:
                functions[name, l] = (functools.partial(program, lmax=l), vectors, (0, 1, 2))
    rows = timed(functions, options.rounds)

    # The pole is the hard place: orders m > 0 vanish there.
    tilts = torch.tensor([[0.6 * t, 1.0, 0.8 * t] for t in (1e-6, 1e-3, 0.01, 0.1)])
    points = torch.cat([vectors[:4], tilts])
    for row in rows:
        for name, dtype in DTYPES.items():
            program = programs[row["function"]]
            error = harmonics_error(program, row["degree"], points.to(dtype))
            row[name] = f"{error:.1e}"
    return rows


def scipy_bessel(x: Tensor, lmax: int) -> Tensor:
    """``j_0 .. j_lmax`` from scipy: (lmax + 1, ...)."""
    degrees = torch.arange(lmax + 1)[:, None].numpy()
    return torch.from_numpy(spherical_jn(degrees, x.numpy()))


def bessel_rows(options) -> list[dict]:
    """Times and errors of Bessel functions."""
    x = 32 * torch.rand(options.arguments, generator=torch.Generator().manual_seed(0))
    functions = {}
    for l in BESSEL_DEGREES:
        functions["j_l", l] = (functools.partial(spherical_bessel, lmax=l), x, (0, 1, 2))
        functions["G_l", l] = (functools.partial(scaled_bessel, lmax=l), x.square(), (0, 1, 2))
        functions["scipy", l] = (functools.partial(scipy_bessel, lmax=l), x.double(), (0,))
    rows = timed(functions, options.rounds)

    for row in (row for row in rows if row["function"] == "j_l"):
        for name, dtype in DTYPES.items():
            points = torch.tensor(ARGUMENTS, dtype=dtype)
            found = spherical_bessel(points, row["degree"])
            errors = [
                bessel_error(values, point, exact_bessel(point, row["degree"]))
                for values, point in zip(found, points.tolist(), strict=True)
            ]
            row[name] = f"{max(errors):.1f} roundings"
    return rows


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_special_functions", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--vectors", int, 5000, low=8, help="vectors of the harmonics")
    bench.add("--arguments", int, 8000, low=1, help="arguments of the Bessel functions")
    bench.add("--rounds", int, 9, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(("torch", "e3nn", "scipy"), options.json)
    tables = {"harmonics": harmonics_rows(options), "bessel": bessel_rows(options)}
    for name, number in (("harmonics", options.vectors), ("bessel", options.arguments)):
        print(f"\n{name}: milliseconds for {number} arguments")
        print(harness.table(tables[name], COLUMNS))
    harness.keep(options, report, **tables)


if __name__ == "__main__":
    run_script(main)
