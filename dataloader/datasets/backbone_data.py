"""Noised protein backbones as batches, with the way back to the clean ones as their label.

    noised = clean + noise * z,    z standard normal,    label displacement = clean - noised

The noise of a training chain is a pure function of (seed, epoch, chain), that of an evaluation is
fixed for each chain of a split (``epoch_draws.py``). Graphs are found on the *noised* positions:
all pairs within a cutoff, with ``adjacency="chain"`` also all pairs up to ``max_hops`` covalent
bonds apart, whatever their distance. Noised positions are shifted to their mean, so nothing of a
batch but its labels tells where the clean ones were.

Cost: a neighbour list for each chain.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from farfield.dataloader import prepared_folder
from farfield.dataloader.backbones import chain_residues
from farfield.dataloader.chemistry.residues import (
    ATOM_NUMBERS,
    ATOMS_PER_RESIDUE,
    backbone_hops,
    backbone_tokens,
    bonded_pairs,
)
from farfield.dataloader.commands import called_as
from farfield.dataloader.datasets.epoch_draws import Chosen, Draws, epoch_and_indices
from farfield.dataloader.datasets.structure_dataset import StructureDataset
from farfield.dataloader.graphs import check_cutoff, find_neighbors
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_choices, check_positive
from farfield.models.graph_ops import GraphIndex

ADJACENCIES = ("none", "chain")
HINT = (
    f"make the folder with `{called_as('preprocess.preprocess_backbones')} --sample --out FOLDER` "
    "(--rebuild replaces what is there)"
)


@dataclasses.dataclass(frozen=True)
class DenoisingRule:
    """How noised chains and their graphs are made.

    Arguments
        noise         standard deviation of each coordinate, Angstrom
        cutoff        largest distance of two noised atoms with an edge, Angstrom
        adjacency     "chain": bonded pairs are edges, too
        max_hops      largest number of covalent bonds that an edge is told, and that makes an edge
        max_residues  residues of a training chain; of longer chains a stretch is drawn

    ``ValueError`` for values that cannot be right.
    """

    noise: float = 0.5
    cutoff: float = 6.0
    adjacency: str = "none"
    max_hops: int = 3
    max_residues: int = 128

    def __post_init__(self):
        check_positive(self, ["noise"])
        check_cutoff(self.cutoff)
        check_choices(self, {"adjacency": ADJACENCIES})
        check_at_least(self, 1, ["max_hops", "max_residues"])


class BackboneDataset(StructureDataset):
    """Noised chains of one split; ``dataset[indices]`` is a batch.

    Arguments
        structures  chains, as dataloader.backbones has them
        split       "train", "val" or "test"; each has noise of its own
        rule        :class:`DenoisingRule`
        seed        of the noise of training batches

    ``dataset[EpochIndices(epoch, indices)]`` is a batch of training: noise of that epoch, chains of
    at most ``rule.max_residues`` residues. ``dataset[indices]`` is a batch of evaluation: fixed
    noise, whole chains.

    A batch has positions (nodes, 3), noised, about their mean; atomic_numbers (nodes,);
    node_features ``tokens`` (nodes,) int64, 0 .. 83; edge_features ``hops`` (edges,) int64, number
    of covalent bonds 1 .. max_hops, 0 for more; label ``displacement`` (nodes, 3): clean = noised +
    displacement. Raises ``ValueError`` for structures that are no backbones.
    """

    def __init__(self, structures: Structures, split: str, rule: DenoisingRule, seed: int = 0):
        super().__init__(structures, torch.from_numpy(structures.positions))
        self.rule, self.draws = rule, Draws(split, seed)
        self.tokens = backbone_tokens(chain_residues(structures))  # (atoms,)

    @classmethod
    def open(
        cls, folder: str | Path, split: str, rule: DenoisingRule, seed: int = 0
    ) -> BackboneDataset:
        """The split of a folder of preprocess_backbones.

        ``FileNotFoundError`` or ``ValueError`` with one line.
        """
        path = prepared_folder.structures_file(folder, split)
        structures = prepared_folder.finished_structures(folder, split, HINT)
        try:
            return cls(structures, split, rule, seed)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {HINT}") from None

    @property
    def cutoff(self) -> float:
        """Of the graphs, Angstrom."""
        return self.rule.cutoff

    @property
    def residues_per_structure(self) -> np.ndarray:
        """(structures,)"""
        return self.structures.counts // ATOMS_PER_RESIDUE

    def __getitem__(self, chosen: Chosen) -> AtomBatch:
        epoch, indices = epoch_and_indices(chosen)
        ids, _, _ = self.places(indices)
        chains = [self._noised(index, epoch) for index in ids.tolist()]
        atoms = np.array([len(chain.tokens) for chain in chains])
        first = np.cumsum(atoms) - atoms

        # one graph a chain, laid end to end
        edges = [self._edges(chain.positions) for chain in chains]
        src = np.concatenate([one[0] + start for one, start in zip(edges, first, strict=True)])
        dst = np.concatenate([one[1] + start for one, start in zip(edges, first, strict=True)])
        hops = np.concatenate([one[2] for one in edges])

        def joined(name: str) -> torch.Tensor:
            return torch.from_numpy(np.concatenate([getattr(chain, name) for chain in chains]))

        tokens = joined("tokens")
        return AtomBatch(
            graph=GraphIndex(torch.from_numpy(src), torch.from_numpy(dst), torch.from_numpy(atoms)),
            positions=joined("positions").float(),
            atomic_numbers=torch.tensor(ATOM_NUMBERS)[tokens % ATOMS_PER_RESIDUE],
            node_features={"tokens": tokens},
            edge_features={"hops": torch.from_numpy(hops)},
            labels={"displacement": joined("displacement").float()},
            cutoff=self.cutoff,
        )

    def _noised(self, index: int, epoch: int | None) -> _NoisedChain:
        """A chain with its noise; epoch: None for an evaluation."""
        residues = int(self.residues_per_structure[index])
        generator = self.draws.generator(epoch, index)

        # a stretch of a long chain, in training alone
        start = 0
        if epoch is not None and residues > self.rule.max_residues:
            start = int(generator.integers(residues - self.rule.max_residues + 1))
            residues = self.rule.max_residues
        begin = int(self.structures.offsets[index]) + ATOMS_PER_RESIDUE * start
        rows = slice(begin, begin + ATOMS_PER_RESIDUE * residues)

        # the shift is by the noised mean: the clean one would be seen through it
        clean = self.structures.positions[rows]
        displacement = -self.rule.noise * generator.standard_normal(clean.shape)
        noised = clean - displacement
        return _NoisedChain(self.tokens[rows], noised - noised.mean(0), displacement)

    def _edges(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """src, dst, hops (edges,) of one noised chain, sorted by (dst, src)."""
        atoms = len(positions)
        src, dst, _ = find_neighbors(positions, self.rule.cutoff)
        if self.rule.adjacency == "chain":
            bonded_src, bonded_dst = bonded_pairs(atoms // ATOMS_PER_RESIDUE, self.rule.max_hops)
            both = np.union1d(dst * atoms + src, bonded_dst * atoms + bonded_src)
            dst, src = np.divmod(both, atoms)
        return src, dst, backbone_hops(src, dst, self.rule.max_hops)


class _NoisedChain(NamedTuple):
    """tokens (atoms,), positions and displacement (atoms, 3) float64."""

    tokens: np.ndarray
    positions: np.ndarray
    displacement: np.ndarray
