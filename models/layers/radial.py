"""What the length of an edge gives: radial bases, smooth envelopes, and the radial trunk.

The public programs spend most of their time in radial networks: C_out x C_in x (paths) values for
every edge and layer (44 paths for degrees 0 .. 3). Here one trunk serves all layers, and each
convolution asks it only for C_in x (lmax + 1)(lmax + 2)/2 values, which modulate the inputs of a
dense mixing shared by all edges (a kernel of low rank in the radial direction; see
``near_field/frame_convolution.py``).

Cost: linear in edges; edges x (size + hidden) x hidden multiply-adds for the trunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.kernels.edge_curves import silu_curves
from farfield.models.kernels.recomputation import runs_again

# name -> (cutoff, size) -> basis: (edges,) -> (edges, size); attribute ``size`` as well
RADIAL_BASES: Registry[type[nn.Module]] = Registry("radial basis")

# name -> envelope of r / cutoff, (edges,) -> (edges,): 1 at zero, 0 from the cutoff on
ENVELOPES: Registry[Callable[[Tensor], Tensor]] = Registry("envelope")


@RADIAL_BASES.register("raw")
class RawDistance(nn.Module):
    """The length itself in units of ``cutoff``, the input of the original SE(3)-Transformer."""

    def __init__(self, cutoff: float, size: int = 1):
        super().__init__()
        self.cutoff, self.size = cutoff, 1  # one function, whatever size is asked for

    def forward(self, length: Tensor) -> Tensor:
        """(edges,) -> (edges, 1)."""
        return (length / self.cutoff).unsqueeze(-1)


@RADIAL_BASES.register("bessel")
class BesselBasis(nn.Module):
    """``b_n(r) = sqrt(2 / c) sin(n pi r / c) / r`` for n = 1 .. size, c the cutoff.

    Finite with all derivatives at r = 0 (Gasteiger et al. 2020, DimeNet, eq. 7).
    """

    def __init__(self, cutoff: float, size: int = 8):
        super().__init__()
        self.cutoff, self.size = cutoff, size
        order = torch.arange(1, size + 1, dtype=torch.get_default_dtype())
        self.register_buffer("order", order, persistent=False)

    def forward(self, length: Tensor) -> Tensor:
        """(edges,) -> (edges, size)."""
        order = self.order.to(length.dtype)
        wave_number = order * (math.pi / self.cutoff)
        waves = _sine_over_argument(wave_number * length.unsqueeze(-1))
        return math.sqrt(2 / self.cutoff) * wave_number * waves


def _sine_over_argument(x: Tensor) -> Tensor:
    """``sin(x) / x`` with all derivatives at 0; ``torch.sinc`` gives NaN from the second one on."""
    small = x.abs() < 0.1
    square = x.square()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    away = torch.where(small, 1.0, x)
    return torch.where(small, series, torch.sin(away) / away)


@RADIAL_BASES.register("gaussian")
class GaussianBasis(nn.Module):
    """``exp(-(r - mu_n)^2 / 2 s^2)`` with centres on an even grid of [0, cutoff], s its step.

    Source: Schuett et al. 2018, SchNet, eq. 5.
    """

    def __init__(self, cutoff: float, size: int = 16):
        super().__init__()
        self.cutoff, self.size = cutoff, size
        self.register_buffer("centre", torch.linspace(0, cutoff, size), persistent=False)
        self.width = cutoff / max(size - 1, 1)

    def forward(self, length: Tensor) -> Tensor:
        """(edges,) -> (edges, size)."""
        distance = (length.unsqueeze(-1) - self.centre.to(length.dtype)) / self.width
        return torch.exp(-0.5 * distance.square())


@RADIAL_BASES.register("log_gaussian")
class LogGaussianBasis(nn.Module):
    """Gaussians in ``log(1 + r / r0)`` with r0 = cutoff / 100.

    The resolution is fine where bodies meet and coarse far away.
    """

    def __init__(self, cutoff: float, size: int = 16):
        super().__init__()
        self.cutoff, self.size, self.start = cutoff, size, cutoff / 100
        self.inner = GaussianBasis(math.log1p(cutoff / self.start), size)

    def forward(self, length: Tensor) -> Tensor:
        """(edges,) -> (edges, size)."""
        return self.inner(torch.log1p(length / self.start))


@ENVELOPES.register("none")
def no_envelope(scaled: Tensor) -> Tensor:
    """1 everywhere: for complete graphs, whose edges never appear or vanish."""
    return torch.ones_like(scaled)


@ENVELOPES.register("cosine")
def cosine_envelope(scaled: Tensor) -> Tensor:
    """``(1 + cos(pi x)) / 2`` for x = r / cutoff < 1, else 0: one continuous derivative.

    Source: Behler & Parrinello 2007, eq. 4.
    """
    return torch.where(scaled < 1, 0.5 * (1 + torch.cos(math.pi * scaled)), 0.0)


@ENVELOPES.register("polynomial")
def polynomial_envelope(scaled: Tensor, power: int = 6) -> Tensor:
    """``1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)`` for x = r / cutoff < 1, else 0.

    Two continuous derivatives (DimeNet, eq. 8). Computed as ``(1 - x)^3 sum_{k<p} (k+1)(k+2)/2
    x^k``, which rounding never makes negative.
    """
    series = torch.zeros_like(scaled)
    for k in reversed(range(power)):
        series = series * scaled + (k + 1) * (k + 2) / 2
    return torch.where(scaled < 1, (1 - scaled) ** 3 * series, 0.0)


# without an envelope the energy jumps at the cutoff
SMOOTH_ENVELOPES = {name: envelope for name, envelope in ENVELOPES.items() if name != "none"}

# options that several networks share, with their help texts
EnvelopeName = Annotated[str, "how an edge fades out towards the cutoff", ENVELOPES]
RadialBasisName = Annotated[str, "radial basis functions of the edge length", RADIAL_BASES]
RadialSize = Annotated[int, "number of radial basis functions"]
RadialHidden = Annotated[int, "hidden width of the radial network"]


class RadialTrunk(nn.Module):
    """Hidden invariants of every edge, shared by all layers of a network.

    Radial basis and invariant edge features pass two dense layers; each convolution reads the
    result through one linear map. edge_scalars: number of invariant edge features. recompute: keep
    only results and their slopes while training.
    """

    recompute = False

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
        """length (edges,), edge_scalars (edges, edge_scalars) or None -> (edges, hidden)."""
        if runs_again(self):
            scalars = length.new_empty(len(length), 0) if edge_scalars is None else edge_scalars
            layers = [(layer.weight, layer.bias) for layer in self.dense[::2]]
            return silu_curves(self.basis, length, scalars, layers)

        features = self.basis(length)
        if edge_scalars is not None:
            features = torch.cat([features, edge_scalars], -1)
        return self.dense(features)
