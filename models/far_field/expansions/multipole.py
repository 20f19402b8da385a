"""The far field's sum by the addition theorem of standing waves. Formula and call:
``expansions.py``; waves: ``waves.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.far_field.addition_theorem import (
    standing_waves,
    translation_tables,
    truncation_degree,
    truncation_error,
)
from farfield.models.far_field.expansion import ExpansionOptions, RadiusGuard, refuse_cell
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from farfield.models.kernels.moments import MomentReadout
from farfield.models.kernels.target_factors import MappedFactors
from farfield.models.so3.irreps import degree_of_row, num_rows


class MultipoleExpansion(nn.Module):
    """The addition theorem about each graph's centroid (``waves.py``): linear cost, equivariant to
    rounding at any truncation.

    Source factors are waves up to degree L_t(kappa), the smallest that keeps every kernel within
    ``tolerance`` in a ball of ``design_radius``; target factors are all waves that couple to them.
    ``truncations`` (one for each kappa) may be given instead; ``moments`` is their total. Moments
    and read-back: ``readout.py``.

    What is kept of an atom for the backward pass are its waves, about twice as many numbers as
    moments; target factors, (lmax + 1)^2 x moments numbers, are made of them again, for a few atoms
    at a time, wherever they are needed (``read_form.py``).
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
            truncations = tuple(
                truncation_degree(k * options.design_radius, options.tolerance, lmax)
                for k in wave_numbers
            )
        if len(truncations) != len(wave_numbers) or min(truncations) < 0:
            raise ValueError(
                f"truncations must be {len(wave_numbers)} degrees >= 0, one for each kappa, got "
                f"{truncations}"
            )
        self.wave_numbers, self.lmax, self.options, self.truncations = (
            wave_numbers,
            lmax,
            options,
            truncations,
        )
        sizes = torch.tensor([num_rows(degree) for degree in truncations])
        self.moments = int(sizes.sum())
        self.readout = MomentReadout(options.budget)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)
        self.register_buffer(
            "node", torch.arange(len(truncations)).repeat_interleave(sizes), persistent=False
        )
        top = max(truncations) + lmax
        row, radial, source = (
            [],
            [],
            [],
            # of the waves of all kappas: their harmonic, their radial function, which are source
            # factors
        )
        for q, truncation in enumerate(truncations):
            source.append(sum(map(len, row)) + torch.arange(num_rows(truncation)))
            row.append(torch.arange(num_rows(truncation + lmax)))
            radial.append(degree_of_row(truncation + lmax) * len(truncations) + q)
        self.top = top
        for name, parts in (("row", row), ("radial", radial), ("source", source)):
            self.register_buffer(name, torch.cat(parts), persistent=False)
        self.guard = RadiusGuard(options.design_radius, options.tolerance)

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
        refuse_cell("multipole", cell)
        centred = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
        self.guard.check(centred.square().sum(-1), self._error)
        waves = self._waves(centred)
        moments = self.readout(
            graph, waves.index_select(0, self.source).T.contiguous(), keys, values
        )
        scale = (
            coefficients.index_select(0, self.degree)
            .index_select(2, self.node)
            .transpose(0, 1)
            .contiguous()
        )  # (heads, rows, moments)
        tables = translation_tables(self.lmax, self.truncations, waves.dtype, waves.device)
        return self.readout.read_back(
            graph, waves.T, scale, queries, moments, MappedFactors(*tables, num_rows(self.lmax))
        )

    def _waves(self, centred: Tensor) -> Tensor:
        """Standing waves of all kappas, one below the other: (waves, nodes)."""
        unit = centred.new_tensor(self.options.design_radius)
        kappa = centred.new_tensor(self.wave_numbers)
        squared = kappa.square()[:, None] * centred.square().sum(-1)  # (Q, nodes)
        return standing_waves(
            centred / unit, squared, kappa * unit, self.top, self.row, self.radial
        )

    def _error(self, radius: float) -> float:
        """Error to expect at atoms this far from the centroid (Angstrom), relative to the
        kernel.
        """
        each = zip(self.wave_numbers, self.truncations, strict=True)
        return max(truncation_error(kappa * radius, degree, self.lmax) for kappa, degree in each)

    def extra_repr(self) -> str:
        return f"lmax={self.lmax}, truncations={self.truncations}, moments={self.moments}"
