"""Neighbour graphs are all pairs within the cutoff, images included, in the order and orientation
the networks expect.
"""

import itertools
import pickle

import numpy as np
import pytest
import torch

from farfield.dataloader import graphs
from farfield.dataloader.graphs import NeighborStore, find_neighbors
from farfield.dataloader.storage import files
from farfield.models.edges import edge_vectors, image_vectors
from tests.support.molecule_data import random_crystals, random_structures

CUTOFF = 3.7


def brute_force(positions, cutoff, cell, periodic, images=9) -> list[tuple]:
    """(dst, src, shift) of every pair within the cutoff, sorted."""
    found = []
    reach = [range(-images, images + 1) if repeats else range(1) for repeats in periodic]
    for shift in itertools.product(*reach):
        vectors = positions[:, None] - positions[None] + np.array(shift) @ cell  # (dst, src)
        near = np.linalg.norm(vectors, axis=-1) < cutoff
        if shift == (0, 0, 0):
            np.fill_diagonal(near, False)
        found += [(int(i), int(j), *shift) for i, j in np.argwhere(near)]
    return sorted(found)


@pytest.mark.parametrize("periodic", list(itertools.product([True, False], repeat=3)))
def test_edges_are_all_pairs_and_images(periodic):
    structures, edges = random_crystals(periodic=periodic), 0
    for index in range(len(structures)):
        one = structures[index]
        found = find_neighbors(one.positions, CUTOFF, one.cell[0], one.periodic[0])
        rows = [(int(i), int(j), *map(int, shift)) for j, i, shift in zip(*found, strict=True)]
        assert rows == brute_force(one.positions, CUTOFF, one.cell[0], periodic)
        edges += len(rows)
    assert edges > (20 if any(periodic) else 0)


@pytest.mark.parametrize(
    "periodic", [(True, False, False), (False, True, True), (True, False, True)]
)
@pytest.mark.parametrize("atoms", [2, 150])
def test_directions_that_do_not_repeat_need_no_cell_vector(periodic, atoms):
    rng = np.random.default_rng(atoms)
    size = 3.0 * atoms ** (1 / 3)
    positions = rng.uniform(0, size, (atoms, 3))
    cell = np.where(
        np.array(periodic)[:, None],
        size * np.eye(3) + 0.1 * size * rng.standard_normal((3, 3)),
        0.0,
    )
    found = find_neighbors(positions, 4.5, cell, np.array(periodic))
    expected = brute_force(positions, 4.5, cell, periodic, images=4)
    assert [(int(i), int(j), *map(int, s)) for j, i, s in zip(*found, strict=True)] == expected
    assert len(expected) > 2


def test_lone_atom_sees_its_images_and_never_itself():
    found = find_neighbors(np.zeros((1, 3)), 2.5, 2 * np.eye(3), np.ones(3, bool))
    assert len(found.src) == 6
    assert (np.abs(found.shift).sum(1) == 1).all()
    assert len(find_neighbors(np.zeros((1, 3)), 2.5).src) == 0


def test_cutoff_must_be_a_length():
    for cutoff in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="cutoff must be finite and > 0 Angstrom, got"):
            find_neighbors(np.zeros((2, 3)), cutoff)


@pytest.mark.parametrize("make", [random_structures, random_crystals])
def test_gathered_batch_has_the_edge_vectors_of_each_alone(make):
    structures = make()
    store = NeighborStore.compute(structures, CUTOFF)
    ids = [2, 0, 2, 1]
    batch = structures[ids]
    graph, shift = store.gather(ids)
    cell = None if shift is None else torch.from_numpy(batch.cell)
    vectors = edge_vectors(
        torch.from_numpy(batch.positions), graph, image_vectors(graph, cell, shift)
    )
    assert float(vectors.norm(dim=1).max()) < CUTOFF
    assert graph.num_graphs == 4
    expected = []
    for index in ids:
        one = structures[index]
        found = find_neighbors(
            one.positions, CUTOFF, *([] if one.cell is None else [one.cell[0], one.periodic[0]])
        )
        box = np.zeros((3, 3)) if one.cell is None else one.cell[0]
        expected.append(one.positions[found.dst] - one.positions[found.src] + found.shift @ box)
    np.testing.assert_allclose(vectors.numpy(), np.concatenate(expected), atol=1e-12)
    assert (torch.diff(graph.dst * graph.num_nodes + graph.src) >= 0).all()
    assert (
        torch.bincount(graph.graph_of_node[graph.dst], minlength=4).tolist()
        == store.edges_per_graph[ids].tolist()
    )


def test_graphs_outside_are_an_error():
    store = NeighborStore.compute(random_structures(), CUTOFF)
    for ids in ([4], [-1, 0]):
        with pytest.raises(IndexError, match=r"graphs are 0 \.\. 3, got"):
            store.gather(ids)
    assert store.gather([])[0].num_graphs == 0


@pytest.mark.parametrize("make", [random_structures, random_crystals])
def test_stored_graphs_equal_computed_ones(tmp_path, make, monkeypatch):
    monkeypatch.setattr(graphs, "STRUCTURES_PER_STEP", 2)
    structures = make()
    done = []
    built = NeighborStore.build(tmp_path / "graphs", structures, CUTOFF, done.append)
    opened = NeighborStore.open(tmp_path / "graphs", data_hash=structures.data_hash, cutoff=CUTOFF)
    computed = NeighborStore.compute(structures, CUTOFF)
    for store in (built, opened, pickle.loads(pickle.dumps(opened))):
        graph, shift = store.gather(range(len(structures)))
        expected, expected_shift = computed.gather(range(len(structures)))
        assert torch.equal(graph.src, expected.src)
        assert torch.equal(graph.dst, expected.dst)
        assert shift is expected_shift or torch.equal(shift, expected_shift)
    assert sum(done) == len(structures)
    assert len(done) > 1
    assert computed.num_edges == opened.num_edges


@pytest.fixture
def stored(tmp_path):
    structures = random_structures()
    NeighborStore.build(tmp_path / "graphs", structures, CUTOFF)
    return tmp_path / "graphs", structures.data_hash


def refusal(folder, data_hash, **more) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        NeighborStore.open(folder, data_hash=data_hash, **more)
    message = str(caught.value)
    assert str(folder) in message
    assert "--rebuild" in message
    assert "\n" not in message
    return message


def test_graphs_of_something_else_are_refused(stored):
    folder, data_hash = stored
    assert "holds the neighbours within 3.7 Angstrom, but 5.0 is needed" in refusal(
        folder, data_hash, cutoff=5.0
    )
    assert "belongs to another data set" in refusal(folder, "other")
    manifest = files.read_json(folder / "manifest.json", "")
    cases = (
        ({"format": 9}, "of version 1"),
        ({"what": "a cache"}, "describes 'a cache'"),
        ({"arrays": {}}, "no array src"),
    )
    for change, message in cases:
        foreign = {key: value for key, value in (manifest | change).items() if key != "checksum"}
        files.write_json(
            folder / "manifest.json", foreign | {"checksum": files.json_checksum(foreign)}
        )
        assert message in refusal(folder, data_hash)
    with pytest.raises(ValueError, match="verify must be one of"):
        files.write_json(folder / "manifest.json", manifest)
        NeighborStore.open(folder, data_hash=data_hash, verify="no")


@pytest.mark.parametrize(
    "name", ["src.npy", "degree.npy", "nodes.npy", "edge_offsets.npy", "manifest.json"]
)
def test_every_flipped_byte_is_refused(stored, name):
    folder, data_hash = stored
    whole = (folder / name).read_bytes()
    for place in {0, 9, len(whole) // 2, len(whole) - 3}:
        broken = bytearray(whole)
        broken[place] ^= 1
        (folder / name).write_bytes(broken)
        assert name in refusal(folder, data_hash)
    (folder / name).write_bytes(whole[:-2])
    assert name in refusal(folder, data_hash, verify="sizes")
    (folder / name).unlink()
    assert f"{name} does not exist" in refusal(folder, data_hash)


def test_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "STRUCTURES_PER_STEP", 2)

    def interrupted(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        NeighborStore.build(tmp_path / "graphs", random_structures(), CUTOFF, interrupted)
    assert list(tmp_path.iterdir()) == []
