"""Single, double, triple, aromatic: orders of the bonds of a molecule, from its bonded pairs and
their lengths.

Orders. Single bonds leave ``free[a] = valence(a) - neighbours(a)`` valences at every atom. The
search finds integers 0 <= extra <= 2 on the bonds with sum of extra over the bonds of a = free[a]:
a perfect b-matching, searched from the atom with the fewest choices. Where there are several
(Kekulé structures, tautomers) the bond lengths decide: least sum of
(length - radii - SHORTENING[order])^2. Where there is none, or an atom has too many neighbours,
formal charges move valences: N+ has 4, O+ 3, O- 1, N- 2, C- 3; the molecule stays neutral and the
fewest charges win, on the likeliest elements. Molecules without any solution keep the best that was
found and are called unusual.

Aromatic rings. A ring is aromatic if all its atoms can take part and have 4n + 2 electrons
together (Hückel): an atom gives 1 with a double bond in a ring or to a carbon outside it, 0 with a
double bond outwards to N or O, 2 with a lone pair (N, O, S, or C-). So are the outer bonds of two
rings that share a bond, if all their atoms together obey the rule. This is RDKit's model for up to
two rings; the bond kinds of the published QM9 graphs were made by it.

Cost: 0.1 to 1 ms a molecule with double bonds.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from ase.data import atomic_numbers as NUMBER

_USUAL = {"H": 1, "B": 3, "C": 4, "N": 3, "O": 2, "F": 1}
_USUAL |= {"Si": 4, "P": 3, "S": 2, "Cl": 1, "Br": 1, "I": 1}
VALENCES = np.zeros(119, np.int64)
for _symbol, _valence in _USUAL.items():
    VALENCES[NUMBER[_symbol]] = _valence
SHORTENING = (0.0, -0.20, -0.32)  # Angstrom, single, double, triple bond minus the sum of the radii
C, N, O, S = (NUMBER[symbol] for symbol in "CNOS")
PLUS = {N: 0.0, O: 0.02}  # element -> how much worse than the best place for the charge, Angstrom^2
MINUS = {O: 0.0, N: 0.01, C: 0.02}
MOST_CHARGES = 3
MOST_STEPS = 4000  # of one search
MOST_TRIALS = 3000  # places of charges
RING_SIZES = (3, 8)


@dataclasses.dataclass
class Orders:
    """Order of every bond, formal charge of every atom, and whether valences are left over."""

    orders: list[int]
    charges: list[int]
    unusual: bool


def assign_orders(
    numbers: list[int], pairs: list[list[int]], slack: list[float], free: list[int]
) -> Orders:
    """Orders of the bonds ``pairs`` of a molecule, as the module describes.

    numbers (atoms,): atomic numbers. slack (bonds,): length minus the radii, Angstrom. free
    (atoms,): valences that single bonds leave.
    """
    neutral = [0] * len(numbers)
    if min(free) >= 0:
        cost, extra = _Search(pairs, slack, free).run()
        if cost is not None:
            return Orders([1 + more for more in extra], neutral, False)

    charged = _with_charges(numbers, pairs, slack, free)
    if charged is not None:
        return charged

    # no solution: use up what can be used
    extra = _Search(pairs, slack, [max(left, 0) for left in free]).greedy()
    return Orders([1 + more for more in extra], neutral, True)


def _with_charges(
    numbers: list[int], pairs: list[list[int]], slack: list[float], free: list[int]
) -> Orders | None:
    """The solution with the fewest charges, of these the one with the least cost; None: none."""
    best: tuple[int, float, Orders] | None = None
    for places, penalty in _charge_places(numbers, free):
        # sets of charges come the smallest first
        if best is not None and len(places) > best[0]:
            break
        charges = [0] * len(numbers)
        for atom, charge in places:
            charges[atom] = charge
        moved = [left + charge for left, charge in zip(free, charges, strict=True)]
        if min(moved) < 0:
            continue

        cost, extra = _Search(pairs, slack, moved).run()
        if cost is not None and (best is None or cost + penalty < best[1]):
            best = len(places), cost + penalty, Orders([1 + more for more in extra], charges, False)
    return None if best is None else best[2]


def _charge_places(numbers: list[int], free: list[int]):
    """Sets of (atom, charge) with their penalties, the smallest sets first.

    Charges of a set sum to zero and serve atoms with too many neighbours.
    """
    forced = [atom for atom, left in enumerate(free) if left < 0]
    if any(free[atom] < -1 or numbers[atom] not in PLUS for atom in forced):
        return
    plus = [atom for atom, number in enumerate(numbers) if number in PLUS and atom not in forced]
    minus = [atom for atom, number in enumerate(numbers) if number in MINUS and free[atom] > 0]
    trials = 0
    for total in range(max(1, len(forced)), MOST_CHARGES + 1):
        for positive in itertools.combinations(plus, total - len(forced)):
            for negative in itertools.combinations(
                [atom for atom in minus if atom not in positive], total
            ):
                trials += 1
                if trials > MOST_TRIALS:
                    return
                positive_ones = [*forced, *positive]
                penalty = sum(PLUS[numbers[atom]] for atom in positive_ones) + sum(
                    MINUS[numbers[atom]] for atom in negative
                )
                yield (
                    [(atom, 1) for atom in positive_ones] + [(atom, -1) for atom in negative],
                    penalty,
                )


class _Search:
    """Extra orders of bonds that use up ``free``, at least cost within :data:`MOST_STEPS`."""

    def __init__(self, pairs, slack, free):
        self.pairs, self.slack, self.free = pairs, slack, list(free)
        self.extra = [0] * len(pairs)
        self.best, self.best_extra, self.steps = None, None, 0
        self.bonds: dict[int, list[int]] = {atom: [] for atom, left in enumerate(free) if left > 0}
        for bond, (a, b) in enumerate(pairs):
            if free[a] > 0 and free[b] > 0:
                self.bonds[a].append(bond)
                self.bonds[b].append(bond)

    def run(self) -> tuple[float | None, list[int]]:
        """(cost, extra orders), cost None if no solution was found."""
        if sum(self.free) % 2 == 0:
            self._step(0.0)
        return self.best, self.best_extra or self.extra

    def greedy(self) -> list[int]:
        """Extra orders that use up what can be used, shortest bonds first."""
        for bond in sorted(range(len(self.pairs)), key=lambda bond: self.slack[bond]):
            a, b = self.pairs[bond]
            more = min(self.free[a], self.free[b], 2)
            self.extra[bond] = more
            self.free[a] -= more
            self.free[b] -= more
        return self.extra

    def _choices(self, atom: int) -> list[int]:
        return [
            bond
            for bond in self.bonds[atom]
            if self.extra[bond] < 2 and self.free[self._other(bond, atom)] > 0
        ]

    def _other(self, bond: int, atom: int) -> int:
        a, b = self.pairs[bond]
        return b if atom == a else a

    def _price(self, bond: int) -> float:
        """What one order more adds to the cost."""
        order, slack = self.extra[bond], self.slack[bond]
        return (slack - SHORTENING[order + 1]) ** 2 - (slack - SHORTENING[order]) ** 2

    def _step(self, cost: float) -> None:
        """Give one order to a bond of the atom with the fewest choices, and go on from there."""
        waiting = [
            (len(choices), atom, choices)
            for atom in self.bonds
            if self.free[atom] > 0
            for choices in (self._choices(atom),)
        ]
        if not waiting:
            if self.best is None or cost < self.best:
                self.best, self.best_extra = cost, list(self.extra)
            return
        count, atom, choices = min(waiting)
        if not count or (self.steps > MOST_STEPS):
            return
        self.steps += 1

        # each choice is made, followed to its end, and taken back
        for bond in sorted(choices, key=self._price):
            other, price = self._other(bond, atom), self._price(bond)
            self.extra[bond] += 1
            self.free[atom] -= 1
            self.free[other] -= 1
            self._step(cost + price)
            self.extra[bond] -= 1
            self.free[atom] += 1
            self.free[other] += 1


def mark_aromatic(
    numbers: list[int], pairs: list[list[int]], orders: list[int], charges: list[int]
) -> list[bool]:
    """Whether each bond lies in an aromatic ring, as the module describes."""
    marked = [False] * len(pairs)
    if max(orders, default=1) < 2:
        return marked

    # atom -> neighbour -> bond
    neighbours: dict[int, dict[int, int]] = {atom: {} for atom in range(len(numbers))}
    for bond, (a, b) in enumerate(pairs):
        neighbours[a][b] = neighbours[b][a] = bond
    rings = _rings({atom: list(near) for atom, near in neighbours.items()})
    in_ring = {bond for ring in rings for bond in _bonds_of(ring, neighbours)}
    electrons = {
        atom: _electrons(atom, numbers, neighbours, orders, charges, in_ring)
        for ring in rings
        for atom in ring
    }

    # rings, and pairs of rings that share a bond: atoms, bonds
    bonds_of = {ring: set(_bonds_of(ring, neighbours)) for ring in rings}
    candidates = [ring for ring in rings if all(electrons[atom] is not None for atom in ring)]
    groups = [(set(ring), bonds_of[ring]) for ring in candidates]
    for first, second in itertools.combinations(candidates, 2):
        if len(bonds_of[first] & bonds_of[second]) == 1:
            groups.append((set(first) | set(second), bonds_of[first] ^ bonds_of[second]))

    for atoms, bonds in groups:
        if sum(electrons[atom] for atom in atoms) % 4 == 2:
            for bond in bonds:
                marked[bond] = True
    return marked


def _bonds_of(ring: tuple[int, ...], neighbours: dict[int, dict[int, int]]) -> list[int]:
    return [neighbours[a][b] for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]


def _electrons(atom: int, numbers, neighbours, orders, charges, in_ring: set[int]) -> int | None:
    """Electrons that an atom gives to an aromatic ring; None: it cannot be in one."""
    multiple = [(other, bond) for other, bond in neighbours[atom].items() if orders[bond] > 1]
    if len(multiple) > 1 or (multiple and orders[multiple[0][1]] > 2):
        return None
    if multiple:
        other, bond = multiple[0]
        drawn_away = numbers[other] in (N, O) and numbers[atom] not in (N, O)
        return 0 if drawn_away and bond not in in_ring else 1
    lone_pair = (numbers[atom] in (N, O, S) and charges[atom] == 0) or charges[atom] < 0
    return 2 if lone_pair and len(neighbours[atom]) <= 3 else None


def _rings(neighbours: dict[int, list[int]]) -> list[tuple[int, ...]]:
    """Rings of :data:`RING_SIZES` without chords, each once."""
    core = {atom for atom, near in neighbours.items() if len(near) > 1}
    while ends := {atom for atom in core if sum(other in core for other in neighbours[atom]) < 2}:
        core -= ends  # what hangs on a ring is not in one
    found = []

    def _extend(path: list[int]) -> None:
        """Follow all ways on from the end of ``path``; rings start at their smallest atom."""
        for other in neighbours[path[-1]]:
            if other not in core or other < path[0]:
                continue
            if other == path[0] and len(path) >= RING_SIZES[0] and path[1] < path[-1]:
                found.append(tuple(path))
            elif (
                len(path) < RING_SIZES[1]
                and other not in path
                and not any(other in neighbours[atom] for atom in path[1:-1])
            ):
                _extend([*path, other])

    for atom in sorted(core):
        _extend([atom])
    return found
