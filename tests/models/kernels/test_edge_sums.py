"""Laws of the sums over edges of a compiled network: the forms of torch are the formulas, with
their derivatives, and harmonics as products of matrices are the harmonics.
"""

import pytest
import torch

from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.kernels.edge_sums import SUM_ROWS, traced_message_sum
from farfield.models.kernels.harmonic_sum import memory_efficient_sum
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.tracing import NotTraceableError, tracing

NODES, EDGES = 5, 14


def arguments(m: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(EDGES, m), (EDGES, 6), (NODES, 4, 6)]
    values = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    src, dst = torch.randint(0, NODES, (2, EDGES), generator=generator)
    return *(value.requires_grad_(True) for value in values), src, dst


@pytest.mark.parametrize("m", [1, 4, 5])
def test_the_sum_of_messages_and_its_slopes_are_those_of_the_network(m):
    y, w, x, src, dst = arguments(m)
    found = traced_message_sum(y, w, x, src, dst)
    expected = memory_efficient_sum(EdgeSlots(src, dst, NODES, NODES), y, w, x)
    torch.testing.assert_close(found, expected)

    cotangent = torch.randn_like(expected)
    slopes = torch.autograd.grad(found, (y, w, x), cotangent)
    for slope, other in zip(
        slopes, torch.autograd.grad(expected, (y, w, x), cotangent), strict=True
    ):
        torch.testing.assert_close(slope, other)


def test_a_sum_without_loops_is_refused():
    with pytest.raises(NotTraceableError, match="sums with 6 components"):
        traced_message_sum(*arguments(6))


def test_rows_are_summed_by_their_index():
    values, index = torch.arange(6.0).view(3, 2), torch.tensor([1, 3, 1])
    expected = torch.tensor([[0.0, 0], [4, 6], [0, 0], [2, 3]])
    torch.testing.assert_close(SUM_ROWS(values, index, 4), expected)


def test_harmonics_of_a_trace_are_the_harmonics():
    vectors = torch.randn(7, 2, 3, dtype=torch.float64).requires_grad_(True)
    expected = solid_harmonics(vectors, 4)
    with tracing():
        found = solid_harmonics(vectors, 4)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(values, vectors, cotangent)[0] for values in (found, expected))
    )
