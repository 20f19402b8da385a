"""The only door to DGL: message-passing primitives with all derivatives, by DGL or by torch.

A network needs few things from a graph library: values carried to edges, sums of edge values at the
receiving node, a softmax over the incoming edges of a node, sums over the nodes of one graph
(readout), and the way back (broadcast). Each is one function here. On the CPU, and on any device
that the installed DGL build serves, they call DGL's kernels. On other devices, and for batches of
few edges, where a call of DGL costs more than its sum, they call torch's ``index_select`` and
``index_add``. The choice is made in one place (:func:`_kernel_graph`), and both paths give the same
values. DGL is imported when the first kernel needs it (1.5 s).

DGL 1.1.3 detaches the first gradient of its fused ``edge_softmax`` and of its max reductions on the
CPU: a model trained on forces silently gets wrong parameter gradients. :func:`edge_softmax` is
therefore composed of differentiable sums, and the maximum enters only as a constant shift.

Cost of every function: linear in edges or nodes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import warnings

import torch
from torch import Tensor

from farfield.models.choices import check_choice
from farfield.models.tracing import is_tracing

# edges or nodes of a batch from which DGL is faster on the CPU; with DGL for smaller batches a
# whole training step takes about 10 % longer
MIN_ROWS_FOR_DGL = 2048
BACKENDS = ("torch", "dgl")
_forced_backend: str | None = None


@functools.cache
def load_dgl():
    """The module ``dgl``, or None where it cannot be imported; imported by the first call.

    A DGL that is installed but broken is reported once: torch computes the same, only slower.
    """
    # without this the import of DGL writes a file to the home folder
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        import dgl
        import dgl.ops
    except (ImportError, OSError) as error:
        # not installed (no wheel for this Python): torch serves every device, nothing to report
        if getattr(error, "name", None) != "dgl":
            warnings.warn(
                f"dgl is installed but cannot be imported ({' '.join(str(error).split())}); torch "
                "computes instead; install a DGL that works here with: pip install 'dgl>=1.1.3,<2'",
                stacklevel=2,
            )
        return None
    return dgl


def used_kernels() -> str:
    """What has computed the sums of this process so far: "torch" alone, or "torch and dgl"."""
    asked = load_dgl.cache_info().currsize > 0
    return "torch and dgl" if asked and dgl_is_there() else "torch"


def dgl_is_there() -> bool:
    """Whether DGL is installed and can be imported."""
    return load_dgl() is not None


class GraphIndex:
    """Topology of a ragged batch of graphs: who sends to whom, and which nodes form one graph.

    Words and layout are those of a batched ``dgl.DGLGraph``. ValueError for edge ends that name no
    node, and for edges between two graphs.

    Attributes
        src, dst          (edges,) int64: edge j -> i has ``src = j`` (sends) and ``dst = i``
                          (receives); kernels are fastest on edges sorted by ``dst``
        nodes_per_graph   (graphs,) int64
        node_offsets      (graphs + 1,) int64: first node of each graph, and the number of nodes
        graph_of_node     (nodes,) int64
        num_nodes, num_edges, num_graphs
        sizes             ``nodes_per_graph`` as a tuple of ints, read once, so that no layer waits
                          for a GPU

    Example: one graph of two nodes that send to each other, and one of a single node.

        GraphIndex(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([2, 1]))
    """

    def __init__(self, src: Tensor, dst: Tensor, nodes_per_graph: Tensor):
        if src.shape != dst.shape or src.dim() != 1:
            raise ValueError(
                "src and dst must be two lists of the same length, got shapes "
                f"{tuple(src.shape)} and {tuple(dst.shape)}"
            )
        self.src, self.dst, self.nodes_per_graph = src, dst, nodes_per_graph
        self.sizes = tuple(nodes_per_graph.tolist())
        self.num_nodes = sum(self.sizes)
        self.num_edges = src.shape[0]
        self.num_graphs = nodes_per_graph.shape[0]

        self.node_offsets = torch.cat([nodes_per_graph.new_zeros(1), nodes_per_graph.cumsum(0)])
        self.graph_of_node = torch.repeat_interleave(
            torch.arange(self.num_graphs, device=src.device), nodes_per_graph
        )
        self._dgl = None
        if self.num_edges:
            self._check_ends()

    def _check_ends(self) -> None:
        """ValueError unless both ends of every edge are nodes of one graph.

        8 microseconds for 500 edges, 110 for 40,000.
        """
        (low_src, high_src), (low_dst, high_dst) = self.src.aminmax(), self.dst.aminmax()
        low, high = int(torch.minimum(low_src, low_dst)), int(torch.maximum(high_src, high_dst))
        if not 0 <= low <= high < self.num_nodes:
            raise ValueError(
                f"edge ends must lie in 0 .. {self.num_nodes - 1}, got {low} .. {high}"
            )

        if self.num_graphs == 1:
            return
        sender, receiver = (self.graph_of_node.index_select(0, end) for end in (self.src, self.dst))
        if not torch.equal(sender, receiver):
            edge = int((sender != receiver).nonzero()[0])
            raise ValueError(
                f"edge {edge} goes from node {int(self.src[edge])} of graph {int(sender[edge])} "
                f"to node {int(self.dst[edge])} of graph {int(receiver[edge])}: "
                "leave it out, or count both graphs as one in nodes_per_graph"
            )

    @classmethod
    def from_dgl(cls, graph) -> GraphIndex:
        """Topology of a (batched) ``dgl.DGLGraph``."""
        src, dst = graph.edges()
        return cls(src.long(), dst.long(), graph.batch_num_nodes().long())

    @property
    def dgl(self):
        """The ``dgl.DGLGraph`` of this topology, or None where DGL cannot serve the device.

        All its sparse formats are made at once.
        """
        if self._dgl is None and dgl_serves(self.src.device):
            graph = load_dgl().graph((self.src, self.dst), num_nodes=self.num_nodes)
            graph.create_formats_()
            self._dgl = graph
        return self._dgl

    @property
    def edges_per_graph(self) -> Tensor:
        """Number of edges of every graph (graphs,) int64."""
        graph_of_edge = self.graph_of_node.index_select(0, self.dst)
        return torch.bincount(graph_of_edge, minlength=self.num_graphs)

    def to(self, device) -> GraphIndex:
        """The same topology on another device."""
        if torch.device(device) == self.src.device:
            return self
        moved = copy.copy(self)  # the edge ends are checked already
        moved._dgl = None
        for name, value in self.__dict__.items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved

    def __repr__(self) -> str:
        return (
            f"GraphIndex(graphs={self.num_graphs}, nodes={self.num_nodes}, "
            f"edges={self.num_edges}, device={self.src.device})"
        )

    def __getstate__(self) -> dict:
        """The topology alone: a graph of DGL is made again where it is needed."""
        return {**self.__dict__, "_dgl": None}


@functools.cache
def _dgl_serves(device_type: str, index: int | None) -> bool:
    if not dgl_is_there():
        return False
    if device_type == "cpu":
        return True

    # DGL's CPU build raises its own error type, or torch's AssertionError, depending on the build
    # of torch
    try:
        load_dgl().graph(([0], [0])).to(torch.device(device_type, index))
    except Exception:  # noqa: BLE001
        return False
    return True


def dgl_serves(device: torch.device) -> bool:
    """Whether the installed DGL can run on ``device``.

    Each device is tried once, by moving a graph of one edge there.
    """
    device = torch.device(device)
    return _dgl_serves(device.type, device.index)


@contextlib.contextmanager
def use_backend(name: str):
    """Force ``"torch"`` or ``"dgl"`` inside a with-block, to compare the two."""
    global _forced_backend
    check_choice("backend", name, BACKENDS)
    before, _forced_backend = _forced_backend, name
    try:
        yield
    finally:
        _forced_backend = before


def _kernel_graph(graph: GraphIndex, values: Tensor):
    """The DGL graph if DGL computes this call, else None: torch computes it."""
    if is_tracing():
        return None
    small = _forced_backend is None and max(graph.num_edges, graph.num_nodes) < MIN_ROWS_FOR_DGL
    if small or _forced_backend == "torch":
        return None

    kernel = graph.dgl if values.dtype in (torch.float32, torch.float64) else None
    if kernel is None and _forced_backend == "dgl":
        raise RuntimeError(
            f"the installed DGL does not serve {values.dtype} on {values.device}; leave the "
            "choice of the backend out"
        )
    return kernel


def gather_src(graph: GraphIndex, nodes: Tensor) -> Tensor:
    """Carry node values (nodes, ...) to the edges they send along: (edges, ...)."""
    return nodes.index_select(0, graph.src)


def gather_dst(graph: GraphIndex, nodes: Tensor) -> Tensor:
    """Carry node values (nodes, ...) to the edges that end in them: (edges, ...)."""
    return nodes.index_select(0, graph.dst)


def sum_edges(graph: GraphIndex, edges: Tensor) -> Tensor:
    """Sum edge values (edges, ...) at the receiving node: (nodes, ...).

    A node without incoming edges gets zero.
    """
    kernel = _kernel_graph(graph, edges)
    if kernel is not None:
        return load_dgl().ops.copy_e_sum(kernel, edges)
    return edges.new_zeros((graph.num_nodes, *edges.shape[1:])).index_add(0, graph.dst, edges)


def weighted_sum(graph: GraphIndex, nodes: Tensor, weights: Tensor) -> Tensor:
    """``out_i = sum_{e: j -> i} w_e x_j``: (nodes, ...).

    nodes: x (nodes, ...). weights: w (edges, ...), of a shape that broadcasts with x. DGL's fused
    kernel never makes an (edges, ...) product; its backward pass stays fused if the sizes of w
    after the first are 1.
    """
    kernel = _kernel_graph(graph, nodes)
    if kernel is not None:
        return load_dgl().ops.u_mul_e_sum(kernel, nodes, weights)
    return sum_edges(graph, gather_src(graph, nodes) * weights)


def node_dot(graph: GraphIndex, source: Tensor, target: Tensor) -> Tensor:
    """``out_e = <source_j, target_i>`` over the last axis, for every edge j -> i: (edges, ...).

    source, target: (nodes, ..., d), values of the senders and of the receivers.
    """
    kernel = _kernel_graph(graph, source)
    if kernel is not None:
        return load_dgl().ops.u_dot_v(kernel, source, target).squeeze(-1)
    return (gather_src(graph, source) * gather_dst(graph, target)).sum(-1)


def edge_softmax(graph: GraphIndex, logits: Tensor, envelope: Tensor | None = None) -> Tensor:
    """Softmax over the incoming edges of each node, differentiable to any order: (edges, heads).

    ``a_e = u_e exp(s_e) / sum_{e' -> i} u_e' exp(s_e')`` with logits s (edges, heads) and an
    optional envelope u (edges,) or (edges, 1) that fades an edge out at the cutoff. A node whose
    envelopes are all zero gets zero weights.
    """
    # the largest logit of a node is a constant shift; the log of the envelope is -inf where an edge
    # is out, so that such an edge sets no maximum
    level = logits.detach()
    if envelope is not None:
        envelope = envelope.reshape(-1, 1)
        level = level + envelope.detach().log()
    shift = incoming_max(graph, level)
    shift = torch.where(shift == -torch.inf, 0.0, shift)

    # only an edge that is out can stand above the maximum: the clamp keeps its exponential finite
    weights = torch.exp((logits - gather_dst(graph, shift)).clamp_max(80.0))
    if envelope is not None:
        weights = weights * envelope

    total = sum_edges(graph, weights)  # 1 or more, or exactly 0
    return weights / gather_dst(graph, torch.where(total > 0, total, 1.0))


def incoming_max(graph: GraphIndex, values: Tensor) -> Tensor:
    """Largest incoming edge value per node, without gradient; 0 for isolated nodes."""
    with torch.no_grad():
        return _segment_max(graph.dst, graph.num_nodes, values)


def _segment_max(segment: Tensor, count: int, values: Tensor) -> Tensor:
    """Largest of the values (rows, ...) in each segment (rows,): (count, ...); 0 for an empty one.

    Equal values share the gradient.
    """
    index = segment.view(-1, *([1] * (values.dim() - 1))).expand_as(values)
    return values.new_zeros((count, *values.shape[1:])).scatter_reduce(
        0, index, values, "amax", include_self=False
    )


def sum_nodes(graph: GraphIndex, nodes: Tensor) -> Tensor:
    """Readout: sum of node values (nodes, ...) over each graph: (graphs, ...).

    float32 is summed in float64, since a running float32 sum loses 1e-5 of the result at 50,000
    nodes.
    """
    # DGL's kernel would not notice a wrong number of rows
    if nodes.shape[0] != graph.num_nodes:
        raise ValueError(
            f"a batch of {graph.num_nodes} nodes needs as many rows of node values, got "
            f"{nodes.shape[0]}"
        )

    wide = nodes.double() if nodes.dtype == torch.float32 else nodes
    kernel = _kernel_graph(graph, wide)
    if kernel is not None:
        total = load_dgl().ops.segment_reduce(graph.nodes_per_graph, wide, "sum")
    else:
        total = wide.new_zeros((graph.num_graphs, *wide.shape[1:])).index_add(
            0, graph.graph_of_node, wide
        )
    return total.to(nodes.dtype)


def mean_nodes(graph: GraphIndex, nodes: Tensor) -> Tensor:
    """Readout: mean of node values (nodes, ...) over each graph: (graphs, ...).

    A graph without nodes gets zero.
    """
    count = graph.nodes_per_graph.clamp_min(1).to(nodes.dtype)
    return sum_nodes(graph, nodes) / count.view(-1, *([1] * (nodes.dim() - 1)))


def max_nodes(graph: GraphIndex, nodes: Tensor) -> Tensor:
    """Readout: largest of the node values (nodes, ...) of each graph: (graphs, ...).

    A graph without nodes gets zero. Computed by torch on every device: the derivatives of DGL's
    max are wrong (see the module).
    """
    return _segment_max(graph.graph_of_node, graph.num_graphs, nodes)


def node_softmax(graph: GraphIndex, logits: Tensor) -> Tensor:
    """Softmax of node logits (nodes, ...) over the nodes of each graph: (nodes, ...).

    Differentiable to any order.
    """
    weights = torch.exp(logits - broadcast_nodes(graph, max_nodes(graph, logits.detach())))
    return weights / broadcast_nodes(graph, sum_nodes(graph, weights))


def broadcast_nodes(graph: GraphIndex, graphs: Tensor) -> Tensor:
    """Carry graph values (graphs, ...) to all nodes of the graph: (nodes, ...)."""
    return graphs.index_select(0, graph.graph_of_node)
