"""Noised backbones: the law of the noise, crops, graphs, and what a batch tells."""

import dataclasses

import numpy as np
import pytest
import torch

from farfield.dataloader.backbones import RESIDUES, backbone_structures, chain_residues
from farfield.dataloader.chemistry.residues import backbone_hops, backbone_tokens
from farfield.dataloader.datasets.backbone_data import (
    BackboneDataset,
    DenoisingRule,
)
from farfield.dataloader.datasets.epoch_draws import EpochIndices, EpochPlan
from farfield.dataloader.sources.built_backbones import build_backbones
from farfield.train.data_order import EpochLoader


@pytest.fixture(scope="module")
def chains():
    return build_backbones(6, 10, 30, seed=2)


@pytest.fixture(scope="module")
def structures(chains):
    return backbone_structures(chains)


def dataset(structures, split="train", seed=0, **rule):
    return BackboneDataset(structures, split, DenoisingRule(**rule), seed)


def clean(batch):
    return (batch.positions + batch.labels["displacement"]).double().numpy()


def centred(positions):
    return positions - positions.mean(0)


def test_noised_atoms_and_their_displacement_give_the_clean_chain(structures, chains):
    data = dataset(structures, noise=0.7)
    for chosen in ([4, 1], EpochIndices(3, [4, 1])):
        for part, index in zip(data[chosen].split(), (4, 1), strict=True):
            expected = chains[index].positions.reshape(-1, 3)
            np.testing.assert_allclose(centred(clean(part)), centred(expected), atol=1e-5)
            assert np.abs(part.positions.mean(0).numpy()).max() < 1e-5, "about the noised mean"
            tokens = backbone_tokens(chains[index].residues)
            assert np.array_equal(part.node_features["tokens"].numpy(), tokens)
            assert part.atomic_numbers[:4].tolist() == [7, 6, 6, 8]


def test_the_clean_place_is_not_seen_through_the_shift(structures):
    """A shift by the clean mean would leave the mean of the noise in the positions."""
    part = dataset(structures, noise=0.5)[2]
    offset = part.labels["displacement"].mean(0)
    assert offset.norm() > 1e-3 and part.positions.mean(0).norm() < 1e-5


def test_noise_has_the_mean_and_spread_that_were_asked_for(structures):
    data = dataset(structures, noise=0.4)
    epochs = [data[EpochIndices(epoch, range(6))] for epoch in range(60)]
    draws = torch.cat([batch.labels["displacement"] for batch in epochs]).double() / 0.4
    error = 1 / draws.numel() ** 0.5  # of the mean of as many standard normals
    assert draws.numel() > 50_000
    assert abs(draws.mean()) < 4 * error and abs(draws.std() - 1) < 4 * error
    assert abs((draws**4).mean() - 3) < 40 * error, "the tails are those of a Gaussian"
    correlation = torch.corrcoef(draws.T) - torch.eye(3)
    assert correlation.abs().max() < 8 * error


def test_training_noise_is_a_function_of_seed_epoch_and_chain(structures):
    def draw(epoch, index, seed=0):
        return dataset(structures, seed=seed)[EpochIndices(epoch, [index])].labels["displacement"]

    assert torch.equal(draw(5, 2), draw(5, 2))
    others = [draw(6, 2), draw(5, 2, seed=1), draw(5, 3)]
    for other in others:
        size = min(len(other), len(draw(5, 2)))
        assert not torch.isclose(other[:size], draw(5, 2)[:size]).any()

    # alone, in any batch and in any order
    together = dataset(structures)[EpochIndices(5, [4, 2, 0])].split()[1]
    assert torch.equal(together.labels["displacement"], draw(5, 2))


def test_evaluation_noise_is_fixed_for_a_chain_of_a_split(structures):
    one, other = dataset(structures, "val"), dataset(structures, "val", seed=7)
    assert torch.equal(one[3].positions, other[3].positions), "whatever the seed of the run"
    assert not torch.isclose(one[3].positions, dataset(structures, "test")[3].positions).any()

    # twice the noise is the same noise times two
    double = dataset(structures, "val", noise=1.0)[3].labels["displacement"]
    assert torch.allclose(double, 2 * one[3].labels["displacement"])


def test_a_loader_gives_each_epoch_its_noise_also_in_the_middle_and_with_workers(structures):
    def displacements(epoch, first=0, workers=0):
        data = dataset(structures, seed=4)
        loader = EpochLoader(data, EpochPlan(data, batch_size=2, seed=4), workers, 4)
        return [batch.labels["displacement"] for batch in loader.epoch(epoch, first)]

    whole = displacements(3)
    assert len(whole) == 3
    for found in (displacements(3), displacements(3, workers=1)):
        assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    rest = displacements(3, first=1)
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[1:], strict=True))
    assert sum(map(len, displacements(4))) == sum(map(len, whole))
    assert not torch.equal(torch.cat(displacements(4)), torch.cat(whole))


def test_long_chains_are_cropped_in_training_alone(structures, chains):
    data = dataset(structures, max_residues=6, noise=1e-9)
    assert data[2].num_nodes == chains[2].positions.size // 3
    starts = set()
    for epoch in range(200):
        batch = data[EpochIndices(epoch, [2])]
        assert batch.num_nodes == 24
        found = centred(clean(batch))
        matches = [
            start
            for start in range(len(chains[2].residues) - 5)
            if np.allclose(
                centred(chains[2].positions[start : start + 6].reshape(-1, 3)), found, atol=1e-4
            )
        ]
        (start,) = matches
        tokens = backbone_tokens(chains[2].residues[start : start + 6])
        assert np.array_equal(batch.node_features["tokens"].numpy(), tokens)
        starts.add(start)
    assert starts == set(range(len(chains[2].residues) - 5)), "every stretch has its turn"


def edges_of(batch):
    pairs = zip(batch.graph.src.tolist(), batch.graph.dst.tolist(), strict=True)
    return dict(zip(pairs, batch.edge_features["hops"].tolist(), strict=True))


@pytest.mark.parametrize("adjacency", ["none", "chain"])
@pytest.mark.parametrize("cutoff", [1.7, 5.0])
def test_edges_are_noised_pairs_within_the_cutoff_and_bonded_ones(structures, adjacency, cutoff):
    data = dataset(structures, cutoff=cutoff, adjacency=adjacency, max_hops=2, noise=0.6)
    for part in data[EpochIndices(1, [0, 5])].split():
        distance = torch.cdist(part.positions.double(), part.positions.double()).numpy()
        one, other = (axis.ravel() for axis in np.indices(distance.shape))
        hops = backbone_hops(one, other, 2).reshape(distance.shape)
        linked = distance < cutoff
        if adjacency == "chain":
            linked |= hops > 0
        np.fill_diagonal(linked, False)
        assert edges_of(part) == {(i, j): hops[i, j] for i, j in np.argwhere(linked)}
        assert part.cutoff == cutoff

        # sorted by receiver, then sender
        keys = part.graph.dst * part.num_nodes + part.graph.src
        assert (keys.diff() > 0).all()


def test_a_batch_is_its_chains(structures):
    data = dataset(structures, adjacency="chain")
    for part, index in zip(data[[3, 0, 5]].split(), (3, 0, 5), strict=True):
        assert edges_of(part) == edges_of(data[index])
        assert torch.equal(part.positions, data[index].positions)


@pytest.mark.parametrize(
    "rule, message",
    [
        ({"noise": 0.0}, "noise must be > 0 and finite, got 0.0"),
        ({"cutoff": float("inf")}, "cutoff must be finite and > 0 Angstrom, got inf"),
        ({"adjacency": "rings"}, "adjacency must be one of none, chain, got 'rings'"),
        ({"max_hops": 0}, "max_hops must be >= 1, got 0"),
        ({"max_residues": 0}, "max_residues must be >= 1, got 0"),
    ],
)
def test_rules_that_cannot_be_right_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        DenoisingRule(**rule)


def test_the_rule_of_who_names_nothing_stays():
    """Checkpoints that store no rule were trained with this one."""
    usual = DenoisingRule(0.5, cutoff=6.0, adjacency="none", max_hops=3, max_residues=128)
    assert DenoisingRule() == usual


def test_other_structures_are_no_backbones(structures):
    with pytest.raises(ValueError, match="no protein backbones"):
        dataset(dataclasses.replace(structures, extra={}))

    table = structures.extra[RESIDUES].copy()
    table[0, 0] = -1
    with pytest.raises(ValueError, match="the residues of the backbones do not fit their atoms"):
        dataset(dataclasses.replace(structures, extra={RESIDUES: table}))
    table[0, 0] = 21
    with pytest.raises(ValueError, match="types of residues must lie in 0 .. 20"):
        dataset(dataclasses.replace(structures, extra={RESIDUES: table}))


def test_chains_come_back_from_their_file(structures, chains, tmp_path):
    structures.save(tmp_path / "chains.npz")
    loaded = type(structures).load(tmp_path / "chains.npz")
    assert np.array_equal(chain_residues(loaded), np.concatenate([one.residues for one in chains]))
    some = loaded[[4, 1]]
    expected = np.concatenate([chains[4].residues, chains[1].residues])
    assert np.array_equal(chain_residues(some), expected)
    with pytest.raises(ValueError, match="no chains were given"):
        backbone_structures([])
