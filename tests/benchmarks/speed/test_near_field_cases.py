"""The inputs keep what their names promise: counts, connected graphs, chemistry of the tube."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from benchmarks.speed.bench_near_field import VECTORS_OUT, build_ours
from benchmarks.speed.near_field_cases import (
    CASES,
    double_walled_nanotube,
    is_connected,
    load_geometry,
    make_case,
    nbody_case,
)

# Graphs, nodes, directed edges.
COUNTS = {
    "a": (128, 640, 2560),
    "b1": (32, 576, 1860),
    "b2": (32, 576, 1860),
    "c": (1, 370, 16222),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request):
    return make_case(request.param)


def test_counts(case):
    assert (case.num_graphs, case.positions.shape[0], case.src.shape[0]) == COUNTS[case.name]


def test_graphs_are_connected_symmetric_simple_and_sorted(case):
    assert is_connected(case)
    edges = set(zip(case.src.tolist(), case.dst.tolist(), strict=True))
    assert len(edges) == case.src.shape[0]
    assert edges == {(j, i) for i, j in edges}
    assert not (case.src == case.dst).any()
    assert (case.dst.diff() >= 0).all()


def test_edges_stay_inside_their_graph_and_the_cutoff(case):
    each = int(case.nodes_per_graph[0])
    assert torch.equal(case.src // each, case.dst // each)
    length = (case.positions[case.src] - case.positions[case.dst]).norm(dim=-1)
    assert length.min() > 1e-2
    assert case.complete or length.max() <= case.cutoff


def test_edge_features_do_not_depend_on_the_direction(case):
    features = dict(
        zip(
            zip(case.src.tolist(), case.dst.tolist(), strict=True),
            case.edge_scalars.tolist(),
            strict=True,
        )
    )
    assert all(features[j, i] == value for (i, j), value in features.items())


def test_same_inputs_every_time(case):
    again = make_case(case.name)
    assert torch.equal(case.positions, again.positions) and torch.equal(case.src, again.src)


def test_tube_is_saturated():
    """Every hydrogen has one carbon at 1.09 Angstrom, every carbon three neighbours.

    The walls do not touch.
    """
    numbers, positions = double_walled_nanotube()
    assert np.bincount(numbers).tolist() == [0, 44, 0, 0, 0, 0, 326]
    bonded = [len(near) - 1 for near in cKDTree(positions).query_ball_point(positions, 1.6)]
    assert set(np.array(bonded)[numbers == 6]) == {3}
    assert set(np.array(bonded)[numbers == 1]) == {1}


def test_geometry_file_takes_the_place_of_the_tube(tmp_path):
    numbers, positions = double_walled_nanotube()
    np.savez(tmp_path / "tube.npz", z=numbers, R=np.stack([positions, positions + 9]))
    read_numbers, read_positions = load_geometry(tmp_path / "tube.npz")
    assert np.array_equal(read_numbers, numbers) and np.array_equal(read_positions, positions)
    assert make_case("c", tmp_path / "tube.npz").src.shape[0] == COUNTS["c"][2]


def test_bad_geometry_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_geometry(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not an npz file"):
        load_geometry(tmp_path / "text.npz")
    np.savez(tmp_path / "half.npz", z=np.ones(2))
    with pytest.raises(ValueError, match="'R'"):
        load_geometry(tmp_path / "half.npz")
    np.savez(tmp_path / "shape.npz", z=np.ones(2), R=np.zeros((1, 3, 3)))
    with pytest.raises(ValueError, match=r"\(frames, 2, 3\)"):
        load_geometry(tmp_path / "shape.npz")
    np.savez(tmp_path / "nan.npz", z=np.ones(2), R=np.full((1, 2, 3), np.nan))
    with pytest.raises(ValueError, match="not finite"):
        load_geometry(tmp_path / "nan.npz")


def test_unknown_case():
    with pytest.raises(ValueError, match="must be one of a, b1, b2, c, got 'd'"):
        make_case("d")


def test_our_network_answers_with_scalars_and_vectors():
    """Outputs have the promised shapes, and the vectors turn with the inputs.

    So the program that is timed is the equivariant one.
    """
    case = nbody_case(systems=3)
    program = build_ours(case)
    scalars, vectors = program.run()
    assert scalars.shape == (15, case.size.channels) and vectors.shape == (15, VECTORS_OUT, 3)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    case.positions.copy_(case.positions @ turn.T)
    case.vectors.copy_(case.vectors @ turn.T)
    turned_scalars, turned_vectors = program.run()
    torch.testing.assert_close(
        turned_scalars, scalars, rtol=1e-4, atol=1e-5 * scalars.abs().max().item()
    )
    torch.testing.assert_close(
        turned_vectors, vectors @ turn.T, rtol=1e-4, atol=1e-5 * vectors.abs().max().item()
    )
