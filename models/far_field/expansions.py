"""Expansions of the far field's kernel: several ways to the same sum over all pairs of atoms of a graph,

    out_i[h, lm, v] = sum_j <q_i, k_j>_h f_lh(r_ij) Y_lm(r^_ij) v_j[h, v],        f_lh(r) = sum_q a_lhq j_l(kappa_q r),  r_ij = r_i - r_j,

j = i included (it contributes ``f_0(0)``). All are modules with one call,
``expansion(graph, positions (nodes, 3), queries, keys (nodes, heads, features), values (nodes, heads, V),
coefficients (lmax + 1, heads, Q)) -> (nodes, heads, (lmax + 1)^2, V)``, none has parameters, and all are differentiable to any order
in every argument.
"""

from __future__ import annotations

import dataclasses
import math
import warnings

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from models.bessel import leading_term, scaled_bessel
from models.far_field.readout import MomentReadout, graph_runs
from models.far_field.waves import standing_waves, translation_table, truncation_degree, truncation_error
from models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from models.harmonics import solid_harmonics
from models.irreps import degree_of_row, num_rows


@dataclasses.dataclass(frozen=True)
class ExpansionOptions:
    """Accuracy and memory of an expansion.

    tolerance: relative error of the kernel inside the design radius. design_radius: distance from the centroid (Angstrom) up to which
    ``tolerance`` holds; larger graphs stay exactly equivariant and are announced by one warning. budget: numbers in a temporary tensor.
    Raises ValueError for a tolerance outside (0, 0.1] and lengths or budgets that are not positive.
    """

    tolerance: float = 1e-4
    design_radius: float = 10.0
    budget: int = 2**21

    def __post_init__(self):
        if not 0 < self.tolerance <= 0.1:
            raise ValueError(f"tolerance of the far field must be in (0, 0.1], got {self.tolerance}")
        if not (math.isfinite(self.design_radius) and self.design_radius > 0):
            raise ValueError(f"design_radius must be > 0 Angstrom and finite, got {self.design_radius}")
        if self.budget < 1:
            raise ValueError(f"budget of the far field must be >= 1 number, got {self.budget}")


class PairwiseExpansion(nn.Module):
    """The sum itself, atom by atom: exact, quadratic in the size of a graph, memory bounded by ``options.budget``.

    Kernels are ``leading_term x scaled_bessel(kappa^2 r^2) x`` solid harmonic: nothing is divided by r. If a batch needs more than one
    piece, the backward pass computes each piece again instead of keeping it.
    """

    def __init__(self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None):
        super().__init__()
        self.lmax, self.options = lmax, options or ExpansionOptions()
        self.wave_numbers = wave_numbers
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)

    def forward(self, graph: GraphIndex, positions: Tensor, queries: Tensor, keys: Tensor, values: Tensor, coefficients: Tensor) -> Tensor:
        """The sum of the module's formula; shapes as there."""
        sizes = tuple(graph.nodes_per_graph.tolist())
        widest = max(sizes, default=1)
        per_atom = max(1, widest * (coefficients.shape[1] * num_rows(self.lmax) + 3 * len(self.wave_numbers) * (self.lmax + 1)))
        most = max(1, self.options.budget // per_atom)
        steps = []
        for run in graph_runs(sizes, most):
            senders = slice(run.pieces[0].start, run.pieces[-1].stop)
            steps += [(run.count, receivers, senders) for receivers in run.pieces]
        parts = []
        for count, receivers, senders in steps:
            near = (tensor[receivers].unflatten(0, (count, -1)) for tensor in (positions, queries))
            far = (tensor[senders].unflatten(0, (count, -1)) for tensor in (positions, keys, values))
            arguments = (*near, *far, coefficients)
            if len(steps) > 1 and torch.is_grad_enabled():
                parts.append(checkpoint(self._piece, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._piece(*arguments))
        if not parts:
            return values.new_zeros(0, values.shape[1], num_rows(self.lmax), values.shape[2])
        return torch.cat(parts)

    def _piece(self, targets: Tensor, queries: Tensor, sources: Tensor, keys: Tensor, values: Tensor, coefficients: Tensor) -> Tensor:
        """Receivers (g, n, ...) and senders (g, m, ...) of g graphs: (g n, heads, rows, V)."""
        separation = targets.unsqueeze(2) - sources.unsqueeze(1)  # (g, n, m, 3)
        kappa = targets.new_tensor(self.wave_numbers)
        squared = separation.square().sum(-1, keepdim=True) * kappa.square()
        radial = scaled_bessel(squared, self.lmax)  # (g, n, m, Q, l)
        weights = coefficients * leading_term(kappa, self.lmax).T.unsqueeze(1)  # (l, h, Q)
        radial = torch.einsum("gnmql,lhq->ghnlm", radial, weights)
        attention = torch.einsum("gnhd,gmhd->ghnm", queries, keys).unsqueeze(3)
        harmonics = solid_harmonics(separation, self.lmax).permute(0, 1, 3, 2).unsqueeze(1)  # (g, 1, n, rows, m)
        kernel = (radial * attention).index_select(3, self.degree) * harmonics  # (g, h, n, rows, m)
        found = kernel.flatten(2, 3) @ values.transpose(1, 2)  # (g, h, n rows, v)
        return found.unflatten(2, (targets.shape[1], -1)).transpose(1, 2).flatten(0, 1)


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

    def forward(self, graph: GraphIndex, positions: Tensor, queries: Tensor, keys: Tensor, values: Tensor, coefficients: Tensor) -> Tensor:
        """The sum of the module's formula; shapes as there."""
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


EXPANSIONS = {"pairwise": PairwiseExpansion, "multipole": MultipoleExpansion}
