"""Laws of the layers that act on each node alone, and of the feature layout they share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from farfield.models.layers.linear import EquivariantLinear
from farfield.models.layers.nonlinearities import (
    NORM_MAPS,
    AttentiveSelfInteraction,
    GatedNonlinearity,
    NormNonlinearity,
    degree_norms,
    layer_norm,
)
from farfield.models.so3.irreps import (
    channel_parity,
    degree_of_row,
    degree_slice,
    num_rows,
    rows_by_order,
)
from tests.support.draws import draw
from tests.support.turns import orthogonal, relative_error, turned

LAWS = settings(max_examples=8, deadline=None, derandomize=True, database=None)
LMAX, CHANNELS, OUT = 3, 5, 4
SEEDS = st.integers(0, 10_000)

# layer from (pseudo_in, pseudo_out); the non-linearities keep their channels, so pseudo_out is not
# theirs to choose
MIXING = {
    "linear": lambda p, q: EquivariantLinear(LMAX, CHANNELS, OUT, pseudo_in=p, pseudo_out=q),
    "linear, bias": lambda p, q: EquivariantLinear(
        LMAX, CHANNELS, OUT, bias=True, pseudo_in=p, pseudo_out=q
    ),
    "attentive": lambda p, q: AttentiveSelfInteraction(
        LMAX, CHANNELS, OUT, pseudo_in=p, pseudo_out=q
    ),
}
NONLINEAR = {
    "norm, layer": lambda p: NormNonlinearity(LMAX, CHANNELS, "layer"),
    "norm, bias": lambda p: NormNonlinearity(LMAX, CHANNELS, "bias"),
    "gate": lambda p: GatedNonlinearity(LMAX, CHANNELS, p),
}
CASES = [(name, p, q) for name in MIXING for p, q in ((0, 0), (2, 1), (2, 0))] + [
    (name, p, p) for name in NONLINEAR for p in (0, 2)
]
EVERY_LAYER = pytest.mark.parametrize(("name", "pseudo_in", "pseudo_out"), CASES)
KINDS = pytest.mark.parametrize(("pseudo_in", "pseudo_out"), [(0, 0), (2, 1)])


def layer(name: str, pseudo_in: int, pseudo_out: int) -> nn.Module:
    """The layer in float64 with random parameters, so that no law holds only at the start of
    training.
    """
    made = MIXING[name](pseudo_in, pseudo_out) if name in MIXING else NONLINEAR[name](pseudo_in)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.double().parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
    return made


def features(seed: int, nodes: int = 4) -> Tensor:
    return draw(nodes, num_rows(LMAX), CHANNELS, seed=seed)


@EVERY_LAYER
@LAWS
@given(seed=SEEDS, proper=st.booleans())
def test_equivariant_under_rotations_and_reflections(name, pseudo_in, pseudo_out, seed, proper):
    made, matrix, x = layer(name, pseudo_in, pseudo_out), orthogonal(seed, proper), features(seed)
    with torch.no_grad():
        before, after = made(x), made(turned(x, matrix, LMAX, pseudo_in))
    assert relative_error(after, turned(before, matrix, LMAX, pseudo_out)) <= 1e-12


@EVERY_LAYER
def test_each_node_alone(name, pseudo_in, pseudo_out):
    made, x = layer(name, pseudo_in, pseudo_out), features(0)
    together = made(x)
    assert together.shape == (4, num_rows(LMAX), OUT if name in MIXING else CHANNELS)
    for node in range(len(x)):
        torch.testing.assert_close(made(x[node : node + 1])[0], together[node], rtol=0, atol=1e-13)
    assert made(x[:0]).shape == (0, *together.shape[1:])


@EVERY_LAYER
def test_derivatives_match_differences(name, pseudo_in, pseudo_out):
    made, x = (
        layer(name, pseudo_in, pseudo_out).requires_grad_(False),
        features(2, nodes=1).requires_grad_(True),
    )
    assert torch.autograd.gradcheck(made, x) and torch.autograd.gradgradcheck(
        made, x, fast_mode=True
    )


@EVERY_LAYER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("empty", ["everything", "degree 2", "all channels but one"])
def test_finite_derivatives_at_zero_features(name, pseudo_in, pseudo_out, dtype, empty):
    """First and second derivatives, in the features and of the gradient norm in the parameters."""
    made, x = layer(name, pseudo_in, pseudo_out).to(dtype), features(3).to(dtype)
    part = {
        "everything": (...,),
        "degree 2": (slice(None), degree_slice(2)),
        "all channels but one": (..., slice(1, None)),
    }[empty]
    x[part] = 0
    x.requires_grad_(True)
    out = made(x)
    (first,) = torch.autograd.grad((out + out.square()).sum(), x, create_graph=True)
    wanted = [x, *made.parameters()]
    second = torch.autograd.grad((first + first.square()).sum(), wanted, materialize_grads=True)
    assert all(torch.isfinite(value).all() for value in (out, first, *second))


@EVERY_LAYER
def test_zero_stays_zero_above_scalars(name, pseudo_in, pseudo_out):
    """Only true scalars may come from nothing."""
    out = layer(name, pseudo_in, pseudo_out)(torch.zeros(2, num_rows(LMAX), CHANNELS).double())
    assert not out[:, 1:].any() and not out[:, 0, out.shape[-1] - pseudo_out :].any()


# linear map


@KINDS
def test_linear_map_keeps_degrees_and_kinds_apart(pseudo_in, pseudo_out):
    """A unit of one degree, component and channel only reaches the same component, and channels of
    its own kind.
    """
    made = layer("linear", pseudo_in, pseudo_out)
    kind_in, kind_out = channel_parity(CHANNELS, pseudo_in), channel_parity(OUT, pseudo_out)
    for row in range(num_rows(LMAX)):
        units = torch.zeros(CHANNELS, num_rows(LMAX), CHANNELS, dtype=torch.float64)
        units[:, row] = torch.eye(CHANNELS, dtype=torch.float64)
        reached = made(units).ne(0)
        assert not reached[:, torch.arange(num_rows(LMAX)) != row].any()
        assert torch.equal(reached[:, row], kind_in.view(-1, 1) == kind_out)


def test_linear_map_is_one_matrix_per_degree_and_a_scalar_bias():
    made, x = layer("linear, bias", 0, 0), features(4)
    expected = torch.einsum("nri,rio->nro", x, made.weight[degree_of_row(LMAX)])
    expected[:, 0] += made.bias
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-13)
    assert made.bias.any()


def test_linear_map_keeps_the_variance_at_the_start():
    torch.manual_seed(0)
    x = draw(50, num_rows(2), 64, seed=0)
    out = EquivariantLinear(2, 64, 64).double()(x)
    assert float(out.detach().var()) == pytest.approx(1, abs=0.1)


# norms and gates


@pytest.mark.parametrize("epsilon", [1e-2, 0.5])
def test_norms_by_the_formula(epsilon):
    x = features(5)
    found = degree_norms(x, epsilon)
    for l in range(LMAX + 1):
        expected = torch.sqrt(x[:, degree_slice(l)].norm(dim=1) ** 2 + epsilon**2)
        torch.testing.assert_close(found[:, l], expected, rtol=1e-14, atol=0)
    at_zero = degree_norms(torch.zeros_like(x), epsilon)
    torch.testing.assert_close(at_zero, torch.full_like(at_zero, epsilon), rtol=1e-15, atol=0)


@pytest.mark.parametrize("kind", NORM_MAPS)
def test_norm_nonlinearity_by_the_formula(kind):
    """Every degree and channel keeps its direction and takes the length |x| / n silu(g(n)), n^2 =
    |x|^2 + epsilon^2.
    """
    made, x = layer(f"norm, {kind}", 0, 0), features(6)
    out, norm = made(x), degree_norms(x, made.epsilon)
    if kind == "bias":
        shifted = norm + made.map.shift
    else:
        centred = norm - norm.mean(-1, keepdim=True)
        shifted = (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-4).sqrt() * made.map.weight
            + made.map.shift
        )
    scale = shifted * torch.sigmoid(shifted) / norm
    for l in range(LMAX + 1):
        torch.testing.assert_close(
            out[:, degree_slice(l)],
            x[:, degree_slice(l)] * scale[:, l : l + 1],
            rtol=1e-12,
            atol=1e-14,
        )


def test_layer_made_in_inference_mode_spoils_no_other():
    """The layers share the table of degrees; no other test makes that of lmax 7."""
    with torch.inference_mode():
        NormNonlinearity(7, 2)
    x = torch.randn(2, 64, 2, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(NormNonlinearity(7, 2)(x).sum(), x)[0]).all()


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be one of layer, bias, got 'batch'"):
        NormNonlinearity(1, 2, "batch")


@pytest.mark.parametrize("pseudo", [0, 2])
def test_gate_by_the_formula(pseudo):
    """silu on true scalars; all else times a sigmoid of a linear map of the node's true scalars."""
    made, x = layer("gate", pseudo, pseudo), features(7)
    out, true = made(x), CHANNELS - pseudo
    scalars = x[:, 0, :true]
    torch.testing.assert_close(
        out[:, 0, :true], scalars * torch.sigmoid(scalars), rtol=1e-13, atol=0
    )
    gates = torch.sigmoid(scalars @ made.gates.weight.T + made.gates.bias).view(
        len(x), LMAX + 1, CHANNELS
    )
    torch.testing.assert_close(
        out[:, 0, true:], x[:, 0, true:] * gates[:, 0, true:], rtol=1e-13, atol=0
    )
    for l in range(1, LMAX + 1):
        torch.testing.assert_close(
            out[:, degree_slice(l)], x[:, degree_slice(l)] * gates[:, l : l + 1], rtol=1e-13, atol=0
        )


# attentive self-interaction


@KINDS
@LAWS
@given(seed=SEEDS)
def test_attentive_mixing_is_a_convex_combination(pseudo_in, pseudo_out, seed):
    """Each output component lies between the smallest and the largest input of its kind; equal
    channels come out unchanged.
    """
    made, x = layer("attentive", pseudo_in, pseudo_out), features(seed)
    for pseudo in (False, True) if pseudo_in else (False,):
        source = channel_parity(CHANNELS, pseudo_in) == pseudo
        target = channel_parity(OUT, pseudo_out) == pseudo
        out = made(x)[..., target]
        low, high = x[..., source].amin(-1, keepdim=True), x[..., source].amax(-1, keepdim=True)
        assert (out >= low - 1e-12).all() and (out <= high + 1e-12).all()
        equal = x.clone()
        equal[..., source] = x[..., source][..., :1]
        same = made(equal)[..., target]
        torch.testing.assert_close(
            same, equal[..., source][..., :1].expand_as(same), rtol=0, atol=1e-13
        )


def test_attentive_weights_depend_on_the_node():
    """The map is not linear: the answer to a sum of features is not the sum of the answers."""
    made, x, y = layer("attentive", 0, 0), features(8), features(11)
    assert relative_error(made(x + y), made(x) + made(y)) > 1e-2


def test_attentive_weights_of_a_degree_come_from_that_degree():
    made, x = layer("attentive", 0, 0), features(9)
    other = x.clone()
    other[:, degree_slice(2)] = features(10)[:, degree_slice(2)]
    kept = degree_of_row(LMAX) != 2
    assert torch.equal(made(other)[:, kept], made(x)[:, kept])
    assert not torch.allclose(made(other)[:, ~kept], made(x)[:, ~kept])


# feature layout


@pytest.mark.parametrize("lmax", range(6))
def test_layout_of_rows(lmax):
    degree = degree_of_row(lmax)
    assert len(degree) == num_rows(lmax)
    for l in range(lmax + 1):
        assert torch.equal(
            (degree == l).nonzero().flatten(), torch.arange(num_rows(lmax))[degree_slice(l)]
        )
    by_order = rows_by_order(lmax)
    assert torch.equal(by_order.sort().values, torch.arange(num_rows(lmax)))
    order = (by_order - degree[by_order] * (degree[by_order] + 1)).tolist()
    expected = [(0, l) for l in range(lmax + 1)]
    for m in range(1, lmax + 1):
        expected += [(m, l) for l in range(m, lmax + 1)] + [(-m, l) for l in range(m, lmax + 1)]
    assert list(zip(order, degree[by_order].tolist(), strict=True)) == expected


def test_pseudo_channels_are_the_last():
    assert channel_parity(4, 0).tolist() == [False] * 4
    assert channel_parity(4, 3).tolist() == [False, True, True, True]
    for pseudo in (-1, 4):
        with pytest.raises(
            ValueError, match=f"pseudo channels must be in 0 .. 3 .of 4 channels., got {pseudo}"
        ):
            channel_parity(4, pseudo)


def test_third_derivative_of_the_layer_norm():
    """Against central differences of the second one; values as torch has them."""
    x = draw(3, 5, seed=0).requires_grad_(True)
    first, second, third, move = (draw(3, 5, seed=seed) for seed in (1, 2, 3, 4))
    torch.testing.assert_close(layer_norm(x, 1e-4), nn.functional.layer_norm(x, (5,), eps=1e-4))

    def slope(at: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(
            (layer_norm(at, 1e-4) * first).sum(), at, create_graph=True
        )
        (curvature,) = torch.autograd.grad((gradient * second).sum(), at, create_graph=True)
        return (curvature * third).sum()

    (found,) = torch.autograd.grad(slope(x), x)
    step = 1e-5
    expected = (slope(x + step * move) - slope(x - step * move)) / (2 * step)
    assert abs(float(((found * move).sum() - expected).detach())) <= 1e-7 * max(
        1.0, abs(float(expected.detach()))
    )
