"""Laws of the Wigner-6j convolution.

Two forms, one operator; its definition; precision far from the origin; periodic images.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from farfield.models.kernels.harmonic_sum import KERNELS
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.near_field.wigner_convolution import (
    FORMS,
    WignerConvolution,
    edge_form,
    node_form,
)
from farfield.models.near_field.wigner_tables import (
    binomial_scale,
    coupling_paths,
    source_products,
)
from farfield.models.so3.coupling import clebsch_gordan
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import degree_slice
from tests.support.near_field_clouds import Surveyor, cloud, near_graph
from tests.support.turns import orthogonal, relative_error, turned

ORDERS = pytest.mark.parametrize("order", range(4))
LMAX, CHANNELS = 2, 3


def convolution(
    order: int, form: str = "edge", kernel: str = "memory_efficient"
) -> WignerConvolution:
    torch.manual_seed(7)
    return WignerConvolution(order, LMAX, CHANNELS, 4, form, kernel).double()


def scene(
    nodes: int = 14, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, NearFieldGeometry]:
    """Features, weights and geometry with gradients."""
    positions = cloud(nodes, seed).to(dtype).requires_grad_()
    geometry = Surveyor()(positions, near_graph(positions, [nodes], 4.0))
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.randn(nodes, 9, CHANNELS, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
    )
    weights = (
        torch.randn(geometry.graph.num_edges, CHANNELS, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
    )
    return x, weights, geometry


def by_definition(
    layer: WignerConvolution, x: Tensor, weights: Tensor, geometry: NearFieldGeometry
) -> Tensor:
    """The operator edge by edge, path by path.

    ``m_i^L = sum_lam W sqrt(2 l + 1) sum_j w_ij [x_j^lam (x) S_l(u_ij)]^L``.
    """
    order, lmax = layer.order, layer.lmax
    length = (geometry.vectors.square().sum(-1, keepdim=True) + geometry.softening**2).sqrt()
    kernel = solid_harmonics(geometry.vectors / length, order)[:, degree_slice(order)] * math.sqrt(
        2 * order + 1
    )
    out = x.new_zeros(x.shape[0], x.shape[1], layer.channels_out)
    channels = x.shape[-1]
    for degree in range(lmax + 1):
        sources = [
            lam
            for lam in range(lmax + 1)
            if abs(lam - order) <= degree <= lam + order and (lam + order + degree) % 2 == 0
        ]
        for position, lam in enumerate(sources):
            table = clebsch_gordan(lam, order, degree).to(x)
            source = x[geometry.graph.src][:, degree_slice(lam)]
            message = torch.einsum("abm,eac,eb,ec->emc", table, source, kernel, weights)
            mix = layer.mix[degree][position * channels : (position + 1) * channels]
            out[:, degree_slice(degree)] += (
                out.new_zeros(x.shape[0], 2 * degree + 1, channels).index_add(
                    0, geometry.graph.dst, message
                )
                @ mix
            )
    return out


@ORDERS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", ["math", "memory_efficient"])
def test_both_forms_are_the_definition(order, form, kernel):
    layer = convolution(order, form, kernel)
    assert relative_error(layer(*scene()), by_definition(layer, *scene())) < 1e-12


@ORDERS
def test_both_forms_have_the_same_derivatives(order):
    found = []
    for form in ("edge", "node"):
        x, weights, geometry = scene()
        layer = convolution(order, form)
        value = layer(x, weights, geometry)
        tensors = [
            x,
            weights,
            geometry.positions,
            *(mix for mix in layer.parameters() if mix.numel()),
        ]
        probe = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
        first = torch.autograd.grad(
            (probe * value + value.square()).sum(), tensors, create_graph=True
        )
        second = torch.autograd.grad(sum(part.square().sum() for part in first), tensors)
        found.append([value, *first, *second])
    for edge, node in zip(*found, strict=True):
        assert (
            relative_error(node, edge) < 1e-11
            if edge.abs().max() > 1e-12
            else node.abs().max() < 1e-10
        )


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_single_precision_holds_far_from_the_origin(order, form, offset):
    layer = convolution(order, form)
    surveyor = Surveyor()
    positions = (cloud(40) + offset).float()
    graph = near_graph(positions, [40], 4.0)
    x, weights = torch.randn(40, 9, CHANNELS), torch.randn(graph.num_edges, CHANNELS)
    exact = layer(x.double(), weights.double(), surveyor(positions.double(), graph))
    found = layer.float()(x, weights, surveyor(positions, graph))
    assert relative_error(found.double(), exact) < 2e-6


def test_one_origin_for_all_would_not_hold():
    """The bar above is not an accident of the test.

    About one common origin 100 Angstrom away, degree 2 keeps three digits.
    """
    positions = cloud(40).float() + 100
    graph = near_graph(positions, [40], 4.0)
    near, far = Surveyor()(positions, graph), Surveyor()(positions, graph)
    origins = far.local_origins
    origins.source_position, origins.target_position = positions, positions[origins.target]
    x, weights = torch.randn(40, 9, CHANNELS), torch.randn(graph.num_edges, CHANNELS)
    form = (2, LMAX, KERNELS["memory_efficient"], x, weights)
    exact = edge_form(*form, near)
    assert relative_error(node_form(*form, near), exact) < 1e-5
    assert relative_error(node_form(*form, far), exact) > 1e-4


@ORDERS
def test_solid_harmonics_of_a_difference_are_a_binomial_sum(order):
    a, b = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    total = 0
    for moved in range(order + 1):
        left, right = (
            solid_harmonics(v, l)[:, degree_slice(l)] for v, l in ((b, moved), (a, order - moved))
        )
        total = total + binomial_scale(order, moved) * torch.einsum(
            "na,nb,abm->nm", left, right, clebsch_gordan(moved, order - moved, order)
        )
    assert torch.allclose(total, solid_harmonics(a - b, order)[:, degree_slice(order)], atol=1e-12)


def test_only_paths_that_keep_parity_are_there():
    assert [(path.degree_in, path.degree_out) for path in coupling_paths(1, 2)] == [
        (1, 0),
        (0, 1),
        (2, 1),
        (1, 2),
    ]
    assert [(path.degree_in, path.degree_out) for path in coupling_paths(2, 2)] == [
        (2, 0),
        (1, 1),
        (0, 2),
        (2, 2),
    ]
    assert [source_products(order, 2)[-1].rows.stop for order in range(3)] == [9, 21, 50]


@ORDERS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("proper", [True, False], ids=["rotation", "reflection"])
def test_convolution_turns_with_the_structure(order, form, proper):
    matrix, layer = orthogonal(3, proper), convolution(order, form)
    x, weights, geometry = scene()
    with torch.no_grad():
        turned_geometry = Surveyor()(geometry.positions @ matrix.T, geometry.graph)
        after = layer(turned(x, matrix, LMAX), weights, turned_geometry)
        assert relative_error(after, turned(layer(x, weights, geometry), matrix, LMAX)) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_scalars_send_the_direction(form):
    """Order 1 of a scalar is the softened unit vector times sqrt(3), whatever the form."""
    layer = convolution(1, form)
    x, weights, geometry = scene()
    x = torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], 1)
    with torch.no_grad():
        layer.mix[1].zero_()[:CHANNELS, :CHANNELS] = torch.eye(CHANNELS)
    along = (
        math.sqrt(3)
        * geometry.vectors
        / (geometry.vectors.square().sum(-1, keepdim=True) + geometry.softening**2).sqrt()
    )
    message = along.unsqueeze(-1) * (weights * x[geometry.graph.src, 0]).unsqueeze(1)
    expected = torch.zeros(len(x), 3, CHANNELS, dtype=torch.float64).index_add(
        0, geometry.graph.dst, message
    )
    found = layer(x, weights, geometry)
    assert relative_error(found[:, 1:4, :CHANNELS], expected) < 1e-12
    assert found[:, [0, 4, 5, 6, 7, 8]].abs().max() == 0


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_periodic_images_are_copies_of_atoms(order, form):
    """A cell with images gives its atoms what they get in a cluster of all images.

    There every image is an atom of its own.
    """
    side, count = 5.0, 6
    cell_positions = cloud(count, side=side)
    shifts = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 3) * side
    shifts = shifts[shifts.norm(dim=1).argsort()]  # the cell itself comes first
    everything = (cell_positions + shifts.unsqueeze(1)).flatten(0, 1)
    cluster = near_graph(everything, [len(everything)], 4.0)
    central = cluster.dst < count
    graph = type(cluster)(
        cluster.src[central], cluster.dst[central], torch.tensor([len(everything)])
    )
    periodic = type(cluster)(graph.src % count, graph.dst, torch.tensor([count]))
    x = torch.randn(count, 9, CHANNELS, dtype=torch.float64)
    weights = torch.randn(graph.num_edges, CHANNELS, dtype=torch.float64)
    layer, surveyor = convolution(order, form), Surveyor()
    expected = layer(x.repeat(len(shifts), 1, 1), weights, surveyor(everything, graph))[:count]
    images = (-shifts[graph.src // count]).requires_grad_()
    geometry = surveyor(cell_positions, periodic, images)
    assert geometry.local_origins.edges.num_sources > count
    found = layer(x, weights, geometry)
    assert relative_error(found, expected) < 1e-12
    # strain: the derivative by the displacements agrees between the forms
    (by_images,) = torch.autograd.grad(found.square().sum(), images)
    other = (
        convolution(order, "edge")(x, weights, surveyor(cell_positions, periodic, images))
        .square()
        .sum()
    )
    (expected_by_images,) = torch.autograd.grad(other, images)
    source = torch.cat([periodic.src.unsqueeze(1), images.detach()], 1).unique(
        dim=0, return_inverse=True
    )[1]
    per_image = [
        torch.zeros(int(source.max()) + 1, 3, dtype=torch.float64).index_add(0, source, g)
        for g in (by_images, expected_by_images)
    ]
    # the node form sees a displacement through its source; through the target it only enters the
    # softened length
    assert torch.allclose(per_image[0], per_image[1], atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 2, 4, 4), "order of a Wigner convolution must be 0 .. 4 at lmax 2, got 5"),
        ((-1, 2, 4, 4), "got -1"),
        (
            (1, 2, 4, 4, "vertex"),
            "form of a Wigner convolution must be one of edge, node, got 'vertex'",
        ),
        (
            (1, 2, 4, 4, "edge", "slow"),
            "kernel of a Wigner convolution must be one of math, memory_efficient, flash, "
            "got 'slow'",
        ),
        ((1, 2, 4, 4, "node", "flash"), "form 'node' subtracts"),
    ],
)
def test_bad_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WignerConvolution(*arguments)
