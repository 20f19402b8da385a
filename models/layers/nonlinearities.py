"""Non-linearities of a node: they scale the features of each degree by invariants.

    layer, bias   x_l -> x_l / n_l phi(g(n_l)), n_l the norms of the channels (SE(3)-Transformer,
                  sec. 4; Thomas et al. 2018)
    gate          x_l -> x_l sigmoid(W x_0), gates from the scalars (Weiler et al. 2018)

Features are (nodes, (lmax + 1)^2, channels), see ``so3/irreps.py``; pseudo channels stand last.
Cost: linear in the values of a feature, and nodes x channels^2 for the gates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry, check_choice
from farfield.models.layers.layer_norm import layer_norm
from farfield.models.so3.irreps import degree_of_row, split_degrees

# name -> (lmax, channels, pseudo) -> layer
NONLINEARITIES: Registry[Callable[[int, int, int], nn.Module]] = Registry("non-linearity")


def degree_norms(x: Tensor, epsilon: float) -> Tensor:
    """``sqrt(sum_m x_lm^2 + epsilon^2)`` of every degree and channel.

    (nodes, rows, channels) -> (nodes, lmax + 1, channels). The epsilon inside the root keeps all
    derivatives finite at a zero feature.
    """
    sums = [part.sum(1) for part in split_degrees(x.square())]
    return (torch.stack(sums, 1) + epsilon**2).sqrt()


class StandardisedNorms(nn.Module):
    """g of "layer": layer norm over the channels of each degree, with a scale and a shift."""

    def __init__(self, lmax: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(lmax + 1, channels))
        self.shift = nn.Parameter(torch.full((lmax + 1, channels), 0.5))

    def forward(self, norm: Tensor) -> Tensor:
        """(nodes, lmax + 1, channels) -> the same shape."""
        return layer_norm(norm) * self.weight + self.shift


class ShiftedNorms(nn.Module):
    """g of "bias": a learned shift for each degree and channel, ``n + b``.

    It keeps the size of features, as the N-body networks of the literature do.
    """

    def __init__(self, lmax: int, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(lmax + 1, channels))

    def forward(self, norm: Tensor) -> Tensor:
        """(nodes, lmax + 1, channels) -> the same shape."""
        return norm + self.shift


NORM_MAPS = {"layer": StandardisedNorms, "bias": ShiftedNorms}


class NormNonlinearity(nn.Module):
    """``x_l -> x_l / n_l phi(g(n_l))`` with n the norm of every channel.

    kind: g, a name in ``NORM_MAPS``. phi is SiLU, so that forces stay smooth. epsilon: smoothing of
    the norm, n >= epsilon; it keeps first and second derivatives finite at features of length zero.
    Raises ValueError for another kind.
    """

    def __init__(self, lmax: int, channels: int, kind: str = "layer", epsilon: float = 1e-2):
        super().__init__()
        check_choice("norm", kind, NORM_MAPS)
        self.epsilon = epsilon
        self.map = NORM_MAPS[kind](lmax, channels)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        norm = degree_norms(x, self.epsilon)
        scale = nn.functional.silu(self.map(norm)) / norm
        return x * scale.index_select(1, self.degree)


@NONLINEARITIES.register("layer")
def layer_nonlinearity(lmax: int, channels: int, pseudo: int) -> NormNonlinearity:
    """Norm non-linearity with a layer norm over channels; true and pseudo channels alike."""
    return NormNonlinearity(lmax, channels, "layer")


@NONLINEARITIES.register("bias")
def bias_nonlinearity(lmax: int, channels: int, pseudo: int) -> NormNonlinearity:
    """Norm non-linearity with a learned shift; true and pseudo channels alike."""
    return NormNonlinearity(lmax, channels, "bias")


@NONLINEARITIES.register("gate")
class GatedNonlinearity(nn.Module):
    """SiLU on true scalars; all other components times a sigmoid gate from the true scalars."""

    def __init__(self, lmax: int, channels: int, pseudo: int = 0):
        super().__init__()
        self.true = channels - pseudo
        self.lmax = lmax
        self.gates = nn.Linear(self.true, (lmax + 1) * channels)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        scalars = x[:, 0, : self.true]
        gates = torch.sigmoid(self.gates(scalars)).view(-1, self.lmax + 1, x.shape[-1])
        gated = x * gates.index_select(1, self.degree)

        # row 0: SiLU of the true scalars, gated pseudo scalars behind them
        first = torch.cat([nn.functional.silu(scalars), gated[:, 0, self.true :]], -1).unsqueeze(1)
        return torch.cat([first, gated[:, 1:]], 1)
