"""Laws of the edge-frame convolution.

Equal to explicit kernels, equivariant under O(3), complete in its paths, smooth.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.near_field.frame_convolution import EdgeFrameConvolution
from farfield.models.so3.irreps import num_rows, rows_by_order
from tests.support.draws import draw
from tests.support.kernel_convolution import kernel_convolution
from tests.support.turns import orthogonal, relative_error, turn_matrix, turned

LAWS = settings(max_examples=6, deadline=None, derandomize=True, database=None)
HIDDEN = 5
# pseudo channels in and out
KINDS = pytest.mark.parametrize(("pseudo_in", "pseudo_out"), [(0, 0), (1, 2), (0, 1), (2, 0)])


def convolution(
    lmax: int, pseudo_in: int, pseudo_out: int, channels=(3, 4)
) -> EdgeFrameConvolution:
    torch.manual_seed(lmax)
    return EdgeFrameConvolution(
        lmax, *channels, HIDDEN, pseudo_in=pseudo_in, pseudo_out=pseudo_out
    ).double()


def edges(lmax: int, seed: int, count: int = 6, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Source features, edge vectors and radial features.

    The first two vectors lie on the polar axis and in the plane y = 0.
    """
    vectors = draw(count, 3, seed=seed + 1)
    vectors[0] = torch.tensor([0.0, -2.0, 0.0])
    vectors[1, 1] = 0.0
    return (
        draw(count, num_rows(lmax), channels, seed=seed),
        vectors,
        draw(count, HIDDEN, seed=seed + 2),
    )


def rotation(vectors: Tensor, lmax: int) -> Tensor:
    return EdgeBasis.from_vectors(vectors, lmax).rotation()


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
@KINDS
def test_equal_to_explicit_kernels(lmax, pseudo_in, pseudo_out):
    """The edge frame and harmonics x Clebsch-Gordan are one map."""
    layer = convolution(lmax, pseudo_in, pseudo_out)
    source, vectors, hidden = edges(lmax, seed=lmax)
    with torch.no_grad():
        found = layer(source, rotation(vectors, lmax), hidden)
        expected = kernel_convolution(layer, source, vectors, hidden)
    assert found.shape == (6, num_rows(lmax), 4)
    assert relative_error(found, expected) <= 1e-12


@pytest.mark.parametrize("lmax", [1, 3])
@KINDS
@LAWS
@given(seed=st.integers(0, 1000), proper=st.booleans())
def test_equivariant_under_rotations_and_reflections(lmax, pseudo_in, pseudo_out, seed, proper):
    layer, matrix = convolution(lmax, pseudo_in, pseudo_out), orthogonal(seed, proper)
    source, vectors, hidden = edges(lmax, seed)
    with torch.no_grad():
        before = layer(source, rotation(vectors, lmax), hidden)
        after = layer(
            turned(source, matrix, lmax, pseudo_in), rotation(vectors @ matrix.T, lmax), hidden
        )
    assert relative_error(after, turned(before, matrix, lmax, pseudo_out)) <= 1e-12


@KINDS
def test_any_frame_of_the_edge_gives_the_same_messages(pseudo_in, pseudo_out):
    """A further turn about the polar axis, another for each edge, changes nothing.

    The choice of frame is free.
    """
    lmax = 3
    layer = convolution(lmax, pseudo_in, pseudo_out)
    source, vectors, hidden = edges(lmax, seed=0)
    by_order = rows_by_order(lmax)
    angles = draw(6, seed=9)
    cos = angles.cos()
    sin = angles.sin()
    zero = torch.zeros(6).double()
    one = torch.ones(6).double()
    about_axis = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], -1).view(6, 3, 3)
    turns = torch.stack([turn_matrix(matrix, lmax)[by_order][:, by_order] for matrix in about_axis])
    frame = rotation(vectors, lmax)
    with torch.no_grad():
        assert float((turns @ frame - frame).abs().max()) > 0.1
        assert (
            relative_error(layer(source, turns @ frame, hidden), layer(source, frame, hidden))
            <= 1e-12
        )


@KINDS
def test_relative_position_is_a_vector_along_the_edge(pseudo_in, pseudo_out):
    """``along`` adds |r| r / |r| to the first degree-1 channel of the source.

    The source itself stays as it was.
    """
    lmax = 2
    layer = convolution(lmax, pseudo_in, pseudo_out)
    source, vectors, hidden = edges(lmax, seed=3)
    kept = source.clone()
    with torch.no_grad():
        found = layer(source, rotation(vectors, lmax), hidden, vectors.norm(dim=-1))
        assert torch.equal(source, kept)
        source[:, 1:4, 0] += vectors
        assert relative_error(found, layer(source, rotation(vectors, lmax), hidden)) <= 1e-13


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
def test_number_of_paths(lmax):
    """Two degrees have 2 min(l, l') + 1 weights per pair of channels, even and odd together.

    As many as the Clebsch-Gordan form.
    """
    layer = convolution(lmax, 1, 1, channels=(2, 2))  # one true and one pseudo channel on each side
    for l_in in range(lmax + 1):
        for l_out in range(lmax + 1):
            even = odd = 0
            for m in range(min(l_in, l_out) + 1):
                blocks = [
                    None if w is None else w.view(lmax + 1 - m, 2, lmax + 1 - m, 2)
                    for w in layer.order_weights(m)
                ]
                same, crossed = (
                    0 if b is None else b[l_in - m, 0, l_out - m].ne(0) for b in blocks
                )
                even += int(same[0])
                odd += int(crossed[1]) if m else 0
                # even kernels inside a kind, odd ones between kinds
                assert not same[1] and not (m and crossed[0])
            assert even + odd == 2 * min(l_in, l_out) + 1 and odd == min(l_in, l_out)


@pytest.mark.parametrize("lmax", [1, 2])
def test_paths_span_all_equivariant_kernels(lmax):
    """The weights reach all matrices that commute with turns about the polar axis.

    As many independent ones on the polar axis, with and without mirror images.
    """
    axis = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    turn = turn_matrix(
        torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]], dtype=torch.float64),
        lmax,
    )
    rows = num_rows(lmax)
    identity = torch.eye(rows, dtype=torch.float64)
    # K turn = turn K, K flattened by rows
    constraint = torch.kron(turn, identity) - torch.kron(identity, turn.T.contiguous())
    commuting = rows**2 - int(torch.linalg.matrix_rank(constraint, rtol=1e-9))

    layer = convolution(lmax, 1, 1, channels=(2, 2))
    # every component of the true channel, then of the pseudo channel
    probes = torch.zeros(2 * rows, rows, 2, dtype=torch.float64)
    probes[:rows, :, 0], probes[rows:, :, 1] = identity, identity
    hidden = torch.zeros(2 * rows, HIDDEN, dtype=torch.float64)
    weights = [*layer.even, *layer.odd]

    def true_output(*values: Tensor) -> Tensor:
        names = [f"even.{m}" for m in range(lmax + 1)] + [f"odd.{m}" for m in range(lmax)]
        frames = rotation(axis, lmax).expand(2 * rows, rows, rows)
        return torch.func.functional_call(
            layer, dict(zip(names, values, strict=True)), (probes, frames, hidden)
        )[..., 0]

    jacobian = torch.autograd.functional.jacobian(true_output, tuple(w.detach() for w in weights))
    flat = torch.cat([part.flatten(-2).flatten(0, 1) for part in jacobian], -1)
    assert int(torch.linalg.matrix_rank(flat, rtol=1e-9)) == commuting
    assert commuting == sum(2 * min(a, b) + 1 for a in range(lmax + 1) for b in range(lmax + 1))


@KINDS
def test_derivatives_match_differences(pseudo_in, pseudo_out):
    """First and second derivatives in source, edge vector and radial features.

    The frame and the length are made from the edge vector.
    """
    lmax = 1 if pseudo_in else 2
    layer = convolution(lmax, pseudo_in, pseudo_out, channels=(3, 3)).requires_grad_(False)
    source, vectors, hidden = (part[:2].requires_grad_(True) for part in edges(lmax, seed=5))

    def call(source: Tensor, vectors: Tensor, hidden: Tensor) -> Tensor:
        basis = EdgeBasis.from_vectors(vectors, lmax)
        return layer(source, basis.rotation(), hidden, basis.length)

    assert torch.autograd.gradcheck(call, (source, vectors, hidden))
    assert torch.autograd.gradgradcheck(call, (source, vectors, hidden), fast_mode=True)


def test_weights_have_all_derivatives():
    layer = convolution(2, 1, 1, channels=(2, 2))
    source, vectors, hidden = edges(2, seed=6, count=2, channels=2)
    frame = rotation(vectors, 2)
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(*parameters: Tensor) -> Tensor:
        return torch.func.functional_call(
            layer, dict(zip(names, parameters, strict=True)), (source, frame, hidden)
        )

    values = tuple(value.detach().clone().requires_grad_(True) for value in values)
    assert torch.autograd.gradcheck(call, values, fast_mode=True) and torch.autograd.gradgradcheck(
        call, values, fast_mode=True
    )


@KINDS
def test_edge_of_zero_length_passes_scalars_only(pseudo_in, pseudo_out):
    lmax = 2
    layer = convolution(lmax, pseudo_in, pseudo_out)
    source, vectors, hidden = edges(lmax, seed=7)
    vectors[2] = 0
    vectors.requires_grad_(True)
    out = layer(source, rotation(vectors, lmax), hidden)
    assert not out[2, 1:].any() and out[2, 0].any()
    (gradient,) = torch.autograd.grad(out.square().sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), vectors)
    assert not gradient[2].any() and torch.isfinite(gradient).all() and torch.isfinite(second).all()


def test_no_edges():
    layer = convolution(2, 1, 2)
    out = layer(
        torch.zeros(0, 9, 3).double(),
        torch.zeros(0, 9, 9).double(),
        torch.zeros(0, HIDDEN).double(),
    )
    assert out.shape == (0, 9, 4)


@pytest.mark.parametrize("lmax", [1, 3])
def test_messages_keep_the_size_of_the_source(lmax):
    """At the start each output component has the variance of the source components.

    For random features on many edges.
    """
    torch.manual_seed(0)
    layer = EdgeFrameConvolution(lmax, 32, 32, HIDDEN).double()
    source, vectors, _ = edges(lmax, seed=8, count=200, channels=32)
    with torch.no_grad():
        # radial factors 1
        out = layer(source, rotation(vectors, lmax), torch.zeros(200, HIDDEN).double())
    assert 0.8 <= float(out.square().mean()) <= 1.25


@pytest.mark.parametrize(("channels", "pseudo"), [(3, 3), (3, -1), (2, 5)])
def test_pseudo_channels_must_be_fewer_than_channels(channels, pseudo):
    with pytest.raises(
        ValueError, match=f"0 .. {channels - 1} .of {channels} channels., got {pseudo}"
    ):
        EdgeFrameConvolution(1, channels, 2, HIDDEN, pseudo_in=pseudo)
