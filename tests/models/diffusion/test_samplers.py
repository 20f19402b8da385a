"""Laws of the samplers, with oracles that know the molecule and the time, and with networks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.diffusion.process import DiffusionProcess, ProcessOptions, normal_draws
from farfield.models.diffusion.samplers import SAMPLERS, Sampler
from farfield.models.diffusion.sampling_run import SamplingOptions
from farfield.models.diffusion.schedules import SCHEDULES
from farfield.models.factory import build_model
from farfield.models.graph_ops import mean_nodes
from tests.support.law_cases import random_rotation
from tests.support.small_diffusion import (
    EQUIVARIANT,
    SE3,
    JointOracle,
    NoiseOracle,
    TimeOracle,
    molecules,
    noised,
)

EVERY_SAMPLER = pytest.mark.parametrize("name", SAMPLERS)
GUESSING = pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddpm"])
START = torch.tensor([40, 0, 25, 59])
LAST = torch.full((4,), 59)


def short(schedule: str = "polynomial", steps: int = 60) -> DiffusionProcess:
    return DiffusionProcess(ProcessOptions(schedule, steps))


def with_oracles(name: str, process: DiffusionProcess, known: AtomBatch, start: Tensor) -> Sampler:
    """A sampler whose networks know the molecules, and the times at which they start."""
    if name == "jt":
        return SAMPLERS[name](process, JointOracle(process, known, start))
    times = TimeOracle(process, start) if name in ("as", "itp") else None
    return SAMPLERS[name](process, NoiseOracle(process, known), times)


def seeded(seed: int = 0, **options) -> SamplingOptions:
    return SamplingOptions(generator=torch.Generator().manual_seed(seed), **options)


def recorded(batch: AtomBatch, draws: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [normal_draws(batch.graph, generator) for _ in range(draws)]


# ---- oracles


@pytest.mark.parametrize("schedule", SCHEDULES)
@EVERY_SAMPLER
def test_perfect_networks_give_the_molecule_out_of_noise(name, schedule):
    process, known = short(schedule), molecules()
    found = with_oracles(name, process, known, LAST).generate(known, seeded())
    assert float((found.batch.positions - known.positions).abs().max()) < 1e-3
    assert found.steps.tolist() == [60] * 4 and bool(found.converged.all())


@EVERY_SAMPLER
def test_a_thousand_steps_in_float32_give_the_molecule(name):
    process, known = DiffusionProcess(), molecules(dtype=torch.float32)
    sampler = with_oracles(name, process, known, torch.full((4,), 999))
    found = sampler.generate(known, seeded())
    assert found.batch.positions.dtype == torch.float32
    assert float((found.batch.positions - known.positions).abs().max()) < 1e-3
    assert found.steps.tolist() == [1000] * 4


@EVERY_SAMPLER
def test_perfect_networks_relax_and_stop_at_zero(name):
    """Steps are those from the time of each molecule down to 0, and centroids stay."""
    process, known = short(), molecules()
    shift = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    moved = noised(process, known, START)
    moved.positions = moved.positions + shift
    sampler = with_oracles(name, process, known, START)
    start = {"start": START} if name == "ddpm" else {}
    found = sampler.relax(moved, **start, options=seeded())
    assert found.steps.tolist() == (START + 1).tolist() and bool(found.converged.all())
    assert float((found.batch.positions - shift - known.positions).abs().max()) < 1e-3


@EVERY_SAMPLER
def test_finished_molecules_leave_the_batch(name):
    """Each molecule is asked about as often as it takes steps."""
    process, known = short(), molecules()
    sampler = with_oracles(name, process, known, START)
    start = {"start": START} if name == "ddpm" else {}
    sampler.relax(noised(process, known, START), **start, options=seeded())
    calls = sampler.noise_network.calls
    for number, steps in enumerate((START + 1).tolist()):
        assert sum(number in call for call in calls) == steps
        assert all(number in call for call in calls[:steps])
    assert len(calls) == 60 and calls[0] == [0, 1, 2, 3] and calls[-1] == [3]


@EVERY_SAMPLER
def test_a_convergence_step_ends_earlier(name):
    process, known = short(), molecules()
    sampler = with_oracles(name, process, known, START)
    sampler.convergence_step = 10
    start = {"start": START} if name == "ddpm" else {}
    found = sampler.relax(noised(process, known, START), **start, options=seeded())
    assert found.steps.tolist() == [31, 1, 16, 50] and bool(found.converged.all())


@EVERY_SAMPLER
def test_the_last_step_goes_all_the_way(name):
    """Noise that is known at a time above 0 speaks for the molecule, and there the step leads."""
    process, known = short(), molecules()
    sampler = with_oracles(name, process, known, START)
    sampler.convergence_step = 30
    start = {"start": START} if name == "ddpm" else {}
    found = sampler.relax(noised(process, known, START), **start, options=seeded())
    torch.testing.assert_close(found.batch.positions, known.positions)


class Stuck(TimeOracle):
    """Guesses the right times, but never one below 20."""

    def __call__(self, batch: AtomBatch) -> dict[str, Tensor]:
        least = float(self.process.time(torch.tensor(20)))
        return {"time": super().__call__(batch)["time"].clamp(min=least)}


def test_guesses_that_stay_finish_a_molecule():
    """Starts 40, 0, 25, 59: the first guess of 20 is the last new least."""
    process, known = short(), molecules()
    noise, moved = NoiseOracle(process, known), noised(process, known, START)
    sampler = SAMPLERS["as"](process, noise, Stuck(process, START), patience=5)
    found = sampler.relax(moved, options=seeded(max_steps=50))
    assert bool(found.converged.all()) and found.steps.tolist() == [26, 6, 11, 45]

    # without patience the guess alone decides, and time that counts down never waits
    sampler = SAMPLERS["as"](process, noise, Stuck(process, START))
    assert not bool(sampler.relax(moved, options=seeded(max_steps=50)).converged.any())
    sampler = SAMPLERS["itp"](process, noise, TimeOracle(process, START), patience=1)
    assert sampler.relax(moved, options=seeded()).steps.tolist() == [41, 1, 26, 60]


@EVERY_SAMPLER
def test_the_largest_number_of_steps_leaves_some_unfinished(name):
    process, known = short(), molecules()
    sampler = with_oracles(name, process, known, START)
    start = {"start": START} if name == "ddpm" else {}
    moved = noised(process, known, START)
    found = sampler.relax(moved, **start, options=seeded(max_steps=26))
    assert found.converged.tolist() == [False, True, True, False]
    assert found.steps.tolist() == [26, 1, 26, 26]


def test_a_guess_is_the_mean_of_its_atoms_held_in_the_unit_interval():
    process, known = short(steps=11), molecules(sizes=(2, 4))
    sampler = with_oracles("jt", process, known, LAST[:2])
    time = torch.tensor([-7.0, 0.5, 3.0, 1.0, 0.6, 0.6])
    assert sampler.index_of(known, time).tolist() == [2, 8]  # 2.5 and 8 of 10; halves to even
    lost = torch.tensor([0.2, torch.nan, 0.5, 0.5, 0.5, 0.5])
    assert sampler.index_of(known, lost).tolist() == [6, 5]


def test_one_guess_counts_down_whatever_comes_later():
    process, known = short(), molecules()
    sampler = with_oracles("itp", process, known, START)
    sampler.relax(noised(process, known, START), options=seeded())
    assert sampler.time_network.left.tolist() == (START - 1).tolist()  # asked once


# ---- what a molecule depends on


@EVERY_SAMPLER
def test_finished_molecules_stay_where_they_are(name):
    """In the trajectory a molecule moves with each of its steps, and never after the last."""
    process, known = short(), molecules()
    sampler = with_oracles(name, process, known, START)
    start = {"start": START} if name == "ddpm" else {}
    moved = noised(process, known, START)
    found = sampler.relax(moved, **start, options=seeded(keep_every=1))
    assert len(found.trajectory) == 61
    assert torch.equal(found.trajectory[-1], found.batch.positions)
    torch.testing.assert_close(found.trajectory[0], moved.positions)
    offsets = known.graph.node_offsets.tolist()
    for graph, steps in enumerate(found.steps.tolist()):
        rows = slice(offsets[graph], offsets[graph + 1])
        path = torch.stack([positions[rows] for positions in found.trajectory])
        change = (path[1:] - path[:-1]).abs().amax((1, 2))
        assert bool((change[:steps] > 0).all()) and bool((change[steps:] == 0).all())


@EVERY_SAMPLER
def test_a_molecule_does_not_depend_on_its_batch(name):
    """Alone, with its rows of the same draws, it goes the same way."""
    process, known = short(), molecules()
    moved = noised(process, known, START)
    draws = recorded(known, 60)
    start = {"start": START} if name == "ddpm" else {}
    options = SamplingOptions(noise=iter(draws).__next__)
    together = with_oracles(name, process, known, START).relax(moved, **start, options=options)
    offsets = known.graph.node_offsets.tolist()
    for graph, alone in enumerate(moved.split()):
        rows = slice(offsets[graph], offsets[graph + 1])
        sampler = with_oracles(name, process, known, START)
        start = {"start": START[graph : graph + 1]} if name == "ddpm" else {}
        options = SamplingOptions(noise=iter([draw[rows] for draw in draws]).__next__)
        found = sampler.relax(alone, **start, options=options)
        assert torch.equal(found.steps, together.steps[graph : graph + 1])
        torch.testing.assert_close(found.batch.positions, together.batch.positions[rows])


def network(base: dict, **options) -> torch.nn.Module:
    """A network of random weights that guesses times about the middle, so that it runs on."""
    torch.manual_seed(0)
    model = build_model({**base, "cutoff": 8.0, **options}).double()
    if model.heads.time is not None:
        with torch.no_grad():
            model.heads.time.network[-1].weight *= 0.3
            model.heads.time.network[-1].bias.fill_(0.5)
    return model


def with_networks(name: str, process: DiffusionProcess, base: dict) -> Sampler:
    joint = network(base, time_head=True)
    if name == "jt":
        return SAMPLERS[name](process, joint)
    times = network(base, time_head=True, noise_head=False) if name in ("as", "itp") else None
    return SAMPLERS[name](process, network(base), times)


@pytest.mark.parametrize("base", EQUIVARIANT.values(), ids=EQUIVARIANT)
@EVERY_SAMPLER
def test_the_same_noise_turned_gives_the_same_molecule_turned(name, base):
    process, batch = short(steps=12), molecules()
    sampler = with_networks(name, process, base)
    matrix = -random_rotation(torch.Generator().manual_seed(3), torch.float64)
    draws = recorded(batch, 13)
    turned_draws = [draw @ matrix.T for draw in draws]
    found = sampler.generate(batch, SamplingOptions(noise=iter(draws).__next__))
    turned = sampler.generate(batch, SamplingOptions(noise=iter(turned_draws).__next__))
    assert torch.equal(found.steps, turned.steps) and int(found.steps.max()) > 2
    assert torch.equal(found.converged, turned.converged)
    error = (turned.batch.positions - found.batch.positions @ matrix.T).abs().max()
    size = found.batch.positions.abs().max()
    assert float(error / size) < 1e-9
    assert float(mean_nodes(batch.graph, found.batch.positions).abs().max() / size) < 1e-12


@EVERY_SAMPLER
def test_a_seed_repeats_a_run_and_networks_stay_in_training(name):
    process, batch = short(steps=8), molecules()
    sampler = with_networks(name, process, SE3)
    sampler.noise_network.train()
    first, again = sampler.generate(batch, seeded(1)), sampler.generate(batch, seeded(1))
    other = sampler.generate(batch, seeded(2))
    assert torch.equal(first.batch.positions, again.batch.positions)
    assert not torch.equal(first.batch.positions, other.batch.positions)
    assert sampler.noise_network.training


# ---- what is kept, told and refused


def test_trajectory_and_progress():
    process, known = short(steps=10), molecules()
    told = []
    options = seeded(keep_every=4, progress=lambda step, finished: told.append((step, finished)))
    found = with_oracles("ddpm", process, known, LAST).generate(known, options)
    assert told == [(step, 4 * (step == 10)) for step in range(1, 11)]
    assert len(found.trajectory) == 4  # the start, after 4 and 8 steps, the end
    assert torch.equal(found.trajectory[-1], found.batch.positions)
    assert with_oracles("ddpm", process, known, LAST).generate(known).trajectory is None


def test_a_molecule_that_breaks_leaves_unfinished():
    process, known = short(), molecules()

    class Breaking(NoiseOracle):
        def __call__(self, batch):
            noise = super().__call__(batch)["noise"]
            broken = batch.graph_features["number"][batch.graph.graph_of_node] == 1
            if len(self.calls) > 5:
                noise[broken] = torch.nan
            return {"noise": noise}

    found = SAMPLERS["ddpm"](process, Breaking(process, known)).generate(known, seeded())
    assert found.converged.tolist() == [True, False, True, True]
    assert found.steps.tolist() == [60, 6, 60, 60]
    assert bool(torch.isfinite(found.batch.positions).all())


def test_the_batch_comes_back_as_it_was_but_for_positions():
    process, known = short(), molecules()
    known.labels = {"energy": torch.arange(4.0)}
    known.graph_features["time"] = torch.rand(4)  # left over from training
    before = known.positions.clone()
    found = with_oracles("jt", process, known, LAST).generate(known, seeded()).batch
    assert torch.equal(found.labels["energy"], known.labels["energy"])
    assert torch.equal(found.atomic_numbers, known.atomic_numbers)
    assert set(found.graph_features) == {"number"} and torch.equal(known.positions, before)


NOISE, TIME = NoiseOracle(None, None), TimeOracle(None, torch.zeros(1))


@pytest.mark.parametrize(
    ("name", "networks", "words"),
    [
        ("jt", [NOISE], "sampler jt must predict time, got one that predicts noise"),
        ("jt", [TIME], "sampler jt must predict noise, got one that predicts time"),
        ("as", [NOISE], "sampler as asks a time network, got none"),
        ("itp", [NOISE], "sampler itp asks a time network, got none"),
        ("as", [NOISE, NOISE], "time network of sampler as must predict time"),
        ("ddpm", [NOISE, TIME], "sampler ddpm asks no time network"),
        ("ddpm", [NOISE, None, -1], "convergence_step must be >= 0, got -1"),
    ],
)
def test_networks_that_do_not_fit_are_one_line(name, networks, words):
    with pytest.raises(ValueError, match=words) as error:
        SAMPLERS.find(name)(short(), *networks)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (None, r"give start, the time of the positions in 0 .. 59"),
        (60, "whole numbers in 0 .. 59, got 60"),
        (torch.tensor([1, 2, 3, -4]), "whole numbers in 0 .. 59"),
        (torch.tensor([0.5, 0.5, 0.5, 0.5]), "whole numbers in 0 .. 59"),
        (torch.tensor([1, 2]), r"one for each of the 4 molecules, got the shape \(2,\)"),
    ],
)
def test_times_that_do_not_fit_are_one_line(start, words):
    process, known = short(), molecules()
    with pytest.raises(ValueError, match=words):
        with_oracles("ddpm", process, known, START).relax(known, start)


@GUESSING
def test_samplers_that_guess_take_no_time(name):
    process, known = short(), molecules()
    with pytest.raises(ValueError, match=f"sampler {name} guesses the time itself"):
        with_oracles(name, process, known, START).relax(known, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
        ({"keep_every": 0}, "keep_every must be >= 1, got 0"),
        ({"noise": list, "generator": torch.Generator()}, "give one of the two"),
    ],
)
def test_bad_sampling_options_are_one_line(options, words):
    with pytest.raises(ValueError, match=words):
        SamplingOptions(**options)


def test_crystals_are_refused():
    process, known = short(), molecules()
    crystal = dataclasses.replace(known, cell=torch.eye(3).repeat(4, 1, 1))
    with pytest.raises(ValueError, match="open space"):
        with_oracles("jt", process, known, START).generate(crystal)
