"""Laws of a compiled potential: it is the network on every number of atoms and edges, and what it
cannot serve, the network computes.

The recorded graph of one small network stands for its program; ``test_program.py`` compiles one.
"""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms

from farfield.dataloader.from_ase import batch_from_atoms
from farfield.models.compiled import compiled_potential
from farfield.models.compiled.compiled_potential import CompiledPotential
from farfield.models.compiled.traced_inputs import Inputs, run_traced
from farfield.models.factory import build_model
from farfield.models.tracing import NotTraceableError
from tests.support.law_cases import random_rotation
from tests.support.small_e2former import SMALL, random_batch
from tests.support.traced_program import StandIn, make_recorded

NETWORK = SMALL | {
    "irreps": "4x0e+4x1o",
    "schedule": "hybrid-first-order",
    "near_kernel_implementation": "memory_efficient",
    "near_weights": "softplus",
    "near_heads": 1,
    "far_kernel": "screened",
    "far_expansion": "auto",
    "far_kernel_lmax": 0,
    "far_key_features": 1,
    "far_heads": 1,
    "far_value_lmax": 0,
}


def potential(seed: int = 0, **options):
    """A network of its own weights that knows hydrogen, carbon and oxygen."""
    torch.manual_seed(seed)
    network = build_model(NETWORK | options).eval().requires_grad_(False)
    network.reference.set({1: -13.6 - seed, 6: -1030.0, 8: -2042.0}, scale=1.7)
    return network.double()


def batch(sizes, seed: int = 0):
    return random_batch(sizes, torch.Generator().manual_seed(seed)).to(dtype=torch.float64)


def error(found, expected) -> float:
    """Largest difference relative to the largest value, over energies and forces."""
    return max(
        float((found[name] - expected[name]).abs().max() / expected[name].abs().max())
        for name in ("energy", "forces")
    )


@pytest.fixture(scope="module")
def compiled():
    """A network that computes by what was recorded of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_potential, "kept", lambda *_: False)
        patch.setattr(compiled_potential, "make_program", make_recorded)
        lines = []
        made = CompiledPotential(potential(), "on", lines.append)
        assert made.prepare(batch([6, 6])), lines
        yield made


@pytest.mark.parametrize("sizes", [[6, 6], [9] * 5, [3, 3, 3], [25] * 2])
def test_it_is_the_network_on_every_size(compiled, sizes):
    for seed in (1, 2):
        given = batch(sizes, seed)
        assert error(compiled(given), compiled.potential(given)) < 1e-12


def test_it_computes_by_its_program(compiled, monkeypatch):
    given = batch([5, 5])
    expected = compiled.potential(given)
    monkeypatch.setattr(compiled.potential, "forward", None)
    assert error(compiled(given), expected) < 1e-12


def test_it_turns_with_the_structure(compiled):
    given = batch([7, 7])
    rotation = -random_rotation(torch.Generator().manual_seed(1), torch.float64)
    turned = compiled(dataclasses.replace(given, positions=given.positions @ rotation.T))
    expected = compiled(given)
    expected["forces"] = expected["forces"] @ rotation.T
    assert error(turned, expected) < 1e-12


def test_forces_are_the_slope_of_the_energy(compiled):
    given, step = batch([5, 5]), 1e-4
    way = torch.randn_like(given.positions)
    ahead, behind = (
        compiled(dataclasses.replace(given, positions=given.positions + sign * step * way))
        for sign in (1, -1)
    )
    slope = (ahead["energy"] - behind["energy"]).sum() / (2 * step)
    assert float(-(compiled(given)["forces"] * way).sum()) == pytest.approx(float(slope), rel=1e-6)


def test_it_refuses_what_the_network_refuses(compiled):
    given = batch([6, 6])
    foreign = given.atomic_numbers.clone()
    foreign[0] = 7
    with pytest.raises(ValueError, match="unknown element N"):
        compiled(dataclasses.replace(given, atomic_numbers=foreign))
    foreign[0] = 0
    with pytest.raises(ValueError, match="atomic numbers must lie in"):
        compiled(dataclasses.replace(given, atomic_numbers=foreign))
    compiled(given)


@pytest.mark.parametrize("sizes", [[4, 5], [1, 1]])
def test_other_batches_are_computed_by_the_network(compiled, sizes):
    given = batch(sizes)
    found, expected = compiled(given), compiled.potential(given)
    assert torch.equal(found["forces"], expected["forces"])


@pytest.mark.parametrize(
    "options",
    [
        {"irreps": "4x0e+4x1o+4x2e", "schedule": "second-order"},
        {"irreps": "4x0e+4x1o+4x2e+4x3o", "schedule": "all-order", "near_weights": "softmax"},
        {"near_score": "dot_alpha", "feed_forward": "sphere_grid"},
        {"far_kernel_lmax": 1, "far_value_lmax": 1, "far_key_features": 2},
        {"forces": "direct"},
        {"near_kernel_implementation": "math"},
        {"experts": 3},
    ],
)
def test_the_forms_of_a_trace_are_those_of_the_network(options):
    network, given = potential(**{"near_heads": 1} | options), batch([6, 6])
    inputs = Inputs.of(given)
    found = run_traced(network, inputs, inputs.tensors(given))
    assert error(found, network(given)) < 1e-12


def test_the_forms_of_a_trace_are_those_of_the_network_in_crystals():
    rng = np.random.default_rng(0)
    cells = [6 * np.eye(3) + 0.3 * rng.standard_normal((3, 3)) for _ in range(2)]
    crystals = [Atoms("COHC", rng.uniform(0, 5, (4, 3)), cell=cell, pbc=True) for cell in cells]
    given = batch_from_atoms(crystals, 4.0, torch.float64)
    network = potential(schedule="first-order", near_heads=1, stress=True)

    inputs = Inputs.of(given)
    found, expected = run_traced(network, inputs, inputs.tensors(given)), network(given)
    assert error(found, expected) < 1e-12
    torch.testing.assert_close(found["stress"], expected["stress"], rtol=1e-10, atol=1e-12)

    # the far field sums over wave vectors of each cell
    made = CompiledPotential(potential(), "on", (lines := []).append)
    assert not made.prepare(given) and "computing without compiled code" in lines[-1]


def test_a_network_that_cannot_be_traced_computes_as_ever(monkeypatch):
    def refuse(*_):
        raise NotTraceableError("there is no C++ compiler; install g++, or set CXX")

    monkeypatch.setattr(compiled_potential, "make_program", refuse)
    lines, given = [], batch([6, 6])
    made = CompiledPotential(potential(), "on", lines.append)
    assert torch.equal(made(given)["forces"], made.potential(given)["forces"])
    assert made(given) and lines[-1].startswith("computing without compiled code: there is no C++")
    assert len(lines) == 2  # once, not for every batch


@pytest.mark.parametrize("options", [{"encoder": "dit"}, {"with_cluster": True}], ids=str)
def test_what_is_made_for_each_geometry_is_not_compiled(options):
    network = potential(**options | {"near_heads": 1})
    made = CompiledPotential(network, "on", (lines := []).append)
    assert torch.equal(made(batch([6, 6]))["energy"], network(batch([6, 6]))["energy"])
    assert lines[-1].startswith("computing without compiled code: ")


def test_a_program_that_differs_is_not_used(compiled, monkeypatch):
    def wrong(tensors):
        found = compiled.potential(batch([6, 6]))
        return found | {"forces": found["forces"] + 1e-6}

    program = StandIn(Inputs.of(batch([6, 6])), wrong)
    monkeypatch.setattr(compiled_potential, "make_program", lambda *_: program)
    lines = []
    made = CompiledPotential(compiled.potential, "on", lines.append)
    assert not made.prepare(batch([6, 6]))
    assert "compiled forces differ by 1.0e-06" in lines[-1]


@pytest.mark.parametrize("evaluations, worth", [(10, False), (10**7, True)])
def test_auto_compiles_where_the_run_is_long_enough(monkeypatch, evaluations, worth):
    monkeypatch.setattr(compiled_potential, "kept", lambda *_: False)
    made = CompiledPotential(potential(), "auto", evaluations=evaluations)
    assert made.is_worth(batch([6, 6])) == worth


def test_auto_of_unknown_length_compiles_once_that_much_was_spent(monkeypatch):
    made_for = []
    monkeypatch.setattr(compiled_potential, "kept", lambda *_: False)
    monkeypatch.setattr(compiled_potential, "COMPILE_SECONDS", 0.05)
    monkeypatch.setattr(CompiledPotential, "prepare", lambda self, one: made_for.append(one))
    made, given = CompiledPotential(potential(), "auto"), batch([6, 6])
    for _ in range(3):
        made(given)
    assert not made_for
    for _ in range(40):
        made(given)
    assert made_for


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="compile must be one of auto, on, off"):
        CompiledPotential(potential(), "always")
