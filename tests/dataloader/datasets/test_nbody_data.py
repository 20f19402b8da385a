"""Windows, labels and order of the N-body data set; the numbers of the public data; bad files."""

import json
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from farfield.dataloader.datasets.nbody_data import (
    STARTS,
    NBodyDataset,
    WindowBatchSampler,
    baseline_errors,
    cache_folder,
    read_nbody,
)
from farfield.dataloader.sources.nbody_simulation import draw_starts, integrate
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.dataloader.storage.basis_rows import CacheSettings
from farfield.dataloader.storage.edge_layout import COMPLETE
from farfield.models.edges import edge_vectors
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.preprocess.preprocess_nbody import graphs_of

SIMULATIONS, FRAMES, BODIES = 7, 12, 3


def write(folder, split="train", **change):
    """A file of numbers that tell where they come from: x = 100 simulation + frame + body / 10 +
    component / 100, v = x^2.
    """
    grid = np.ix_(np.arange(SIMULATIONS), np.arange(FRAMES), np.arange(BODIES), np.arange(3))
    positions = (100 * grid[0] + grid[1] + grid[2] / 10 + grid[3] / 100).astype(np.float32)
    charges = np.arange(SIMULATIONS * BODIES, dtype=np.float32).reshape(SIMULATIONS, BODIES)
    content = {
        "positions": positions,
        "velocities": positions**2,
        "charges": charges,
        "metadata": json.dumps({"dynamics": "charged"}),
    }
    content |= change
    np.savez(
        folder / f"nbody_{split}.npz",
        **{name: value for name, value in content.items() if value is not None},
    )
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simulated data with a cache of the start frames 0 and 3."""
    path = tmp_path_factory.mktemp("nbody")
    generator = np.random.RandomState(0)  # noqa: NPY002 - as the protocol
    content = integrate(draw_starts(SIMULATIONS, generator), frames=FRAMES)
    np.savez(
        path / "nbody_train.npz",
        metadata="{}",
        **{name: values.astype(np.float32) for name, values in content.items()},
    )
    dataset = NBodyDataset(path, "train", 1)
    settings = CacheSettings(3, COMPLETE, selection={"starts": [0, 3]})
    BasisCache.build(
        cache_folder(path, "train"), graphs_of(dataset, [0, 3]), settings, dataset.data_hash
    )
    return path


def test_windows_of_all_rules(tmp_path):
    write(tmp_path)
    first = NBodyDataset(tmp_path, "train", 5, "first")
    assert len(first) == SIMULATIONS
    assert [pair.tolist() for pair in first.windows([6, 0])] == [[6, 0], [0, 0]]
    spread = NBodyDataset(tmp_path, "train", 5, "spread")
    assert [pair.tolist() for pair in spread.windows([0, 3, 6])] == [[0, 3, 6], [0, 3, 6]]
    every = NBodyDataset(tmp_path, "train", 5, "all")
    simulation, start = every.windows(np.arange(len(every)))
    assert len(every) == SIMULATIONS * (FRAMES - 5)
    assert start.max() + 5 == FRAMES - 1
    assert len(set(zip(simulation.tolist(), start.tolist(), strict=True))) == len(every)


def test_spread_starts_are_those_of_the_protocol():
    assert STARTS["spread"](1000, 44)[:, 0].tolist() == [
        int((49 - 5) / 1000 * index) for index in range(1000)
    ]


def test_batch_by_hand(tmp_path):
    content = write(tmp_path)
    dataset = NBodyDataset(tmp_path, "train", 4, "all", waypoints=2)
    index = 5 * (FRAMES - 4) + 3  # simulation 5 from frame 3
    batch = dataset[[2, index]]
    x, v = content["positions"], content["velocities"]
    assert batch.num_graphs == 2
    assert batch.num_nodes == 6
    assert batch.num_edges == 12
    np.testing.assert_array_equal(batch.positions.numpy(), np.concatenate([x[0, 2], x[5, 3]]))
    np.testing.assert_array_equal(
        batch.node_features["velocities"].numpy(), np.concatenate([v[0, 2], v[5, 3]])
    )
    assert batch.node_features["charges"].tolist() == [0, 1, 2, 15, 16, 17]
    np.testing.assert_array_equal(
        batch.labels["displacement"].numpy(), np.concatenate([x[0, 6] - x[0, 2], x[5, 7] - x[5, 3]])
    )
    np.testing.assert_array_equal(
        batch.labels["velocity_change"].numpy(),
        np.concatenate([v[0, 6] - v[0, 2], v[5, 7] - v[5, 3]]),
    )
    waypoints = batch.labels["waypoints"]
    assert waypoints.shape == (6, 2, 6)
    np.testing.assert_array_equal(waypoints[3:, 0, :3].numpy(), x[5, 5] - x[5, 3])
    np.testing.assert_array_equal(waypoints[3:, 0, 3:].numpy(), v[5, 5] - v[5, 3])
    assert torch.equal(
        waypoints[:, 1],
        torch.cat([batch.labels["displacement"], batch.labels["velocity_change"]], 1),
    )
    assert all(value.dtype == torch.float32 for value in (batch.positions, *batch.labels.values()))


def test_single_window_is_a_batch_of_one(tmp_path):
    write(tmp_path)
    dataset = NBodyDataset(tmp_path, "train", 4)
    assert torch.equal(dataset[3].positions, dataset[[3]].positions)
    assert dataset[3].num_graphs == 1
    for index in (-1, SIMULATIONS):
        with pytest.raises(IndexError, match=r"windows are 0 \.\. 6"):
            dataset[index]


def test_springs_come_with_the_edges(tmp_path):
    springs = np.zeros((SIMULATIONS, BODIES, BODIES), np.float32)
    springs[4, 0, 2] = springs[4, 2, 0] = 1
    write(tmp_path, springs=springs, metadata=json.dumps({"dynamics": "springs"}))
    batch = NBodyDataset(tmp_path, "train", 4)[[4]]
    joined = batch.edge_features["springs"][:, 0] == 1
    ends = zip(batch.graph.src[joined].tolist(), batch.graph.dst[joined].tolist(), strict=True)
    assert sorted(ends) == [(0, 2), (2, 0)]


@pytest.mark.parametrize(("starts", "indices"), [("first", [4, 0, 6]), ("all", [0, 3, 7, 10])])
def test_cached_basis_is_the_computed_basis(folder, starts, indices):
    dataset = NBodyDataset(folder, "train", 5, starts)
    assert dataset[indices].edge_basis is None
    dataset.open_cache(3)
    assert dataset.why_computed(indices) is None
    batch = dataset[indices]
    computed = EdgeBasis.from_vectors(edge_vectors(batch.positions, batch.graph), 3)
    torch.testing.assert_close(batch.edge_basis.length, computed.length, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(batch.edge_basis.rotation(), computed.rotation(), rtol=0, atol=1e-6)


def test_cache_is_left_alone_where_it_would_be_wrong(folder):
    cache = NBodyDataset(folder, "train", 5).open_cache(3)
    every = NBodyDataset(folder, "train", 5, "all", cache)
    assert every[[0, 3]].edge_basis is not None
    assert every[[0, 1]].edge_basis is None
    assert "not in the cache" in every.why_computed()
    noisy = NBodyDataset(folder, "train", 5, "first", cache, transform=lambda batch: batch)
    assert noisy[[0]].edge_basis is None
    assert "augmentation or noise" in noisy.why_computed()
    differentiable = NBodyDataset(folder, "train", 5, "first", cache, position_gradient=True)
    batch = differentiable[[0]]
    assert batch.edge_basis is None
    assert batch.positions.requires_grad
    assert "gradient" in differentiable.why_computed()
    assert NBodyDataset(folder, "train", 5).why_computed() == "no cache is open"


def test_cache_of_other_data_is_refused(folder, tmp_path):
    cache = NBodyDataset(folder, "train", 5).open_cache(3)
    write(tmp_path)
    with pytest.raises(
        ValueError, match="belongs to other data than .*nbody_train.npz; .*--rebuild"
    ):
        NBodyDataset(tmp_path, "train", 5, cache=cache)
    with pytest.raises(ValueError, match="holds the basis of lmax 3, but lmax 2 is needed"):
        NBodyDataset(folder, "train", 5).open_cache(2)


@pytest.mark.parametrize("selection", [{}, {"starts": [0, 1]}, {"starts": [99]}], ids=str)
def test_cache_whose_rows_are_not_those_of_its_starts_is_refused(tmp_path, selection):
    write(tmp_path)
    dataset = NBodyDataset(tmp_path, "train", 1)
    settings = CacheSettings(1, COMPLETE, selection=selection)
    BasisCache.build(
        cache_folder(tmp_path, "train"), graphs_of(dataset, [0]), settings, dataset.data_hash
    )
    held = re.escape(f"holds 7 graphs of the start frames {selection.get('starts', [])}")
    with pytest.raises(
        ValueError, match=rf"{held}, .* has 7 simulations of 12 frames; .*--rebuild"
    ):
        dataset.open_cache(1)


def test_loader_workers_share_data_and_cache(folder):
    dataset = NBodyDataset(folder, "train", 5)
    dataset.open_cache(3)
    sampler = WindowBatchSampler(dataset, 3, seed=1)
    alone = list(DataLoader(dataset, sampler=sampler, batch_size=None))
    shared = list(DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=2))
    assert len(alone) == len(shared) == 3
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(
            torch.cat(one.edge_basis.packed, 1), torch.cat(other.edge_basis.packed, 1)
        )
        assert torch.equal(one.graph.src, other.graph.src)


def test_sampler_is_a_function_of_seed_and_epoch(tmp_path):
    write(tmp_path)
    dataset = NBodyDataset(tmp_path, "train", 5, "all")

    def order(seed, epoch):
        sampler = WindowBatchSampler(dataset, 3, seed)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(sampler)
        return list(sampler)

    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5)
    assert order(1, 4) != order(2, 4)
    assert order(0, 1) != order(1, 0)
    batches = order(3, 0)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert len(WindowBatchSampler(dataset, 3)) == 3
    simulation, _ = dataset.windows(sum(batches, []))
    assert sorted(simulation.tolist()) == list(range(SIMULATIONS))
    visited = {index for epoch in range(120) for batch in order(0, epoch) for index in batch}
    assert visited == set(range(len(dataset)))


def test_sampler_without_shuffling_visits_every_window_in_order(tmp_path):
    write(tmp_path)
    for starts in STARTS:
        dataset = NBodyDataset(tmp_path, "train", 5, starts)
        sampler = WindowBatchSampler(dataset, 4, shuffle=False)
        assert sum(sampler, []) == list(range(len(dataset)))
        assert len(list(sampler)) == len(sampler)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        WindowBatchSampler(dataset, 0)
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        WindowBatchSampler(dataset, 1, seed=-1)


def test_baselines_by_hand(tmp_path):
    # every position moves by 1 per frame of 0.1, and the velocities say so: Linear is exact,
    # constant is off by h
    steps = np.broadcast_to(
        np.arange(FRAMES, dtype=np.float32).reshape(1, -1, 1, 1), (SIMULATIONS, FRAMES, BODIES, 3)
    )
    write(tmp_path, positions=steps, velocities=np.full_like(steps, 10) + steps * 0)
    rows = baseline_errors(NBodyDataset(tmp_path, "train", 5, "all"))
    assert rows["Linear"]["x"] == pytest.approx(0, abs=1e-12)
    assert rows["constant"] == {"x": 25.0, "v": 0.0}


def test_linear_rows_of_the_public_data(tmp_path):
    """The test simulations follow the 5,000 of training in the same random stream.

    Bodies that come very near each other part in directions that hang on the last digit, which
    processors round differently: the errors of a few simulations, and so the means, move by 6 %.
    """
    rng = np.random.RandomState(42)  # noqa: NPY002
    draw_starts(5000, rng)
    test = integrate(draw_starts(1000, rng))
    np.savez(
        tmp_path / "nbody_test.npz",
        metadata="{}",
        **{name: values.astype(np.float32) for name, values in test.items()},
    )
    rows = {}
    for name, horizon, starts in (("p1000", 10, "first"), ("p500", 5, "spread")):
        errors = baseline_errors(NBodyDataset(tmp_path, "test", horizon, starts))
        rows[name] = [
            round(errors["Linear"]["x"], 4),
            round(errors["Linear"]["v"], 4),
            round(errors["constant"]["x"], 3),
        ]
    assert rows["p1000"] == pytest.approx([0.0711, 0.2627, 0.160], rel=0.08)
    assert rows["p500"] == pytest.approx([0.0256, 0.2502, 0.068], rel=0.08)


def nan_at(shape, *place):
    values = np.zeros(shape, np.float32)
    values[place] = np.nan
    return values


SHAPE = (SIMULATIONS, FRAMES, BODIES, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"velocities": None}, "has no array 'velocities'"),
        (
            {"positions": np.zeros((7, 12, 3))},
            r"positions must have the shape \(simulations, frames, bodies, 3\), got \(7, 12, 3\)",
        ),
        (
            {"velocities": np.zeros((7, 11, 3, 3))},
            r"velocities must have the shape \(7, 12, 3, 3\) for .* got \(7, 11, 3, 3\)",
        ),
        (
            {"charges": np.zeros((7, 4))},
            r"charges must have the shape \(7, 3\) for positions \(7, 12, 3, 3\), got \(7, 4\)",
        ),
        (
            {"charges": np.zeros((7, 3), np.int64)},
            "charges must be floating-point, got int64",
        ),
        ({"positions": nan_at(SHAPE, 5, 2, 1, 0)}, "positions of simulation 5 are not finite"),
        ({"velocities": nan_at(SHAPE, 3)}, "velocities of simulation 3 are not finite"),
        ({"charges": nan_at((7, 3), 6, 0)}, "charges of simulation 6 are not finite"),
        (
            {"velocities": np.full(SHAPE, 1e300)},
            "velocities of simulation 0 are not finite in float32",
        ),
        ({"metadata": "{"}, "is damaged"),
        ({"metadata": "[1]"}, r"is damaged \(metadata: list, not a dictionary\)"),
        (
            {"metadata": json.dumps({"frame_time": 0.5})},
            "frames must be 0.1 apart, its metadata say 0.5",
        ),
        ({"metadata": json.dumps({"dynamics": "springs"})}, "has no array 'springs'"),
    ],
)
def test_bad_files_are_one_line(tmp_path, change, message):
    write(tmp_path, **change)
    with pytest.raises(
        ValueError, match=rf"nbody_train\.npz.*{message}.*preprocess_nbody"
    ) as error:
        read_nbody(tmp_path / "nbody_train.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"split": "test"},
            FileNotFoundError,
            r"nbody_test\.npz does not exist; make the data with `python -m preprocess",
        ),
        ({"split": "holdout"}, ValueError, "split must be one of train, test, val, got 'holdout'"),
        (
            {"starts": "middle"},
            ValueError,
            "starts must be one of first, spread, all, got 'middle'",
        ),
        (
            {"horizon": 0},
            ValueError,
            r"npz has 12 frames: horizon must be in 1 \.\. 11 frames, got 0; shorten it, or make",
        ),
        ({"horizon": 12}, ValueError, r"horizon must be in 1 \.\. 11 frames, got 12"),
        (
            {"waypoints": 3},
            ValueError,
            r"waypoints must divide the horizon of 5 frames \(0: none\), got 3",
        ),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, error, message):
    write(tmp_path)
    with pytest.raises(error, match=message):
        NBodyDataset(**({"folder": tmp_path, "split": "train", "horizon": 5} | arguments))
