"""Laws of the Clebsch-Gordan tables: isometries that commute with rotations."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.so3.coupling import clebsch_gordan
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_slice, rows_by_order
from tests.support.draws import draw

TRIANGLES = [
    (a, b, c) for a in range(5) for b in range(5) for c in range(abs(a - b), min(a + b, 5) + 1)
]


@functools.cache
def rotation_blocks() -> Tensor:
    """Wigner matrices (rows, rows) of a general rotation, up to degree 5.

    Made of the frames of two edges.
    """
    basis = EdgeBasis.from_vectors(draw(2, 3, seed=8), 5)
    into, second = (frame[torch.argsort(rows_by_order(5))] for frame in basis.rotation())
    return into.T @ second


def test_blocks_turn_harmonics():
    """The matrices of :func:`rotation_blocks` represent a rotation.

    The block of degree 1 turns vectors, the others turn harmonics.
    """
    vectors, blocks = draw(9, 3, seed=4), rotation_blocks()
    after = spherical_harmonics(vectors @ blocks[1:4, 1:4].T, 5)
    torch.testing.assert_close(
        after, spherical_harmonics(vectors, 5) @ blocks.T, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("degrees", TRIANGLES, ids=str)
def test_coupling_is_an_isometry_that_commutes_with_rotations(degrees):
    table = clebsch_gordan(*degrees)
    assert table.dtype == torch.float64 and table.shape == tuple(2 * l + 1 for l in degrees)
    size = table.shape[2]
    torch.testing.assert_close(
        torch.einsum("abm,abn->mn", table, table),
        torch.eye(size, dtype=torch.float64),
        rtol=0,
        atol=1e-13,
    )
    first, second, third = (rotation_blocks()[degree_slice(l), degree_slice(l)] for l in degrees)
    turned_inputs = torch.einsum("abm,ap,bq->pqm", table, first, second)
    turned_output = torch.einsum("pqn,mn->pqm", table, third)
    torch.testing.assert_close(turned_inputs, turned_output, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 1), (2, 3), (4, 4)])
def test_couplings_of_two_degrees_are_complete(first, second):
    """All l3 together are an orthogonal matrix of size (2 l1 + 1)(2 l2 + 1)."""
    parts = [
        clebsch_gordan(first, second, l).flatten(0, 1)
        for l in range(abs(first - second), first + second + 1)
    ]
    square = torch.cat(parts, 1)
    torch.testing.assert_close(
        square @ square.T, torch.eye(len(square), dtype=torch.float64), rtol=0, atol=1e-13
    )


def test_small_couplings_are_the_familiar_products():
    """Couplings of low degree are known products, each up to a sign.

    1 x 1 -> 0 is the dot product / sqrt 3, 1 x 1 -> 1 the cross product / sqrt 2, 0 x l -> l the
    identity.
    """
    one, other = draw(2, 3, seed=5)
    dot = torch.einsum("a,b,abm->m", one, other, clebsch_gordan(1, 1, 0))
    torch.testing.assert_close(dot.abs(), (one @ other).abs().view(1) / 3**0.5)
    cross = torch.einsum("a,b,abm->m", one, other, clebsch_gordan(1, 1, 1))
    expected = torch.linalg.cross(one, other) / 2**0.5
    torch.testing.assert_close(cross * (cross @ expected).sign(), expected)
    for l in range(6):
        identity = clebsch_gordan(0, l, l)[0]
        torch.testing.assert_close(
            identity * identity[0, 0].sign(),
            torch.eye(2 * l + 1, dtype=torch.float64),
            rtol=0,
            atol=1e-14,
        )


@pytest.mark.parametrize("degrees", TRIANGLES, ids=str)
def test_product_of_harmonics_of_one_direction(degrees):
    """C (Y_l1 x Y_l2) is a multiple of Y_l3 at every point, and zero if l1 + l2 + l3 is odd."""
    values = spherical_harmonics(draw(6, 3, seed=6), 5)
    first, second, third = (values[:, degree_slice(l)] for l in degrees)
    product = torch.einsum("ea,eb,abm->em", first, second, clebsch_gordan(*degrees))
    factor = (product * third).sum(-1, keepdim=True)
    torch.testing.assert_close(product, factor * third, rtol=0, atol=1e-13)
    if sum(degrees) % 2:
        assert float(product.abs().max()) <= 1e-13
    else:
        assert float(factor.std()) <= 1e-13 and float(factor.abs().min()) > 1e-3


@pytest.mark.parametrize("degrees", [(1, 1, 3), (0, 2, 1), (3, 1, 1)])
def test_degrees_outside_the_triangle_are_refused(degrees):
    with pytest.raises(ValueError, match="triangle") as error:
        clebsch_gordan(*degrees)
    assert str(degrees) in str(error.value)
