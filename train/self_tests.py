"""Self-tests of the kernels that are in use, for ``train.doctor``: some seconds, float64.

equivariance   a small network keeps the contract (models.network_check): turns, shifts,
               permutations, batches
softmax        first and second derivatives of the softmax over edges against differences
backends       DGL and torch give the same sums
"""

from __future__ import annotations

import torch

from farfield.common.configuration import plain
from farfield.dataloader.from_ase import batch_from_atoms
from farfield.models import graph_ops
from farfield.models.factory import build_model
from farfield.models.graph_ops import GraphIndex
from farfield.models.network_check import check_network
from farfield.train.machine_checks import FINE, WRONG, Finding

CUTOFF = 4.0  # Angstrom
SAME = 1e-10  # of the largest value, in float64
FIX = "reinstall the packages with pip install --force-reinstall -r requirements.txt"
NETWORK = {
    "name": "e2former",
    "irreps": "4x0e+4x1o+4x2e",
    "schedule": "hybrid-first-order1",
    "cutoff": CUTOFF,
    "near_heads": 2,
    "radial_hidden": 8,
    "radial_size": 4,
    "element_size": 4,
    "far_heads": 1,
    "far_key_features": 2,
    "far_value_channels": 2,
    "far_radial_terms": 2,
    "far_expansion": "pairwise",
}


def equivariance() -> Finding:
    """A small network with near and far field keeps the contract."""
    from ase.build import molecule  # costs time that --help does not wait for

    torch.manual_seed(0)
    batch = batch_from_atoms([molecule("CH3CH2OH"), molecule("H2O")], CUTOFF, torch.float64)
    try:
        errors = check_network(build_model(plain(NETWORK)).double(), batch)
    except ValueError as error:
        return Finding("equivariance", WRONG, " ".join(str(error).split()), FIX)
    return Finding("equivariance", FINE, f"largest relative error {max(errors.values()):.1e}")


def backends() -> list[str]:
    """Backends that compute the sums of this machine."""
    return ["torch", "dgl"] if graph_ops.dgl_is_there() else ["torch"]


def softmax_derivatives() -> Finding:
    """Derivatives of the softmax over edges are right to the second order, on every backend."""
    graph, (logits, _) = _graph_and_values()
    for name in backends():
        with graph_ops.use_backend(name):
            first = _passes(torch.autograd.gradcheck, graph, logits)
            second = _passes(torch.autograd.gradgradcheck, graph, logits)
        if not (first and second):
            order = "second" if first else "first"
            text = f"the {order} derivative of the softmax over edges is wrong with {name}"
            return Finding("softmax", WRONG, text, FIX)
    return Finding("softmax", FINE, f"two derivatives with {' and '.join(backends())}")


def _passes(check, graph: GraphIndex, logits: torch.Tensor) -> bool:
    def softmax(values):
        """The softmax of this graph."""
        return graph_ops.edge_softmax(graph, values)

    return bool(check(softmax, (logits.clone().requires_grad_(),), raise_exception=False))


def same_sums() -> Finding:
    """Sums over edges are those of a plain loop, on every backend."""
    graph, (_, values) = _graph_and_values()
    expected = torch.zeros(graph.num_nodes, values.shape[1], dtype=values.dtype)
    for edge, node in enumerate(graph.dst.tolist()):
        expected[node] += values[edge]

    for name in backends():
        with graph_ops.use_backend(name):
            found = graph_ops.sum_edges(graph, values)
        error = (found - expected).abs().max().item()
        if not error < SAME * expected.abs().max().item():
            text = f"sums over edges by {name} are wrong by {error:.1e}"
            return Finding("sums", WRONG, text, FIX)
    return Finding("sums", FINE, f"by {' and '.join(backends())} as by a loop")


def _graph_and_values() -> tuple[GraphIndex, tuple[torch.Tensor, torch.Tensor]]:
    """A graph of 4 nodes, and logits and values of its edges (edges, 2)."""
    generator = torch.Generator().manual_seed(0)
    ends = [(j, i) for i in range(4) for j in range(4) if i != j and (i, j) != (2, 0)]
    src, dst = torch.tensor(ends).T
    graph = GraphIndex(src, dst, torch.tensor([4]))
    both = torch.randn(2, len(ends), 2, dtype=torch.float64, generator=generator)
    return graph, (both[0], both[1])


CHECKS = (same_sums, softmax_derivatives, equivariance)
