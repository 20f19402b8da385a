"""All samplers with EdgeTransformers, which see no direction of space as equal to another: what is
true of every network is true of them, and what they learned in one frame they do there.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.batch import AtomBatch
from farfield.models.diffusion.molecules import blank_molecules
from farfield.models.diffusion.process import DiffusionProcess, ProcessOptions, centred_noise
from farfield.models.diffusion.samplers import SAMPLERS, Sampler
from farfield.models.diffusion.sampling_run import SamplingOptions
from farfield.models.factory import build_model
from farfield.models.graph_ops import mean_nodes
from tests.support.law_cases import random_rotation
from tests.support.small_diffusion import E2FORMER, EDGES

EVERY_SAMPLER = pytest.mark.parametrize("name", SAMPLERS)
PROCESS = DiffusionProcess(ProcessOptions(time_steps=30))
FORMULAS = [[8, 1, 1], [6, 1, 1, 1, 1], [7, 6, 1]]


def network(base: dict = EDGES, seed: int = 0, **options):
    torch.manual_seed(seed)
    return build_model({**base, **options}).double().eval()


def sampler_of(name: str, noise: dict = EDGES, time: dict = EDGES) -> Sampler:
    """Fresh networks as the sampler asks for them."""
    if name == "jt":
        return SAMPLERS[name](PROCESS, network(noise, time_head=True))
    time_network = None
    if SAMPLERS[name].asks_time_network:
        time_network = network(time, seed=1, noise_head=False, time_head=True)
    return SAMPLERS[name](PROCESS, network(noise), time_network)


def sampled(sampler: Sampler, batch: AtomBatch, relax: bool, noise: list[torch.Tensor]):
    """Generated, or relaxed from the positions of the batch, with given noise."""
    draws = iter(noise)
    options = SamplingOptions(max_steps=8, noise=lambda: next(draws))
    if not relax:
        return sampler.generate(batch, options)
    start = 7 if sampler.name == "ddpm" else None
    return sampler.relax(batch, start, options)


def displaced(seed: int = 3) -> AtomBatch:
    """Molecules in a heap, with a centroid away from the origin."""
    batch = blank_molecules(FORMULAS, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return dataclasses.replace(batch, positions=centred_noise(batch.graph, generator) + 2.0)


def some_noise(atoms: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(atoms, 3, dtype=torch.float64, generator=generator) for _ in range(9)]


@pytest.mark.parametrize("relax", [False, True])
@EVERY_SAMPLER
def test_a_molecule_depends_neither_on_its_batch_nor_on_the_order_of_its_atoms(name, relax):
    sampler, batch, noise = sampler_of(name), displaced(), some_noise(11)
    whole = sampled(sampler, batch, relax, noise)
    assert bool(torch.isfinite(whole.batch.positions).all())
    centre = mean_nodes(whole.batch.graph, whole.batch.positions)
    assert torch.allclose(centre, torch.full_like(centre, 2.0 if relax else 0.0), atol=1e-9)

    # methane alone, its atoms the other way round
    order = torch.arange(7, 2, -1)
    methane = blank_molecules([batch.atomic_numbers[order].tolist()], torch.float64)
    methane = dataclasses.replace(methane, positions=batch.positions[order])
    alone = sampled(sampler, methane, relax, [one[order] for one in noise])
    assert torch.allclose(alone.batch.positions, whole.batch.positions[order], atol=1e-6)
    assert int(alone.steps) == int(whole.steps[1])


@pytest.mark.parametrize("name", ["itp", "as"])
def test_networks_of_different_kinds_work_together(name):
    """An equivariant noise network, and an invariant EdgeTransformer that guesses the time: the
    same noise turned gives the same molecule turned.
    """
    sampler = sampler_of(name, noise=E2FORMER, time={**EDGES, "waves": 0})
    one, other = turned_and_not(sampler)
    assert torch.allclose(other, one, atol=1e-6)


def turned_and_not(sampler: Sampler) -> tuple[torch.Tensor, torch.Tensor]:
    """Relaxed molecules, turned afterwards, and relaxed after all was turned, the noise too."""
    turn = random_rotation(torch.Generator().manual_seed(1), torch.float64)
    batch, noise = displaced(), some_noise(11)
    turned = dataclasses.replace(batch, positions=batch.positions @ turn.T)
    one = sampled(sampler, batch, True, noise)
    other = sampled(sampler, turned, True, [drawn @ turn.T for drawn in noise])
    return one.batch.positions @ turn.T, other.batch.positions


@EVERY_SAMPLER
def test_the_frame_is_seen(name):
    """Nothing of an EdgeTransformer is equivariant by construction."""
    one, other = turned_and_not(sampler_of(name))
    assert float((other - one).detach().abs().max()) > 1e-6


def test_an_edge_transformer_that_learned_a_molecule_finds_it():
    """Trained for a moment on water in one frame, it leads noised water back there."""
    torch.manual_seed(0)
    process = DiffusionProcess(ProcessOptions(time_steps=30, variance="zero"))
    model = build_model({**EDGES, "width": 32, "layers": 1})
    water = torch.tensor([[0.0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]])
    batch = blank_molecules([[8, 1, 1]] * 32)
    clean = (water - water.mean(0)).repeat(32, 1)

    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 250)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        index = process.random_index(32, generator)
        noise = centred_noise(batch.graph, generator, torch.float32)
        told = {"time": process.time(index).float()}
        positions = process.noised(batch.graph, clean, index, noise)
        noised = dataclasses.replace(batch, positions=positions, graph_features=told)
        optimiser.zero_grad()
        (model(noised)["noise"] - noise).square().mean().backward()
        optimiser.step()
        schedule.step()

    noise = centred_noise(batch.graph, generator, torch.float32)
    start = process.noised(batch.graph, clean, torch.full((32,), 9), noise)
    sampler = SAMPLERS["ddpm"](process, model)
    found = sampler.relax(dataclasses.replace(batch, positions=start), 9)
    before, after = (
        float((positions - clean).norm(dim=1).mean())
        for positions in (start, found.batch.positions)
    )
    assert before > 0.5 and after < 0.6 * before
