"""The edge-frame convolution as explicit kernels: harmonics x Clebsch-Gordan.

Slow and obviously right; the edge-frame form is tested against it.

    W^(l,l')(r)[o, i] = sum_J R_J sum_m C^J[o, i, m] Y_Jm(r / |r|)

(Thomas et al. 2018, eq. 6; SE(3)-Transformer, eq. 8)

On the polar axis Y_Jm = delta_m0, hence the order weights A, B of the edge frame are A[o, i] =
sum_J R_J C^J[o, i, 0], and since the C^J[., ., 0] of different J are orthogonal, R_J = <A, C^J[.,
., 0]> / <C^J[., ., 0], C^J[., ., 0]>. Cost per edge: O(L^6) with an explicit kernel for each pair
of degrees and channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.near_field.frame_convolution import EdgeFrameConvolution
from farfield.models.so3.coupling import clebsch_gordan
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_slice


def kernel_convolution(
    layer: EdgeFrameConvolution, source: Tensor, vectors: Tensor, hidden: Tensor
) -> Tensor:
    """What ``layer`` computes, by explicit kernels: (edges, rows, channels_out).

    vectors (edges, 3): edge vectors.

    source (edges, rows, channels_in), hidden (edges, radial_hidden) as in
    :class:`EdgeFrameConvolution`.
    """
    harmonics = spherical_harmonics(vectors, 2 * layer.lmax)
    out = source.new_zeros(source.shape[0], source.shape[1], layer.channels_out)
    for (l_out, l_in), kernel in _frame_kernels(layer, hidden).items():
        part = source[:, degree_slice(l_in)]
        out[:, degree_slice(l_out)] += message_of_kernel(kernel, part, harmonics)
    return out


def message_of_kernel(kernel: Tensor, part: Tensor, harmonics: Tensor) -> Tensor:
    """What the kernel of one pair of degrees makes of a part: (edges, 2 l_out + 1, channels out).

    kernel (edges, 2 l_out + 1, 2 l_in + 1, channels in, channels out): on the polar axis. part
    (edges, 2 l_in + 1, channels in). harmonics of the edges, up to degree l_out + l_in.
    """
    l_out, l_in = kernel.shape[1] // 2, kernel.shape[2] // 2
    total = part.new_zeros(len(part), 2 * l_out + 1, kernel.shape[4])
    for degree in range(abs(l_out - l_in), l_out + l_in + 1):
        coupling = clebsch_gordan(l_out, l_in, degree).to(part)
        axis = coupling[:, :, degree]
        weight = torch.einsum("eoiab,oi->eab", kernel, axis) / axis.square().sum()
        angular = torch.einsum("oim,em->eoi", coupling, harmonics[:, degree_slice(degree)])
        total = total + torch.einsum("eoi,eab,eia->eob", angular, weight, part)
    return total


def _frame_kernels(layer: EdgeFrameConvolution, hidden: Tensor) -> dict[tuple[int, int], Tensor]:
    """Kernel on the polar axis for each pair of degrees.

    (edges, 2 l_out + 1, 2 l_in + 1, channels_in, channels_out).
    """
    lmax, c_in, c_out = layer.lmax, layer.channels_in, layer.channels_out
    radial = layer.radial(hidden).split(layer.sizes, -1)
    kernels = {
        (l_out, l_in): hidden.new_zeros(hidden.shape[0], 2 * l_out + 1, 2 * l_in + 1, c_in, c_out)
        for l_out in range(lmax + 1)
        for l_in in range(lmax + 1)
    }
    for m in range(lmax + 1):
        degrees = lmax + 1 - m
        even, odd = (
            None if w is None else w.view(degrees, c_in, degrees, c_out)
            for w in layer.order_weights(m)
        )
        modulation = radial[m].view(-1, degrees, c_in, 1)
        for (l_out, l_in), kernel in kernels.items():
            if m > min(l_out, l_in):
                continue
            for sign in (1, -1) if m else (1,):
                block = modulation[:, l_in - m] * even[l_in - m, :, l_out - m]
                kernel[:, l_out + sign * m, l_in + sign * m] = block
                if odd is not None:
                    kernel[:, l_out + sign * m, l_in - sign * m] = (
                        sign * modulation[:, l_in - m] * odd[l_in - m, :, l_out - m]
                    )
    return kernels
