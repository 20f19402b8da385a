"""The far field's sum by multipole moments: linear cost, equivariant up to rounding.

About the centroid of a graph, the addition theorem of standing waves (``addition_theorem.py``)
writes the kernel of degree l as

    j_l(kappa |r - s|) Y_lm = sum_LM E^l_(m, LM)(r) B_LM(s),      L <= L_t(kappa),

a sum of (target factor E) x (source factor B). Source factors are waves B up to degree L_t, target
factors are constant linear maps of waves up to degree L_t + l. The sum itself: ``expansion.py``.

Cost: moments and their read-back, ``models/kernels/moments.py``, with
``sum_q (L_t(kappa_q) + 1)^2`` moments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.far_field.addition_theorem import (
    standing_waves,
    translation_tables,
    truncation_degree,
    truncation_error,
)
from farfield.models.far_field.expansion import (
    EXPANSIONS,
    Expansion,
    ExpansionOptions,
    RadiusGuard,
)
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from farfield.models.kernels.moments import MomentReadout
from farfield.models.kernels.target_factors import MappedFactors
from farfield.models.so3.irreps import degree_of_row, num_rows


@EXPANSIONS.register("multipole")
class MultipoleExpansion(Expansion):
    """The addition theorem about each graph's centroid, truncated by whole degrees.

    truncations: L_t of each kappa; by default the smallest that keeps every kernel within
    ``options.tolerance`` in a ball of ``options.design_radius``. Raises ValueError unless there is
    one degree >= 0 for each kappa.

    Attribute ``moments`` is the number of moments of one graph, head, feature and value. For the
    backward pass an atom keeps its waves, about twice as many elements as moments; the target
    factors, (lmax + 1)^2 x moments elements, are built again for a few atoms at a time
    (``models/kernels/target_factors.py``).
    """

    largest_size = 60.0

    def __init__(
        self,
        wave_numbers: tuple[float, ...],
        lmax: int,
        options: ExpansionOptions | None = None,
        truncations: tuple[int, ...] | None = None,
    ):
        super().__init__(wave_numbers, lmax, options)
        options = self.options
        if truncations is None:
            truncations = tuple(
                truncation_degree(kappa * options.design_radius, options.tolerance, lmax)
                for kappa in wave_numbers
            )
        if len(truncations) != len(wave_numbers) or min(truncations) < 0:
            raise ValueError(
                f"truncations must be {len(wave_numbers)} degrees >= 0, one for each kappa, got "
                f"{truncations}"
            )
        self.truncations = truncations
        self.readout = MomentReadout(options.budget)
        self.guard = RadiusGuard(options.design_radius, options.tolerance)

        # Where the coefficients of the kernel meet the moments: l of each row, q of each moment.
        sizes = torch.tensor([num_rows(degree) for degree in truncations])
        self.moments = int(sizes.sum())
        kappa_of_moment = torch.arange(len(truncations)).repeat_interleave(sizes)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)
        self.register_buffer("node", kappa_of_moment, persistent=False)
        self._list_waves()

    def _list_waves(self) -> None:
        """Which waves there are: all of kappa 0 by rising degree, then all of kappa 1, ...

        ``row`` and ``radial`` (waves,) name the harmonic and the radial function of each wave,
        ``source`` (moments,) the waves that are source factors.
        """
        row, radial, source = [], [], []
        waves = 0
        for q, truncation in enumerate(self.truncations):
            highest = truncation + self.lmax  # what couples to moments of degree <= truncation
            row.append(torch.arange(num_rows(highest)))
            radial.append(degree_of_row(highest) * len(self.truncations) + q)
            source.append(waves + torch.arange(num_rows(truncation)))
            waves += num_rows(highest)
        self.top = max(self.truncations) + self.lmax
        self.register_buffer("row", torch.cat(row), persistent=False)
        self.register_buffer("radial", torch.cat(radial), persistent=False)
        self.register_buffer("source", torch.cat(source), persistent=False)

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
        centred = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
        self.guard.check(centred.square().sum(-1), self.expected_error)

        waves = self._waves(centred)  # (waves, nodes)
        source_factors = waves.index_select(0, self.source).T.contiguous()  # (nodes, moments)
        moments = self.readout(graph, source_factors, keys, values)

        scale = coefficients.index_select(0, self.degree).index_select(2, self.node)
        scale = scale.transpose(0, 1).contiguous()  # (heads, rows, moments)
        tables = translation_tables(self.lmax, self.truncations, waves.dtype, waves.device)
        target_factors = MappedFactors(*tables, num_rows(self.lmax))
        return self.readout.read_back(graph, waves.T, scale, queries, moments, target_factors)

    def _waves(self, centred: Tensor) -> Tensor:
        """Standing waves of all kappas, one below the other: (waves, nodes)."""
        unit = centred.new_tensor(self.options.design_radius)
        kappa = centred.new_tensor(self.wave_numbers)
        squared = kappa.square()[:, None] * centred.square().sum(-1)  # (Q, nodes)
        return standing_waves(
            centred / unit, squared, kappa * unit, self.top, self.row, self.radial
        )

    def expected_error(self, radius: float) -> float:
        """Error at atoms ``radius`` Angstrom from the centroid, of the worst kappa and degree."""
        errors = [
            truncation_error(kappa * radius, truncation, self.lmax)
            for kappa, truncation in zip(self.wave_numbers, self.truncations, strict=True)
        ]
        return max(errors)

    def extra_repr(self) -> str:
        return f"lmax={self.lmax}, truncations={self.truncations}, moments={self.moments}"
