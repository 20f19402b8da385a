"""A recorded graph in the operations that run fastest once it is compiled.

    rows.index_add(index, values)     -> a sum of ``edge_sums.cpp``
    x_n @ W, one matrix for all n     -> one product of all rows of x with W
    A @ x_n, one matrix for all n     -> one product of A with all columns of x

Torch writes the last two as one small product for every atom. Values stay what they are, up to
rounding. Cost: linear in the operations of the graph.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from farfield.models.kernels.edge_sums import SUM_ROWS

ATEN = torch.ops.aten
RESHAPES = (ATEN.view.default, ATEN._unsafe_view.default, ATEN.reshape.default)


def rewrite(module: GraphModule) -> None:
    """Rewrite a graph in place."""
    for node in list(module.graph.nodes):
        if node.target in (ATEN.index_add.default, ATEN.index_add_.default):
            _as_row_sum(module.graph, node)
        elif node.target is ATEN.bmm.default:
            _as_one_product(module.graph, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _as_one_product(graph: Graph, node: Node) -> None:
    """Write products with one matrix for a whole batch as a single one."""
    left, right = node.args
    rows, inner = left.meta["val"].shape[1:]
    columns = right.meta["val"].shape[2]
    fixed = not any(isinstance(size, torch.SymInt) for size in (rows, inner, columns))
    shared_left, shared_right = _shared_matrix(left), _shared_matrix(right)
    if not fixed or (shared_left is None and shared_right is None):
        return

    def call(target, *arguments):
        return graph.call_function(target, arguments)

    with graph.inserting_before(node):
        if shared_right is not None:
            flat = call(ATEN.reshape.default, left, [-1, inner])
            product = call(ATEN.mm.default, flat, _two_sided(call, *shared_right))
            found = call(ATEN.reshape.default, product, [-1, rows, columns])
        else:
            flat = call(ATEN.permute.default, right, [1, 0, 2])
            flat = call(ATEN.reshape.default, flat, [inner, -1])
            product = call(ATEN.mm.default, _two_sided(call, *shared_left), flat)
            found = call(ATEN.reshape.default, product, [rows, -1, columns])
            found = call(ATEN.permute.default, found, [1, 0, 2])
            found = _contiguous(graph, found)  # views follow that need it
        found.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(found)
    graph.erase_node(node)


def _two_sided(call, matrix: Node, flipped: bool) -> Node:
    """The matrix (rows, columns) of :func:`_shared_matrix`."""
    if len(matrix.meta["val"].shape) == 3:
        matrix = call(ATEN.squeeze.dim, matrix, 0)
    return call(ATEN.t.default, matrix) if flipped else matrix


def _shared_matrix(node: Node) -> tuple[Node, bool] | None:
    """The matrix that a batch of matrices repeats, and whether transposed; None for any other."""
    flipped = False
    while node.op == "call_function":
        if node.target is ATEN.expand.default:
            shape = node.args[0].meta["val"].shape
            repeats = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
            return (node.args[0], flipped) if repeats else None
        if node.target is ATEN.transpose.int and {d % 3 for d in node.args[1:]} == {1, 2}:
            flipped = not flipped
        elif node.target not in RESHAPES or not _same_shape(node, node.args[0]):
            return None
        node = node.args[0]
    return None


def _same_shape(one: Node, other: Node) -> bool:
    shapes = [[str(size) for size in node.meta["val"].shape] for node in (one, other)]
    return shapes[0] == shapes[1]


def _as_row_sum(graph: Graph, node: Node) -> None:
    """Write an ``index_add`` of rows as the sum that ``edge_sums.cpp`` has."""
    start, dimension, index, values = node.args
    kept = node.meta["val"]
    known = not any(isinstance(size, torch.SymInt) for size in kept.shape[1:])
    real = kept.dtype in (torch.float32, torch.float64)
    if dimension != 0 or node.kwargs or not (known and real):
        return
    with graph.inserting_before(node):
        node.replace_all_uses_with(_row_sum(graph, start, index, values, kept))
    graph.erase_node(node)


def _row_sum(graph: Graph, start: Node, index: Node, values: Node, like: Tensor) -> Node:
    """``start`` plus the rows of ``values`` at ``index``."""

    def call(target, *arguments):
        return graph.call_function(target, arguments)

    rows = call(ATEN.sym_size.int, values, 0)
    count = call(ATEN.sym_size.int, start, 0)
    flat = call(ATEN.reshape.default, values, [rows, math.prod(like.shape[1:])])
    sums = call(SUM_ROWS, _contiguous(graph, flat), _contiguous(graph, index), count)
    sums = call(ATEN.reshape.default, sums, [count, *like.shape[1:]])
    return call(ATEN.add.Tensor, start, sums)


def _contiguous(graph: Graph, node: Node) -> Node:
    """A copy whose rows lie end to end."""
    options = {"memory_format": torch.contiguous_format}
    return graph.call_function(ATEN.clone.default, (node,), options)
