"""Laws of the process: closed forms, statistics of both directions, centroids, types, times."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.complete_graphs import complete_graphs
from farfield.models.diffusion.molecules import blank_molecules, with_all_pairs
from farfield.models.diffusion.process import (
    DiffusionProcess,
    ProcessOptions,
    centred,
    centred_noise,
    check_same_process,
    normal_draws,
)
from farfield.models.diffusion.schedules import SCHEDULES
from farfield.models.graph_ops import GraphIndex, mean_nodes
from tests.support.small_diffusion import molecules, noised

EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_forward_is_its_formula_atom_by_atom():
    process, batch = DiffusionProcess(), molecules()
    batch.positions += 3.0  # centred by the process
    index, noise = torch.tensor([0, 999, 300, 7]), centred_noise(batch.graph, seeded())
    found = process.noised(batch.graph, batch.positions, index, noise)
    for node in range(batch.num_nodes):
        graph = int(batch.graph.graph_of_node[node])
        kept = float(process.alpha_bar[index[graph]])
        own = batch.positions[batch.graph.graph_of_node == graph]
        expected = (
            kept**0.5 * (batch.positions[node] - own.mean(0)) + (1 - kept) ** 0.5 * noise[node]
        )
        torch.testing.assert_close(found[node], expected, rtol=1e-12, atol=1e-13)


def test_reverse_is_its_formula_and_adds_nothing_at_zero():
    process, batch = DiffusionProcess(), molecules()
    index, x = torch.tensor([0, 999, 300, 7]), batch.positions
    noise, fresh = centred_noise(batch.graph, seeded(1)), centred_noise(batch.graph, seeded(2))
    found = process.previous(batch.graph, x, index, noise, fresh)
    for node in range(batch.num_nodes):
        t = int(index[batch.graph.graph_of_node[node]])
        beta, kept = float(process.beta[t]), float(process.alpha_bar[t])
        mean = (x[node] - beta / (1 - kept) ** 0.5 * noise[node]) / (1 - beta) ** 0.5
        expected = mean + (float(process.variance[t]) ** 0.5 * fresh[node] if t else 0)
        torch.testing.assert_close(found[node], expected, rtol=1e-12, atol=1e-13)


@EVERY_SCHEDULE
def test_the_clean_molecule_comes_back_at_every_time(schedule):
    process = DiffusionProcess(ProcessOptions(schedule))
    batch = molecules()
    for t in (0, 1, 500, 999):
        index = torch.full((4,), t)
        noise = centred_noise(batch.graph, seeded())
        moved = process.noised(batch.graph, batch.positions, index, noise)
        found = process.clean(batch.graph, moved, index, noise)
        torch.testing.assert_close(found, batch.positions, rtol=0, atol=1e-9)


@EVERY_SCHEDULE
def test_a_reverse_step_with_the_true_noise_is_the_posterior(schedule):
    """Ho et al. 2020, eq. 7: of x_(t - 1), given x_t and x_0, another form of the mean."""
    process, batch = DiffusionProcess(ProcessOptions(schedule, 50)), molecules()
    noise, still = centred_noise(batch.graph, seeded()), torch.zeros_like(batch.positions)
    for t in range(1, 50):
        index = torch.full((4,), t)
        x = process.noised(batch.graph, batch.positions, index, noise)
        found = process.previous(batch.graph, x, index, noise, still)
        kept, before = process.alpha_bar[t], process.alpha_bar[t - 1]
        of_clean = before.sqrt() * process.beta[t] / (1 - kept)
        of_noised = process.alpha[t].sqrt() * (1 - before) / (1 - kept)
        expected = of_clean * batch.positions + of_noised * x
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_noise_is_normal_noise_without_its_mean():
    """What is centred is multiplied by 1 - 1 / n, so that of n atoms a coordinate has variance
    (n - 1) / n, and two atoms of a molecule covariance -1 / n.
    """
    graph = complete_graphs(1, 5)
    projection = centred(graph, torch.eye(5, dtype=torch.float64))
    expected = torch.eye(5, dtype=torch.float64) - 1 / 5
    assert float((projection - expected).abs().max()) < 1e-15
    drawn = normal_draws(graph, seeded())
    assert torch.equal(centred_noise(graph, seeded()), centred(graph, drawn))


@pytest.mark.parametrize("atoms", [1, 2, 5])
def test_statistics_of_noise(atoms):
    count = 400_000
    none = torch.tensor([], dtype=torch.long)
    x = centred_noise(GraphIndex(none, none, torch.full((count,), atoms)), seeded())
    assert abs(float(x.square().mean()) - (atoms - 1) / atoms) < 1e-3
    of_atoms = x.view(count, atoms, 3)
    assert float(of_atoms.mean(1).abs().max()) < 1e-14
    assert float(of_atoms.mean(0).abs().max()) < 3e-3


@EVERY_SCHEDULE
def test_a_step_with_the_true_noise_keeps_the_variance_of_the_process(schedule):
    """x_(t - 1) of a molecule at the origin is B eps + sigma z, B^2 + sigma^2 = bbar_(t - 1)."""
    process = DiffusionProcess(ProcessOptions(schedule))
    graph = complete_graphs(1, 2)
    noise = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]], dtype=torch.float64)
    still = torch.zeros_like(noise)
    for t in (1, 2, 77, 500, 998, 999):
        index = torch.tensor([t])
        x = process.noised(graph, still, index, noise)
        of_noise = process.previous(graph, x, index, noise, still)[0, 0]
        of_fresh = process.previous(graph, still, index, still, noise)[0, 0]
        found = float(of_noise**2 + of_fresh**2)
        assert abs(found - float(process.beta_bar[t - 1])) < 1e-12


def test_statistics_of_a_step_forth_and_back():
    """Noised to t and one step back with the true noise, molecules are as if noised to t - 1: mean
    sqrt(abar_(t - 1)) x_0 and variance bbar_(t - 1) (n - 1) / n.
    """
    t, count, process = 400, 1_000_000, DiffusionProcess()
    graph = GraphIndex(torch.tensor([]).long(), torch.tensor([]).long(), torch.full((count,), 2))
    clean = torch.tensor([[0.3, -0.6, 0.2], [-0.3, 0.6, -0.2]], dtype=torch.float64)
    positions, index = clean.repeat(count, 1), torch.full((count,), t)

    noise = centred_noise(graph, seeded())
    x = process.noised(graph, positions, index, noise)
    x = process.previous(graph, x, index, noise, normal_draws(graph, seeded(1))).view(count, 2, 3)

    kept = float(process.alpha_bar[t - 1])
    assert float((x.mean(0) - kept**0.5 * clean).abs().max()) < 1e-3
    variance = float((x - kept**0.5 * clean).square().mean())
    assert abs(variance - (1 - kept) / 2) < 1e-3


def test_centroids_stay_whatever_a_network_says():
    process, batch = DiffusionProcess(), molecules()
    noise = torch.randn(batch.num_nodes, 3, generator=seeded()) + 4
    fresh = torch.randn(batch.num_nodes, 3, generator=seeded(1)) + 2
    found = process.previous(batch.graph, batch.positions, torch.full((4,), 9), noise, fresh)
    assert float(mean_nodes(batch.graph, found).abs().max()) < 1e-6


def test_float32_positions_lose_only_their_own_digits():
    process, batch = DiffusionProcess(), molecules()
    index, noise = torch.tensor([0, 999, 300, 7]), centred_noise(batch.graph, seeded())
    exact = process.noised(batch.graph, batch.positions, index, noise)
    found = process.noised(batch.graph, batch.positions.float(), index, noise.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
    assert process.float().alpha_bar.dtype == torch.float64


def test_times_and_indices_are_inverse():
    process = DiffusionProcess(ProcessOptions(time_steps=37))
    index = torch.arange(37)
    time = process.time(index)
    assert float(time[0]) == 0 and float(time[-1]) == 1
    assert torch.equal(process.index(time), index)
    assert torch.equal(process.index(time + 0.4 / 36), index)
    assert process.index(torch.tensor([-3.0, 1.2])).tolist() == [0, 36]


def test_draws_come_from_the_generator_alone():
    process, graph = DiffusionProcess(), complete_graphs(2, 3)
    torch.manual_seed(0)
    first = centred_noise(graph, seeded(3)), process.random_index(1000, seeded(3))
    torch.manual_seed(1)
    again = centred_noise(graph, seeded(3)), process.random_index(1000, seeded(3))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert int(first[1].min()) < 20 and int(first[1].max()) > 980


def test_networks_of_two_processes_are_told_apart():
    ours = ProcessOptions()
    check_same_process(ours, ProcessOptions(variance="upper"))
    for theirs, words in [
        (
            ProcessOptions(time_steps=500),
            "trained with time_steps 500, the noise network with 1000",
        ),
        (ProcessOptions("cosine"), "trained with schedule cosine, the noise network with poly"),
    ]:
        with pytest.raises(ValueError, match=words):
            check_same_process(ours, theirs)


def test_molecules_of_their_elements():
    batch = blank_molecules([[8, 1, 1], [2], [6, 1, 1, 1, 1]])
    assert batch.graph.sizes == (3, 1, 5) and batch.num_edges == 6 + 0 + 20
    assert batch.atomic_numbers.tolist() == [8, 1, 1, 2, 6, 1, 1, 1, 1]
    for wrong, words in [
        ([], "one atom or more"),
        ([[1], []], "one atom or more"),
        ([[0]], "1 .."),
    ]:
        with pytest.raises(ValueError, match=words):
            blank_molecules(wrong)


def test_all_pairs_of_a_batch_and_no_crystals():
    batch = noised(DiffusionProcess(), molecules(), torch.tensor([1, 2, 3, 4]))
    none = torch.tensor([], dtype=torch.long)
    bare = dataclasses.replace(batch, graph=GraphIndex(none, none, batch.graph.nodes_per_graph))
    full = with_all_pairs(dataclasses.replace(bare, cutoff=2.0))
    assert torch.equal(full.graph.src, batch.graph.src) and full.cutoff is None
    crystal = dataclasses.replace(batch, cell=torch.eye(3).repeat(4, 1, 1))
    with pytest.raises(ValueError, match="open space"):
        with_all_pairs(crystal)
    open_cell = dataclasses.replace(crystal, periodic=torch.zeros(4, 3, dtype=torch.bool))
    assert with_all_pairs(open_cell).cell is None
