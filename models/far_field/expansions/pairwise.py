"""The far field's sum, pair by pair: exact, at a cost quadratic in the size of a graph.

With ``G_l`` the smooth part of a spherical Bessel function (``models/so3/bessel.py``), kernels are

    f_lh(r) Y_lm(r^) = [sum_q a_lhq leading_term_l(kappa_q) G_l(kappa_q^2 r^2)] S_lm(r),

S_lm the solid harmonics: nothing is divided by r. Formula of the sum: ``expansion.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from farfield.models.far_field.expansion import EXPANSIONS, Expansion, ExpansionOptions
from farfield.models.far_field.spectral_shapes import ScreenedShape, SpectralShape
from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.node_chunks import graph_runs
from farfield.models.kernels.pair_sum import gaussian_pair_sum
from farfield.models.so3.bessel import bessel_mixture, leading_term
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import degree_slice, num_rows
from farfield.models.tracing import is_tracing

# Derivatives by the positions whose Bessel functions are computed ahead: forces need one, and the
# gradient of forces by the weights needs no more.
PREPARED_DERIVATIVES = 1


@EXPANSIONS.register("pairwise")
class PairwiseExpansion(Expansion):
    """The sum over pairs as it stands: exact up to rounding, no truncation.

    ``options.budget`` bounds the memory: a batch that needs more is computed in chunks, and the
    backward pass computes each chunk again instead of keeping it.
    """

    @classmethod
    def of_shape(cls, shape: SpectralShape, options: ExpansionOptions) -> PairwiseExpansion | None:
        """The sum with the closed form of the kernel, where it has one."""
        return ClosedPairs(shape, options) if isinstance(shape, ScreenedShape) else None

    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
        cell: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Expansion.forward`; refuses cells."""
        self.check_cell(graph, cell)
        if is_tracing():  # all graphs at once: they have one size, and no chunks
            of_graphs = (
                tensor.unflatten(0, (graph.num_graphs, graph.atoms_of_each))
                for tensor in (positions, queries, keys, values)
            )
            return self.sum_at(slice(None), *of_graphs, coefficients)

        # A step: graphs of one size, and as many receivers of each as fit the budget.
        sizes = graph.sizes
        largest = max(sizes, default=1)
        per_atom = max(1, largest * self.elements_per_pair(coefficients.shape[1]))
        most = max(1, self.options.budget // per_atom)
        steps = []
        for run in graph_runs(sizes, most):
            start, stop = run.chunks[0].start, run.chunks[-1].stop
            for chunk in run.chunks:
                first = chunk.start - start
                receivers = slice(first, first + (chunk.stop - chunk.start) // run.count)
                steps.append((run.count, slice(start, stop), receivers))

        parts = []
        for count, atoms, receivers in steps:
            # Rows of all graphs in turn -> (graphs, atoms of a graph, ...).
            of_atoms = (positions, queries, keys, values)
            if len(steps) > 1:
                of_atoms = (tensor[atoms] for tensor in of_atoms)
            of_graphs = (tensor.unflatten(0, (count, -1)) for tensor in of_atoms)
            arguments = (receivers, *of_graphs, coefficients)

            # One step alone fits the budget, so its temporaries may stay for the backward pass.
            if len(steps) > 1 and torch.is_grad_enabled():
                part = checkpoint(
                    self.sum_at, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                part = self.sum_at(*arguments)
            parts.append(part)

        if not parts:
            return values.new_zeros(0, values.shape[1], num_rows(self.lmax), values.shape[2])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def expected_error(self, radius: float) -> float:
        """0.0: the sum is exact."""
        return 0.0

    def elements_per_pair(self, heads: int) -> int:
        """Elements of the temporaries that exist for every pair of a chunk."""
        kernels = heads * num_rows(self.lmax)
        bessel_functions = len(self.wave_numbers) * (self.lmax + 1 + PREPARED_DERIVATIVES)
        return kernels + bessel_functions

    def sum_at(
        self,
        receivers: slice,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
    ) -> Tensor:
        """Some receivers of g graphs of m atoms, tensors (g, m, ...) -> (g n, heads, rows, V)."""
        queries = queries[:, receivers]
        sources = positions.permute(2, 0, 1)  # (3, g, m)
        targets = sources[:, :, receivers]  # (3, g, n)
        separation = targets.unsqueeze(3) - sources.unsqueeze(2)  # (3, g, n, m)
        pairs = separation.shape[1:]
        squared = separation.square().sum(0)

        # Weights <q, k> act on the pairs; a single key feature acts on its atom instead.
        radial = self.radial(squared.flatten(), coefficients).unflatten(2, pairs)  # (l, h, g, n, m)
        alone = keys.shape[-1] == 1
        if alone:
            values = keys * values
        else:
            radial = radial * torch.einsum("gnhd,gmhd->hgnm", queries, keys)

        # One matrix product over the senders m for each degree; degree 0 has harmonic 1.
        values = values.permute(2, 0, 1, 3).unsqueeze(1)  # (h, 1, g, m, v)
        first, *others = radial.unsqueeze(2).unbind(0)  # each (h, 1, g, n, m)
        found = [first @ values]
        if others:
            harmonics = solid_harmonics(separation.flatten(1).T, self.lmax).T  # (rows, pairs)
            harmonics = harmonics.unflatten(1, pairs)  # (rows, g, n, m)
            for l, part in enumerate(others, 1):
                found.append((part * harmonics[degree_slice(l)]) @ values)  # (h, 2 l + 1, g, n, v)
        heard = torch.cat(found, 1) if others else found[0]  # (h, rows, g, n, v)
        heard = heard.permute(2, 3, 0, 1, 4).flatten(0, 1)
        return heard * queries.flatten(0, 1).unsqueeze(2) if alone else heard

    def radial(self, squared: Tensor, coefficients: Tensor) -> Tensor:
        """``f_lh(r) / r^l`` of r^2 (n,): (lmax + 1, heads, n)."""
        kappa = squared.new_tensor(self.wave_numbers)
        weights = coefficients * leading_term(kappa, self.lmax).T.unsqueeze(1)  # (l, h, Q)
        derivatives = PREPARED_DERIVATIVES if squared.requires_grad else 0
        return bessel_mixture(squared, kappa, weights, derivatives)


class ClosedPairs(PairwiseExpansion):
    """The sum over pairs of a kernel with a closed form.

    Scalars with one key feature are summed by ``kernels/pair_sum.py``. shape: of the kernel.
    """

    def __init__(self, shape: ScreenedShape, options: ExpansionOptions):
        super().__init__((), shape.lmax, options)
        self.shape = shape

    def sum_at(
        self,
        receivers: slice,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
    ) -> Tensor:
        """See :meth:`PairwiseExpansion.sum_at`."""
        if self.lmax or keys.shape[-1] > 1:
            return super().sum_at(receivers, positions, queries, keys, values, coefficients)
        powers = self.shape.powers(coefficients)[0]
        heard = gaussian_pair_sum(self.shape.scale, receivers, positions, powers, keys * values)
        return (heard * queries[:, receivers]).flatten(0, 1).unsqueeze(2)

    def radial(self, squared: Tensor, coefficients: Tensor) -> Tensor:
        """``f_lh(r) / r^l`` of r^2 (n,): (lmax + 1, heads, n)."""
        return self.shape.radial(squared, coefficients)

    def elements_per_pair(self, heads: int) -> int:
        """Elements of the temporaries that exist for every pair of a chunk."""
        return heads * num_rows(self.lmax) + self.shape.terms
