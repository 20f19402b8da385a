"""The far field's sum by the addition theorem of standing waves. Formula and call: ``expansions.py``; waves: ``waves.py``."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.autograd import Function

from models.far_field.options import ExpansionOptions, refuse_cell
from models.far_field.readout import MomentReadout
from models.far_field.waves import standing_waves, translation_table, truncation_degree, truncation_error
from models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from models.harmonics import solid_harmonics
from models.irreps import degree_of_row, num_rows


class _ConstantMap(Function):
    """A constant sparse matrix times rows (rows, n); the derivative is its transpose."""

    @staticmethod
    def forward(ctx, rows: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.pair = (transposed, matrix)
        return torch.sparse.mm(matrix, rows)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        return _ConstantMap.apply(cotangent.contiguous(), *ctx.pair), None, None


class MultipoleExpansion(nn.Module):
    """The addition theorem about each graph's centroid (``waves.py``): linear cost, equivariant to rounding at any truncation.

    Source factors are waves up to degree L_t(kappa), the smallest that keeps every kernel within ``tolerance`` in a ball of
    ``design_radius``; target factors are all waves that couple to them. ``truncations`` (one for each kappa) may be given instead;
    ``moments`` is their total. Moments and read-back: ``readout.py``.
    """

    def __init__(
        self,
        wave_numbers: tuple[float, ...],
        lmax: int,
        options: ExpansionOptions | None = None,
        truncations: tuple[int, ...] | None = None,
    ):
        super().__init__()
        options = options or ExpansionOptions()
        if truncations is None:
            truncations = tuple(truncation_degree(k * options.design_radius, options.tolerance, lmax) for k in wave_numbers)
        if len(truncations) != len(wave_numbers) or min(truncations) < 0:
            raise ValueError(f"truncations must be {len(wave_numbers)} degrees >= 0, one for each kappa, got {truncations}")
        self.wave_numbers, self.lmax, self.options, self.truncations = wave_numbers, lmax, options, truncations
        self.moments = sum(num_rows(degree) for degree in truncations)
        self.readout = MomentReadout(options.budget)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)
        node = torch.arange(len(truncations)).repeat_interleave(torch.tensor([num_rows(degree) for degree in truncations]))
        self.register_buffer("node", node, persistent=False)
        self._tables: dict = {}
        self._warned, self._largest = False, options.design_radius

    def forward(
        self, graph: GraphIndex, positions: Tensor, queries: Tensor, keys: Tensor, values: Tensor, coefficients: Tensor, cell=None
    ) -> Tensor:
        """The sum of ``expansions.py``; shapes as there. Raises ValueError for periodic cells."""
        refuse_cell("multipole", cell)
        centred = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
        squared = centred.square().sum(-1)
        self._check_radius(squared)
        unit = positions.new_tensor(self.options.design_radius)
        solid = solid_harmonics(centred / unit, max(self.truncations) + self.lmax)
        sources, targets = [], []
        for kappa, truncation in zip(self.wave_numbers, self.truncations, strict=True):
            waves = standing_waves(solid, squared, kappa, unit, truncation + self.lmax)
            sources.append(waves[:, : num_rows(truncation)])
            spread = _ConstantMap.apply(waves.T.contiguous(), *self._table(truncation, waves))
            targets.append(spread.unflatten(0, (num_rows(self.lmax), -1)).permute(2, 0, 1))  # (nodes, rows, moments of this kappa)
        moments = self.readout(graph, torch.cat(sources, 1), keys, values)
        scale = coefficients.index_select(0, self.degree).index_select(2, self.node).transpose(0, 1).contiguous()  # (heads, rows, moments)
        return self.readout.read_back(graph, torch.cat(targets, 2), scale, queries, moments)

    def _table(self, truncation: int, like: Tensor) -> tuple[Tensor, Tensor]:
        key = (truncation, like.dtype, like.device)
        if key not in self._tables:
            self._tables[key] = tuple(matrix.to(like.device, like.dtype) for matrix in translation_table(self.lmax, truncation))
        return self._tables[key]

    def _check_radius(self, squared: Tensor) -> None:
        """One warning with the error to expect, the first time a graph is too large for its moments."""
        if self._warned or not squared.numel():
            return
        radius = float(squared.detach().max().sqrt())
        if not radius > self._largest:
            return
        self._largest = radius
        each = zip(self.wave_numbers, self.truncations, strict=True)
        error = max(truncation_error(kappa * radius, degree, self.lmax) for kappa, degree in each)
        if error > self.options.tolerance:
            warnings.warn(
                f"an atom is {radius:.3g} Angstrom from its graph's centroid, beyond design_radius {self.options.design_radius:g}: the "
                f"far field's error may reach {error:.1e} instead of {self.options.tolerance:.1e}; "
                f"set design_radius to {radius:.3g} or more",
                stacklevel=3,
            )
            self._warned = True

    def extra_repr(self) -> str:
        return f"lmax={self.lmax}, truncations={self.truncations}, moments={self.moments}"
