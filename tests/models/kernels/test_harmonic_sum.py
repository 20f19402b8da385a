"""Laws of the sum of weight x harmonic x features.

Its definition, its derivatives of all orders, its memory, its layout.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from farfield.models.kernels import edge_slots
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.kernels.harmonic_sum import KERNELS, memory_efficient_sum
from tests.support.graph_topologies import LAWS
from tests.support.turns import relative_error

EXACT = pytest.mark.parametrize("kernel", ["math", "memory_efficient"])


def edges_and_arguments(
    ends, sources: int, targets: int, sizes=(3, 4, 5), dtype=torch.float64, seed: int = 0
):
    """Edges from pairs (receiver, sender), and arguments of the sum.

    sizes: (m, rows, channels) of harmonics, weights and features.
    """
    dst, src = (torch.tensor([end[side] for end in ends], dtype=torch.long) for side in (0, 1))
    m, rows, channels = sizes
    generator = torch.Generator().manual_seed(seed)
    shapes = [(len(ends), m), (len(ends), channels), (sources, rows, channels)]
    tensors = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]
    return EdgeSlots(src, dst, sources, targets), tensors


def random_edges(count: int, sources: int, targets: int, seed: int = 0) -> list[tuple[int, int]]:
    generator = torch.Generator().manual_seed(seed)
    receivers = torch.randint(targets, (count,), generator=generator).tolist()
    return list(
        zip(receivers, torch.randint(sources, (count,), generator=generator).tolist(), strict=True)
    )


def dense(edges: EdgeSlots, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    message = torch.einsum("em,ec,erc->emrc", harmonics, weights, x[edges.src])
    return message.new_zeros(edges.num_targets, *message.shape[1:]).index_add(0, edges.dst, message)


def derivatives(function, edges: EdgeSlots, tensors: list[Tensor]) -> list[Tensor]:
    """Value, first and second derivatives of a quadratic functional of the sum."""
    value = function(edges, *tensors)
    probe = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
    first = torch.autograd.grad((probe * value + value.square()).sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), tensors)
    return [value, *first, *second]


@EXACT
@LAWS
@given(
    ends=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=25),
    chunk=st.sampled_from([1, 60, 200, 1 << 19]),
)
def test_sum_is_its_definition_with_two_derivatives(kernel, ends, chunk):
    """For any edges and chunks of any size.

    Doubled edges, edges of a node to itself, no edges at all, receivers without edges.
    """
    before = edge_slots.VALUES_PER_CHUNK["cpu"]
    edge_slots.VALUES_PER_CHUNK["cpu"] = chunk
    try:
        edges, tensors = edges_and_arguments(ends, 7, 5)
        for found, expected in zip(
            derivatives(KERNELS[kernel], edges, tensors),
            derivatives(dense, edges, tensors),
            strict=True,
        ):
            assert torch.allclose(
                found,
                expected,
                rtol=1e-12,
                atol=1e-12 * float(expected.detach().abs().max()) if expected.numel() else 0,
            )
    finally:
        edge_slots.VALUES_PER_CHUNK["cpu"] = before


@pytest.mark.parametrize("moving", [(0, 1), (0, 2), (1, 2), (0,), (1,), (2,)])
def test_constants_get_no_derivative_and_take_none_away(moving):
    edges, tensors = edges_and_arguments(random_edges(30, 7, 5), 7, 5)

    def both(function) -> list[Tensor]:
        arguments = [
            tensor.detach().requires_grad_(place in moving) for place, tensor in enumerate(tensors)
        ]
        value, chosen = function(edges, *arguments), [arguments[place] for place in moving]
        first = torch.autograd.grad(value.square().sum(), chosen, create_graph=True)
        second = torch.autograd.grad(
            sum(part.square().sum() for part in first), chosen, create_graph=True
        )
        return [
            *first,
            *second,
            *torch.autograd.grad(sum(part.square().sum() for part in second), chosen),
        ]

    for found, expected in zip(both(memory_efficient_sum), both(dense), strict=True):
        assert torch.allclose(found, expected, rtol=1e-11)


def test_all_orders_of_derivatives_close():
    """gradgradcheck of the first derivatives: third derivatives of the sum."""
    edges, tensors = edges_and_arguments([(0, 1), (0, 0), (1, 1), (1, 0), (1, 2)], 3, 2, (2, 2, 2))

    def slopes(*arguments: Tensor) -> tuple[Tensor, ...]:
        value = memory_efficient_sum(edges, *arguments)
        return torch.autograd.grad((value.square() * value).sum(), arguments, create_graph=True)

    assert torch.autograd.gradgradcheck(
        lambda *arguments: memory_efficient_sum(edges, *arguments), tensors
    )
    assert torch.autograd.gradgradcheck(slopes, tensors)


def test_second_derivatives_are_the_same_when_a_third_is_wanted():
    found = []
    for third in (False, True):
        edges, tensors = edges_and_arguments(random_edges(20, 5, 4), 5, 4)
        value = memory_efficient_sum(edges, *tensors)
        first = torch.autograd.grad((value.square() * value).sum(), tensors, create_graph=True)
        found.append(
            torch.autograd.grad(
                sum(part.square().sum() for part in first), tensors, create_graph=third
            )
        )
    for composed, fused in zip(*found, strict=True):
        assert relative_error(composed, fused) < 1e-12


def test_implementations_agree_in_single_precision():
    edges, tensors = edges_and_arguments(
        random_edges(400, 20, 20), 20, 20, (5, 9, 8), torch.float32
    )
    for found, expected in zip(
        *(derivatives(KERNELS[name], edges, tensors) for name in ("memory_efficient", "math")),
        strict=True,
    ):
        assert relative_error(found, expected) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flash_is_right_to_eight_bits(dtype):
    edges, tensors = edges_and_arguments(random_edges(400, 20, 20), 20, 20, (5, 9, 8), dtype)
    errors = [
        relative_error(found, expected)
        for found, expected in zip(
            *(derivatives(KERNELS[name], edges, tensors) for name in ("flash", "math")), strict=True
        )
    ]
    assert max(errors) < 2e-2
    assert errors[0] > 1e-4, "flash did not compute in half precision"
    assert KERNELS["flash"](edges, *tensors).dtype == dtype


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements any operation returns."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.largest = max(
            [self.largest] + [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        )
        return out


def largest_tensor(kernel: str) -> float:
    """Size of the largest tensor made in the value and both derivatives.

    In units of edges x rows x channels.
    """
    edges, tensors = edges_and_arguments(
        random_edges(6000, 30, 30), 30, 30, (3, 9, 8), torch.float32
    )
    if kernel == "math":
        edges.graph.dgl  # noqa: B018  (made before recording)
    else:
        edges.layout(72)
    with LargestTensor() as recorder:
        derivatives(KERNELS[kernel], edges, tensors)
    return recorder.largest / (6000 * 9 * 8)


@pytest.mark.parametrize("kernel", ["memory_efficient", "flash"])
def test_no_tensor_of_edges_x_rows_x_channels_is_made(kernel, monkeypatch):
    monkeypatch.setitem(edge_slots.VALUES_PER_CHUNK, "cpu", 1 << 14)
    assert largest_tensor(kernel) < 0.2
    assert largest_tensor("math") >= 1  # the recorder sees one where there is one


def test_receivers_of_one_chunk_have_similar_edge_counts():
    """Few slots are empty.

    Less than a tenth on a random graph whose receivers have 10 to 60 edges.
    """
    edges = edges_and_arguments(random_edges(3000, 80, 80), 80, 80)[0]
    layout = edges.layout(1 << 11)
    assert len(layout.chunks) > 1
    assert sum(len(chunk.src) for chunk in layout.chunks) < 1.1 * 3000
    assert sorted(torch.cat([chunk.targets for chunk in layout.chunks]).tolist()) == sorted(
        set(edges.dst.tolist())
    )


def test_edges_in_order_of_receivers_need_no_copy():
    edges = edges_and_arguments([(i, j) for i in range(3) for j in range(4)], 4, 3)[0]
    layout = edges.layout(20)
    assert layout.slot_edge is None and layout.filled is None
    values = torch.randn(12, 2)
    assert torch.equal(layout.collect(layout.spread(values)), values)


def test_small_graphs_have_one_layout_and_one_piece():
    """Whatever the number of channels: making a layout costs more than a small sum."""
    edges = edges_and_arguments([(i, j) for i in range(9) for j in range(9)], 9, 9)[0]
    assert edges.layout(9 * 8) is edges.layout(9 * 128)
    assert len(edges.layout(9 * 8).chunks) == 1


def test_edges_in_any_order_come_back():
    edges = edges_and_arguments(random_edges(50, 9, 8), 9, 8)[0]
    layout, values = edges.layout(20), torch.randn(50, 2)
    assert torch.equal(layout.collect(layout.spread(values)), values)
    assert math.isclose(
        float(layout.spread_filled(values).sum()), float(values.sum()), abs_tol=1e-4
    )
