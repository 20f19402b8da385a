"""Add a network of your own, check it, and train it on the bundled ethanol.

python examples/custom_network.py --minutes 1
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Annotated

import torch
from torch import nn
from train_on_own_xyz import train

import farfield
from farfield.models.edges import check_reach, edge_vectors, image_vectors, safe_length
from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.models.graph_ops import gather_dst, gather_src, sum_edges
from farfield.models.layers.radial import BesselBasis, polynomial_envelope
from farfield.models.network import NETWORKS, EnergyNetwork
from farfield.models.network_check import check_network
from farfield.models.potential import PotentialOptions


@dataclasses.dataclass(frozen=True)
class PairOptions(PotentialOptions):
    """Each option is a flag of the training scripts."""

    width: Annotated[int, "hidden width"] = 32
    cutoff: Annotated[float, "reach of the pairs, Angstrom"] = 4.0


@NETWORKS.register("pair_energies")
class PairEnergies(EnergyNetwork):
    """The energy of an atom is a sum over its neighbours: distance and elements decide."""

    Options = PairOptions

    def __init__(self, options: PairOptions):
        super().__init__()
        self.options = options
        width = options.width
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        self.basis = BesselBasis(options.cutoff, 8)
        self.layers = nn.Sequential(nn.Linear(8 + 2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, batch):
        """{"atomic_energy": (nodes,)}, with an envelope that ends smoothly at the cutoff."""
        graph, cutoff = batch.graph, self.options.cutoff
        check_reach(batch.cutoff, cutoff)
        images = image_vectors(graph, batch.cell, batch.image_shift)
        length = safe_length(edge_vectors(batch.positions, graph, images))  # (edges,)

        element = self.element(batch.atomic_numbers)
        edge = [self.basis(length), gather_src(graph, element), gather_dst(graph, element)]
        energy = self.layers(torch.cat(edge, 1)).squeeze(1)  # (edges,)
        envelope = polynomial_envelope(length / cutoff)
        return {"atomic_energy": sum_edges(graph, envelope * energy)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0.3, help="CPU minutes of training")
    more = ("--model", "pair_energies")
    checkpoint = train(Path("example"), parser.parse_args().minutes, more=more)
    batch = farfield.MoleculeDataset.open("example/data", "test")[range(2)].to(dtype=torch.float64)
    check_network(farfield.load(checkpoint, dtype="float64").network, batch)
