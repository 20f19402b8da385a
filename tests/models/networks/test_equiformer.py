"""Laws of the Equiformer's face: forms of input, masks, rotations, permutations, embeddings."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.models.networks.equiformer import Equiformer
from tests.support.draws import draw
from tests.support.equiformer_cases import (
    CASES,
    EMBEDDED,
    HANDED,
    SMALL,
    Given,
    Motion,
    batched,
    cast,
    holed_mask,
    make_face,
    mapped,
    padded,
    structures,
)
from tests.support.turns import orthogonal, relative_error

SIZES, LONGEST = [5, 0, 1, 6], 9
ALL = pytest.mark.parametrize("name", [*CASES, *HANDED])
PRECISIONS = pytest.mark.parametrize("dtype, bar", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
TRUE_PARITY = pytest.mark.parametrize("name", CASES)


def options_of(name: str) -> dict:
    return (CASES | HANDED)[name]


@torch.no_grad()
def answers(model: Equiformer, given: Given) -> list[Tensor]:
    """Types 0, 1, ... of structures as lists, laid end to end."""
    return [torch.cat(part) for part in model(**given) if part is not None]


def mask_of(name: str) -> Tensor:
    """A mask with holes, unless places in the sequence have a meaning."""
    return holed_mask(SIZES, LONGEST, holes=name != "positions")


def assert_close(found, expected, bar: float):
    """Types equal to ``bar`` of the largest value of each; none is zero."""
    assert len(found) == len(expected)
    for part, other in zip(found, expected, strict=True):
        assert part.shape == other.shape and part.dtype == other.dtype
        assert float(other.abs().max()) > 1e-3
        assert relative_error(part.double(), other.double()) <= bar


# forms of input


@ALL
@torch.no_grad()
def test_padded_tensors_and_lists_are_one_input(name):
    """Whatever stands in the padding: not a number, tokens out of range, bonds."""
    model = make_face(**options_of(name))
    given, mask = structures(model, SIZES), mask_of(name)
    expected = answers(model, given)
    found = model(**padded(given, mask))
    assert_close([part[mask] for part in found if part is not None], expected, 1e-12)
    assert not any(part[~mask].any() for part in found if part is not None)

    # to the last digit, whatever the padding holds
    other = model(**padded(given, mask, garbage=1e30))
    assert all(torch.equal(*pair) for pair in zip(found, other, strict=True) if pair[0] is not None)


@ALL
@torch.no_grad()
def test_batches_and_graphs_are_one_input(name):
    model = make_face(**options_of(name))
    given = structures(model, SIZES)
    expected, batch = answers(model, given), batched(model, given)
    found = [part for part in model(batch) if part is not None]
    assert_close(found, expected, 1e-12)
    for part, other in zip(model(batch.to_dgl()), found, strict=False):
        assert part is None or torch.equal(part, other)


@ALL
@torch.no_grad()
def test_a_structure_alone_is_the_structure_in_a_batch(name):
    model = make_face(**options_of(name))
    given = structures(model, SIZES)
    alone = [
        answers(
            model,
            {
                "feats": mapped(given["feats"], lambda l, parts: parts[n : n + 1]),  # noqa: B023
                **{key: given[key] and given[key][n : n + 1] for key in list(given)[1:]},
            },
        )
        for n in range(len(SIZES))
    ]
    assert_close(
        [torch.cat(parts) for parts in zip(*alone, strict=True)], answers(model, given), 1e-12
    )


@pytest.mark.parametrize("name", ["distance", "reduced"])
@torch.no_grad()
def test_pooled_types_are_means_over_points(name):
    """A structure without points gives zero."""
    model = make_face(**options_of(name))
    given, mask = structures(model, SIZES), mask_of(name)
    each, forms = model(**given), (given, padded(given, mask))
    for form in forms:
        pooled = model(**form, return_pooled=True)
        for l, part in enumerate(pooled):
            expected = torch.stack([rows.sum(0) / max(len(rows), 1) for rows in each[l]])
            torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)
    assert pooled.type1.shape == ((4, 3) if name == "reduced" else (4, 4, 3))


@torch.no_grad()
def test_shapes_are_those_of_the_public_package():
    model = make_face(num_tokens=None, dim_in=5)
    feats, coors = draw(2, 7, 5, seed=0), draw(2, 7, 3, seed=1)
    out = model(feats, coors)
    assert [part.shape[2:] for part in out] == [(8,), (4, 3), (2, 5)]
    assert out._fields == ("type0", "type1", "type2")
    # a last axis of one component is the dictionary's form
    assert torch.equal(model({0: feats.unsqueeze(-1)}, coors).type0, out.type0)

    reduced = make_face(reduce_dim_out=True)(torch.zeros(2, 7, dtype=torch.long), coors)
    assert [part.shape for part in reduced] == [(2, 7), (2, 7, 3), (2, 7, 5)]
    single = make_face(num_degrees=1, dim=8)(torch.zeros(2, 7, dtype=torch.long), coors)
    assert single._fields == ("type0", "type1") and single.type1 is None


@torch.no_grad()
def test_batches_without_points_give_empty_types():
    model, mask = make_face(), torch.zeros(2, 3, dtype=torch.bool)
    tokens, coors = torch.zeros(2, 3, dtype=torch.long), torch.full((2, 3, 3), float("nan"))
    found = model(tokens, coors.double(), mask)
    assert [part.shape for part in found] == [(2, 3, 8), (2, 3, 4, 3), (2, 3, 2, 5)]
    assert not any(part.any() for part in found)


@pytest.mark.parametrize("name", ["input-degrees", "bonds-embedded", "edge-features"])
def test_what_is_given_stays_as_it_was(name):
    model = make_face(**options_of(name))
    given = padded(structures(model, SIZES), mask_of(name), garbage=0.0)
    kept = copy.deepcopy(given)
    model(**given)
    for key, value in kept.items():
        now = given[key]
        if isinstance(value, dict):
            assert list(value) == list(now)
            assert all(torch.equal(part, now[l]) for l, part in value.items())
        elif value is not None:
            assert torch.equal(value, now)


# rotations, reflections, translations, permutations


def assert_moves_along(model: Equiformer, motion: Motion, bar: float, given: Given):
    """What leaves turns with what comes in."""
    dtype = next(model.parameters()).dtype
    before = answers(model, cast(given, dtype))
    after = answers(model, cast(motion.of(given), dtype))
    expected = [motion.turned(l, part.double()).to(dtype) for l, part in enumerate(before)]
    assert_close(after, expected, bar)


@ALL
@PRECISIONS
def test_rotations_and_translations(name, dtype, bar):
    model = make_face(dtype, **options_of(name))
    motion = Motion(orthogonal(3), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    assert_moves_along(model, motion, bar, structures(model, SIZES))


@TRUE_PARITY
def test_reflections(name):
    model = make_face(**options_of(name))
    motion = Motion(orthogonal(4, proper=False), torch.zeros(3, dtype=torch.float64))
    assert_moves_along(model, motion, 1e-12, structures(model, SIZES))


@pytest.mark.parametrize("name", HANDED)
def test_handed_kernels_tell_mirror_images_apart(name):
    model = make_face(**options_of(name))
    given = structures(model, SIZES)
    mirror = Motion(orthogonal(4, proper=False), torch.zeros(3, dtype=torch.float64))
    before, after = answers(model, given)[0], answers(model, mirror.of(given))[0]
    assert relative_error(after, before) > 1e-3
    assert "mirror images" in " ".join(model.remarks)


@ALL
@torch.no_grad()
def test_permutations(name):
    """A place of a sequence has a meaning with num_positions alone."""
    model = make_face(**options_of(name))
    given = structures(model, SIZES)
    order = [torch.randperm(size, generator=torch.Generator().manual_seed(2)) for size in SIZES]

    def turned_round(parts: list[Tensor], pairs: bool = False) -> list[Tensor]:
        moved = [part[place] for part, place in zip(parts, order, strict=True)]
        return [part[:, p] for part, p in zip(moved, order, strict=True)] if pairs else moved

    permuted = {
        "feats": mapped(given["feats"], lambda l, parts: turned_round(parts)),
        "coors": turned_round(given["coors"]),
        "adj_mat": given["adj_mat"] and turned_round(given["adj_mat"], pairs=True),
        "edges": given["edges"] and turned_round(given["edges"], pairs=True),
    }
    expected = [torch.cat(turned_round(list(part.split(SIZES)))) for part in answers(model, given)]
    found = answers(model, permuted)
    if name == "positions":
        assert relative_error(found[0], expected[0]) > 1e-3
    else:
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("options", [{}, {"l2_dist_attention": False}, {"handed": True}])
def test_degree_six_in_float32(options):
    sizes = {"num_degrees": 7, "dim": (8, 4, 4, 2, 2, 2, 2), "heads": 1}
    model = make_face(torch.float32, **sizes, **options)
    motion = Motion(orthogonal(3), torch.zeros(3, dtype=torch.float64))
    assert_moves_along(model, motion, 1e-5, structures(model, [7]))


# embeddings


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_gradient_reaches_embeddings(share):
    """The answers do not change, the gradient of embeddings is exactly the share."""
    gradients, found = [], []
    for frac in (1.0, share):
        model = make_face(num_positions=9, embedding_grad_frac=frac)
        out = model(**structures(model, SIZES))
        found.append(torch.cat(out.type0))
        loss = found[-1].square().sum() + torch.cat(out.type1).square().sum()
        tables = [model.token_emb.weight, model.pos_emb.weight]
        gradients.append(torch.autograd.grad(loss, tables))
    torch.testing.assert_close(*found, rtol=0, atol=1e-13)
    for full, part in zip(*gradients, strict=True):
        assert full.abs().max() > 1e-3
        torch.testing.assert_close(part, share * full, rtol=1e-10, atol=1e-12)


def test_everything_that_is_embedded_changes_the_answer():
    """Tokens, places, edge tokens and numbers of bonds: none is read and dropped."""
    model = make_face(num_positions=9, **CASES["edge-tokens"], **EMBEDDED)
    given = structures(model, SIZES)
    before = answers(model, given)
    # the rows of zero, one and two bonds apart are told from each other
    tables = [(table, slice(None)) for table in (model.token_emb, model.pos_emb, model.edge_emb)]
    tables += [(model.adj_emb, row) for row in range(3)]
    for table, rows in tables:
        with torch.no_grad():
            kept = table.weight.clone()
            table.weight[rows].normal_()
        assert relative_error(answers(model, given)[0], before[0]) > 1e-3
        with torch.no_grad():
            table.weight.copy_(kept)


# neighbours


@torch.no_grad()
def test_infinity_is_no_limit():
    open_ended = {"num_neighbors": float("inf"), "max_sparse_neighbors": float("inf")}
    limited, free = make_face(**open_ended, attend_sparse_neighbors=True), make_face()
    given = structures(limited, SIZES)
    assert limited.options.num_neighbors is None and free.options.max_sparse_neighbors is None
    assert_close(answers(limited, given), answers(free, given | {"adj_mat": None}), 1e-4)


@pytest.mark.parametrize("name", ["bonded", "bonded-embedded"])
def test_only_bonded_points_are_heard(name):
    """The embedding and one layer reach two neighbours far.

    With num_adj_degrees_embed 2 a point is a neighbour up to two bonds away.
    """
    model = make_face(**options_of(name))
    coors = 1.5 * draw(1, 12, 3, seed=0).requires_grad_()
    place = torch.arange(12)
    chain = (place.unsqueeze(1) - place).abs() == 1
    out = model(torch.zeros(1, 12, dtype=torch.long), coors, adj_mat=chain)
    (gradient,) = torch.autograd.grad(out.type0[0, 0].sum(), coors)
    reach = 4 if name == "bonded-embedded" else 2
    heard = gradient[0].abs().sum(-1) > 0
    assert heard[: reach + 1].all() and not heard[reach + 1 :].any()


@torch.no_grad()
@pytest.mark.parametrize("form", ["lists", "batch"])
def test_bonds_beyond_their_limit_fade_out_at_the_radius(form):
    """A bonded pair that max_sparse_neighbors leaves out is a pair like all others."""
    limits = {"attend_sparse_neighbors": True, "max_sparse_neighbors": 1, "valid_radius": 2.0}
    model = make_face(**limits)
    # a chain: the point in the middle has one bond of length 1 and one about the radius
    bonds = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).bool()

    def answer(far: float) -> Tensor:
        coors = torch.tensor([[0.0, 1.0, 0], [0, 0, 0], [far, 0, 0]], dtype=torch.float64)
        tokens = torch.tensor([0, 1, 2])
        given = {"feats": [tokens], "coors": [coors], "adj_mat": [bonds], "edges": None}
        out = model(batched(model, given)) if form == "batch" else model(**given)
        return (out.type0 if form == "batch" else out.type0[0])[1]

    inside, outside, near = (answer(2.0 + shift) for shift in (-1e-7, 1e-7, -0.5))
    assert relative_error(inside, outside) <= 1e-6 < 1e-3 < relative_error(near, outside)


# weights


def test_saved_and_loaded(tmp_path):
    model = make_face(**CASES["edge-tokens"])
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = Equiformer(**(SMALL | CASES["edge-tokens"])).double()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    given = structures(model, SIZES)
    for part, expected in zip(answers(other, given), answers(model, given), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("reversible", [False, True])
def test_training_and_evaluation_are_one_function_without_random_options(reversible):
    model = make_face(reversible=reversible)
    given = structures(model, SIZES)
    assert_close(answers(model.train(), given), answers(model.eval(), given), 1e-13)


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, []),
        ({"num_neighbors": 3}, ["energies jump where the k-th neighbour changes"]),
        ({"envelope": "none"}, ["energies jump where a neighbour crosses the radius"]),
        ({"num_linear_attn_heads": 2}, ["pieces far apart do not add up"]),
        (CASES["leaky"], ["forces jump"]),
    ],
)
def test_remarks_say_what_jumps(options, words):
    remarks = make_face(**options).remarks
    assert len(remarks) == len(words)
    assert all(word in remark for word, remark in zip(words, remarks, strict=True))


@pytest.mark.parametrize("name", ["distance", "mlp", "pairwise"])
@torch.no_grad()
def test_images_of_a_crystal_are_points_like_others(name):
    """A batch with a cell gives what the points and their images give inside a large cluster."""
    model = make_face(**options_of(name), valid_radius=2.0)
    cell = torch.tensor([[1.5, 0.2, 0.0], [0.0, 1.6, 0.3], [0.1, 0.0, 1.7]], dtype=torch.float64)
    shifts = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3)
    shifts = shifts[shifts.any(1)]
    zero = torch.zeros(len(shifts), dtype=torch.long)
    crystal = AtomBatch(
        GraphIndex(zero, zero, torch.tensor([1])),
        torch.zeros(1, 3, dtype=torch.float64),
        torch.tensor([3]),
        cell=cell.unsqueeze(0),
        image_shift=shifts,
    )
    # all points of a perfect lattice are alike: the one in the middle hears the same
    wide = torch.cartesian_prod(*[torch.arange(-4, 5)] * 3)
    cluster = wide.double() @ cell
    middle = int((wide == 0).all(1).nonzero())
    found = model(crystal)
    expected = model([torch.full((len(cluster),), 3)], [cluster])
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part[0], other[0][middle], rtol=0, atol=1e-12)
