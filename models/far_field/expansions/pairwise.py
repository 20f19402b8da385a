"""The far field's sum over pairs as it stands: exact, quadratic in the size of a graph. Formula and
call: ``expansions.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farfield.models.far_field.expansion import ExpansionOptions, refuse_cell
from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.node_chunks import graph_runs
from farfield.models.so3.bessel import bessel_mixture, leading_term
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import degree_slice, num_rows

# orders of derivatives by the positions: forces; their gradient by the weights needs no more of
# them
FORESEEN = 1


class PairwiseExpansion(nn.Module):
    """The sum itself, atom by atom: exact, quadratic in the size of a graph, memory bounded by
    ``options.budget``.

    Kernels are ``sum_q a_q leading_term G_l(kappa_q^2 r^2) x`` solid harmonic
    (``models/so3/bessel.py``): nothing is divided by r. If a batch needs more than one piece, the
    backward pass computes each piece again instead of keeping it.
    """

    def __init__(
        self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None
    ):
        super().__init__()
        self.lmax, self.options = lmax, options or ExpansionOptions()
        self.wave_numbers = wave_numbers

    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
        cell=None,
    ) -> Tensor:
        """The sum of ``expansions.py``; shapes as there. Raises ValueError for periodic cells."""
        refuse_cell("pairwise", cell)
        sizes = graph.sizes
        widest = max(sizes, default=1)
        per_atom = max(1, widest * self.numbers_per_pair(coefficients.shape[1]))
        most = max(1, self.options.budget // per_atom)
        steps = []
        for run in graph_runs(sizes, most):
            senders = slice(run.chunks[0].start, run.chunks[-1].stop)
            steps += [(run.count, receivers, senders) for receivers in run.chunks]
        parts = []
        for count, receivers, senders in steps:
            near = (tensor[receivers].unflatten(0, (count, -1)) for tensor in (positions, queries))
            far = (
                tensor[senders].unflatten(0, (count, -1)) for tensor in (positions, keys, values)
            )
            arguments = (*near, *far, coefficients)
            if len(steps) > 1 and torch.is_grad_enabled():
                parts.append(
                    checkpoint(
                        self._piece, *arguments, use_reentrant=False, preserve_rng_state=False
                    )
                )
            else:
                parts.append(self._piece(*arguments))
        if not parts:
            return values.new_zeros(0, values.shape[1], num_rows(self.lmax), values.shape[2])
        return torch.cat(parts)

    def numbers_per_pair(self, heads: int) -> int:
        """Numbers that exist for every pair of one piece."""
        return heads * num_rows(self.lmax) + len(self.wave_numbers) * (self.lmax + 1 + FORESEEN)

    def _piece(
        self,
        targets: Tensor,
        queries: Tensor,
        sources: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
    ) -> Tensor:
        """Receivers (g, n, ...) and senders (g, m, ...) of g graphs: (g n, heads, rows, V)."""
        targets, sources = targets.permute(2, 0, 1), sources.permute(2, 0, 1)
        separation = targets.unsqueeze(3) - sources.unsqueeze(2)  # (3, g, n, m)
        pairs = separation.shape[1:]
        squared = separation.square().sum(0)
        kappa = targets.new_tensor(self.wave_numbers)
        weights = coefficients * leading_term(kappa, self.lmax).T.unsqueeze(1)  # (l, h, Q)
        radial = bessel_mixture(
            squared.flatten(), kappa, weights, FORESEEN if squared.requires_grad else 0
        )
        attention = torch.einsum("gnhd,gmhd->hgnm", queries, keys)
        radial = radial.unflatten(2, pairs) * attention  # (l, h, g, n, m)
        values = values.permute(2, 0, 1, 3).unsqueeze(1)  # (h, 1, g, m, v)
        first, *others = radial.unsqueeze(2).unbind(0)  # (h, 1, g, n, m)
        found = [first @ values]
        if others:
            harmonics = solid_harmonics(separation.flatten(1).T, self.lmax).T.unflatten(
                1, pairs
            )  # (rows, g, n, m)
            found += [
                (part * harmonics[degree_slice(l)]) @ values for l, part in enumerate(others, 1)
            ]  # (h, 2 l + 1, g, n, v)
        return torch.cat(found, 1).permute(2, 3, 0, 1, 4).flatten(0, 1)
