"""Laws of the edge basis: frames are rotations that take the edge to the polar axis.

Exactly, with all derivatives.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.models.near_field.edge_frames import EdgeBasis, packed_frames, packed_size
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, degree_slice, num_rows, rows_by_order
from tests.support.draws import draw
from tests.support.turns import relative_error, turn_matrix

LAWS = settings(max_examples=25, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 10_000)
DEGREES = pytest.mark.parametrize("lmax", range(1, 6))


def frames(basis: EdgeBasis) -> Tensor:
    """The rotations with their rows sorted by degree: (edges, rows, rows).

    One block for each degree.
    """
    return basis.rotation()[:, torch.argsort(rows_by_order(basis.lmax))]


def crooked_vectors() -> Tensor:
    """Unit vectors where a frame may go wrong.

    Axes, the plane y = 0 where frames flip, and both poles and their surroundings.
    """
    special = [
        [sign * value for value in axis]
        for sign in (1.0, -1.0)
        for axis in (
            [1.0, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.0, 0.0, 1.0],
            [0.6, 0.0, 0.8],
            [0.6, 0.0, -0.8],
        )
    ]
    for offset in (10.0**-k for k in range(4, 13)):
        special += [
            [offset, 1.0, 0.0],
            [0.0, -1.0, offset],
            [-offset, -1.0, offset],
            [0.6, offset, 0.8],
            [0.6, -offset, 0.8],
        ]
    return torch.tensor(special, dtype=torch.float64)


def all_vectors(seed: int = 0) -> Tensor:
    """The crooked ones and random ones of lengths 1e-3 .. 1e3."""
    random = draw(40, 3, seed=seed) * 10.0 ** torch.linspace(-3, 3, 40, dtype=torch.float64).view(
        -1, 1
    )
    return torch.cat([crooked_vectors(), random])


@DEGREES
@pytest.mark.parametrize(
    ("dtype", "bar"), [(torch.float32, 2e-6), (torch.float64, 3e-15)], ids=["float32", "float64"]
)
def test_frames_are_rotations_to_the_polar_axis(lmax, dtype, bar):
    """D D^T = 1 for each degree, det D^1 = 1, and D takes the edge to the polar axis.

    Its harmonics become 1 at m = 0 and 0 elsewhere.
    """
    vectors = all_vectors().to(dtype)
    basis = EdgeBasis.from_vectors(vectors, lmax)
    turn = frames(basis)
    assert turn.dtype == dtype and torch.cat(basis.packed, 1).shape == (
        len(vectors),
        packed_size(lmax),
    )
    exact = turn.double()
    bar = bar * lmax
    torch.testing.assert_close(
        exact @ exact.mT, torch.eye(num_rows(lmax)).double().expand_as(exact), rtol=0, atol=bar
    )
    degree = degree_of_row(lmax)
    assert not turn[:, degree.view(-1, 1) != degree].any()
    torch.testing.assert_close(
        torch.linalg.det(exact[:, 1:4, 1:4]), torch.ones(len(vectors)).double(), rtol=0, atol=bar
    )
    axis = (torch.arange(num_rows(lmax)) == degree * (degree + 1)).double()
    after = torch.einsum("epq,eq->ep", exact, spherical_harmonics(vectors.double(), lmax))
    torch.testing.assert_close(after, axis.expand_as(after), rtol=0, atol=bar)
    torch.testing.assert_close(
        basis.length.double(),
        vectors.double().norm(dim=-1),
        rtol=4 * torch.finfo(dtype).eps,
        atol=0,
    )


@DEGREES
@LAWS
@given(seed=SEEDS)
def test_frames_represent_their_rotation(lmax, seed):
    """Y(R x) = D(R) Y(x) for every x, with R the degree-1 block."""
    points = draw(12, 3, seed=seed)
    turn = frames(EdgeBasis.from_vectors(all_vectors(seed)[-25:], lmax))
    after = spherical_harmonics(torch.einsum("epq,nq->enp", turn[:, 1:4, 1:4], points), lmax)
    torch.testing.assert_close(
        after,
        torch.einsum("epq,nq->enp", turn, spherical_harmonics(points, lmax)),
        rtol=0,
        atol=1e-13,
    )


@DEGREES
def test_float32_frames_are_those_of_float64(lmax):
    """No precision is lost near a pole or near the plane where frames flip.

    A few roundings, everywhere.
    """
    vectors = all_vectors().float()
    single = EdgeBasis.from_vectors(vectors, lmax)
    double = EdgeBasis.from_vectors(vectors.double(), lmax)
    assert torch.equal(single.flipped, double.flipped)
    assert float((single.rotation().double() - double.rotation()).abs().max()) <= 4e-7 * lmax


def test_frame_is_the_smallest_rotation():
    """For y >= 0 the angle of the rotation is the angle between edge and axis.

    Trace = 1 + 2 cos.
    """
    vectors = all_vectors()
    vectors = vectors[vectors[:, 1] >= 0]
    turn = EdgeBasis.from_vectors(vectors, 1).rotation()[:, torch.argsort(rows_by_order(1))][
        :, 1:, 1:
    ]
    cosine = vectors[:, 1] / vectors.norm(dim=-1)
    torch.testing.assert_close(
        turn.diagonal(dim1=1, dim2=2).sum(-1), 1 + 2 * cosine, rtol=0, atol=1e-14
    )


@DEGREES
def test_one_row_serves_both_directions(lmax):
    """Only the flag turns over with the edge.

    Also in the plane y = 0, where both directions are their own half space.
    """
    vectors = all_vectors()
    basis = EdgeBasis.from_vectors(vectors, lmax)
    back = EdgeBasis(basis.length, basis.packed, ~basis.flipped)
    turn = frames(back)
    torch.testing.assert_close(
        turn @ turn.mT,
        torch.eye(num_rows(lmax)).double().expand_as(turn),
        rtol=0,
        atol=3e-15 * lmax,
    )
    degree = degree_of_row(lmax)
    axis = (torch.arange(num_rows(lmax)) == degree * (degree + 1)).double()
    after = torch.einsum("epq,eq->ep", turn, spherical_harmonics(-vectors, lmax))
    torch.testing.assert_close(after, axis.expand_as(after), rtol=0, atol=1e-14 * lmax)
    points = draw(12, 3, seed=2)
    moved = spherical_harmonics(torch.einsum("epq,nq->enp", turn[:, 1:4, 1:4], points), lmax)
    torch.testing.assert_close(
        moved,
        torch.einsum("epq,nq->enp", turn, spherical_harmonics(points, lmax)),
        rtol=0,
        atol=1e-13,
    )

    length, packed, flipped = packed_frames(-vectors, lmax)
    off_plane = vectors[:, 1] != 0
    assert torch.equal(length, basis.length)
    assert all(
        torch.equal(one[off_plane], other[off_plane])
        for one, other in zip(packed, basis.packed, strict=True)
    )
    assert torch.equal(flipped[off_plane], ~basis.flipped[off_plane])


def test_packed_sizes():
    assert [packed_size(lmax) for lmax in range(6)] == [0, 6, 21, 49, 94, 160]


@LAWS
@given(lmax=st.integers(1, 5), lower=st.integers(1, 5), seed=SEEDS)
def test_lower_degrees_are_the_first_values(lmax, lower, seed):
    """A basis of small lmax is a prefix of one of large lmax."""
    lower = min(lower, lmax)
    vectors = draw(5, 3, seed=seed)
    first, whole = packed_frames(vectors, lmax)[1][:lower], packed_frames(vectors, lower)[1]
    assert all(torch.equal(one, other) for one, other in zip(first, whole, strict=True))


# derivatives


def turn_about_axis(angle: float, lmax: int) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return turn_matrix(
        torch.tensor([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]], dtype=torch.float64),
        lmax,
    )


def axial_kernel(lmax: int, seed: int = 0) -> Tensor:
    """A random matrix (rows, rows) that commutes with turns about the polar axis.

    The average over such turns.
    """
    turns = torch.stack(
        [turn_about_axis(2 * math.pi * k / (2 * lmax + 1), lmax) for k in range(2 * lmax + 1)]
    )
    return (turns.mT @ draw(num_rows(lmax), num_rows(lmax), seed=seed) @ turns).mean(0)


def invariant(vectors: Tensor, lmax: int, kernel: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``<left, D^T K D right>`` of every edge: (edges,).

    It depends on the edge, not on the turn of its frame about the edge.
    """
    turn = frames(EdgeBasis.from_vectors(vectors, lmax))
    return torch.einsum("p,eqp,qr,ers,s->e", left, turn, kernel, turn, right)


@DEGREES
def test_first_derivatives_match_differences(lmax):
    """Also at the poles, and across the plane y = 0.

    There the two points of a difference have opposite frames.
    """
    vectors = torch.cat([crooked_vectors(), 2 * draw(5, 3, seed=1)]).requires_grad_(True)
    kernel = axial_kernel(lmax)
    left = draw(num_rows(lmax), seed=2)
    right = draw(num_rows(lmax), seed=3)
    (gradient,) = torch.autograd.grad(invariant(vectors, lmax, kernel, left, right).sum(), vectors)
    step = 1e-5
    for axis in torch.eye(3).double():
        above, below = (
            invariant(vectors.detach() + sign * step * axis, lmax, kernel, left, right)
            for sign in (1, -1)
        )
        torch.testing.assert_close(
            (gradient * axis).sum(-1), (above - below) / (2 * step), rtol=1e-6, atol=1e-6
        )
    assert float(gradient.abs().max()) > 1


@pytest.mark.parametrize("lmax", [1, 2, 4])
def test_second_derivatives_match_differences(lmax):
    vectors = torch.cat([crooked_vectors()[:12], draw(3, 3, seed=1)]).requires_grad_(True)
    kernel = axial_kernel(lmax)
    left = draw(num_rows(lmax), seed=2)
    right = draw(num_rows(lmax), seed=3)

    def gradient(at: Tensor) -> Tensor:
        return torch.autograd.grad(
            invariant(at, lmax, kernel, left, right).sum(), at, create_graph=True
        )[0]

    weights = draw(*vectors.shape, seed=4)
    (second,) = torch.autograd.grad((gradient(vectors) * weights).sum(), vectors)
    step = 1e-5
    above, below = (
        gradient((vectors + sign * step * weights).detach().requires_grad_(True))
        for sign in (1, -1)
    )
    torch.testing.assert_close(
        second, ((above - below) / (2 * step)).detach(), rtol=1e-6, atol=1e-5
    )
    assert float(second.abs().max()) > 1


def test_length_has_the_unit_vector_as_gradient():
    vectors = all_vectors().requires_grad_(True)
    (gradient,) = torch.autograd.grad(packed_frames(vectors, 1)[0].sum(), vectors)
    torch.testing.assert_close(
        gradient, (vectors / vectors.norm(dim=-1, keepdim=True)).detach(), rtol=0, atol=1e-15
    )


@DEGREES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_edge_of_zero_length_passes_scalars_only(lmax, dtype):
    """Its matrix is 1 for l = 0 and zero above, with zero derivatives.

    Its neighbours in the batch notice nothing.
    """
    vectors = torch.tensor(
        [[0.0, 0.0, 0.0], [0.3, -0.2, 0.9], [-0.0, -0.0, -0.0]], dtype=dtype, requires_grad=True
    )
    basis = EdgeBasis.from_vectors(vectors, lmax)
    turn = basis.rotation()
    for edge in (0, 2):
        assert turn[edge, 0, 0] == 1 and turn[edge].count_nonzero() == 1 and basis.length[edge] == 0
    alone = EdgeBasis.from_vectors(vectors[1:2], lmax).rotation()[0]
    torch.testing.assert_close(turn[1], alone, rtol=0, atol=8 * torch.finfo(dtype).eps)
    weights = torch.linspace(1, 2, turn.numel(), dtype=dtype).view_as(turn)
    (first,) = torch.autograd.grad(
        (weights * turn).sum() + basis.length.sum(), vectors, create_graph=True
    )
    (second,) = torch.autograd.grad((first + first.square()).sum(), vectors)
    assert not first[[0, 2]].any() and not second[[0, 2]].any()
    assert (
        torch.isfinite(first).all()
        and torch.isfinite(second).all()
        and first[1].any()
        and second[1].any()
    )


def test_no_edges():
    basis = EdgeBasis.from_vectors(torch.zeros(0, 3), 3)
    assert basis.rotation().shape == (0, 16, 16) and basis.length.shape == (0,)
    assert [part.shape for part in basis.packed] == [(0, 6), (0, 15), (0, 28)]


def test_use_in_inference_mode_spoils_nothing():
    """Tables first made without gradients serve training afterwards.

    No other test makes the tables of lmax 6.
    """
    vectors = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = EdgeBasis.from_vectors(vectors, 6).rotation()
    turn = EdgeBasis.from_vectors(vectors.requires_grad_(True), 6).rotation()
    assert torch.equal(turn, expected)
    assert torch.isfinite(torch.autograd.grad(turn.sum(), vectors)[0]).all()


def test_change_of_type():
    basis = EdgeBasis.from_vectors(draw(6, 3, seed=0), 3)
    single = basis.to(dtype=torch.float32)
    assert {part.dtype for part in (single.length, *single.packed)} == {torch.float32}
    assert (single.flipped.dtype, single.lmax) == (torch.bool, 3)
    assert relative_error(single.rotation().double(), basis.rotation()) <= 1e-7


def test_blocks_are_ordered_by_degree():
    """Degree l only meets degree l: the helper of this file sorts rows by :func:`degree_slice`."""
    turn = frames(EdgeBasis.from_vectors(draw(1, 3, seed=0), 3))[0]
    for l in range(4):
        assert float(
            torch.linalg.matrix_norm(turn[degree_slice(l), degree_slice(l)])
        ) == pytest.approx((2 * l + 1) ** 0.5)


@pytest.mark.parametrize("lmax", range(1, 7))
def test_matrices_are_the_blocks_of_the_rotation(lmax):
    """Rows m = 0, -1, 1, -2, 2, ... of every degree, also where two edges share a stored frame."""
    vectors = all_vectors()
    basis = EdgeBasis.from_vectors(vectors, lmax)
    some = torch.tensor([3, 3, 40, 7])
    shared = EdgeBasis(basis.length[some], basis.packed, basis.flipped[some], some)
    for held in (basis, shared, basis.select(some)):
        turn, found = frames(held), held.matrices()
        for l, matrix in enumerate(found, 1):
            order = [l, *(l + sign * m for m in range(1, l + 1) for sign in (-1, 1))]
            block = turn[:, degree_slice(l), degree_slice(l)]
            assert torch.equal(matrix, block[:, order])
