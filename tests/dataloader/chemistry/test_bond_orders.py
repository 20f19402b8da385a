"""Orders of bonds against all that there could be, charges, and Hückel's rule ring by ring."""

import itertools

import numpy as np
import pytest

from farfield.dataloader.chemistry.bond_orders import (
    SHORTENING,
    C,
    N,
    O,
    S,
    assign_orders,
    mark_aromatic,
)


def cost_of(extra, slack) -> float:
    return sum((one - SHORTENING[more]) ** 2 for more, one in zip(extra, slack, strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_orders_fill_all_valences_at_the_least_cost_of_all(seed):
    """Seven bonds of six atoms: every way to give them orders is tried."""
    rng = np.random.default_rng(seed)
    pairs = [list(pair) for pair in itertools.combinations(range(6), 2)]
    pairs = [pairs[index] for index in np.sort(rng.permutation(len(pairs))[:7])]
    slack = rng.uniform(-0.4, 0.1, 7).tolist()

    def free_of(extra) -> list[int]:
        free = [0] * 6
        for more, pair in zip(extra, pairs, strict=True):
            for atom in pair:
                free[atom] += more
        return free

    free = free_of(rng.integers(0, 3, 7).tolist())
    ways = [one for one in itertools.product(range(3), repeat=7) if free_of(one) == free]
    best = min(ways, key=lambda extra: cost_of(extra, slack))
    found = assign_orders([C] * 6, pairs, slack, free)
    assert found.orders == [1 + more for more in best]
    assert found.charges == [0] * 6 and not found.unusual


def test_what_has_no_solution_is_unusual_and_filled_up_shortest_bonds_first():
    pairs, slack = [[0, 1], [1, 2], [2, 3]], [0.0, -0.3, -0.1]
    found = assign_orders([C] * 4, pairs, slack, [1, 4, 3, 3])
    assert found.unusual and found.charges == [0] * 4
    assert found.orders == [2, 3, 2]
    assert assign_orders([C, C], [[0, 1]], [0.0], [-1, 1]).orders == [1]


# numbers, bonded pairs, slack, free valences -> orders, charges
CHARGED = {
    "nitro": ([C, N, O, O], [[0, 1], [1, 2], [1, 3]], [0, -0.2, 0], [0, 0, 1, 1], [1, 2, 1]),
    "amine oxide": ([N, O], [[0, 1]], [0.0], [-1, 1], [1]),
    "isocyanide": ([C, N, C], [[0, 1], [1, 2]], [0, -0.3], [0, 1, 3], [1, 3]),
}
CHARGES = {
    "nitro": [0, 1, 0, -1],
    "amine oxide": [1, -1],
    "isocyanide": [0, 1, -1],
}


@pytest.mark.parametrize("name", CHARGES)
def test_charges_move_valences(name):
    *case, orders = CHARGED[name]
    found = assign_orders(*case)
    assert (found.orders, found.charges, found.unusual) == (orders, CHARGES[name], False)


@pytest.mark.parametrize(
    "more, orders, charges",
    [(0.0, [2, 2], [0, 1, -1]), (0.005, [2, 2], [0, 1, -1]), (0.02, [1, 3], [-1, 1, 0])],
)
def test_a_charge_of_nitrogen_is_likelier_than_one_of_carbon(more, orders, charges):
    """Diazomethane: C=N+=N- and C- -N+#N at lengths where the bonds of the first cost ``more``."""
    slack = [-0.064 + more / 0.4, -0.2]
    found = assign_orders([C, N, N], [[0, 1], [1, 2]], slack, [1, 1, 2])
    assert (found.orders, found.charges) == (orders, charges)


def ring(numbers, doubles, outer=(), charges=(), triples=()):
    """Aromatic bonds of a ring. doubles: first atoms of its double bonds. outer: (atom, element,
    order) of the atoms beside it. charges: (atom, charge).
    """
    size = len(numbers)
    pairs = [[atom, (atom + 1) % size] for atom in range(size)]
    orders = [3 if atom in triples else 2 if atom in doubles else 1 for atom in range(size)]
    for index, (atom, _, order) in enumerate(outer):
        pairs.append([atom, size + index])
        orders.append(order)
    elements = [*numbers, *(element for _, element, _ in outer)]
    charge = [dict(charges).get(atom, 0) for atom in range(len(elements))]
    return mark_aromatic(elements, pairs, orders, charge)


AROMATIC = {
    "benzene": ([C] * 6, [0, 2, 4]),
    "pyridine": ([N] + [C] * 5, [0, 2, 4]),
    "pyrrole": ([N] + [C] * 4, [1, 3]),
    "furan": ([O] + [C] * 4, [1, 3]),
    "thiophene": ([S] + [C] * 4, [1, 3]),
    "cyclopentadienide": ([C] * 5, [1, 3], (), [(0, -1)]),
    "cyclopropenone": ([C] * 3, [1], [(0, O, 2)]),
    "tropone": ([C] * 7, [1, 3, 5], [(0, O, 2)]),
    "iminotropone": ([C] * 7, [1, 3, 5], [(0, N, 2)]),
    "diazocine": ([N, C, C, N, C, C, C, C], [1, 4, 6]),
    "toluene": ([C] * 6, [0, 2, 4], [(0, C, 1)]),
}
NOT_AROMATIC = {
    "cyclopentadiene": ([C] * 5, [1, 3]),
    "cyclobutadiene": ([C] * 4, [0, 2]),
    "heptafulvene": ([C] * 7, [1, 3, 5], [(0, C, 2)]),
    "nitrogen with a double bond outwards": ([N] + [C] * 6, [1, 3, 5], [(0, O, 2)]),
    "benzyne": ([C] * 6, [2, 4], (), (), [0]),
    "atom with two double bonds": ([C, C, C, C, N], [0, 1], [(3, C, 2)]),
    "sulfur with four neighbours": ([S] + [C] * 4, [1, 3], [(0, C, 1), (0, C, 1)]),
    "positive nitrogen": ([N] + [C] * 4, [1, 3], (), [(0, 1)]),
    "nine atoms, ten electrons": ([N] + [C] * 8, [1, 3, 5, 7]),
    "cyclohexane": ([C] * 6, []),
}


@pytest.mark.parametrize("name", [*AROMATIC, *NOT_AROMATIC])
def test_a_ring_of_4n_plus_2_electrons_is_aromatic_and_nothing_beside_it(name):
    case = {**AROMATIC, **NOT_AROMATIC}[name]
    size, outer = len(case[0]), len(case[2]) if len(case) > 2 else 0
    assert ring(*case) == [name in AROMATIC] * size + [False] * outer
