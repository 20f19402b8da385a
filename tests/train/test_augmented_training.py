"""Laws of training on turned structures: labels turn with them, so an equivariant network has the
loss that it has without; a resumed run turns as an uninterrupted one; what does not go together is
refused before anything is written.
"""

import json

import numpy as np
import pytest
import torch

from farfield.common import checkpoint
from farfield.dataloader.datasets.nbody_data import simulate_nbody
from farfield.models.turned_batches import KINDS
from farfield.preprocess import preprocess_backbones, preprocess_qm9
from farfield.train import (
    launch,
    train_denoise,
    train_diffusion,
    train_md17,
    train_nbody,
    train_qm9,
)
from tests.support.md_data import SMALL, make_data
from tests.support.molecule_data import random_crystals
from tests.support.qm9_data import molecules
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks
from tests.support.toy_training import ToyTask

AUGMENT = ["--augment", "orthogonal", "--augment-copies", "2"]
QUICK = ["--no-progress", "--warmup-steps", "2", "--precision", "float64"]
NBODY = ["--layers", "1", "--channels", "4", "--lmax", "1", "--updates", "2", "--batch-size", "8"]
PROPERTIES = ["--layers", "1", "--channels", "4", "--lmax", "1", "--heads", "2"]
EQUIFORMER = ["--dim", "4,4", "--num-degrees", "2", "--heads", "2", "--dim-head", "2"]


@pytest.fixture(scope="module")
def potential_data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("potential") / "data")


@pytest.fixture(scope="module")
def crystal_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crystals") / "data"
    return make_data(folder, random_crystals(count=12), cutoff=3.0, sizes=(8, 2, 2))


@pytest.fixture(scope="module")
def nbody_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nbody")
    # the public protocol draws from the legacy generator
    rng = np.random.RandomState(3)  # noqa: NPY002
    for split, count in (("train", 20), ("test", 5), ("val", 5)):
        simulated = simulate_nbody(count, rng)
        arrays = {name: values.astype(np.float32) for name, values in simulated.items()}
        np.savez(
            folder / f"nbody_{split}.npz", **arrays, metadata=json.dumps({"dynamics": "charged"})
        )
    return folder


@pytest.fixture(scope="module")
def property_data(tmp_path_factory):
    """Disturbed molecules with a dipole (the label of a vector) and its length."""
    folder, rng = tmp_path_factory.mktemp("properties"), np.random.default_rng(0)
    one = molecules(("CH4", "NH3", "H2O", "HCN", "H2CO", "CH3OH", "C2H6", "CH3CN"))
    whole = type(one).concatenate([one] * 3)
    dipole = rng.standard_normal((len(whole), 3))
    np.savez(
        folder / "molecules.npz",
        n_atoms=whole.counts,
        Z=whole.atomic_numbers,
        R=whole.positions + 0.1 * rng.normal(size=whole.positions.shape),
        gdb_id=np.arange(1, 1 + len(whole)),
        mu=np.linalg.norm(dipole, axis=1),
        dipole=dipole,
    )
    sizes = ["--train", "16", "--val", "4", "--lmax", "1", "--graph", "bonds"]
    source = ["--file", str(folder / "molecules.npz"), "--out", str(folder / "data")]
    preprocess_qm9.main([*source, *sizes])
    return folder / "data"


@pytest.fixture(scope="module")
def backbone_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones") / "data"
    sizes = ["--build", "12", "--residues", "8,10", "--val", "2", "--test", "2"]
    preprocess_backbones.main([*sizes, "--out", str(folder)])
    return folder


def potential(data, *more):
    arguments = ["--data-path", str(data), *SMALL, "--precision", "float64", *more]
    return train_md17.SCRIPT.read_options(arguments)


def crystals(data, *more):
    periodic = ["--stress", "--weight-stress", "1", "--far-expansion", "lattice"]
    return potential(data, *periodic, *more)


def nbody(data, *more):
    arguments = ["--data-path", str(data), *QUICK, *NBODY, "--waypoint-weight", "0.5", *more]
    return train_nbody.SCRIPT.read_options(arguments)


def properties(data, *more):
    # the mean error of single components, the default, is no invariant of a dipole
    loss = ["--targets", "mu,dipole", "--loss", "mse"]
    network = ["--model", "se3_transformer_properties", *PROPERTIES, *loss]
    return train_qm9.SCRIPT.read_options(["--data-path", str(data), *QUICK, *network, *more])


def denoising(data, *more):
    arguments = ["--data-path", str(data), *QUICK, *EQUIFORMER, "--batch-size", "4", *more]
    return train_denoise.SCRIPT.read_options(arguments)


def diffusion(data, *more):
    objective = ["--objective", "joint", "--model", "se3_transformer_diffusion"]
    arguments = ["--data-path", str(data), *QUICK, *objective, *PROPERTIES]
    return train_diffusion.SCRIPT.read_options([*arguments, "--batch-size", "4", *more])


# configuration, data, labels that turn
TRAININGS = {
    "potential": (potential, "potential_data", ("forces",)),
    "crystals": (crystals, "crystal_data", ("forces", "stress")),
    "nbody": (nbody, "nbody_data", ("displacement", "velocity_change", "waypoints")),
    "properties": (properties, "property_data", ("dipole",)),
    "denoising": (denoising, "backbone_data", ("displacement",)),
    "diffusion": (diffusion, "property_data", ("noise",)),
}


def losses(trainer, parts) -> tuple[list[float], list[float]]:
    """Loss of the first batches of an epoch as they are stored, and as they are trained on."""
    generator = torch.Generator().manual_seed(0)
    model = trainer.model.eval()
    for weight in model.parameters():  # heads that start at zero would see nothing
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        weight.data += 0.3 * noise * (weight.dim() > 0)

    found = []
    for loader in (parts.train, trainer.train_loader):
        batches = [batch for _, batch in zip(range(2), loader.epoch(1), strict=False)]
        batches = [batch.to(dtype=torch.float64) for batch in batches]
        found.append([parts.task.loss(model, batch)[0].item() for batch in batches])
    return found


@pytest.mark.parametrize("name", list(TRAININGS))
def test_an_equivariant_network_has_the_same_loss(name, request, monkeypatch):
    """And another one where a label is left as it was: each of them is in the loss."""
    configure, data, labels = TRAININGS[name]
    folder = request.getfixturevalue(data)
    trainer, parts = launch.build_trainer(configure(folder, *AUGMENT))
    plain, turned = losses(trainer, parts)
    assert turned == pytest.approx(plain, rel=1e-5) and min(plain) > 1e-3

    for label in labels:
        with monkeypatch.context() as patch:
            patch.setitem(KINDS._entries, label, "scalar")
            assert losses(trainer, parts)[1] != pytest.approx(plain, rel=1e-4), label


@pytest.mark.parametrize("name", list(TRAININGS))
def test_copies_multiply_the_structures_of_a_batch(name, request):
    configure, data, _ = TRAININGS[name]
    config = configure(request.getfixturevalue(data), "--augment", "rotations")
    config.training.augment_copies = 3
    trainer, parts = launch.build_trainer(config)
    pairs = zip(parts.train.epoch(0), trainer.train_loader.epoch(0), strict=True)
    for before, after in pairs:
        assert after.num_graphs == 3 * before.num_graphs
        assert after.num_edges == 3 * before.num_edges and after.edge_basis is None
        assert parts.task.samples(after) == 3 * parts.task.samples(before)
    assert len(trainer.train_loader) == len(parts.train)
    assert trainer.train_loader.dataset is parts.train.dataset


def test_training_batches_alone_are_turned(nbody_data):
    trainer, parts = launch.build_trainer(nbody(nbody_data, *AUGMENT))
    assert trainer.val_loader is parts.val and parts.val.transform is None
    plain, _ = launch.build_trainer(nbody(nbody_data))
    assert plain.train_loader.transform is None


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_in_its_middle_as_it_began(potential_data, workers):
    trainer, _ = launch.build_trainer(potential(potential_data, *AUGMENT))
    other, _ = launch.build_trainer(potential(potential_data, *AUGMENT, "--workers", str(workers)))
    whole = [batch.positions for batch in trainer.train_loader.epoch(3)]
    rest = [batch.positions for batch in other.train_loader.epoch(3, first=1)]
    assert len(rest) == len(whole) - 1 >= 2
    assert all(torch.equal(one, two) for one, two in zip(whole[1:], rest, strict=True))
    again = [batch.positions for batch in trainer.train_loader.epoch(4)]
    assert not torch.equal(whole[0][:2], again[0][:2])


def test_two_epochs_and_two_more_are_four(potential_data, tmp_path):
    options = ["--data-path", str(potential_data), *SMALL, *AUGMENT, "--epochs", "4"]
    train_md17.main(["--run-dir", str(tmp_path / "whole"), *options])
    train_md17.main(["--run-dir", str(tmp_path / "parts"), *options, "--pause-after", "2"])
    train_md17.main(["--run-dir", str(tmp_path / "parts"), "--resume"])
    one, two = results_of(tmp_path / "whole"), results_of(tmp_path / "parts")
    assert without_clocks(one["history"]) == without_clocks(two["history"])
    assert one["test"] == two["test"]
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")

    with pytest.raises(ValueError, match="augment"):
        train_md17.main(["--run-dir", str(tmp_path / "parts"), "--resume", "--augment", "none"])
    assert checkpoint.read_run(tmp_path / "parts" / checkpoint.LAST)["position"]["epoch"] == 4


def test_a_run_stopped_inside_an_epoch_goes_on_bit_identically(potential_data, tmp_path):
    """Batches are numbered from the start of their epoch, not from where a session begins."""
    options = ["--data-path", str(potential_data), *SMALL, *AUGMENT, "--epochs", "2"]
    saved = ["--checkpoint-every", "1"]
    train_md17.main(["--run-dir", str(tmp_path / "whole"), *options, *saved])

    class Killed(Exception):
        pass

    def stop(trainer):
        if trainer.position.step == 2:
            raise Killed

    config = train_md17.SCRIPT.read_options(
        ["--run-dir", str(tmp_path / "parts"), *options, *saved]
    )
    trainer, _ = launch.build_trainer(config)
    launch.prepare_run_folder(tmp_path / "parts", False, False)
    launch.save_config(tmp_path / "parts", config)
    trainer._stop_if_signalled = lambda: stop(trainer)
    with pytest.raises(Killed):
        trainer.fit()
    train_md17.main(["--run-dir", str(tmp_path / "parts"), "--resume"])
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_a_cached_basis_is_not_asked_for_and_not_served(property_data, nbody_data):
    """The default of --cache gives way; a user who asks for both is told so."""
    assert properties(property_data).data.cache
    assert not properties(property_data, *AUGMENT).data.cache
    message = r"--cache serves the edge bases of structures as they are stored, --augment orth.*"
    with pytest.raises(ValueError, match=message + "--no-cache, or --augment none"):
        launch.build_trainer(properties(property_data, *AUGMENT, "--cache"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--augment-copies", "2"], "--augment-copies 2 makes copies that are all alike without"),
        (["--augment", "rotation"], "must be one of none, rotations, orthogonal.*'rotations'"),
        (["--augment", "rotations", "--augment-copies", "0"], "--augment-copies: must be >= 1"),
    ],
)
def test_what_does_not_go_together_is_refused(potential_data, tmp_path, more, message):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=message) as error:
        train_md17.main(
            ["--run-dir", str(folder), "--data-path", str(potential_data), *SMALL, *more]
        )
    assert "\n" not in str(error.value) and not folder.exists()


def test_a_label_that_nobody_knows_is_refused_before_the_run_begins(
    potential_data, tmp_path, monkeypatch
):
    monkeypatch.delitem(KINDS._entries, "forces")
    with pytest.raises(ValueError, match="--augment orthogonal: 'forces' has 3 numbers a row"):
        train_md17.main(
            ["--run-dir", str(tmp_path / "run"), "--data-path", str(potential_data), *SMALL]
            + AUGMENT
        )
    assert not (tmp_path / "run").exists()


def test_a_task_without_structures_cannot_be_augmented(potential_data):
    config = potential(potential_data, *AUGMENT)
    config.model.width = 4
    loader = ToyTask.build(config).train
    with pytest.raises(ValueError, match="only batches of structures .* got ToyBatch"):
        launch.augmented_batches(loader, config)
