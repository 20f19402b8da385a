"""Feed-forward networks of a block: what each node does with its own features.

All take and give ``(nodes, rows, channels)``, are exactly equivariant under O(3), to rounding, and
smooth:

    gate         linear, gate, linear: SiLU on scalars, sigmoid gates from the scalars on all other
                 rows (Weiler et al. 2018)
    sphere_grid  a function on the sphere for each channel, f(u) = sum_lm x_lm Y_lm(u): the product
                 of two such functions on a grid of directions, taken back to degrees <= lmax;
                 scalars pass a SiLU of their own ("separable", EquiformerV2, sec. 4.3)
    two_body     products (l1, l2 -> l) of two linear maps in each channel, by Clebsch-Gordan
                 coefficients with one weight for each path and channel, gated by the scalars

Why a product on the grid. The usual non-linearity there is SiLU(f(u)). It is not a polynomial in u,
so no grid integrates it exactly, and features turn only approximately (1e-3 to 1e-1 of their size,
whatever the training). The product of two linear maps, f(u) g(u), has degree 2 lmax, and its
projection on Y_lm is an integrand of degree 3 lmax. A Gauss-Legendre x uniform grid of that
exactness makes the layer the Gaunt tensor product (Luo et al. 2024), equivariant to rounding: a
gated linear unit on the sphere.

Cost: nodes x rows x channels x hidden multiply-adds for the linear maps. The grid adds two small
matrix products a node, with (3 lmax + 2) / 2 x (3 lmax + 1) directions (28 at lmax 2), instead of
one for each path.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.kernels.grid_product import grid_product
from farfield.models.kernels.recomputation import runs_again
from farfield.models.layers.linear import EquivariantLinear
from farfield.models.layers.rounded_products import RoundedLinear
from farfield.models.so3.coupling import KernelCoupling
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, table
from farfield.models.so3.quadrature import RULES

SILU_SCALE = 1.6766  # 1 / root mean square of SiLU of a normal variable
GATE_SCALE = 1.8467  # 1 / root mean square of a sigmoid of a normal variable

# name -> (lmax, channels, hidden) -> network
FEED_FORWARDS: Registry[type[nn.Module]] = Registry("feed-forward network")


class ScalarGates(nn.Module):
    """Sigmoid gates of all rows above the first, computed from the scalars."""

    def __init__(self, lmax: int, channels_in: int, channels_out: int):
        super().__init__()
        self.lmax = lmax
        self.linear = RoundedLinear(channels_in, lmax * channels_out)
        self.register_buffer("degree", degree_of_row(lmax)[1:] - 1, persistent=False)

    def forward(self, scalars: Tensor) -> Tensor:
        """(nodes, channels_in) -> (nodes, rows - 1, channels_out)."""
        gates = GATE_SCALE * torch.sigmoid(self.linear(scalars)).unflatten(1, (self.lmax, -1))
        return gates.index_select(1, self.degree)


@FEED_FORWARDS.register("gate")
class GateFeedForward(nn.Module):
    """Linear, gate, linear; the gates read the scalars that come in."""

    def __init__(self, lmax: int, channels: int, hidden: int):
        super().__init__()
        self.expand = EquivariantLinear(lmax, channels, hidden, bias=True)
        self.gates = ScalarGates(lmax, channels, hidden) if lmax else None
        self.reduce = EquivariantLinear(lmax, hidden, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        hidden = self.expand(x)
        gated = [SILU_SCALE * nn.functional.silu(hidden[:, :1])]
        if self.gates is not None:
            gated.append(hidden[:, 1:] * self.gates(x[:, 0]))
        return self.reduce(torch.cat(gated, 1))


def sphere_grid(degree: int) -> tuple[Tensor, Tensor]:
    """Directions (points, 3) and weights (points,) of sum 1, float64.

    Exact for polynomials of ``degree`` on the sphere.
    """
    rule = RULES["gauss_legendre"](degree)
    return torch.from_numpy(rule.directions), torch.from_numpy(rule.weights)


@table
def grid_maps(
    lmax: int, exactness: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Maps of features to values on a grid and back: (points, rows) and (rows, points).

    A constant comes back as a scalar of the same size. Features of unit variance give values of
    about ``1.4 lmax + 1`` after a product, so that the product spreads over its rows: of its (2
    lmax + 1)^2 rows the lower ones get more.
    """
    points, weights = sphere_grid(exactness)
    # mean square 1 on the sphere
    harmonics = spherical_harmonics(points, lmax) * (2 * degree_of_row(lmax) + 1).sqrt()
    spread = (1.4 * lmax + 1) ** 0.5 / (lmax + 1)
    to_grid = spread * harmonics
    from_grid = (harmonics * weights[:, None]).T.contiguous()
    return to_grid.to(device, dtype), from_grid.to(device, dtype)


@FEED_FORWARDS.register("sphere_grid")
class SphereGridFeedForward(nn.Module):
    """Product of two functions on the sphere for each channel, plus a SiLU of the scalars.

    The grid is exact for the product. recompute: keep no values on the grid while training.
    """

    recompute = False

    def __init__(self, lmax: int, channels: int, hidden: int):
        super().__init__()
        self.lmax, self.hidden = lmax, hidden
        self.expand = EquivariantLinear(lmax, channels, 2 * hidden, bias=True)
        self.scalars = RoundedLinear(channels, hidden)
        self.reduce = EquivariantLinear(lmax, hidden, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        to_grid, from_grid = grid_maps(self.lmax, 3 * self.lmax, x.dtype, x.device)

        # (rows, nodes, 2 hidden), so that each map to or from the grid is one product
        functions = self.expand(x).transpose(0, 1)
        separate = SILU_SCALE * nn.functional.silu(self.scalars(x[:, 0]))
        if runs_again(self):
            product = grid_product(to_grid, from_grid, *functions.split(self.hidden, -1))
            hidden = torch.cat([product[:1] + separate, product[1:]])
            return self.reduce(hidden.transpose(0, 1))

        # (points, nodes, hidden): a scalar is the same in all directions
        values = (to_grid @ functions.flatten(1)).unflatten(1, functions.shape[1:])
        values = torch.addcmul(separate, *values.split(self.hidden, -1))

        hidden = (from_grid @ values.flatten(1)).unflatten(1, values.shape[1:])
        return self.reduce(hidden.transpose(0, 1))


@FEED_FORWARDS.register("two_body")
class TwoBodyFeedForward(nn.Module):
    """Gated products of two linear maps over all paths that keep parity, plus a SiLU of scalars."""

    def __init__(self, lmax: int, channels: int, hidden: int):
        super().__init__()
        self.lmax, self.hidden = lmax, hidden
        self.expand = EquivariantLinear(lmax, channels, 2 * hidden, bias=True)
        self.scalars = RoundedLinear(channels, hidden)
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


def keep_variance(network: nn.Module) -> None:
    """Start linear maps that a SiLU follows so that values keep their size.

    Torch's start lets geometry fade to a tenth.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=SILU_SCALE / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)
