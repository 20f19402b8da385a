"""Shares of batches: nothing is lost or repeated, the costs are balanced, epochs stay known."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.dataloader.augmentation import Augmentation
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.batch_shares import EveryFew, SharedPlan, balanced_places
from farfield.dataloader.datasets.epoch_draws import EpochPlan
from farfield.train.data_order import EpochLoader


class Sizes:
    """Structures with many sizes."""

    def __init__(self, count: int):
        self.atoms_per_structure = np.random.default_rng(0).integers(2, 60, count)
        self.edges_per_structure = 12 * self.atoms_per_structure

    def __len__(self):
        return len(self.atoms_per_structure)

    def __getitem__(self, chosen):
        return chosen


@pytest.mark.parametrize("count", [1, 2, 5, 33])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_every_structure_is_in_one_share(count, parts):
    costs = np.random.default_rng(count).integers(1, 100, count)
    shares = balanced_places(costs, parts)
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    sums = [costs[share].sum() for share in shares]
    assert max(sums) - min(sums) <= costs.max()


@pytest.mark.parametrize("plan_class", [BatchPlan, EpochPlan])
def test_the_shares_of_all_ranks_are_the_plan(plan_class):
    data = Sizes(50)
    plan = plan_class(data, batch_size=8, seed=3)
    plan.set_epoch(2)
    whole = list(plan)
    ranks = [SharedPlan(plan_class(data, batch_size=8, seed=3), data, rank, 3) for rank in range(3)]
    for one in ranks:
        one.set_epoch(2)
    assert [len(one) for one in ranks] == [len(whole)] * 3

    for batch, *shares in zip(whole, *ranks, strict=True):
        if plan_class is EpochPlan:
            assert all(share.chosen.epoch == 2 for share in shares)
            batch, own = batch.indices, [share.chosen.indices for share in shares]
        else:
            own = [share.chosen for share in shares]
        for share, indices in zip(shares, own, strict=True):
            assert indices == [batch[place] for place in share.places] and share.whole == len(batch)
        assert sorted(sum(own, [])) == sorted(batch)


def test_a_rank_without_a_structure_gets_none():
    data = Sizes(3)
    loader = EpochLoader(data, BatchPlan(data, batch_size=2, shuffle=False))
    assert [len(batch) for batch in loader.shared(0, 2)] == [1, 1]
    assert list(loader.shared(1, 2))[-1] is None


def test_every_few_batches_of_all_ranks_are_the_plan():
    data = Sizes(11)
    plan = BatchPlan(data, batch_size=3, shuffle=False)
    parts = [EveryFew(plan, first, 3) for first in range(3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert [list(part)[0] for part in parts] == list(plan)[:3]


def test_the_matrices_of_a_share_are_those_of_the_whole_batch(random_batches):
    whole, part, share = random_batches
    turn = Augmentation("orthogonal", copies=2, seed=1)
    turned, own = turn(whole, 3, 4), turn(part, 3, 4, share)
    places = np.concatenate([share.places, share.places + share.whole])
    for graph, place in enumerate(places):
        a = turned.positions[turned.graph.graph_of_node == int(place)]
        assert (own.positions[own.graph.graph_of_node == graph] == a).all()


@pytest.fixture
def random_batches(tmp_path):
    """A batch of structures, a share of it, and which."""
    from farfield.dataloader.batch_shares import Share
    from farfield.dataloader.datasets.potential_data import MoleculeDataset
    from tests.support.md_data import make_data

    dataset = MoleculeDataset.open(make_data(tmp_path / "set"), "train")
    share = Share([6, 2], np.array([1, 3]), 4)
    return dataset[[4, 6, 1, 2]], dataset[share.chosen], share
