"""Feed-forward networks of a block: what each node does with its own features, ``(nodes, rows,
channels)`` in and out.

All are exactly equivariant under O(3), to rounding, and smooth:

    gate         linear, gate, linear: SiLU on scalars, sigmoid gates computed from the scalars on
                 all other rows (Weiler et al. 2018)
    sphere_grid  a function on the sphere for each channel, f(u) = sum_lm x_lm Y_lm(u): the product
                 of two such functions on a grid of directions, taken back to degrees <= lmax;
                 scalars pass a SiLU beside it ("separable", EquiformerV2, sec. 4.3)
    two_body     channel-wise products (l1, l2 -> l) of two linear maps by Clebsch-Gordan
                 coefficients with one weight for each path and channel, gated by the scalars

Why a product on the grid. The usual non-linearity there is SiLU(f(u)). It is no polynomial in u, so
no grid integrates it exactly, and features turn only approximately (1e-3 to 1e-1 of their size,
whatever the training). The product of two linear maps, f(u) g(u), has degree 2 lmax, its projection
on Y_lm an integrand of degree 3 lmax, and a Gauss-Legendre x uniform grid of that exactness makes
the layer the Gaunt tensor product (Luo et al. 2024), equivariant to rounding; a gated linear unit
on the sphere. Cost: two small matrix products a node, with (3 lmax + 2) / 2 x (3 lmax + 1)
directions (28 at lmax 2), instead of one for each path.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.layers.linear import EquivariantLinear
from farfield.models.so3.coupling import KernelCoupling
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, table
from farfield.models.so3.quadrature import RULES

SILU_SCALE = 1.6766  # 1 / root mean square of SiLU of a normal variable
GATE_SCALE = 1.8467  # the same of a sigmoid


class ScalarGates(nn.Module):
    """Sigmoid gates of all rows above the first, from the scalars: (nodes, channels_in) -> (nodes,
    rows - 1, channels_out).
    """

    def __init__(self, lmax: int, channels_in: int, channels_out: int):
        super().__init__()
        self.lmax = lmax
        self.linear = nn.Linear(channels_in, lmax * channels_out)
        self.register_buffer("degree", degree_of_row(lmax)[1:] - 1, persistent=False)

    def forward(self, scalars: Tensor) -> Tensor:
        gates = GATE_SCALE * torch.sigmoid(self.linear(scalars)).unflatten(1, (self.lmax, -1))
        return gates.index_select(1, self.degree)


class GateFeedForward(nn.Module):
    """Linear, gate, linear; the gates read the scalars that come in."""

    def __init__(self, lmax: int, channels: int, hidden: int):
        super().__init__()
        self.expand = EquivariantLinear(lmax, channels, hidden, bias=True)
        self.gates = ScalarGates(lmax, channels, hidden) if lmax else None
        self.reduce = EquivariantLinear(lmax, hidden, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.expand(x)
        gated = [SILU_SCALE * nn.functional.silu(hidden[:, :1])]
        if self.gates is not None:
            gated.append(hidden[:, 1:] * self.gates(x[:, 0]))
        return self.reduce(torch.cat(gated, 1))


def sphere_grid(degree: int) -> tuple[Tensor, Tensor]:
    """Directions (points, 3) and weights (points,), sum 1, float64, exact for polynomials of
    ``degree`` on the sphere.
    """
    rule = RULES["gauss_legendre"](degree)
    return torch.from_numpy(rule.directions), torch.from_numpy(rule.weights)


@table
def grid_maps(
    lmax: int, exactness: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features to values on a grid and back: (points, rows) and (rows, points); a constant comes
    back as a scalar of the same size.

    Features of unit variance give values of about ``1.4 lmax + 1`` after a product, so that the
    product spreads over its rows.
    """
    points, weights = sphere_grid(exactness)
    harmonics = (
        spherical_harmonics(points, lmax) * (2 * degree_of_row(lmax) + 1).sqrt()
    )  # mean square 1 on the sphere
    spread = (1.4 * lmax + 1) ** 0.5 / (
        lmax + 1
    )  # of the (2 lmax + 1)^2 rows of a product the lower ones get more
    return (spread * harmonics).to(device, dtype), (harmonics * weights[:, None]).T.contiguous().to(
        device, dtype
    )


class SphereGridFeedForward(nn.Module):
    """Product of two functions on the sphere for each channel, on a grid that is exact for it; SiLU
    beside it for scalars.
    """

    def __init__(self, lmax: int, channels: int, hidden: int):
        super().__init__()
        self.lmax, self.hidden = lmax, hidden
        self.expand = EquivariantLinear(lmax, channels, 2 * hidden, bias=True)
        self.scalars = nn.Linear(channels, hidden)
        self.reduce = EquivariantLinear(lmax, hidden, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        to_grid, from_grid = grid_maps(self.lmax, 3 * self.lmax, x.dtype, x.device)
        functions = self.expand(x).transpose(
            0, 1
        )  # (rows, nodes, 2 hidden): maps to and from the grid are single products
        values = (to_grid @ functions.flatten(1)).unflatten(1, functions.shape[1:])
        separate = SILU_SCALE * nn.functional.silu(self.scalars(x[:, 0]))
        values = torch.addcmul(separate, *values.split(self.hidden, -1))  # (points, nodes, hidden)
        return self.reduce(
            (from_grid @ values.flatten(1)).unflatten(1, values.shape[1:]).transpose(0, 1)
        )


class TwoBodyFeedForward(nn.Module):
    """Products of two linear maps over all parity-keeping paths, gated; SiLU beside them for
    scalars.
    """

    def __init__(self, lmax: int, channels: int, hidden: int):
        super().__init__()
        self.lmax, self.hidden = lmax, hidden
        self.expand = EquivariantLinear(lmax, channels, 2 * hidden, bias=True)
        self.scalars = nn.Linear(channels, hidden)
        self.product = KernelCoupling(lmax, lmax, lmax, 1, hidden)
        self.gates = ScalarGates(lmax, channels, hidden) if lmax else None
        self.reduce = EquivariantLinear(lmax, hidden, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        first, second = self.expand(x).split(self.hidden, -1)
        pairs = first.unsqueeze(2) * second.unsqueeze(1)  # (nodes, rows, rows, hidden)
        product = self.product(pairs.flatten(2).unsqueeze(1))
        hidden = [product[:, :1] + SILU_SCALE * nn.functional.silu(self.scalars(x[:, :1]))]
        if self.gates is not None:
            hidden.append(product[:, 1:] * self.gates(x[:, 0]))
        return self.reduce(torch.cat(hidden, 1))


FEED_FORWARDS = {
    "gate": GateFeedForward,
    "sphere_grid": SphereGridFeedForward,
    "two_body": TwoBodyFeedForward,
}  # (lmax, channels, hidden)
