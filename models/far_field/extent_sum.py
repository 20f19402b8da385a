"""Any expansion in standing waves, for a kernel whose density is a function of the wave number.

Every graph gets as many waves as its own extent needs, whatever its batch: radii are sorted into
steps of ``STEP``, and the graphs of a step share one expansion, made when the first of them comes.
Cost: that of the expansion, with ``kappa_max x diameter / 4`` waves.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from farfield.models.far_field.expansion import LARGEST_RADIUS, Expansion, ExpansionOptions
from farfield.models.far_field.spectral_shapes import SpectralShape, wave_nodes
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from farfield.models.so3.irreps import num_rows

STEP = 2**0.5  # ratio of neighbouring radii
SMALLEST_RADIUS = 4.0  # Angstrom


def radii(graph: GraphIndex, positions: Tensor) -> Tensor:
    """Largest distance of an atom of each graph from its centroid, without gradient: (graphs,)."""
    positions = positions.detach()
    centred = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
    squared = centred.square().sum(-1)
    found = squared.new_zeros(graph.num_graphs)
    return found.scatter_reduce(0, graph.graph_of_node, squared, "amax").sqrt()


def subgraphs(graph: GraphIndex, chosen: Tensor) -> tuple[GraphIndex, Tensor]:
    """The graphs that ``chosen`` (graphs,) bool names, without edges, and their nodes."""
    nodes = chosen.index_select(0, graph.graph_of_node).nonzero().squeeze(1)
    no_edges = nodes.new_zeros(0)
    return GraphIndex(no_edges, no_edges, graph.nodes_per_graph[chosen]), nodes


class ExtentSum(nn.Module):
    """The sum of ``Expansion.forward`` with waves by extent; ``coefficients`` are the kernel's own.

    make: class of the expansion. shape: densities. options: tolerance, budget and what else the
    expansion reads; the design radius follows from each graph.
    """

    def __init__(self, make: type[Expansion], shape: SpectralShape, options: ExpansionOptions):
        super().__init__()
        self.make, self.shape, self.options = make, shape, options
        self._made: dict[tuple, tuple[Expansion, tuple[float, ...]]] = {}

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
        """See :meth:`Expansion.forward`; coefficients: (lmax + 1, heads, terms) of the kernel.

        Refuses cells: a structure that repeats has no extent.
        """
        if cell is not None:
            raise ValueError(
                f"{self.make.__name__} is for open systems, got periodic cells; choose expansion "
                "'lattice', 'mesh' or 'auto'"
            )
        if not graph.num_nodes:
            return values.new_zeros(0, values.shape[1], num_rows(self.shape.lmax), values.shape[2])
        atoms = (positions, queries, keys, values)
        steps = self._steps(radii(graph, positions))
        found, places = [], []
        for step in steps.unique().tolist():
            expansion, weights = self._expansion(step, positions)
            kappa = positions.new_tensor(expansion.wave_numbers)
            waves = self.shape.density(kappa, coefficients) * positions.new_tensor(weights)

            part, nodes = subgraphs(graph, steps == step)
            own = [tensor.index_select(0, nodes) for tensor in atoms]
            found.append(expansion(part, *own, waves))
            places.append(nodes)
        return torch.cat(found).index_select(0, torch.cat(places).argsort())

    def _steps(self, radius: Tensor) -> Tensor:
        """Number of the step that holds each radius (graphs,) int64."""
        largest = float(radius.max()) if radius.numel() else 0.0
        limit = min(self.make.largest_size / self.shape.kappa_max, LARGEST_RADIUS)
        if largest > limit:
            raise ValueError(
                f"a structure reaches {largest:.4g} Angstrom from its centroid, "
                f"{self.make.__name__} takes {limit:.4g} with this kernel; choose "
                "far_kernel 'screened' with far_expansion 'auto'"
            )
        relative = (radius / SMALLEST_RADIUS).clamp_min(1.0)
        return (relative.log() / math.log(STEP) - 1e-6).ceil().clamp_min(0).long()

    def _expansion(self, step: int, like: Tensor) -> tuple[Expansion, tuple[float, ...]]:
        """The expansion of a step and the weights of its nodes."""
        key = step, like.device
        if key not in self._made:
            radius = SMALLEST_RADIUS * STEP**step
            tolerance = min(self.options.tolerance, 1e-4) / 10
            wave_numbers, weights = wave_nodes(self.shape, radius, tolerance)
            design_radius = min(radius, LARGEST_RADIUS)
            options = dataclasses.replace(self.options, design_radius=design_radius)
            expansion = self.make(wave_numbers, self.shape.lmax, options).to(like.device)
            self._made[key] = expansion, weights
        return self._made[key]

    def extra_repr(self) -> str:
        return f"{self.make.__name__}, {self.shape}"
