"""Rules of bonds: each molecule is stable where chemistry, or the published table, says so."""

import numpy as np
import pytest

from farfield.dataloader.chemistry.bond_rules import BOND_RULES, valence_sums
from tests.support.hand_made_molecules import ammonium
from tests.support.qm9_data import molecules

# molecule -> atoms that are stable by edm, edm_sulfur and perceived
STABLE = {
    "CH4": (5, 5, 5),
    "CH3CH2OH": (9, 9, 9),
    "CO2": (3, 3, 3),
    "CH3": (3, 3, 3),  # the carbon of a radical is not stable
    "C6H6": (6, 6, 12),  # all bonds single by distance
    "SH2": (2, 3, 3),
    "C4H4S": (4 + 4, 4 + 4 + 1, 9),
    "CH3NO2": (6, 6, 7),  # two N=O by distance, five bonds of N; or N+ and O-
    "AlCl3": (0, 0, 3),  # no Al-Cl bonds by the table; no usual valence of Al by the other
}


def test_stable_atoms():
    whole = molecules(STABLE)
    for place, rule in enumerate(("edm", "edm_sulfur", "perceived")):
        stable = BOND_RULES[rule](whole).stable
        found = np.add.reduceat(stable.astype(int), whole.offsets[:-1])
        for name, atoms, expected in zip(STABLE, found, STABLE.values(), strict=True):
            assert (rule, name, atoms) == (rule, name, expected[place])


def test_ammonium_without_a_charge_is_not_stable():
    for rule in BOND_RULES:
        assert BOND_RULES[rule](ammonium()).stable.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("rule", BOND_RULES)
def test_orders_kinds_and_sums_fit_together(rule):
    whole = molecules(STABLE)
    found = BOND_RULES[rule](whole)
    assert len(found.orders) == len(found.table.ends)
    assert ((found.orders == found.table.kinds) | (found.table.kinds == 4)).all()
    sums = valence_sums(whole, found.table, found.orders)
    assert sums.sum() == 2 * found.orders.sum()
    assert sums[:5].tolist() == [4, 1, 1, 1, 1]  # methane
