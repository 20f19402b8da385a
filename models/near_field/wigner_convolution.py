"""Equivariant convolution over edges with tensor products on nodes, in two forms.

The operator of order l, with harmonics S_l of the softened edge direction (``edge_geometry.py``)
and weights w per edge and channel (E2Former's Wigner-6j convolution, Li et al. 2025):

    m_i^L = sum_lam W_(lam,L) sqrt(2 l + 1) sum_j w_ij (.) [x_j^lam (x) S_l(u_ij)]^L,
    lam + l + L even,

where [x (x) y]^L couples by the Clebsch-Gordan isometry and W_(lam,L) mixes channels, one matrix
for each path (lam, l, L).

edge form   The sum over j of w Y_m x_j is formed for each component m of the harmonic, and coupled
            once on the receiving node.
node form   With r_ij = r_i - r_j about any origin, S_l(r_i - r_j) is a sum of products of harmonics
            of r_j and of r_i, and these move to the source and to the target
            (``wigner_tables.py``). Edges carry only weights w / (r^2 + s^2)^(l/2).

Precision of the node form. The sum cancels |r|^l down to |r_ij|^l. Origins are therefore local: a
source is seen from the centre of a cube that holds it, and a target keeps one sum for each such
cube (``local_origins.py``).

Cost at lmax 2 per edge and channel: 9 (2 l + 1) multiply-adds in the edge form; 9, 21 or 50 for l =
0, 1, 2 in the node form, plus tensor products on nodes and on pairs of target and cube.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry, check_choice
from farfield.models.kernels.harmonic_sum import KERNELS, Kernel
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.near_field.wigner_tables import (
    coupling_paths,
    edge_coupling,
    source_coupling,
    target_coupling,
)
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import degree_slice

# name -> (order, lmax, kernel, x (nodes, rows, channels), weights (edges, channels), geometry) ->
# coupled sums (nodes, coupled rows, channels)
Form = Callable[[int, int, Kernel, Tensor, Tensor, NearFieldGeometry], Tensor]
FORMS: Registry[Form] = Registry("form")

NODE_FORM_CANCELS = (
    "form 'node' subtracts large, nearly equal values, which kernel 'flash' rounds to 8 bits; "
    "take form 'edge' or kernel 'memory_efficient'"
)


@FORMS.register("edge")
def edge_form(
    order: int,
    lmax: int,
    kernel: Kernel,
    x: Tensor,
    weights: Tensor,
    geometry: NearFieldGeometry,
) -> Tensor:
    """Coupled sums, coupled after the sum over edges."""
    harmonics = geometry.harmonics(order)[:, degree_slice(order)]
    # (nodes, 2 order + 1, rows, channels)
    sums = kernel(geometry.edge_slots, harmonics, weights, x)
    return edge_coupling(order, lmax, x.dtype, x.device) @ sums.flatten(1, 2)


@FORMS.register("node")
def node_form(
    order: int,
    lmax: int,
    kernel: Kernel,
    x: Tensor,
    weights: Tensor,
    geometry: NearFieldGeometry,
) -> Tensor:
    """Coupled sums; edges carry ``w / (r^2 + s^2)^(order / 2)`` only."""
    origins = geometry.local_origins
    at_source = source_coupling(order, lmax, x.dtype, x.device)
    at_target = target_coupling(order, lmax, x.dtype, x.device)

    # (sources, product rows, channels)
    products = _couple(at_source, origins.source_position, x.index_select(0, origins.node))

    # (pairs, product rows, channels): sums for each target and cube
    fading = geometry.softened_length**-order
    sums = kernel(origins.edges, fading, weights, products).squeeze(1)

    # (pairs, coupled rows, channels), then summed over the cubes of a target
    coupled = _couple(at_target, origins.target_position, sums)
    return x.new_zeros(x.shape[0], *coupled.shape[1:]).index_add(0, origins.target, coupled)


def _couple(coupling: Tensor, positions: Tensor, x: Tensor) -> Tensor:
    """Tensor products on nodes: x (nodes, rows, k) to (nodes, out, k).

    coupling (out, rows, harmonics). positions (nodes, 3).
    """
    order = round(coupling.shape[-1] ** 0.5) - 1
    matrices = solid_harmonics(positions, order) @ coupling.flatten(0, 1).T
    return torch.bmm(matrices.view(-1, *coupling.shape[:2]), x)


class WignerConvolution(nn.Module):
    """Convolution of one order; the two forms are the same function of the same parameters.

    form: a name in ``FORMS``. kernel: a name in ``KERNELS``, how the sum over edges is carried out.
    Raises ValueError for unknown names, and for an order no path of which reaches a degree up to
    lmax.
    """

    def __init__(
        self,
        order: int,
        lmax: int,
        channels_in: int,
        channels_out: int,
        form: str = "edge",
        kernel: str = "memory_efficient",
    ):
        super().__init__()
        check_choice("form of a Wigner convolution", form, FORMS)
        check_choice("kernel of a Wigner convolution", kernel, KERNELS)
        if form == "node" and kernel == "flash":
            raise ValueError(NODE_FORM_CANCELS)
        if not 0 <= order <= 2 * lmax:
            raise ValueError(
                f"order of a Wigner convolution must be 0 .. {2 * lmax} at lmax {lmax}, got {order}"
            )
        self.order, self.lmax, self.channels_out = order, lmax, channels_out
        self.form, self.kernel = form, kernel

        # counts: number of paths to each degree
        paths = coupling_paths(order, lmax)
        self.counts = [sum(path.degree_out == out for path in paths) for out in range(lmax + 1)]
        sizes = [count * channels_in for count in self.counts]
        self.mix = nn.ParameterList(
            torch.randn(size, channels_out) / math.sqrt(max(size, 1)) for size in sizes
        )

    def forward(self, x: Tensor, weights: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """(nodes, rows, channels_in) -> (nodes, rows, channels_out).

        weights (edges, channels_in).
        """
        form, kernel = FORMS[self.form], KERNELS[self.kernel]
        coupled = form(self.order, self.lmax, kernel, x, weights, geometry)
        parts = coupled.split([count * (2 * out + 1) for out, count in enumerate(self.counts)], 1)

        # one matrix for all paths to a degree: (nodes, 2 out + 1, paths channels_in) @ mix
        mixed = []
        for out, (part, mix) in enumerate(zip(parts, self.mix, strict=True)):
            mixed.append(part.reshape(x.shape[0], 2 * out + 1, mix.shape[0]) @ mix)
        return torch.cat(mixed, 1)
