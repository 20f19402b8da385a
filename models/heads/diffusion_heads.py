"""Heads of a diffusion: the noise in the positions of atoms, and the time they have come to.

    time of an atom    t_i = MLP(s_i)
    noise of an atom   eps_i = the vector of three gated layers on (s_i, t) and the vectors v_i,
                       less its mean over the molecule
    gated layer        p = W v,  q = U v,      h = MLP([s, |p|]) = (s', g),      v' = g q

with s the scalars of an atom, t the normalised time in [0, 1] as one more scalar, and widths that
halve from layer to layer. A network with both heads that is told no time finds the noise for the
time it guesses, atom by atom ("joint": MoreRed-JT), and the gradient of the noise passes through
the guess unless it is detached.

Sources: Kahouli et al. 2024, MoreRed (arXiv:2404.10935); the gated layer is PaiNN's (Schuett et al.
2021). Cost: linear in atoms.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import broadcast_nodes, mean_nodes
from farfield.models.layers.conditioning import parse_inputs
from farfield.models.layers.feed_forward import SILU_SCALE
from farfield.models.network import Output
from farfield.models.option_fields import MAIN

LAYERS = 3
NORM_EPSILON = 1e-2  # smoothing of the lengths of vectors


@dataclasses.dataclass(frozen=True)
class DiffusionHeadOptions:
    """Which heads a network has; a base class of the options of every network of a diffusion.

    Raises ValueError in one line for no head, a detached time without both heads, and a time head
    of a network that is told the time by ``condition``.
    """

    noise_head: Annotated[bool, "predict the noise in the positions", MAIN] = True
    time_head: Annotated[
        bool, "predict the time of noised positions; with noise_head: for the noise as well", MAIN
    ] = False
    detach_time: Annotated[
        bool, "keep the gradient of the noise from the predicted time that it is found for"
    ] = False

    def __post_init__(self):
        if not (self.noise_head or self.time_head):
            raise ValueError("noise_head and time_head are both false; set one of them to true")
        if self.detach_time and not (self.noise_head and self.time_head):
            raise ValueError(
                "detach_time is for networks that find the noise for the time they predict; set "
                "noise_head and time_head to true, or detach_time to false"
            )
        if self.time_head and "time" in parse_inputs(getattr(self, "condition", None)):
            raise ValueError(
                "condition tells the network the time that time_head predicts; leave time out of "
                "condition, or set time_head to false"
            )


class DiffusionHeads(nn.Module):
    """What a network gives of its features: ``forward(batch, x) -> {"noise", "time"}``.

    noise    (x, time (nodes,)) -> (nodes, 3), or None
    time     x -> (nodes,), or None
    detach_time  whether the noise learns nothing about the predicted time

    x is whatever the two modules read. The noise is found for ``batch.graph_features["time"]``
    (graphs,) where it is there, else for the predicted time; ValueError where there is neither.
    """

    def __init__(self, noise: nn.Module | None, time: nn.Module | None, detach_time: bool = False):
        super().__init__()
        self.noise, self.time, self.detach_time = noise, time, detach_time

    def outputs(self) -> dict[str, Output]:
        """What there is, by name."""
        found = {}
        if self.noise is not None:
            found["noise"] = Output("node", "vector")
        if self.time is not None:
            found["time"] = Output("node", "scalar")
        return found

    def forward(self, batch: AtomBatch, x: Tensor) -> dict[str, Tensor]:
        """``noise`` (nodes, 3) with zero mean and ``time`` (nodes,), as far as there are heads."""
        out = {}
        if self.time is not None:
            out["time"] = self.time(x)
        if self.noise is not None:
            noise = self.noise(x, self._time_of_nodes(batch, out.get("time")))
            out["noise"] = noise - broadcast_nodes(batch.graph, mean_nodes(batch.graph, noise))
        return out

    def _time_of_nodes(self, batch: AtomBatch, guess: Tensor | None) -> Tensor:
        """The time for which the noise of every atom is found (nodes,)."""
        given = batch.graph_features.get("time")
        if given is not None:
            return broadcast_nodes(batch.graph, given.to(batch.positions))
        if guess is None:
            raise ValueError(
                "the batch has no time and the network no time head: give "
                "graph_features['time'] (graphs,) in [0, 1], or build the network with time_head"
            )
        return guess.detach() if self.detach_time else guess


class TimeHead(nn.Module):
    """Time of each atom from its scalars: ``forward(x (nodes, rows, channels)) -> (nodes,)``."""

    def __init__(self, channels: int):
        super().__init__()
        layers = [nn.Linear(*sizes) for sizes in pairwise(halving_widths(channels, LAYERS))]
        hidden = [part for layer in layers[:-1] for part in (layer, nn.SiLU())]
        self.network = nn.Sequential(*hidden, layers[-1])
        for layer in layers[:-1]:
            start_with_variance(layer, SILU_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x[:, 0]).squeeze(-1)


class NoiseHead(nn.Module):
    """A vector of each atom from degrees 0 and 1 and the time.

    ``forward(x (nodes, rows, channels), time (nodes,)) -> (nodes, 3)``
    """

    def __init__(self, channels: int):
        super().__init__()
        widths = halving_widths(channels, LAYERS)
        self.layers = nn.ModuleList(
            GatedVectors(one + (layer == 0), one, other)
            for layer, (one, other) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scalars = torch.cat([x[:, 0], time.unsqueeze(1)], 1)  # (nodes, channels + 1)
        vectors = x[:, 1:4]  # (nodes, 3, channels)
        for layer in self.layers:
            scalars, vectors = layer(scalars, vectors)
        return vectors.squeeze(-1)


class GatedVectors(nn.Module):
    """Scalars and vectors of an atom that see each other through lengths and gates.

    (nodes, scalars_in), (nodes, 3, vectors_in) -> (nodes, width), (nodes, 3, width)
    """

    def __init__(self, scalars_in: int, vectors_in: int, width: int):
        super().__init__()
        self.width = width
        self.vectors = nn.Linear(vectors_in, 2 * width, bias=False)
        self.scalars = nn.Sequential(
            nn.Linear(scalars_in + width, scalars_in), nn.SiLU(), nn.Linear(scalars_in, 2 * width)
        )

        # gates start near one: around zero, three layers would leave a thousandth of the vectors
        start_with_variance(self.scalars[0])
        nn.init.ones_(self.scalars[2].bias[width:])
        nn.init.normal_(self.vectors.weight, std=vectors_in**-0.5)

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (nodes, channels) and vectors (nodes, 3, channels) -> those of the next layer."""
        measured, passed = self.vectors(vectors).split(self.width, -1)

        # smoothed, so that derivatives are finite at vectors of length zero
        lengths = (measured.square().sum(1) + NORM_EPSILON**2).sqrt()
        hidden = self.scalars(torch.cat([scalars, lengths], 1))
        scalars, gates = hidden.split(self.width, -1)
        return nn.functional.silu(scalars), passed * gates.unsqueeze(1)


def halving_widths(channels: int, layers: int) -> list[int]:
    """Widths of layers of which each has half as many channels and the last one: 32, 16, 8, 1."""
    return [max(channels >> layer, 1) for layer in range(layers)] + [1]


def start_with_variance(layer: nn.Linear, scale: float = 1.0) -> None:
    """Start a linear map so that values keep their size, times ``scale``."""
    nn.init.normal_(layer.weight, std=scale / layer.in_features**0.5)
    nn.init.zeros_(layer.bias)
