"""Laws of a compiled training step: loss and gradients are those of the network, of any sizes, with
any factors, and a program keeps no weight of the day it was made.
"""

import dataclasses

import pytest
import torch

from farfield.models.compiled.traced_inputs import Inputs
from farfield.models.compiled.training_program import (
    GRADIENT,
    LOSS,
    Objective,
    loss_and_gradients,
    record_gradients,
    trainable,
)
from farfield.models.graph_ops import GraphIndex
from farfield.models.tracing import NotTraceableError
from tests.models.compiled.test_compiled_potential import batch, potential


def loss(model, given, factors):
    """Squares of energies and lengths of forces."""
    found = model(given)
    energy = (found["energy"] - model.reference_energy(given) - given.labels["energy"]).square()
    forces = (found["forces"] - given.labels["forces"]).norm(dim=1)
    parts = {"energy": energy.mean(), "forces": forces.mean()}
    total = sum(factors.get(name, 1.0) * part for name, part in parts.items())
    return total, {name: part.detach() for name, part in parts.items()}


OBJECTIVE = Objective(loss, ("energy", "forces"), "squares")


def labelled(sizes, seed: int = 0, missing: int = 0):
    """A batch whose labels are random; missing: number of edges that are left out."""
    given = batch(sizes, seed)
    graph = given.graph
    fewer = GraphIndex(graph.src[missing:], graph.dst[missing:], graph.nodes_per_graph)
    given = dataclasses.replace(given, graph=fewer)
    generator = torch.Generator().manual_seed(seed + 7)
    labels = {
        "energy": torch.randn(given.num_graphs, generator=generator, dtype=torch.float64),
        "forces": torch.randn(given.num_nodes, 3, generator=generator, dtype=torch.float64),
    }
    return dataclasses.replace(given, labels=labels)


def learning(**options):
    """A network in training."""
    return potential(**options).train().requires_grad_(True)


def arguments(network, inputs, given, factors=()):
    weights = [one.detach() for one in trainable(network).values()]
    return [*weights, OBJECTIVE.factors(dict(factors)), *inputs.tensors(given)]


def eager(network, given, factors=()):
    """Loss and gradients by torch alone."""
    total, _ = loss(network, given, dict(factors))
    weights = trainable(network)
    found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    gradients = {name: one for name, one in zip(weights, found, strict=True) if one is not None}
    return total.detach(), gradients


def assert_same(found, network, given, factors=()):
    total, gradients = eager(network, given, factors)
    torch.testing.assert_close(found[LOSS], total, rtol=1e-11, atol=1e-12)
    largest = max(float(one.abs().max()) for one in gradients.values())
    for name, expected in gradients.items():
        error = (found[GRADIENT + name] - expected).abs().max()
        assert float(error) < 1e-11 * largest, name
    assert sum(name.startswith(GRADIENT) for name in found) == len(gradients)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"irreps": "4x0e+4x1o+4x2e", "schedule": "first-order+second-order"},
        {"irreps": "4x0e+4x1o+4x2e", "schedule": "all-order", "near_weights": "softmax"},
        {"near_score": "dot_alpha", "feed_forward": "sphere_grid"},
        {"far_kernel_lmax": 1, "far_value_lmax": 1, "far_key_features": 2},
        {"near_kernel_implementation": "math", "near_heads": 2},
    ],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_the_step_of_a_trace_is_that_of_the_network(options, ragged):
    network = learning(**options)
    alone = ragged and "schedule" in options
    given = labelled([6, 4, 5] if alone else [6, 6])
    inputs = Inputs.of_training(given, ragged)
    if ragged and not alone:
        with pytest.raises(NotTraceableError, match="one size"):
            loss_and_gradients(network, OBJECTIVE, inputs, arguments(network, inputs, given))
        return
    found = loss_and_gradients(network, OBJECTIVE, inputs, arguments(network, inputs, given))
    assert_same(found, network, given)


def test_charges_are_no_part_of_a_program():
    network, given = learning(charges="latent"), labelled([6, 6])
    inputs = Inputs.of_training(given, False)
    with pytest.raises(NotTraceableError, match="sizes of structures one by one"):
        loss_and_gradients(network, OBJECTIVE, inputs, arguments(network, inputs, given))


@pytest.mark.parametrize("ragged", [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_is_recorded_serves_other_sizes_weights_and_factors(ragged):
    network = learning(schedule="first-order" if ragged else "hybrid-first-order")
    given = labelled([6, 6])
    inputs = Inputs.of_training(given, ragged)
    recorded = record_gradients(network, OBJECTIVE, given, inputs)

    other = learning(seed=3, schedule=network.options.schedule)
    other.reference.load_state_dict(network.reference.state_dict())
    for sizes in [[5, 5, 5], [9, 4]] if ragged else [[6, 6]]:
        given, factors = labelled(sizes, 1, missing=3), {"energy": 3.0}
        outputs = recorded.graph(*arguments(other, inputs, given, factors.items()))
        found = dict(zip(recorded.names, outputs, strict=True))
        assert_same(found, other, given, factors.items())
