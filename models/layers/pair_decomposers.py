"""From the features of all pairs of a structure to features of its atoms.

    pooling    [u_ij, w_ij] = MLP(LN x_ij),    h_i = MLP( sum_j (u_ij + w_ji) / avg_atoms )
    diagonal   h_i = MLP(LN x_ii)

The pooling hears every pair that an atom is part of. The diagonal reads what attention has carried
to (i, i), and is cheaper by a factor of the number of atoms.

Cost: linear in pairs (pooling), in atoms (diagonal).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.layers.layer_norm import LayerNorm
from farfield.models.layers.unit_linear import unit_perceptron

# name -> (width, avg_atoms) -> module: x (graphs, n, n, width), real (graphs, n) bool or None ->
# (graphs, n, width)
DECOMPOSERS: Registry[type[nn.Module]] = Registry("decomposer")


@DECOMPOSERS.register("pooling")
class PairPooling(nn.Module):
    """Sums over rows and columns. avg_atoms: of a structure; keeps the sums near 1."""

    def __init__(self, width: int, avg_atoms: float):
        super().__init__()
        self.avg_atoms = avg_atoms
        self.pairs = nn.Sequential(LayerNorm(width), *unit_perceptron(width, width, 2 * width))
        self.atoms = unit_perceptron(width, width, width)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        leaving, arriving = self.pairs(x).chunk(2, -1)  # u, w
        pooled = leaving + arriving.transpose(1, 2)
        if real is not None:
            pooled = torch.where(real[:, None, :, None], pooled, 0.0)
        return self.atoms(pooled.sum(2) / self.avg_atoms)


@DECOMPOSERS.register("diagonal")
class PairDiagonal(nn.Module):
    """The pairs of an atom with itself."""

    def __init__(self, width: int, avg_atoms: float):
        super().__init__()
        self.atoms = nn.Sequential(LayerNorm(width), *unit_perceptron(width, width, width))

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        return self.atoms(x.diagonal(dim1=1, dim2=2).transpose(1, 2))
