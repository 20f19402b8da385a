"""Graphs of molecules by a rule, and the kinds of the bonds on their edges.

| rule | edges |
|---|---|
| bonds | chemical bonds |
| cutoff | pairs closer than the cutoff (Angstrom) |
| complete | all pairs |

The settings of a rule are a dict, ``{"kind": "cutoff", "cutoff": 5.0}``, as caches keep them. Cost:
quadratic in the atoms of a molecule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.datasets.property_data import centred_positions
from farfield.dataloader.graphs import check_cutoff
from farfield.dataloader.storage.edge_layout import GraphEdges, complete_pairs
from farfield.dataloader.structures import Structures
from farfield.models.choices import Registry

# (positions (atoms, 3), bonded pairs (bonds, 2), settings of the rule)
# -> ends (edges, 2), a < b, sorted
GraphRule = Callable[[np.ndarray, np.ndarray, dict], np.ndarray]
GRAPH_RULES: Registry[GraphRule] = Registry("graph")


@GRAPH_RULES.register("bonds")
def _bonded_pairs(points: np.ndarray, bonded: np.ndarray, rule: dict) -> np.ndarray:
    return bonded


@GRAPH_RULES.register("cutoff")
def _near_pairs(points: np.ndarray, bonded: np.ndarray, rule: dict) -> np.ndarray:
    pairs = _pairs(len(points))
    vectors = points[pairs[:, 1]] - points[pairs[:, 0]]
    return pairs[np.square(vectors).sum(1) < rule["cutoff"] ** 2]


@GRAPH_RULES.register("complete")
def _all_pairs(points: np.ndarray, bonded: np.ndarray, rule: dict) -> np.ndarray:
    return _pairs(len(points))


def graph_rule(kind: str, cutoff: float) -> dict:
    """Settings of the rule ``kind``; ValueError for an unknown name or a cutoff <= 0."""
    GRAPH_RULES.find(kind)
    return {"kind": kind, "cutoff": check_cutoff(cutoff)} if kind == "cutoff" else {"kind": kind}


def molecule_graphs(
    structures: Structures, bonds: BondTable | None, rule: dict, kinds: list[np.ndarray] | None
) -> Iterator[GraphEdges]:
    """Graph of every molecule, one after the other.

    bonds: of the molecules, where the rule or the kinds need them. kinds: list that receives the
    bond kinds (edges,) uint8 of every graph, 0 for pairs without a bond; None: not needed.

    The vectors are differences of the positions that batches have, centred and rounded to float32.
    """
    positions = centred_positions(structures).astype(np.float64)
    find = GRAPH_RULES[rule["kind"]]
    nobody = np.zeros((0, 2), np.int64)
    for index in range(len(structures)):
        points = positions[structures.offsets[index] : structures.offsets[index + 1]]

        # bonded pairs (bonds, 2) of this molecule
        mine = slice(0, 0) if bonds is None else slice(*bonds.offsets[index : index + 2])
        bonded = nobody if bonds is None else bonds.ends[mine].astype(np.int64)

        ends = find(points, bonded, rule)
        if kinds is not None:
            kinds.append(_kinds_of(ends, bonded, bonds.kinds[mine], len(points)))
        yield GraphEdges(len(points), ends, points[ends[:, 1]] - points[ends[:, 0]])


def _kinds_of(ends: np.ndarray, bonded: np.ndarray, kinds: np.ndarray, nodes: int) -> np.ndarray:
    table = np.zeros((nodes, nodes), np.uint8)
    table[bonded[:, 0], bonded[:, 1]] = kinds
    return table[ends[:, 0], ends[:, 1]]


@functools.cache
def _pairs(nodes: int) -> np.ndarray:
    return complete_pairs(nodes)
