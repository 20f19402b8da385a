"""Symmetries of the bond graph of one molecule: permutations of atoms that keep elements and bonds.

Leaves (atoms with one bond, to an atom with more) are taken off first. The symmetries of the rest,
the skeleton, are searched by backtracking: the next atom is a neighbour of one that has its image,
and its image is a neighbour of that image, of the same colour
(:func:`farfield.dataloader.chemistry.bond_graphs.atom_colours`). Every symmetry of the skeleton
extends to the leaves: leaves of one colour at one parent may be exchanged at will. A molecule has

    (symmetries of the skeleton) x product over groups of leaves of (size of the group)!

symmetries: 24 for methane, 72 for ethane, 12 for benzene, 31104 for neopentane. Cost: linear in the
symmetries that are listed, for molecules; :data:`MOST_STEPS` ends the search in other graphs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

MOST_STEPS = 200_000  # atoms that the search places in one molecule
MOST_SKELETONS = 2_000  # symmetries of a skeleton that are listed


@dataclasses.dataclass
class GraphSymmetries:
    """The symmetries of a graph, factored.

    skeletons (symmetries, atoms) int64: row p maps every atom i to p[i], one extension to the
    leaves of each symmetry of the skeleton; the first row is the identity. groups: leaves (atoms
    of one colour at one parent) that may be exchanged, two or more each. complete: whether all
    symmetries of the skeleton are listed. skeleton (atoms,) bool: the atoms that are not leaves.
    """

    skeletons: np.ndarray
    groups: list[list[int]]
    complete: bool
    skeleton: np.ndarray

    def count(self) -> int:
        """Number of symmetries that the listed skeletons and the groups make."""
        return len(self.skeletons) * math.prod(math.factorial(len(one)) for one in self.groups)

    def permutations(self) -> np.ndarray:
        """All of them, (count, atoms) int64."""
        rows = self.skeletons
        for group in self.groups:
            exchanged = []
            for order in itertools.permutations(group):
                more = rows.copy()
                more[:, group] = rows[:, order]
                exchanged.append(more)
            rows = np.concatenate(exchanged)
        return rows


def graph_symmetries(colours: Sequence[int], bonds: Sequence[Sequence[int]]) -> GraphSymmetries:
    """Symmetries of the graph with the bonds (bonds, 2) that keep the colours (atoms,).

    The colours must tell atoms with different surroundings apart, as ``atom_colours`` does.
    """
    near: list[set[int]] = [set() for _ in colours]
    for a, b in bonds:
        near[a].add(b)
        near[b].add(a)
    parent = {
        atom: next(iter(others))
        for atom, others in enumerate(near)
        if len(others) == 1 and len(near[next(iter(others))]) > 1
    }

    # leaves by (parent, colour)
    leaves: dict[tuple[int, int], list[int]] = {}
    for atom, above in parent.items():
        leaves.setdefault((above, colours[atom]), []).append(atom)

    rest = [atom for atom in range(len(near)) if atom not in parent]
    rows, complete = [], True
    search = _Backtracking(colours, near, rest)
    for image in search.run():
        if len(rows) == MOST_SKELETONS:
            complete = False
            break
        rows.append(_with_leaves(image, leaves, len(near)))
    skeleton = np.ones(len(near), bool)
    skeleton[list(parent)] = False
    groups = [group for group in leaves.values() if len(group) > 1]
    return GraphSymmetries(np.array(rows), groups, complete and not search.ended, skeleton)


def _with_leaves(
    image: dict[int, int], leaves: dict[tuple[int, int], list[int]], atoms: int
) -> np.ndarray:
    """A map (atoms,) of the skeleton; leaves of a parent go to the leaves of its image."""
    row = np.empty(atoms, np.int64)
    row[list(image)] = list(image.values())
    for (above, colour), group in leaves.items():
        row[group] = leaves[image[above], colour]
    return row


class _Backtracking:
    """Symmetries of the part ``rest`` of a graph; ``ended``: it took too many steps."""

    def __init__(self, colours: Sequence[int], near: list[set[int]], rest: list[int]):
        self.colours, self.near, self.rest = colours, near, rest
        self.order, self.earlier = self._walk()
        self.steps, self.ended = 0, False

    def _walk(self) -> tuple[list[int], dict[int, list[int]]]:
        """Atoms in the order of the search, and those before each of them that it is bonded to."""
        order: list[int] = []
        left = set(self.rest)

        # breadth first, one connected part after the other: within a part, each atom but the first
        # is bonded to an earlier one, whose image leaves few candidates
        for start in self.rest:
            queue = [start] if start in left else []
            left -= set(queue)
            for atom in queue:
                further = sorted(self.near[atom] & left)
                left -= set(further)
                queue += further
            order += queue

        # leaves have no place in the order
        place = {atom: index for index, atom in enumerate(order)}
        earlier = {
            atom: [other for other in self.near[atom] if place.get(other, len(order)) < place[atom]]
            for atom in order
        }
        return order, earlier

    def run(self) -> Iterator[dict[int, int]]:
        """Maps atom -> image, the identity first."""
        image: dict[int, int] = {}
        taken: set[int] = set()
        choices = [iter(self._candidates(self.order[0], image, taken))]
        while choices and not self.ended:
            # the last atom that has an image gives it up for its next choice
            atom = self.order[len(choices) - 1]
            taken.discard(image.pop(atom, -1))
            candidate = next(choices[-1], None)
            if candidate is None:
                choices.pop()
                continue

            image[atom] = candidate
            taken.add(candidate)
            self.steps += 1
            self.ended = self.steps > MOST_STEPS
            if len(image) == len(self.order):
                yield dict(image)
            else:
                choices.append(iter(self._candidates(self.order[len(image)], image, taken)))

    def _candidates(self, atom: int, image: dict[int, int], taken: set[int]) -> list[int]:
        """Possible images: colour and bonds to the images of earlier atoms agree."""
        bonded = {image[other] for other in self.earlier[atom]}
        choices = self.near[next(iter(bonded))] if bonded else self.rest
        found = [
            other
            for other in choices
            if other not in taken
            and self.colours[other] == self.colours[atom]
            and self.near[other] & taken == bonded
        ]

        # the atom itself first, so that the first map is the identity
        return sorted(found, key=lambda other: (other != atom, other))
