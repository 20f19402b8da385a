"""Equiformer for tokens, coordinates and a mask: invariants, vectors and higher degrees out.

    model = Equiformer(num_tokens=24, dim=(64, 32, 16), num_degrees=3, num_neighbors=16)
    out = model(tokens, coors, mask)      # [b, n] int64, [b, n, 3], [b, n] bool
    out.type0, out.type1, out.type2       # [b, n, 64], [b, n, 32, 3], [b, n, 16, 5]

The constructor has the names and meanings of the public package equiformer-pytorch (lucidrains); a
test copies its weights and compares. What differs by choice: padding and points beyond the radius
never count; gradients reach the coordinates; neighbours are searched before anything is computed of
pairs; all degrees are returned; ragged input is read as it is (``equiformer_inputs.py``); edges
fade out at ``valid_radius`` unless ``envelope="none"``. ``num_neighbors``, the hard choice of the k
nearest, is there, and energies then jump where the k-th neighbour changes: ``model.remarks`` says
so.

Layers: ``equiformer_layers.py``. Networks that a script trains: ``equiformer_networks.py``,
``equiformer_nbody.py``, ``equiformer_denoiser.py``. Cost: linear in edges, whatever the padding.
"""

from __future__ import annotations

from collections import namedtuple
from functools import cache

import torch
from torch import Tensor, nn

from farfield.models.edges import safe_length
from farfield.models.graph_ops import mean_nodes
from farfield.models.layers.fiber_layers import FiberFeedForward, FiberLinear
from farfield.models.layers.radial import ENVELOPES
from farfield.models.networks.equiformer_inputs import Points, read_points
from farfield.models.networks.equiformer_layers import EquiformerLayers
from farfield.models.networks.equiformer_options import EquiformerOptions
from farfield.models.option_fields import make_options
from farfield.models.so3.fibers import split_fiber

# options whose public value "no limit" is infinity
WITHOUT_LIMIT = ("num_neighbors", "max_sparse_neighbors")


@cache
def _types(degrees: int) -> type:
    """Named tuple of what leaves; type1 is there (None) for one degree too, as in the package."""
    return namedtuple("Types", [f"type{l}" for l in range(max(degrees, 2))])


class Equiformer(nn.Module):
    """Features of points from tokens or features, coordinates and neighbours.

    Arguments by name, those of
    :class:`farfield.models.networks.equiformer_options.EquiformerOptions`; ``dim``, ``heads`` and
    ``dim_head`` are a number or one for each degree. Raises ValueError in one line for unknown
    names and values out of range.
    """

    def __init__(self, **options):
        super().__init__()
        for name in WITHOUT_LIMIT:
            if options.get(name) == float("inf"):
                options[name] = None
        self.options = options = make_options(EquiformerOptions, options)
        scalars = options.fiber_in[0]
        self.token_emb = _embedding(options.num_tokens, scalars)
        self.pos_emb = _embedding(options.num_positions, scalars)

        # of an edge: its token or features, and the bonds between its ends
        self.edge_emb = _embedding(options.num_edge_tokens, options.edge_dim)
        bonds = options.num_adj_degrees_embed if options.adj_dim else None
        self.adj_emb = _embedding(bonds and bonds + 1, options.adj_dim)
        edge_scalars = (options.edge_dim or 0) + (0 if self.adj_emb is None else options.adj_dim)

        self.layers = EquiformerLayers(
            options, options.fiber_in, edge_scalars, options.radial_scale
        )
        self.out = None
        if options.reduce_dim_out:
            single = (1,) * options.num_degrees
            self.out = (
                FiberLinear(options.fiber, single)
                if options.linear_out
                else FiberFeedForward(
                    options.fiber, single, include_norms=True, epsilon=options.norm_epsilon
                )
            )

    @property
    def remarks(self) -> list[str]:
        """What a user of these options should know, a line each."""
        return self.options.remarks()

    def forward(
        self,
        feats,
        coors=None,
        mask: Tensor | None = None,
        *,
        adj_mat=None,
        edges=None,
        return_pooled: bool = False,
    ):
        """Types ``type0 [b, n, C_0], type1 [b, n, C_1, 3], type2 [b, n, C_2, 5], ...``.

        feats: tokens [b, n] or features [b, n, d] of degree 0, or {degree: [b, n, d, 2l + 1]}.
        coors [b, n, 3]. mask [b, n] bool: which points are there. adj_mat [n, n] or [b, n, n]:
        which points are bonded. edges [b, n, n] int64 tokens or [b, n, n, edge_dim] features,
        receiver first. All of them also as lists without b, or an ``AtomBatch`` or DGL graph as
        ``feats`` (``equiformer_inputs.py``), answered in the same form: padding is zero, a batch
        gives (nodes, ...). return_pooled: mean over the points of each structure, [b, ...].
        reduce_dim_out: without the axis of the channels. ValueError in one line for shapes, types,
        tokens and options that do not fit.
        """
        points = read_points(self.options, feats, coors, mask, adj_mat, edges)
        self._check_dtypes(points)
        x = torch.cat([self._scalars(points), *self._higher(points)], -1)
        x = self.layers(x, self._geometry(points))

        fiber = self.options.fiber
        if self.out is not None:
            x, fiber = self.out(x), (1,) * len(fiber)
        types = []
        for l, part in enumerate(split_fiber(x, fiber)):
            part = part.transpose(1, 2)  # (nodes, C, 2l + 1)
            part = part.squeeze(1) if self.out is not None else part
            part = part.squeeze(-1) if l == 0 else part
            types.append(mean_nodes(points.graph, part) if return_pooled else points.restore(part))
        return _types(len(fiber))(*types, *[None] * (2 - len(types)))

    def _check_dtypes(self, points: Points) -> None:
        """ValueError where positions or features have another type than the weights."""
        expected = self.layers.norm.scales[0].dtype
        given = {"coors": points.positions}
        given |= {f"feats of degree {l}": value for l, value in points.features.items()}
        if self.token_emb is not None:
            del given["feats of degree 0"]  # tokens
        for name, value in given.items():
            if value.dtype != expected:
                raise ValueError(
                    f"{name} must be {expected} as the weights of the model, got {value.dtype}"
                    + ("" if value.is_floating_point() else "; build it with num_tokens for tokens")
                )

    def _scalars(self, points: Points) -> Tensor:
        """Scalars of all points (nodes, channels), embeddings added."""
        scalars, options = points.features[0], self.options
        if self.token_emb is not None:
            scalars = self.token_emb(_checked_tokens("tokens", scalars, options.num_tokens))
        else:
            scalars = scalars.squeeze(-1) if scalars.dim() == 3 else scalars
            _check_channels(0, scalars.unsqueeze(-1), options.fiber_in[0])
        if self.pos_emb is not None:
            if points.places.numel() and int(points.places.max()) >= options.num_positions:
                raise ValueError(
                    f"sequences must have <= num_positions = {options.num_positions} places, got "
                    f"{int(points.places.max()) + 1}"
                )
            scalars = scalars + self.pos_emb(points.places)

        # only a share of the gradient reaches the inputs
        share = options.embedding_grad_frac
        return scalars if share == 1 else share * scalars + (1 - share) * scalars.detach()

    def _higher(self, points: Points) -> list[Tensor]:
        """Features of degrees 1 and more, (nodes, (2l + 1) channels) each."""
        found = []
        for l, channels in enumerate(self.options.fiber_in[1:], 1):
            _check_channels(l, points.features[l], channels)
            found.append(points.features[l].transpose(1, 2).flatten(1))
        return found

    def _geometry(self, points: Points):
        """What the layers read of the edges."""
        options = self.options

        # (edges,); bonded points count in full however far apart they are
        envelope = ENVELOPES[options.envelope](safe_length(points.vectors) / options.valid_radius)
        if options.attend_sparse_neighbors:
            envelope = torch.where(points.bonded, 1.0, envelope)

        return self.layers.geometry(
            points.graph,
            points.vectors,
            envelope,
            self._edge_scalars(points),
            points.positions,
            points.cell,
            points.periodic,
        )

    def _edge_scalars(self, points: Points) -> Tensor | None:
        """Invariant features of the edges (edges, k), or None."""
        options, values = self.options, points.edge_values
        if (values is None) != (options.edge_dim is None):
            raise ValueError(
                "edges are missing: the model was built with edge_dim"
                if values is None
                else "edges were given to a model without them; build it with edge_dim"
            )

        # tokens or features of the pair, then the bonds between its ends
        found = []
        if self.edge_emb is not None:
            tokens = _checked_tokens("edge tokens", values, options.num_edge_tokens)
            found.append(self.edge_emb(tokens))
        elif values is not None:
            if values.dim() != 2 or values.shape[1] != options.edge_dim:
                raise ValueError(
                    f"edges must have edge_dim = {options.edge_dim} features, got the shape "
                    f"{list(values.shape[1:])} of a pair"
                )
            found.append(values.to(points.vectors.dtype))
        if self.adj_emb is not None:
            found.append(self.adj_emb(points.hops))
        return torch.cat(found, -1) if found else None


def _embedding(size: int | None, width: int | None) -> nn.Embedding | None:
    """Random vectors of ``size`` tokens, or None."""
    return None if size is None else nn.Embedding(size, width)


def _checked_tokens(what: str, tokens: Tensor, size: int) -> Tensor:
    """Tokens (rows,) as int64; ValueError for other types, shapes, and tokens out of range."""
    if tokens.dim() != 1 or tokens.is_floating_point():
        raise ValueError(
            f"{what} must be whole numbers, one each; got {tokens.dtype} with the shape "
            f"{list(tokens.shape[1:])} of each"
        )
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise ValueError(
            f"{what} must lie in 0 .. {size - 1}, got {int(tokens.min())} .. {int(tokens.max())}"
        )
    return tokens.long()


def _check_channels(degree: int, value: Tensor, channels: int) -> None:
    """ValueError unless ``value`` is (nodes, channels, 2 degree + 1)."""
    if value.dim() != 3 or value.shape[1:] != (channels, 2 * degree + 1):
        raise ValueError(
            f"feats of degree {degree} must be [..., {channels}, {2 * degree + 1}], got the shape "
            f"{list(value.shape[1:])} of a point"
        )
