"""Programs of the far-field benchmark: inputs, our expansions, plain plane waves, plain products.

All work on one graph of atoms in a ball, with ``HEADS`` heads, kernel degrees l <= ``LMAX`` and
``KAPPAS`` wave numbers up to kappa R = 2, in float32.
"""

from __future__ import annotations

import math

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from scipy.integrate import lebedev_rule
from torch import Tensor, nn

from farfield.models.far_field.expansion import Expansion, ExpansionOptions
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.graph_ops import GraphIndex
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows

HEADS, LMAX, KAPPAS, RADIUS, TOLERANCE = 4, 2, 8, 10.0, 1e-5
LEBEDEV_ORDERS = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29)
MATMUL_ATOMS = 128  # atoms of one product: its results stay in the processor's cache
MATMUL_MOMENTS = 64  # moments of one product


def inputs(atoms: int, keys: int, channels: int, radius: float) -> tuple:
    """The arguments of an expansion: one graph of atoms in a ball, random features.

    keys: key features of a head. channels: of a value, with all degrees <= LMAX. radius: Angstrom.
    """
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(atoms, 3), dim=1)
    points = directions * torch.rand(atoms, 1) ** (1 / 3)  # evenly in the ball
    points = points - points.mean(0)
    points = points * (radius / points.norm(dim=1).max() * 0.999)

    none = torch.zeros(0, dtype=torch.long)
    graph = GraphIndex(none, none, torch.tensor([atoms]))
    queries = torch.rand(atoms, HEADS, keys)
    key_features = torch.rand(atoms, HEADS, keys)
    values = torch.randn(atoms, HEADS, num_rows(LMAX) * channels // HEADS)
    coefficients = torch.randn(LMAX + 1, HEADS, KAPPAS)
    tensors = (points, queries, key_features, values, coefficients)
    return graph, *(tensor.requires_grad_() for tensor in tensors)


def wave_numbers(radius: float) -> tuple[float, ...]:
    """Evenly spaced, kappa R from 2 / KAPPAS to 2."""
    return tuple(2 / radius * (q + 1) / KAPPAS for q in range(KAPPAS))


def program(
    expansion: type[Expansion], arguments: tuple, radius: float = RADIUS, waves: float = RADIUS
) -> harness.Program:
    """An expansion for a ball of ``radius``; wave numbers are for a ball of radius ``waves``."""
    module = expansion(wave_numbers(waves), LMAX, ExpansionOptions(TOLERANCE, radius))
    return harness.Program(expansion.__name__, module, lambda: (module(*arguments),))


def reduced(atoms: int, keys: int, channels: int, radius: float, waves: float) -> harness.Program:
    """The multipole expansion of one ball, its output reduced to one number an atom.

    Its memory is what the expansion needs itself, without a loss.
    """
    whole = program(MultipoleExpansion, inputs(atoms, keys, channels, radius), radius, waves)
    return harness.Program("multipole", whole.module, lambda: (whole.run()[0].flatten(1).mean(1),))


def matmul(atoms: int, moments: int, keys: int, width: int) -> harness.Program:
    """Products with the multiply-adds of moments and read-back.

    Moments: atoms into moments. Read-back: keys into atoms, moments into kernel components.
    """
    rows = num_rows(LMAX)
    source = torch.randn(moments, atoms)
    pairs = torch.randn(atoms, HEADS * keys * width)
    sums = torch.empty(moments, HEADS * keys * width)

    # The way back in blocks, into memory that is there already.
    block = min(atoms, MATMUL_ATOMS)
    queries = torch.randn(HEADS, block, keys)
    weights = torch.randn(HEADS, keys, MATMUL_MOMENTS * width)
    read = torch.empty(HEADS, block, MATMUL_MOMENTS * width)
    targets = torch.randn(HEADS * block, rows, MATMUL_MOMENTS)
    spread = torch.randn(HEADS * block, MATMUL_MOMENTS, width)
    out = torch.empty(HEADS * block, rows, width)

    def run() -> tuple[Tensor, ...]:
        """All products once."""
        torch.mm(source, pairs, out=sums)
        for _ in range(round(atoms / block * moments / MATMUL_MOMENTS)):
            torch.bmm(queries, weights, out=read)
            torch.bmm(targets, spread, out=out)
        return (sums,)

    return harness.Program("matmul", nn.Module(), run)


class PlaneWaveBaseline(nn.Module):
    """``j_l Y_lm = Re i^-l <Y_lm(u) exp(i kappa u.r)>`` over Lebedev directions, written plainly.

    Each product is as large as it comes: (atoms x directions x kappas x heads x features).
    """

    def __init__(self, wave_numbers: tuple[float, ...], lmax: int, radius: float):
        super().__init__()
        twice = 2 * max(wave_numbers) * radius
        degree = twice + 2.8 * twice ** (1 / 3) + 4.1  # for a tolerance of 1e-5
        points, weights = lebedev_rule(next(order for order in LEBEDEV_ORDERS if order >= degree))
        self.count = len(weights)

        directions = torch.tensor(points.T)
        kappas = torch.tensor(wave_numbers)[:, None, None]
        self.wave_vectors = (kappas * directions.float()[None]).flatten(0, 1)  # (q s, 3)

        # i^-l = cos - i sin of l pi / 2.
        self.degree = degree_of_row(lmax)
        harmonics = spherical_harmonics(directions, lmax)
        weighted = harmonics * torch.tensor(weights / weights.sum())[:, None]
        self.real = (weighted * torch.cos(math.pi / 2 * self.degree)).float().T  # (rows, s)
        self.imaginary = (weighted * torch.sin(math.pi / 2 * self.degree)).float().T

    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
    ) -> Tensor:
        """The call of every expansion, for one graph."""
        phase = (positions - positions.mean(0)) @ self.wave_vectors.T  # (n, q s)
        weight = coefficients[self.degree]  # (rows, h, q)
        real, imaginary = (
            torch.einsum("rs,rhq->rhqs", part, weight).flatten(2)
            for part in (self.real, self.imaginary)
        )

        # Sums over the senders for cosines and sines.
        waves = torch.stack([phase.cos(), phase.sin()])  # (2, n, q s)
        sent = torch.einsum("wnp,nhd->wnphd", waves, keys)
        moments = torch.einsum("wnphd,nhv->wphdv", sent, values)

        # Real and imaginary part of (target) x (conjugate source).
        heard = torch.einsum("wnp,nhd->wnphd", waves, queries)
        found = torch.einsum("wnphd,wphdv->nphv", heard, moments)
        crossed = torch.einsum("nphd,phdv->nphv", heard[1], moments[0])
        crossed = crossed - torch.einsum("nphd,phdv->nphv", heard[0], moments[1])
        return torch.einsum("rhp,nphv->nhrv", real, found) + torch.einsum(
            "rhp,nphv->nhrv", imaginary, crossed
        )
