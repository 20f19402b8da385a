"""Further inputs of structures and atoms: they reach the output, start at zero, break no law."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from farfield.models.layers.conditioning import Conditioning, conditioning
from farfield.models.network_check import check_network
from tests.support.law_cases import cutoff_graph

SMALL = {"name": "e2former", "irreps": "8x0e+8x1o", "near_heads": 2, "far_key_features": 2}


def molecules(**features) -> AtomBatch:
    generator = torch.Generator().manual_seed(0)
    positions = 1.5 * torch.randn(7, 3, generator=generator)
    graph = cutoff_graph(positions, torch.tensor([4, 3]), 4.0)
    return AtomBatch(graph, positions, torch.tensor([1, 6, 8, 1, 1, 6, 8]), cutoff=4.0, **features)


def model(condition: str | None):
    torch.manual_seed(0)
    return build_model({**SMALL, "condition": condition}).eval()


def excite(network) -> None:
    """Give the last layers, which start at zero, other weights."""
    for part in network.modules():
        if isinstance(part, Conditioning):
            for weights in part.parameters():
                torch.nn.init.normal_(weights, std=0.5)


def test_a_network_with_an_input_starts_as_without():
    batch = molecules(graph_features={"total_charge": torch.tensor([0, -1])})
    plain, conditioned = model(None), model("total_charge")
    assert torch.equal(plain(batch)["energy"], conditioned(batch)["energy"])


def test_inputs_of_structures_and_atoms_reach_their_energies_only():
    charges = {"total_charge": torch.tensor([0, -1])}
    batch = molecules(graph_features=charges, node_features={"spin": torch.zeros(7)})
    network = model("total_charge,spin")
    excite(network)
    before = network(batch)["energy"]

    charged = dataclasses.replace(batch, graph_features={"total_charge": torch.tensor([2, -1])})
    after = network(charged)["energy"]
    assert after[0] != before[0] and after[1] == before[1]

    spin = torch.zeros(7)
    spin[5] = 1.0
    after = network(dataclasses.replace(batch, node_features={"spin": spin}))["energy"]
    assert after[0] == before[0] and after[1] != before[1]
    check_network(network.double(), batch.to(dtype=torch.float64))


def test_a_missing_input_is_one_line():
    with pytest.raises(ValueError, match="no input 'total_charge' .*it has none"):
        model("total_charge")(molecules())


@pytest.mark.parametrize("names", ["", "total charge", "spin,", "spin,spin"])
def test_names_that_cannot_be_read_are_refused(names):
    with pytest.raises(ValueError, match="condition"):
        conditioning(names, 4)
