"""Several sets in one run, and one LMDB file in the place of a folder: training, resume, heads and
tables.
"""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms

from farfield.common import checkpoint
from farfield.common.trained import TrainedRun
from farfield.dataloader.datasets.potential_sets import open_sets, statistics_of_all
from farfield.dataloader.prepared_folder import load_statistics
from farfield.dataloader.set_names import parse_sets, parse_weights
from farfield.dataloader.set_plan import SetPlan
from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from farfield.models.heads.per_set import single_head_weights
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import train_potential
from farfield.train.evaluate import evaluate_checkpoint
from farfield.train.prediction import load
from tests.support.md_data import SIZES, SMALL, make_data, make_lmdb_data
from tests.support.molecule_data import random_crystals, random_structures
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks

NEAR = [*SMALL, "--schedule", "first-order1", "--precision", "float64", "--epochs", "2"]
NOTHING = dict.fromkeys(range(1, 20), 0.0)  # reference energies
SHIFT = 7.0  # eV per atom between the two levels of theory


def shifted(seed: int = 1):
    """Structures with another zero of energies, as another level of theory has."""
    structures = random_structures(SIZES, seed)
    return dataclasses.replace(structures, energy=structures.energy - SHIFT * structures.counts)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Option --data-path of two sets, one of them an LMDB file."""
    folder = tmp_path_factory.mktemp("sets")
    one = make_data(folder / "one")
    two = make_lmdb_data(folder / "two.lmdb", shifted(), sizes=(6, 4, 4))
    return f"one={one},two={two}"


def train(run_dir, data, *arguments):
    train_potential.main(["--data-path", str(data), "--run-dir", str(run_dir), *NEAR, *arguments])
    return run_dir / checkpoint.BEST


@pytest.fixture(scope="module")
def with_heads(sets, tmp_path_factory):
    """Checkpoint of a run with a head for each set."""
    return train(tmp_path_factory.mktemp("run") / "heads", sets, "--heads-per-set")


def test_a_file_trains_as_its_folder(tmp_path):
    """The same numbers, also after a pause, and from loader processes."""
    folder, file = make_data(tmp_path / "set"), tmp_path / "set.lmdb"
    make_lmdb_data(file, sizes=(8, 4, 4))
    train(tmp_path / "a", folder)
    train(tmp_path / "b", file, "--pause-after", "1", "--workers", "1")
    train(tmp_path / "b", file, "--resume", "--workers", "1")
    one, two = results_of(tmp_path / "a"), results_of(tmp_path / "b")
    assert without_clocks(one["history"]) == without_clocks(two["history"])
    assert one["test"] == two["test"]


def test_damage_ends_in_one_line(tmp_path):
    file = make_lmdb_data(tmp_path / "set.lmdb")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.lmdb is damaged: block 0 .*--rebuild"):
        train(tmp_path / "run", file)


@pytest.mark.parametrize("weights", [[1, 1], [2, 0.5], [0.3, 3]])
def test_each_structure_is_drawn_as_its_weight_says(weights):
    class Sized:
        set_sizes, set_weights = [10, 7], weights

        def __len__(self):
            return 17

    plan = SetPlan(Sized(), batch_size=4)
    drawn = np.zeros(17, int)
    for epoch in range(12):
        plan.set_epoch(epoch)
        batches = list(plan)
        assert all(batch == sorted(batch) for batch in batches)
        drawn += np.bincount(np.concatenate(batches).astype(int), minlength=17)
        assert np.ptp(drawn[:10]) <= 1 and np.ptp(drawn[10:]) <= 1, "equally often, but for one"
    assert drawn[:10].sum() == 12 * round(10 * weights[0])
    assert drawn[10:].sum() == 12 * round(7 * weights[1])

    # an epoch is a function of seed and number, and no two are alike
    again = SetPlan(Sized(), batch_size=4)
    again.set_epoch(11)
    assert list(again) == batches != list(SetPlan(Sized(), batch_size=4))
    assert list(again) != list(_at_epoch(SetPlan(Sized(), batch_size=4, seed=1), 11))


def test_a_seed_gives_the_order_that_it_always_gave():
    """A run that began with another version goes on with the same batches."""

    class Sized:
        set_sizes, set_weights = (3, 4), (1.0, 0.5)

        def __len__(self):
            return 7

    plan = SetPlan(Sized(), batch_size=4, seed=3)
    assert [plan.order(epoch).tolist() for epoch in range(2)] == [[5, 0, 1, 2, 3], [1, 2, 4, 6, 0]]


def _at_epoch(plan, epoch):
    plan.set_epoch(epoch)
    return plan


def test_a_joined_batch_is_its_sets_one_after_the_other(tmp_path, sets):
    joined = open_sets(sets, "train", [NOTHING], None, dtype=torch.float64)
    one, two = joined.sets.values()
    batch = joined[[0, 9, 3, 13]]
    assert batch.graph_features["set_index"].tolist() == [0, 1, 0, 1]
    expected = [one[[0]], two[[1]], one[[3]], two[[5]]]
    for found, part in zip(batch.split(), expected, strict=True):
        assert torch.equal(found.positions, part.positions)
        assert torch.equal(found.labels["forces"], part.labels["forces"])
        assert torch.equal(found.graph.src, part.graph.src)
        assert float(found.labels["energy"]) == float(part.labels["energy"])
    with pytest.raises(IndexError, match=r"structures are 0 \.\. 13"):
        joined[[14]]


def test_open_and_periodic_sets_share_batches(tmp_path):
    crystals = random_crystals(count=12)
    crystals.stress = (crystals.stress + crystals.stress.transpose(0, 2, 1)) / 2
    salts = make_data(tmp_path / "salts", crystals, sizes=(6, 3, 3))
    molecules = make_data(tmp_path / "molecules")
    joined = open_sets(f"{salts},{molecules}", "val", [NOTHING])
    assert joined.names == ["salts", "molecules"]
    assert joined.has("stress") and joined.has("cell") and not joined.has("charges")
    batch = joined[[1, 4]]
    assert batch.periodic.all(1).tolist() == [True, False]
    assert not batch.labels["stress"][1].any() and not batch.cell[1].any()
    train(tmp_path / "run", f"{salts},{molecules}", "--stress", "--weight-stress", "0.1")
    rows = results_of(tmp_path / "run")["test"]
    assert {row["row"] for row in rows} >= {"model", "salts: model", "molecules: model"}


def test_a_resumed_run_of_several_sets_is_the_whole_one(tmp_path, sets):
    options = ("--set-weights", "1,1.5", "--heads-per-set")
    train(tmp_path / "whole", sets, *options)
    train(tmp_path / "parts", sets, *options, "--pause-after", "1")
    train(tmp_path / "parts", sets, "--resume")
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_heads_have_the_references_of_their_sets(sets, with_heads):
    reference = TrainedRun.read(with_heads).network().reference
    for head, path in zip(reference.heads, parse_sets(sets).values(), strict=True):
        statistics = load_statistics(path)
        assert head.values() == pytest.approx(statistics.references)
        assert float(head.scale) == pytest.approx(statistics.learned_scale)

    # and a network of one head those of all sets together
    together = statistics_of_all(sets)
    each = [load_statistics(path) for path in parse_sets(sets).values()]
    assert together.structures == 14
    assert together.largest_atoms == max(one.largest_atoms for one in each)
    atoms = sum(one.structures * one.average_atoms for one in each)
    edges = sum(one.structures * one.average_atoms * one.average_neighbors for one in each)
    assert together.average_atoms == pytest.approx(atoms / 14)
    assert together.average_neighbors == pytest.approx(edges / atoms)
    assert together.references != pytest.approx(load_statistics(parse_sets(sets)["one"]).references)


def molecule() -> Atoms:
    one = random_structures(SIZES)[0]
    return Atoms(one.atomic_numbers, one.positions)


def test_a_head_alone_is_the_network_on_its_set(sets, with_heads):
    """Table of a set, prediction and calculator of one head are what the whole network says."""
    rows = {row["row"]: row for row in evaluate_checkpoint(with_heads) if "meV" in row["units"]}
    for name in ("one", "two"):
        alone = evaluate_checkpoint(with_heads, head=name)[0]
        whole = rows[f"{name}: model"]
        for metric in ("energy_mae", "force_mae"):
            assert alone[metric] == pytest.approx(whole[metric], rel=1e-9)

    found = {}
    for name in ("one", "two"):
        predicted = load(with_heads, dtype="float64", head=name).predict(molecule())["energy"]
        atoms = molecule()
        atoms.calc = FarfieldCalculator(with_heads, dtype="float64", head=name)
        assert atoms.get_potential_energy() == pytest.approx(predicted, abs=1e-9)
        found[name] = predicted
    difference = (found["one"] - found["two"]) / len(molecule())
    assert difference == pytest.approx(SHIFT, abs=0.3 * SHIFT)


def test_a_head_must_be_chosen_and_must_be_there(tmp_path, sets, with_heads):
    for use in (load, FarfieldCalculator):
        with pytest.raises(ValueError, match="has the energy heads one, two; choose one with"):
            use(with_heads)
        with pytest.raises(ValueError, match="--head must be one of one, two, got 'thre'"):
            use(with_heads, head="thre")
    other = make_data(tmp_path / "other")
    with pytest.raises(ValueError, match="choose one with --head NAME"):
        evaluate_checkpoint(with_heads, data_path=other)
    assert evaluate_checkpoint(with_heads, data_path=other, head="one")
    plain = train(tmp_path / "plain", other)
    with pytest.raises(ValueError, match="has one energy head; leave --head one out"):
        load(plain, head="one")


@pytest.mark.parametrize("name", ["e2former", "equiformer", "edge_transformer"])
def test_heads_of_every_network_part_and_come_alone(name):
    torch.manual_seed(0)
    model = build_model({"name": name, "energy_heads": "a,b"}).double().eval()
    for head, energy in zip(model.reference.heads, (-1.0, -5.0), strict=True):
        head.set(dict.fromkeys((1, 6, 8), energy), scale=0.5 - energy)
    data = random_structures((3, 4, 5), spread=1.0)
    from farfield.dataloader.datasets.potential_data import MoleculeDataset

    batch = MoleculeDataset(data, 4.0, dtype=torch.float64)[[0, 1, 2]]
    batch.graph_features["set_index"] = torch.tensor([0, 1, 0])
    whole = model(batch)
    alone = build_model({"name": name}).double().eval()
    found = []
    for head in ("a", "b"):
        alone.load_state_dict(single_head_weights(model, head))
        found.append(alone(batch)["energy"])
    expected = torch.stack(found)[torch.tensor([0, 1, 0]), torch.arange(3)]
    assert torch.allclose(whole["energy"], expected, rtol=0, atol=1e-10)
    assert not torch.allclose(found[0], found[1])
    del batch.graph_features["set_index"]
    with pytest.raises(ValueError, match="does not say which one each structure takes"):
        model(batch)
    assert isinstance(batch, AtomBatch)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/water", {"water": "data/water"}),
        ("a=x/one,x/two.lmdb", {"a": "x/one", "two": "x/two.lmdb"}),
    ],
)
def test_sets_are_named(text, expected):
    assert parse_sets(text) == expected


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: parse_sets("a/x,b/x"), "two sets are called 'x'; give them names"),
        (lambda: parse_sets("a=,b"), "'a=' names no set; write NAME=PATH"),
        (lambda: parse_sets("a b=c,d"), "'a b=c' names no set"),
        (lambda: parse_weights("1", ["a", "b"]), r"must be 2 numbers > 0 .* \(a, b\), got '1'"),
        (lambda: parse_weights("1,-2", ["a", "b"]), "must be 2 numbers > 0"),
        (lambda: build_model({"name": "e2former", "energy_heads": "a"}), "two or more different"),
        (
            lambda: build_model({"name": "e2former", "energy_heads": "a,b", "experts": 4}),
            "experts read one energy head",
        ),
        (
            lambda: build_model({"name": "e2former", "energy_heads": "a,b", "forces": "direct"}),
            "direct forces have one readout for all sets",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--heads-per-set"], "--data-path names one; leave it out"),
        (["--set-weights", "2"], "--set-weights 2 weighs several sets"),
    ],
)
def test_options_of_several_sets_need_them(tmp_path, options, words):
    data = make_data(tmp_path / "set")
    with pytest.raises(ValueError, match=words):
        train(tmp_path / "run", data, *options)


def test_sets_of_several_cutoffs_are_refused(tmp_path):
    data = f"{make_data(tmp_path / 'a')},{make_data(tmp_path / 'b', cutoff=4.0)}"
    with pytest.raises(ValueError, match=r"several cutoffs \(a 5\.0 A, b 4\.0 A\)"):
        train(tmp_path / "run", data)
