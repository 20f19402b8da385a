"""The basis cache gives what the model would compute, for any batch, or refuses in one line."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.dataloader.storage import basis_rows, files
from farfield.dataloader.storage.basis_cache import BasisCache, why_unusable
from farfield.dataloader.storage.basis_rows import CacheSettings
from farfield.dataloader.storage.edge_layout import COMPLETE, GraphEdges, complete_pairs
from farfield.models.complete_graphs import complete_graphs
from farfield.models.edges import edge_vectors
from farfield.models.near_field.edge_frames import EdgeBasis

CUTOFF = {"kind": "cutoff", "cutoff": 1.5}
SIZES = [4, 1, 7, 2, 5, 6, 3]  # the second graph has no edge


def make_positions(sizes=SIZES, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((size, 3)).astype(np.float32) for size in sizes]


def make_graphs(positions, cutoff=None) -> list[GraphEdges]:
    graphs = []
    for points in positions:
        ends = complete_pairs(len(points))
        vectors = points[ends[:, 1]] - points[ends[:, 0]]
        near = np.linalg.norm(vectors, axis=1) < (cutoff or np.inf)
        graphs.append(GraphEdges(len(points), ends[near], vectors[near]))
    return graphs


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """Positions and a cache of ragged graphs with a cutoff."""
    positions = make_positions()
    folder = tmp_path_factory.mktemp("ragged") / "cache"
    return positions, BasisCache.build(
        folder, make_graphs(positions, 1.5), CacheSettings(3, CUTOFF), "hash of the data"
    )


@pytest.fixture
def complete(tmp_path):
    """Folder of a cache of complete graphs, and how to open it."""
    graphs = make_graphs(make_positions([5] * 6))
    BasisCache.build(tmp_path / "cache", graphs, CacheSettings(2, COMPLETE), "hash of the data")
    return tmp_path / "cache", {"data_hash": "hash of the data", "lmax": 2, "graph_rule": COMPLETE}


def assert_same_basis(cache: BasisCache, positions: list[np.ndarray], ids, tolerance: float = 1e-6):
    """Rows of the cache = basis of the batch computed from its positions along the cache's
    topology.
    """
    graph, basis = cache.topology(ids), cache.gather(ids)
    points = (
        torch.from_numpy(np.concatenate([positions[index] for index in ids]))
        if len(ids)
        else torch.zeros(0, 3)
    )
    vectors = edge_vectors(points, graph)
    computed = EdgeBasis.from_vectors(vectors.double(), cache.settings.lmax)
    assert {part.dtype for part in (basis.length, *basis.packed)} == {torch.float32}
    assert basis.lmax == cache.settings.lmax
    torch.testing.assert_close(
        basis.length.double(), computed.length, rtol=tolerance, atol=tolerance
    )
    torch.testing.assert_close(
        basis.rotation().double(), computed.rotation(), rtol=0, atol=tolerance
    )


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(0, len(SIZES) - 1), max_size=9))
def test_any_batch_in_any_order_is_the_computed_basis(ragged, ids):
    positions, cache = ragged
    assert_same_basis(cache, positions, ids)


def test_topology_is_that_of_the_graph_rule(ragged):
    positions, cache = ragged
    ids = [2, 1, 5]
    graph = cache.topology(ids)
    expected, first = [], 0
    for points in (positions[index] for index in ids):
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
        pairs = np.argwhere((distance < 1.5) & ~np.eye(len(points), dtype=bool)) + first
        expected += [tuple(pair) for pair in pairs]  # rows (dst, src), sorted
        first += len(points)
    assert [(int(i), int(j)) for i, j in zip(graph.dst, graph.src, strict=True)] == expected
    assert graph.nodes_per_graph.tolist() == [7, 1, 6]


@pytest.mark.parametrize("sizes", [[5] * 8, SIZES], ids=["equal", "ragged"])
def test_complete_graphs_need_no_stored_ends(tmp_path, sizes):
    positions = make_positions(sizes, seed=1)
    cache = BasisCache.build(
        tmp_path / "cache", make_graphs(positions), CacheSettings(3, COMPLETE), "hash"
    )
    assert not (tmp_path / "cache" / "ends.npy").exists()
    for ids in ([0], [3, 3, 1], [6, 2, 0, 5]):
        assert_same_basis(cache, positions, ids)
    if len(set(sizes)) == 1:
        graph, expected = cache.topology([1, 4, 2]), complete_graphs(3, 5)
        assert torch.equal(graph.src, expected.src)
        assert torch.equal(graph.dst, expected.dst)


def test_half_precision_halves_the_frames_and_says_what_it_costs(tmp_path):
    positions = make_positions([5] * 200)
    sizes = {}
    for dtype, tolerance in (("float32", 1e-6), ("float16", 5e-4)):
        cache = BasisCache.build(
            tmp_path / dtype, make_graphs(positions), CacheSettings(3, COMPLETE, dtype), "hash"
        )
        assert_same_basis(cache, positions, range(200), tolerance)
        sizes[dtype] = cache.num_bytes
    assert torch.equal(
        BasisCache.open(tmp_path / "float16", data_hash="hash", lmax=3, graph_rule=COMPLETE)
        .gather([7])
        .length,
        BasisCache.open(tmp_path / "float32", data_hash="hash", lmax=3, graph_rule=COMPLETE)
        .gather([7])
        .length,
    )
    assert sizes["float16"] < 0.56 * sizes["float32"] < 0.56 * 220 * 10 * 200


def test_many_steps_of_building_equal_one(tmp_path, monkeypatch, ragged):
    positions, cache = ragged
    monkeypatch.setattr(basis_rows, "EDGES_PER_STEP", 4)
    done = []
    graphs = iter(make_graphs(positions, 1.5))
    other = BasisCache.build(
        tmp_path / "cache", graphs, CacheSettings(3, CUTOFF), "hash of the data", done.append
    )
    assert sum(done) == len(SIZES)
    assert len(done) > 1
    arrays = [
        {name: entry["blocks"] for name, entry in one.manifest["arrays"].items()}
        for one in (cache, other)
    ]
    assert arrays[0] == arrays[1]


@pytest.mark.parametrize("rule", [COMPLETE, CUTOFF], ids=["complete", "cutoff"])
def test_caches_laid_end_to_end_equal_one(tmp_path, rule):
    graphs, settings = make_graphs(make_positions(), rule.get("cutoff")), CacheSettings(2, rule)
    whole = BasisCache.build(tmp_path / "whole", graphs, settings, "hash")
    parts = [
        BasisCache.build(
            tmp_path / f"{first}", graphs[first : first + 3], settings, f"part {first}"
        )
        for first in (0, 3, 6)
    ]
    done = []
    joined = BasisCache.concatenate(tmp_path / "joined", parts, "hash", done.append)
    assert joined.manifest == whole.manifest
    assert done == [3, 3, 1]
    other = BasisCache.build(tmp_path / "other", graphs[:1], CacheSettings(1, rule), "hash")
    with pytest.raises(
        ValueError, match="the 2 parts of a cache must have one and the same settings"
    ):
        BasisCache.concatenate(tmp_path / "joined", [parts[0], other], "hash")


def test_rows_of_a_batch_are_its_undirected_edges(ragged, tmp_path):
    positions, cache = ragged
    whole = BasisCache.build(
        tmp_path / "cache", make_graphs(positions), CacheSettings(1, COMPLETE), "hash"
    )
    for one, cutoff in ((cache, 1.5), (whole, None)):
        graphs, ids = make_graphs(positions, cutoff), [5, 1, 0, 5]
        ends = np.concatenate([graph.ends for graph in graphs])
        batch = one.batch(ids)
        first_node = batch.graph.node_offsets[batch.graph.graph_of_node[batch.graph.dst]]
        own = torch.stack([batch.graph.src - first_node, batch.graph.dst - first_node], 1)
        assert np.array_equal(ends[batch.rows], np.sort(own.numpy(), 1))
        first = np.cumsum([0, *one.edges_per_graph])
        expected = np.concatenate(
            [np.repeat(np.arange(first[index], first[index + 1]), 2) for index in ids]
        )
        assert sorted(batch.rows) == sorted(expected)
        assert one.batch(ids, basis=False).basis is None
        assert torch.equal(torch.cat(batch.basis.packed, 1), torch.cat(one.gather(ids).packed, 1))
        assert torch.equal(batch.graph.src, one.topology(ids).src)
        assert (
            2 * len(batch.basis.packed[0]) == batch.graph.num_edges == len(batch.basis.length)
        )  # both directions read one frame


def test_directions_on_the_axes_and_edges_without_length(tmp_path):
    vectors = np.concatenate(
        [
            np.eye(3),
            -np.eye(3),
            np.zeros((1, 3)),
            [[1.0, -1e-60, 0.0], [0.0, -1e-60, 2.0], [0.6, 1e-9, -0.8]],
        ]
    )
    ends = complete_pairs(5)
    cache = BasisCache.build(
        tmp_path / "cache", [GraphEdges(5, ends, vectors)], CacheSettings(3, COMPLETE), "hash"
    )
    batch = cache.batch([0])
    signs = np.where(batch.graph.src < batch.graph.dst, 1.0, -1.0)[:, None]
    computed = EdgeBasis.from_vectors(
        torch.from_numpy((vectors[batch.rows] * signs).astype(np.float32)).double(), 3
    )
    torch.testing.assert_close(batch.basis.length.double(), computed.length)
    same = torch.from_numpy(
        (signs[:, 0] > 0) | (np.float32(vectors[batch.rows, 1]) != 0)
    )  # at y = 0 the way back has two frames
    rotation, expected = batch.basis.rotation().double(), computed.rotation()
    torch.testing.assert_close(rotation[same], expected[same], rtol=0, atol=1e-6)
    assert int(same.sum()) == 13
    assert not rotation[batch.basis.length == 0, 1:, 1:].any()


def test_graphs_outside_the_cache_are_an_error(ragged):
    for ids in ([0, len(SIZES)], [-1]):
        with pytest.raises(IndexError, match=r"graphs of .* are 0 \.\. 6, got"):
            ragged[1].gather(ids)


def test_pickles_as_a_path(ragged):
    positions, cache = ragged
    text = pickle.dumps(cache)
    assert len(text) < 4000
    assert_same_basis(pickle.loads(text), positions, [3, 0])


def test_opened_cache_equals_the_built_one(complete):
    folder, expected = complete
    for verify in ("full", "sample", "sizes"):
        cache = BasisCache.open(folder, **expected, verify=verify)
        assert len(cache) == 6
        assert cache.num_edges == 60
    with pytest.raises(ValueError, match="verify must be one of full, sample, sizes, got 'no'"):
        BasisCache.open(folder, **expected, verify="no")


def refusal(folder, expected, error=ValueError, **change) -> str:
    with pytest.raises(error) as caught:
        BasisCache.open(folder, **(expected | change))
    message = str(caught.value)
    assert str(folder) in message
    assert "--rebuild" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["vector", "packed", "nodes", "edge_offsets", "manifest"])
def test_every_flipped_byte_is_refused(complete, name):
    folder, expected = complete
    path = folder / ("manifest.json" if name == "manifest" else f"{name}.npy")
    content = path.read_bytes()
    for place in {0, 9, len(content) // 3, len(content) // 2, len(content) - 3}:
        broken = bytearray(content)
        broken[place] ^= 1
        path.write_bytes(broken)
        assert path.name in refusal(folder, expected)


def test_truncated_and_missing_files_are_refused(complete):
    folder, expected = complete
    path = folder / "packed.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    assert (
        f"packed.npy is truncated or damaged: {len(content) - 4} bytes, {len(content)} were written"
        in refusal(folder, expected)
    )
    path.unlink()
    assert "packed.npy does not exist" in refusal(folder, expected, FileNotFoundError)
    (folder / "manifest.json").unlink()
    assert "manifest.json does not exist" in refusal(folder, expected, FileNotFoundError)
    shutil.rmtree(folder)
    assert "does not exist" in refusal(folder, expected, FileNotFoundError)


def test_caches_of_something_else_are_refused(complete):
    folder, expected = complete
    assert "holds the basis of lmax 2, but lmax 3 is needed" in refusal(folder, expected, lmax=3)
    assert "belongs to another data set" in refusal(
        folder, expected, data_hash="hash of other data"
    )
    assert "graph rule {'kind': 'complete'}, but {'kind': 'cutoff', 'cutoff': 1.5}" in refusal(
        folder, expected, graph_rule=CUTOFF
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    arrays = {name: value for name, value in manifest["arrays"].items() if name != "packed"}
    cases = {
        "describes 'farfield basis cache' of the format version 99, but": {"format": 99},
        "was written by another program (it has no settings)": {"settings": None},
        "was written by another program (it has no array packed)": {"arrays": arrays},
    }
    for message, change in cases.items():
        foreign = manifest | change
        files.write_json(
            folder / "manifest.json", foreign | {"checksum": files.json_checksum(foreign)}
        )
        assert message in refusal(folder, expected)


def test_interrupted_build_leaves_the_old_cache(complete):
    folder, expected = complete

    def interrupted():
        yield from make_graphs(make_positions([5, 5]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BasisCache.build(folder, interrupted(), CacheSettings(2, COMPLETE), "new")
    assert len(BasisCache.open(folder, **expected)) == 6
    assert [entry.name for entry in folder.parent.iterdir()] == ["cache"]


def test_graphs_that_do_not_fit_are_refused(tmp_path):
    good = make_graphs(make_positions([5, 5]))
    nan = GraphEdges(5, good[1].ends, np.full((10, 3), np.nan))
    run = "graph 0: edges must run from a to b with 0 <= a < b < 5"
    cases = [
        ([good[0], nan], COMPLETE, "graph 1 has an edge vector that is not finite"),
        (
            [good[0], GraphEdges(5, good[0].ends[:9], good[0].vectors[:9])],
            COMPLETE,
            "graph 1: the rule is 'complete', but 9 edges",
        ),
        ([GraphEdges(5, good[0].ends[:, ::-1], good[0].vectors)], CUTOFF, run),
        (
            [GraphEdges(4, good[0].ends, good[0].vectors)],
            CUTOFF,
            "graph 0: edges must run from a to b with 0 <= a < b < 4",
        ),
        ([GraphEdges(5, good[0].ends - 1, good[0].vectors)], CUTOFF, run),
        ([GraphEdges(5, good[0].ends // 2 * 2, good[0].vectors)], CUTOFF, run),
        (
            [GraphEdges(5, np.repeat(good[0].ends[:5], 2, axis=0), good[0].vectors)],
            CUTOFF,
            r"graph 0: edges must be sorted by \(a, b\), each once",
        ),
        (
            [GraphEdges(5, good[0].ends[::-1], good[0].vectors)],
            CUTOFF,
            r"graph 0: edges must be sorted by \(a, b\), each once",
        ),
        (
            [GraphEdges(5, good[0].ends[:3], good[0].vectors)],
            CUTOFF,
            r"graph 0: ends must be \(edges, 2\)",
        ),
    ]
    for graphs, rule, message in cases:
        with pytest.raises(ValueError, match=message):
            BasisCache.build(tmp_path / "cache", graphs, CacheSettings(1, rule), "hash")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_checked_and_hashed():
    with pytest.raises(ValueError, match="lmax of a basis cache must be >= 1, got 0"):
        CacheSettings(0, COMPLETE)
    with pytest.raises(ValueError, match="must be one of float32, float16, got 'bfloat16'"):
        CacheSettings(1, COMPLETE, "bfloat16")
    hashes = {
        one.hash
        for one in (
            CacheSettings(1, COMPLETE),
            CacheSettings(2, COMPLETE),
            CacheSettings(1, CUTOFF),
        )
    }
    assert len(hashes) == 3
    assert CacheSettings(1, dict(COMPLETE)).hash in hashes


def test_reasons_not_to_use_a_cache():
    assert why_unusable() is None
    assert "augmentation or noise" in why_unusable(augmented=True)
    assert "need a gradient" in why_unusable(position_gradient=True)
    assert "not in the cache" in why_unusable(rows_cached=False)
