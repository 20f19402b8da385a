"""What a backward pass leaves out, and that the rest is what it was."""

import pytest
import torch
from torch.autograd import Function

from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.kernels.harmonic_sum import memory_efficient_sum
from farfield.models.kernels.moments import MomentReadout
from farfield.models.kernels.needed_gradients import needed_inputs
from farfield.models.so3.bessel import bessel_mixture
from farfield.models.so3.harmonics import solid_harmonics


class Product(Function):
    """a b, and a note of what was asked for."""

    asked = []

    @staticmethod
    def forward(ctx, a, name, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, cotangent):
        a, b = ctx.saved_tensors
        Product.asked.append(needed_inputs(ctx))
        return cotangent * b, None, cotangent * a


@pytest.fixture
def leaves():
    Product.asked.clear()
    return torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)


def test_a_pass_for_everything_wants_every_input_that_has_a_graph(leaves):
    a, b = leaves
    Product.apply(a * 1, "name", b * 1).backward()
    Product.apply(a, "name", b).backward()
    Product.apply(a.detach(), "name", b * 1).backward()
    assert Product.asked == [(True, False, True), (True, False, True), (False, False, True)]


def test_a_pass_for_one_leaf_wants_what_leads_to_it(leaves):
    a, b = leaves
    Product.apply(a * 1, "name", b * 1).backward(inputs=[b])
    torch.autograd.grad(Product.apply(a * 1, "name", b * 1), [a])
    torch.autograd.grad(Product.apply(a * b, "name", b * 1), [a], create_graph=True)
    assert Product.asked == [(False, False, True), (True, False, False), (True, False, False)]
    assert a.grad is None and b.grad == 2


def near_sum(geometry, weight):
    edges = EdgeSlots(torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2]), 3, 3)
    x = weight.view(1, 1, -1) * geometry[:3].view(3, -1, 1).tanh()
    return memory_efficient_sum(
        edges, solid_harmonics(geometry, 2), weight * geometry[:, :1].exp(), x
    )


def mixture(geometry, weight):
    return bessel_mixture(
        geometry.square().sum(1),
        torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64),
        weight.view(2, 1, -1),
    )


def moments(geometry, weight):
    return MomentReadout()(
        (len(geometry),),
        geometry,
        weight.view(1, 2, 3) * geometry[:, :1, None],
        geometry.sin().unsqueeze(1),
    )


@pytest.mark.parametrize("operation", [near_sum, mixture, moments])
def test_gradients_of_forces_do_not_depend_on_what_else_is_asked_for(operation):
    torch.manual_seed(0)
    geometry = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def loss():
        energy = operation(geometry, weight).square().sum()
        (force,) = torch.autograd.grad(energy, [geometry], create_graph=True)
        return energy + force.pow(3).sum()

    both = torch.autograd.grad(loss(), [geometry, weight])
    alone = [torch.autograd.grad(loss(), [leaf])[0] for leaf in (geometry, weight)]
    for one, other in zip(both, alone, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)
