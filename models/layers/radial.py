"""What distance gives an edge: radial bases, smooth envelopes, and the network that turns them into
convolution weights.

The public programs spend most of their time in radial networks: C_out x C_in x (paths) numbers for
every edge and layer (44 paths for degrees 0..3). Here one trunk serves all layers, and each
convolution asks it only for C_in x (lmax + 1)(lmax + 2)/2 numbers, which modulate the inputs of a
dense mixing shared by all edges (a kernel of low rank in the radial direction; see
``near_field/convolution.py``).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn


class RawDistance(nn.Module):
    """The distance itself, in units of ``cutoff``: (edges,) -> (edges, 1); the input of the
    original SE(3)-Transformer.
    """

    def __init__(self, cutoff: float, size: int = 1):
        super().__init__()
        self.cutoff, self.size = cutoff, 1

    def forward(self, length: Tensor) -> Tensor:
        return (length / self.cutoff).unsqueeze(-1)


class BesselBasis(nn.Module):
    """``b_n(r) = sqrt(2 / c) sin(n pi r / c) / r``, n = 1 .. size (Gasteiger et al. 2020, DimeNet,
    eq. 7), finite with all derivatives at r = 0.
    """

    def __init__(self, cutoff: float, size: int = 8):
        super().__init__()
        self.cutoff, self.size = cutoff, size
        self.register_buffer(
            "order", torch.arange(1, size + 1, dtype=torch.get_default_dtype()), persistent=False
        )

    def forward(self, length: Tensor) -> Tensor:
        order = self.order.to(length.dtype)
        wave_number = order * (math.pi / self.cutoff)
        return (
            math.sqrt(2 / self.cutoff)
            * wave_number
            * _sine_over_argument(wave_number * length.unsqueeze(-1))
        )


def _sine_over_argument(x: Tensor) -> Tensor:
    """``sin(x) / x`` with all derivatives at 0 (those of ``torch.sinc`` are NaN from the second
    on).
    """
    small = x.abs() < 0.1
    square = x.square()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    away = torch.where(small, 1.0, x)
    return torch.where(small, series, torch.sin(away) / away)


class GaussianBasis(nn.Module):
    """``exp(-(r - mu_n)^2 / 2 s^2)`` with centres on an even grid of [0, cutoff] and s the grid's
    step (Schuett et al. 2018, SchNet, eq. 5).
    """

    def __init__(self, cutoff: float, size: int = 16):
        super().__init__()
        self.cutoff, self.size = cutoff, size
        self.register_buffer("centre", torch.linspace(0, cutoff, size), persistent=False)
        self.width = cutoff / max(size - 1, 1)

    def forward(self, length: Tensor) -> Tensor:
        return torch.exp(
            -0.5 * ((length.unsqueeze(-1) - self.centre.to(length.dtype)) / self.width).square()
        )


class LogGaussianBasis(nn.Module):
    """Gaussians in ``log(1 + r / r0)`` with r0 = cutoff / 100: fine resolution where bodies meet,
    coarse far away.
    """

    def __init__(self, cutoff: float, size: int = 16):
        super().__init__()
        self.cutoff, self.size, self.start = cutoff, size, cutoff / 100
        self.inner = GaussianBasis(math.log1p(cutoff / self.start), size)

    def forward(self, length: Tensor) -> Tensor:
        return self.inner(torch.log1p(length / self.start))


RADIAL_BASES = {
    "raw": RawDistance,
    "bessel": BesselBasis,
    "gaussian": GaussianBasis,
    "log_gaussian": LogGaussianBasis,
}


def no_envelope(scaled: Tensor) -> Tensor:
    """1 everywhere: for complete graphs, whose edges never appear or vanish."""
    return torch.ones_like(scaled)


def cosine_envelope(scaled: Tensor) -> Tensor:
    """``(1 + cos(pi x)) / 2`` for x = r / cutoff < 1, else 0: continuous first derivative (Behler &
    Parrinello 2007, eq. 4).
    """
    return torch.where(scaled < 1, 0.5 * (1 + torch.cos(math.pi * scaled)), 0.0)


def polynomial_envelope(scaled: Tensor, power: int = 6) -> Tensor:
    """``1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)`` for x < 1, else 0: two
    continuous derivatives (DimeNet, eq. 8).

    Computed as ``(1 - x)^3 sum_{k<p} (k+1)(k+2)/2 x^k``, which rounding never makes negative.
    """
    series = torch.zeros_like(scaled)
    for k in reversed(range(power)):
        series = series * scaled + (k + 1) * (k + 2) / 2
    return torch.where(scaled < 1, (1 - scaled) ** 3 * series, 0.0)


ENVELOPES = {"none": no_envelope, "cosine": cosine_envelope, "polynomial": polynomial_envelope}
SMOOTH_ENVELOPES = {
    name: envelope for name, envelope in ENVELOPES.items() if name != "none"
}  # without one the energy jumps at the cutoff

# options that several networks share, with what --help says of them
EnvelopeName = Annotated[str, "how edges fade towards the cutoff", ENVELOPES]
RadialBasisName = Annotated[str, "functions of the length of an edge", RADIAL_BASES]
RadialSize = Annotated[int, "how many of them"]
RadialHidden = Annotated[int, "width of the network that reads them"]


class RadialTrunk(nn.Module):
    """Hidden invariants of every edge: radial basis and invariant edge features through two dense
    layers, shared by all layers of a network.

    ``forward(length (edges,), edge_scalars (edges, edge_scalars) or None) -> (edges, hidden)``.
    Each convolution reads it through one linear map.
    """

    def __init__(self, basis: nn.Module, edge_scalars: int, hidden: int):
        super().__init__()
        self.basis = basis
        self.hidden = hidden
        self.dense = nn.Sequential(
            nn.Linear(basis.size + edge_scalars, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
        )

    def forward(self, length: Tensor, edge_scalars: Tensor | None) -> Tensor:
        features = self.basis(length)
        if edge_scalars is not None:
            features = torch.cat([features, edge_scalars], -1)
        return self.dense(features)
