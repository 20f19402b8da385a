"""The public package equiformer-pytorch with our weights: one function where that one is right.

Where it is wrong, a test says what is right, holds ours to it, and shows that theirs is not. The
tests are skipped without the package (requirements-bench.txt).
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from farfield.models.networks.equiformer import Equiformer
from tests.support.draws import draw
from tests.support.equiformer_cases import MLP, SMALL, ring
from tests.support.public_equiformer import PUBLIC_CHOICES, copy_public_weights
from tests.support.turns import relative_error

POINTS = 10
BAR = 1e-4
NEAREST = {"num_neighbors": 5}

# name -> options besides SMALL; all of them with two layers
SETS = {
    "distance": NEAREST,
    "mlp": MLP | NEAREST,
    "all-neighbours": {},
    "all-neighbours-mlp": MLP,
    "single-head": NEAREST | {"single_headed_kv": True},
    "single-head-mlp": MLP | NEAREST | {"single_headed_kv": True},
    "without-gates": NEAREST | {"gate_attn_head_outputs": False},
    "without-gates-mlp": MLP | NEAREST | {"gate_attn_head_outputs": False},
    "norms": NEAREST | {"ff_include_htype_norms": True},
    "global-heads": NEAREST | {"num_linear_attn_heads": 2, "linear_attn_dim_head": 3},
    "global-heads-mlp": MLP | NEAREST | {"num_linear_attn_heads": 2},
    "radius-mlp": MLP | {"valid_radius": 3.0},
    "reduced": NEAREST | {"reduce_dim_out": True},
    "reduced-forward": NEAREST | {"reduce_dim_out": True, "linear_out": False},
    "positions": NEAREST | {"num_positions": 20},
    "heads-of-degrees": NEAREST | {"heads": (4, 2, 1), "dim_head": (8, 4, 2)},
    "four-degrees": NEAREST | {"num_degrees": 4, "dim": (8, 4, 4, 4)},
    "input-degrees": NEAREST | {"num_tokens": None, "dim_in": (5, 3), "input_degrees": 2},
    "edge-tokens": NEAREST | {"num_edge_tokens": 4, "edge_dim": 3},
    "edge-features": NEAREST | {"edge_dim": 3},
    "bonded": {"attend_sparse_neighbors": True, "num_neighbors": 0},
    "bonded-and-nearest": {"attend_sparse_neighbors": True, "num_neighbors": 3},
    "bonded-mlp": MLP | {"attend_sparse_neighbors": True, "num_neighbors": 0},
    "reversible": NEAREST | {"reversible": True},
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package, whose tables go to a folder of the tests and not to the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHE_PATH", str(tmp_path_factory.mktemp("public_tables")))
        yield pytest.importorskip("equiformer_pytorch")


def twins(package, **options) -> tuple[nn.Module, Equiformer]:
    """Theirs and ours with the same random weights, in eval mode."""
    options = SMALL | {"depth": 2} | options
    theirs = package.Equiformer(**{k: v for k, v in options.items() if v is not None}).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            if not weight.any():
                weight.normal_(std=0.3)
    ours = Equiformer(**options, **PUBLIC_CHOICES).eval()
    copy_public_weights(theirs, ours)
    return theirs, ours


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens_and_coors(graphs: int = 2, points: int = POINTS) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 5, (graphs, points)), 2 * draw(graphs, points, 3, seed=1).float()


def inputs_of(ours: Equiformer) -> dict:
    """What the options read, for two structures."""
    options = ours.options
    tokens, coors = tokens_and_coors()
    given = {"inputs": tokens}
    if options.num_tokens is None:
        given = {"inputs": {l: torch.randn(2, POINTS, c, 2 * l + 1) for l, c in ((0, 5), (1, 3))}}
    if options.num_edge_tokens is not None:
        given["edges"] = torch.randint(options.num_edge_tokens, (2, POINTS, POINTS))
    elif options.edge_dim is not None:
        given["edges"] = torch.randn(2, POINTS, POINTS, options.edge_dim)
    if options.attend_sparse_neighbors:
        given["adj_mat"] = ring(POINTS)
    return given | {"coors": coors}


@torch.no_grad()
def run_theirs(theirs: nn.Module, given: dict, **more) -> list[Tensor]:
    return list(theirs(**copy.deepcopy(given), **more))


@torch.no_grad()
def run_ours(ours: Equiformer, given: dict, **more) -> list[Tensor]:
    """Types 0 and 1, all that the package returns."""
    return list(ours(given["inputs"], **{k: v for k, v in given.items() if k != "inputs"}, **more))[
        :2
    ]


def assert_equal_types(found: list[Tensor], expected: list[Tensor]):
    for part, other in zip(found, expected, strict=True):
        assert part.shape == other.shape and float(other.abs().max()) > 1e-2
        assert relative_error(part, other) <= BAR


@pytest.mark.parametrize("name", SETS)
def test_one_function(package, name):
    theirs, ours = twins(package, **SETS[name])
    given = inputs_of(ours)
    assert_equal_types(run_ours(ours, given), run_theirs(theirs, given))


def test_one_mean_over_points(package):
    theirs, ours = twins(package, **MLP, **NEAREST)
    mask = torch.arange(POINTS) < torch.tensor([[POINTS], [7]])
    more = {"mask": mask, "return_pooled": True}
    given = inputs_of(ours)
    assert_equal_types(run_ours(ours, given, **more), run_theirs(theirs, given, **more))


def test_one_function_of_padded_tokens_with_mlp_attention(package):
    """What they return at padding has no meaning; ours is zero there."""
    theirs, ours = twins(package, **MLP, **NEAREST)
    mask = torch.arange(POINTS) < torch.tensor([[POINTS], [7]])
    given = inputs_of(ours)
    found, expected = (
        run(model, given, mask=mask) for run, model in ((run_ours, ours), (run_theirs, theirs))
    )
    assert_equal_types([part[mask] for part in found], [part[mask] for part in expected])


# where the package is wrong


def test_scalars_of_theirs_hear_padding(package):
    """Right: a padded structure gives what it gives alone. Their scalars attend without mask."""
    theirs, ours = twins(package)
    tokens, coors = tokens_and_coors(1)
    alone = {"inputs": tokens[:, :7], "coors": coors[:, :7]}
    expected = run_theirs(theirs, alone)

    given, mask = {"inputs": tokens, "coors": coors}, torch.arange(POINTS).unsqueeze(0) < 7
    assert_equal_types([part[:, :7] for part in run_ours(ours, given, mask=mask)], expected)
    assert relative_error(run_theirs(theirs, given, mask=mask)[0][:, :7], expected[0]) > 1e-2


def test_scalars_of_theirs_hear_points_beyond_the_radius(package):
    """Right: two groups of points 100 apart give what each gives alone."""
    theirs, ours = twins(package, valid_radius=50.0)
    tokens, coors = tokens_and_coors(1)
    expected = run_theirs(theirs, {"inputs": tokens[:, :5], "coors": coors[:, :5]})

    coors[:, 5:] += 100
    given = {"inputs": tokens, "coors": coors}
    assert_equal_types([part[:, :5] for part in run_ours(ours, given)], expected)
    assert relative_error(run_theirs(theirs, given)[0][:, :5], expected[0]) > 1e-2


def test_scalars_at_the_ends_of_their_chains_hear_strangers(package):
    """Right: of a chain, the first point hears two bonds far in one layer after the embedding."""
    theirs, ours = twins(package, attend_sparse_neighbors=True, num_neighbors=0, depth=1)
    tokens, coors = tokens_and_coors(1)
    place = torch.arange(POINTS)
    chain = (place.unsqueeze(1) - place).abs() == 1
    coors[0, 5] = coors[0, 0] + 0.1  # the nearest, but a stranger

    def first(run, model, at: Tensor) -> Tensor:
        return run(model, {"inputs": tokens, "coors": at, "adj_mat": chain})[0][0, 0]

    moved = coors.clone()
    moved[0, 5] += 0.2
    assert torch.equal(first(run_ours, ours, coors), first(run_ours, ours, moved))
    theirs_moved = first(run_theirs, theirs, moved)
    assert relative_error(theirs_moved, first(run_theirs, theirs, coors)) > 1e-3


def test_their_adjacency_of_two_bonds_forgets_those_of_one(package):
    """Right: two degrees of adjacency are the points one and two bonds away, not those at two."""
    options = {"attend_sparse_neighbors": True, "num_neighbors": 0, "num_adj_degrees_embed": 2}
    theirs, ours = twins(package, **options)
    tokens, coors = tokens_and_coors(1)
    moved = coors.clone()
    moved[0, 1] += 1.0

    def changes(run, model) -> float:
        """Of the vectors at the point next to the one that moves."""
        before, after = (
            run(model, {"inputs": tokens, "coors": at, "adj_mat": ring(POINTS)})[1][0, 0]
            for at in (coors, moved)
        )
        return relative_error(after, before)

    assert changes(run_ours, ours) > 1e-3
    assert changes(run_theirs, theirs) <= 1e-4


@pytest.mark.parametrize("logits", [{}, MLP])
def test_theirs_fails_without_attention_to_oneself(package, logits):
    """Right: the softmax over the neighbours alone, so one point alone hears nothing."""
    theirs, ours = twins(package, attend_self=False, **logits)
    given = inputs_of(ours)
    assert all(torch.isfinite(part).all() for part in run_ours(ours, given))
    with pytest.raises(AttributeError, match="self_interact"):
        run_theirs(theirs, given)


def test_theirs_fails_with_embedded_bonds(package):
    """Right: the number of bonds is one more feature of an edge."""
    options = SMALL | NEAREST | {"num_adj_degrees_embed": 2, "adj_dim": 3}
    given = {"adj_mat": ring(POINTS)} | dict(
        zip(("inputs", "coors"), tokens_and_coors(), strict=True)
    )
    ours = Equiformer(**options, **PUBLIC_CHOICES)
    before = run_ours(ours, given)[0]
    with torch.no_grad():
        ours.adj_emb.weight.normal_()
    assert relative_error(run_ours(ours, given)[0], before) > 1e-3
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_theirs(package.Equiformer(**options), given)


def test_their_gradients_of_coordinates_are_wrong(package):
    """Right: the change of the answer. Their rotation into the frame of an edge has no gradient."""
    theirs, ours = twins(package, depth=1)
    tokens, coors = tokens_and_coors(1, 5)
    direction, weight = draw(1, 5, 3, seed=2).float(), draw(1, 5, 4, 3, seed=3).float()

    def answer(model: nn.Module, x: Tensor) -> Tensor:
        return (weight * model(tokens, x).type1).sum()

    def slopes(model: nn.Module) -> tuple[float, float]:
        """By autograd and by differences, along the direction."""
        x = coors.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(answer(model, x), x)
        with torch.no_grad():
            above, below = (answer(model, coors + sign * 1e-3 * direction) for sign in (1, -1))
        return float((gradient * direction).sum()), float(above - below) / 2e-3

    found, expected = slopes(ours)
    assert found == pytest.approx(expected, rel=1e-2)
    theirs_found, same = slopes(theirs)
    assert same == pytest.approx(expected, rel=1e-2)
    assert theirs_found != pytest.approx(expected, rel=0.1)


def test_theirs_changes_the_dictionary_of_the_caller(package):
    theirs, ours = twins(package, num_tokens=None, dim_in=5)
    feats, coors = {0: torch.randn(1, POINTS, 5)}, tokens_and_coors(1)[1]
    given = feats[0]
    ours(feats, coors)
    assert feats[0] is given
    theirs(feats, coors)
    assert feats[0] is not given and feats[0].shape == (1, POINTS, 5, 1)
