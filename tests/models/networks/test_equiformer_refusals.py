"""What the Equiformer's face refuses, each in one line with the limit and what to type."""

from __future__ import annotations

import pytest
import torch

from farfield.models.batch import AtomBatch
from farfield.models.networks.equiformer import Equiformer
from tests.support.equiformer_cases import (
    BONDED,
    EMBEDDED,
    SMALL,
    batched,
    make_face,
    ring,
    structures,
)

TOKENS = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
COORS = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 4, 3).sin()
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])
HALF_A_BOND = torch.zeros(4, 4, dtype=torch.bool).index_put(
    (torch.tensor(0), torch.tensor(1)), torch.tensor(True)
)
FEATURES = {"num_tokens": None, "dim_in": 5}
TWO_DEGREES = FEATURES | {"dim_in": (5, 3), "input_degrees": 2}
SCALARS = COORS.new_ones(2, 4, 5, 1)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"num_neighbours": 3}, "unknown option 'num_neighbours'; did you mean 'num_neighbors'"),
        ({"dim": (4, 2)}, "dim must be one number or one for each of the 3 degrees, got '4,2'"),
        ({"heads": 0}, "heads must be whole numbers > 0"),
        ({"dim_head": (2, 2, 2, 2)}, "dim_head must be one number or one for each"),
        ({"dim_in": (4, 2)}, "dim_in must be one number or one for each of the 1 degrees"),
        ({"input_degrees": 4}, "input_degrees must be <= num_degrees = 3, got 4"),
        ({"num_degrees": 13, "dim": 2}, "num_degrees must be <= 12, got 13"),
        ({"depth": 0}, "depth must be >= 1, got 0"),
        ({"valid_radius": 0.0}, "valid_radius must be > 0"),
        ({"num_neighbors": 0}, "num_neighbors 0 leaves no neighbours; set attend_sparse"),
        ({"num_neighbors": -1}, "num_neighbors must be a whole number >= 0"),
        ({"num_neighbors": 2.5}, "num_neighbors must be of type int, got 2.5"),
        ({"max_sparse_neighbors": 2}, "limits adjacent points; set attend_sparse_neighbors"),
        ({"num_edge_tokens": 3}, "num_edge_tokens needs edge_dim"),
        ({"adj_dim": 3}, "adj_dim needs num_adj_degrees_embed"),
        ({"embedding_grad_frac": 1.5}, r"embedding_grad_frac must be in \[0, 1\], got 1.5"),
        ({"envelope": "polynomal"}, "envelope.*did you mean 'polynomial'"),
        ({"edge_kernel": "pairwse"}, "edge_kernel.*did you mean 'pairwise'"),
        (
            {"use_far_field": True, "num_linear_attn_heads": 1},
            "takes the place of linear attention",
        ),
    ],
)
def test_options_are_refused_when_the_model_is_built(options, words):
    with pytest.raises(ValueError, match=words) as refusal:
        Equiformer(**(SMALL | options))
    assert "\n" not in str(refusal.value)


# options of the model, what is given besides tokens and coors, what the refusal says
DENSE = {
    "mask-shape": ({}, {"mask": MASK[:, :3]}, r"mask must be bool \[2, 4\] as coors, got"),
    "mask-type": ({}, {"mask": MASK.long()}, r"mask must be bool .* got torch.int64"),
    "mask-list": ({}, {"mask": MASK.tolist()}, "mask must be a tensor, as coors is; got list"),
    "coors-shape": ({}, {"coors": COORS[..., :2]}, r"coors must be \[b, n, 3\], got"),
    "coors-axes": ({}, {"coors": COORS[0]}, r"coors must be \[b, n, 3\], got"),
    "coors-missing": ({}, {"coors": None}, "coors is missing"),
    "coors-type": ({}, {"coors": COORS.float()}, "coors must be torch.float64 as the weights"),
    "coors-nan": ({}, {"coors": COORS / 0}, "positions must be finite"),
    "tokens-shape": ({}, {"feats": TOKENS[:, :3]}, r"feats of degree 0 must start with \[2, 4\]"),
    "tokens-range": ({}, {"feats": TOKENS + 1}, r"tokens must lie in 0 .. 4, got 1 .. 5"),
    "tokens-below": ({}, {"feats": TOKENS - 1}, r"tokens must lie in 0 .. 4, got -1 .. 3"),
    "tokens-float": ({}, {"feats": TOKENS.double()}, "tokens must be whole numbers, one each"),
    "tokens-axes": ({}, {"feats": TOKENS.unsqueeze(-1)}, "tokens must be whole numbers, one each"),
    "tokens-list": ({}, {"feats": TOKENS.tolist()}, "feats of degree 0 must be a tensor"),
    "tokens-unasked": (FEATURES, {}, "got torch.int64; build it with num_tokens for tokens"),
    "feats-type": (FEATURES, {"feats": SCALARS.float()}, "feats of degree 0 must be torch.float64"),
    "feats-channels": (
        FEATURES,
        {"feats": SCALARS[:, :, :4, 0]},
        r"feats of degree 0 must be \[..., 5, 1\], got the shape \[4, 1\]",
    ),
    "degree-missing": (TWO_DEGREES, {"feats": {0: SCALARS}}, r"degrees 0 .. 1 .*got \[0\]"),
    "degree-too-many": (
        FEATURES,
        {"feats": {0: SCALARS, 1: SCALARS}},
        r"degrees 0 .. 0 .input_degrees = 1., got \[0, 1\]",
    ),
    "degree-shape": (
        TWO_DEGREES,
        {"feats": {0: SCALARS, 1: SCALARS}},
        r"feats of degree 1 must be \[..., 3, 3\], got the shape \[5, 1\]",
    ),
    "places": ({"num_positions": 3}, {}, "<= num_positions = 3 places, got 4"),
    "adjacency-shape": (BONDED, {"adj_mat": ring(3)}, r"adj_mat must have shape \(4, 4\)"),
    "adjacency-one-way": (BONDED, {"adj_mat": HALF_A_BOND}, "adj_mat is not symmetric"),
    "adjacency-missing": (BONDED, {}, "adj_mat is missing: attend_sparse_neighbors"),
    "adjacency-to-embed": (EMBEDDED, {}, "adj_mat is missing: .*num_adj_degrees_embed"),
    "edges-unasked": (
        {},
        {"edges": COORS.new_ones(2, 4, 4, 5)},
        "edges were given to a model without them; build it with edge_dim",
    ),
    "edges-missing": ({"edge_dim": 5}, {}, "edges are missing: the model was built with edge_dim"),
    "edges-pairs": ({"edge_dim": 5}, {"edges": SCALARS}, r"edges must start with \[b, n, n\]"),
    "edges-width": (
        {"edge_dim": 5},
        {"edges": COORS.new_ones(2, 4, 4, 3)},
        r"edges must have edge_dim = 5 features, got the shape \[3\]",
    ),
    "edges-range": (
        {"edge_dim": 5, "num_edge_tokens": 2},
        {"edges": torch.full((2, 4, 4), 2)},
        "edge tokens must lie in 0 .. 1, got 2 .. 2",
    ),
    "edges-float": (
        {"edge_dim": 5, "num_edge_tokens": 2},
        {"edges": COORS.new_ones(2, 4, 4)},
        "edge tokens must be whole numbers",
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_padded_tensors_are_refused(name):
    options, given, words = DENSE[name]
    model = make_face(**options)
    with pytest.raises(ValueError, match=words) as refusal:
        model(**({"feats": TOKENS, "coors": COORS} | given))
    assert "\n" not in str(refusal.value)


LISTS = {
    "mask": ({}, {"mask": MASK}, "lists have no padding: leave mask out"),
    "rows": ({}, {"feats": [TOKENS[0], TOKENS[1, :3]]}, r"must be a list .* start with \[\[4\]"),
    "too-few": ({}, {"feats": [TOKENS[0]]}, "feats of degree 0 must be a list of tensors"),
    "no-list": ({}, {"feats": TOKENS}, "feats of degree 0 must be a list .* got Tensor"),
    "coors": ({}, {"coors": [COORS[0], COORS[1, :, :2]]}, r"a list of tensors \[n, 3\], got"),
    "nothing": ({}, {"feats": [], "coors": []}, r"coors must be a list of tensors \[n, 3\]"),
    "adjacency": (BONDED, {"adj_mat": [ring(4), ring(4)[:, :3]]}, "adj_mat must be a list"),
    "edges": ({"edge_dim": 2}, {"edges": [COORS.new_ones(4, 3, 2)] * 2}, "edges must be a list"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_refused(name):
    options, given, words = LISTS[name]
    model = make_face(**options)
    with pytest.raises(ValueError, match=words) as refusal:
        model(**({"feats": list(TOKENS), "coors": list(COORS)} | given))
    assert "\n" not in str(refusal.value)


def test_batches_are_refused():
    model = make_face()
    batch = batched(model, structures(model, [3, 2]))
    with pytest.raises(ValueError, match="give nothing besides it"):
        model(batch, COORS)
    with pytest.raises(ValueError, match=r"edge_features\['hops'\] is missing"):
        make_face(**BONDED)(batch)
    with pytest.raises(ValueError, match=r"degrees 0 .. 0 .*got \[\]"):
        model(AtomBatch(batch.graph, batch.positions))
    with pytest.raises(ValueError, match="coors must be torch.float64"):
        model(batch.to(dtype=torch.float32))
