"""Further inputs of a structure or of its atoms, added to the scalars of a backbone.

    x_i[l = 0] += sum_k MLP_k(c_k),      c_k the value of input k for atom i or for its structure

An input is a name in ``batch.node_features`` (one number an atom: a magnetic moment, say) or in
``batch.graph_features`` (one number a structure: total charge, spin, time), which holds for all its
atoms. Invariant, so the output turns as before. The last layer of every MLP starts at zero: a
network with an input starts as the network without it.

Cost: one small MLP for each input, on nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import broadcast_nodes


def conditioning(names: str | None, channels: int) -> Conditioning | None:
    """The conditioning for comma-separated ``names``, or None without any.

    What it draws for its weights changes no other weight of the network.
    """
    found = parse_inputs(names)
    if not found:
        return None
    with torch.random.fork_rng(devices=[]):
        return Conditioning(found, channels)


def parse_inputs(names: str | None) -> list[str]:
    """``"total_charge, spin"`` -> its names. ValueError for an empty or repeated name."""
    if names is None:
        return []
    found = [name.strip() for name in names.split(",")]
    if not all(name.isidentifier() for name in found):
        raise ValueError(
            f"condition must be names joined by commas, got {names!r}; write e.g. spin"
        )
    if len(set(found)) < len(found):
        raise ValueError(f"condition names an input twice, got {names!r}; name each one once")
    return found


class Conditioning(nn.Module):
    """``forward(batch) -> (nodes, channels)``: what is added to the scalars of every atom.

    Arguments
        names     inputs, each a key of ``batch.node_features`` or ``batch.graph_features``
        channels  of the features
    """

    def __init__(self, names: list[str], channels: int):
        super().__init__()
        self.networks = nn.ModuleDict({name: _network(channels) for name in names})

    def forward(self, batch: AtomBatch) -> Tensor:
        total = 0.0
        for name, network in self.networks.items():
            total = total + network(_values(batch, name))
        return total


def _network(channels: int) -> nn.Sequential:
    last = nn.Linear(channels, channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(1, channels), nn.SiLU(), last)


def _values(batch: AtomBatch, name: str) -> Tensor:
    """Value of the input ``name`` for every atom (nodes, 1), in the type of the positions."""
    if name in batch.node_features:
        values = batch.node_features[name]
    elif name in batch.graph_features:
        values = broadcast_nodes(batch.graph, batch.graph_features[name].to(batch.positions))
    else:
        held = sorted(batch.node_features | batch.graph_features) or "none"
        raise ValueError(
            f"the batch has no input {name!r} for the structure or its atoms (it has {held}); "
            "give it, or build the network without it in condition"
        )
    return values.to(batch.positions).reshape(batch.num_nodes, 1)
