"""Laws of a potential in pieces: energy, forces and stress are those of the whole structure."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms

from farfield.dataloader.from_ase import batch_from_atoms
from farfield.dataloader.structure_pieces import StructurePieces
from farfield.models.factory import build_model
from farfield.models.far_field.divided_sum import MOST_WHOLE_ATOMS
from farfield.models.networks.divided_potential import DividedPotential
from tests.support.small_e2former import CUTOFF, SMALL
from tests.support.small_edge_transformer import EDGE_TRANSFORMER

pytestmark = pytest.mark.usefixtures("double")

EQUAL = 1e-10
GRID = {"far_expansion": "mesh", "far_range": 7.0}


def structure(pbc: bool, atoms: int = 220) -> Atoms:
    """Random atoms in a skewed cell, some of them outside of it."""
    rng = np.random.default_rng(4)
    cell = (atoms * 14.0) ** (1 / 3) * np.eye(3) + rng.standard_normal((3, 3))
    numbers = rng.choice([1, 6, 8], atoms)
    info = {"total_charge": 2.0}
    return Atoms(numbers, rng.uniform(-0.2, 1.1, (atoms, 3)) @ cell, cell=cell, pbc=pbc, info=info)


def potential(stress: bool = False, **options):
    """A small network whose weights all count, and whose constants do."""
    torch.manual_seed(1)
    model = build_model({**SMALL, **GRID, "stress": stress, **options}).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    model.set_reference({1: -1.0, 6: -2.0, 8: -3.0}, scale=2.5, shift=0.3)
    return model.requires_grad_(False)


def divided(
    model, atoms: Atoms, most: int, dtype: torch.dtype = torch.float64, **more
) -> dict[str, np.ndarray]:
    """Results in the order of the atoms; ``done`` is called as often as announced."""
    pieces = StructurePieces(atoms, CUTOFF, most, model.inputs)
    calls, whole = [], pieces.structure.to(dtype=dtype)
    made = DividedPotential(model, whole, pieces, done=lambda: calls.append(1), **more)
    found = {name: value.numpy() for name, value in made.evaluate().items()}
    assert len(calls) == made.steps and len(pieces) == -(-len(atoms) // most)
    forces = np.empty_like(found["forces"])
    forces[pieces.order] = found["forces"]
    return found | {"forces": forces}


def assert_same(model, atoms: Atoms, most: int, **more) -> None:
    """In pieces of ``most`` atoms or at once: the same within 1e-10 of the largest value."""
    whole = model(batch_from_atoms([atoms], CUTOFF, torch.float64, inputs=model.inputs))
    found = divided(model, atoms, most, **more)
    assert set(found) == {name for name in whole if name in ("energy", "forces", "stress")}
    for name, value in found.items():
        expected = whole[name].numpy().reshape(value.shape)
        assert np.abs(value - expected).max() < EQUAL * np.abs(expected).max(), name


CASES = {
    "hybrid and second order": {"schedule": "hybrid-first-order1+second-order1"},
    "the far field last, alone and twice": {
        "schedule": "fmm-node1+all-order1+hybrid-zero-order1",
        "far_key_features": 1,
        "far_kernel_lmax": 0,
        "far_value_lmax": 0,
    },
    "near field alone": {"schedule": "first-order2", "near_convolution_form": "node"},
    "further inputs and choices": {
        "schedule": "first-order1+fmm-node1",
        "condition": "total_charge",
        "experts": 3,
        "max_neighbors": 6,
        "near_weights": "softplus",
        "near_score": "dot_alpha_small",
        "near_kernel_implementation": "memory_efficient",
        "feed_forward": "sphere_grid",
        "norm": "layer_norm",
    },
    "a sum by pairs": {"schedule": "hybrid-first-order2", "far_expansion": "auto"},
}


@pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
@pytest.mark.parametrize("name", CASES)
def test_pieces_give_what_the_whole_gives(name, pbc):
    assert_same(potential(stress=pbc, **CASES[name]), structure(pbc), 60, stress=pbc)


def test_one_piece_and_pieces_of_few_atoms():
    model = potential(schedule="hybrid-first-order1")
    atoms = structure(True, 40)
    assert_same(model, atoms, 40)
    assert_same(model, atoms, 7)


def test_float32_far_from_the_origin_loses_no_digits():
    """Vectors of edges are differences of unrounded positions, as in the whole structure."""
    model, atoms = potential(schedule="first-order1").float(), structure(False, 60)
    atoms.positions[30:] += 8e4
    whole = model(batch_from_atoms([atoms], CUTOFF))["forces"].numpy()
    found = divided(model, atoms, 40, torch.float32)["forces"]
    assert np.abs(found - whole).max() < 1e-5 * np.abs(whole).max()


class Together:
    """Adds up tensors over threads that each stand for a process."""

    def __init__(self, count: int):
        self.barrier, self.given = threading.Barrier(count, timeout=60), {}

    def share(self, tensor: torch.Tensor) -> None:
        """Replace ``tensor`` by the sum of what all threads give."""
        self.given[threading.get_ident()] = tensor
        self.barrier.wait()
        total = sum(one.clone() for one in self.given.values())
        self.barrier.wait()
        tensor.copy_(total)


@pytest.mark.parametrize("name", ["hybrid and second order", "a sum by pairs"])
def test_processes_share_the_pieces(name):
    """Three of them, of which the last has no piece."""
    model, atoms = potential(stress=True, **CASES[name]), structure(True, 60)
    pieces, together = StructurePieces(atoms, CUTOFF, 20), Together(3)

    def work(rank: int) -> dict[str, torch.Tensor]:
        own = [[pieces[0]], [pieces[1], pieces[2]], []][rank]
        whole, settings = pieces.structure, {"stress": True, "first": rank == 0}
        return DividedPotential(model, whole, own, share=together.share, **settings).evaluate()

    expected = DividedPotential(model, pieces.structure, pieces, stress=True).evaluate()
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(work, range(3)):
            for key, value in found.items():
                largest = float(expected[key].abs().max())
                torch.testing.assert_close(value, expected[key], rtol=0, atol=EQUAL * largest)


def test_a_slab_without_far_field():
    atoms = structure(True, 60)
    atoms.pbc = [True, True, False]
    assert_same(potential(schedule="first-order2"), atoms, 25)
    with pytest.raises(ValueError, match="slab or wire"):
        divided(potential(schedule="fmm-node1"), atoms, 25)


REFUSED = {
    "clusters": ({"with_cluster": True}, "clusters of atoms"),
    "encoder": ({"encoder": "transformer"}, "an encoder"),
    "charges": ({"charges": "latent"}, "charges latent"),
    "direct forces": ({"forces": "direct"}, "--forces conservative"),
    "heads": ({"energy_heads": "water,salts"}, "one of the energy heads water, salts"),
    "normalisation": (
        {"far_normalisation": "attention", "far_feature_map": "elu"},
        "train.*far_normalisation none",
    ),
    "steps": ({"near_kernel_implementation": "flash"}, "staircase"),
    "network": ({}, "e2former"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_sees_the_whole_structure_is_refused(name):
    options, message = REFUSED[name]
    options = {"schedule": "hybrid-first-order1", **options}
    model = build_model(EDGE_TRANSFORMER) if name == "network" else potential(**options)
    with pytest.raises(ValueError, match=message) as error:
        divided(model, structure(False, 20), 10)
    assert "\n" not in str(error.value)


def test_a_large_structure_needs_a_grid():
    count = MOST_WHOLE_ATOMS + 1
    waves = {"schedule": "fmm-node1", "far_kernel": "standing_waves", "far_range": 15.0}
    atoms = Atoms(f"H{count}", 3.0 * np.arange(count)[:, None] * [1, 0, 0])
    pieces = StructurePieces(atoms, CUTOFF, 1000)
    for expansion, message in (("auto", "--far-kernel screened"), ("mesh", "kernel 'screened'")):
        model = potential(**waves, far_expansion=expansion)
        with pytest.raises(ValueError, match=message):
            DividedPotential(model, pieces.structure, pieces)


def test_a_stress_needs_a_crystal():
    model, atoms = potential(), structure(False, 20)
    pieces = StructurePieces(atoms, CUTOFF, 10)
    with pytest.raises(ValueError, match="repeats in all three directions"):
        DividedPotential(model, pieces.structure, pieces, stress=True)
