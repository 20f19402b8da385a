"""Ground states of atoms, as tables of spectroscopy have them."""

from __future__ import annotations

import pytest
import torch

from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.models.layers.electron_configuration import (
    MOVED,
    configuration_table,
    electron_configuration,
    valence_electrons,
)

# what stands outside the noble gas before it, by the tables of NIST
OUTSIDE = {
    1: "1s1",
    2: "1s2",
    8: "2s2 2p4",
    17: "3s2 3p5",
    19: "4s1",
    24: "4s1 3d5",
    26: "4s2 3d6",
    29: "4s1 3d10",
    35: "4s2 3d10 4p5",
    46: "4d10",
    47: "5s1 4d10",
    57: "6s2 5d1",
    58: "6s2 4f1 5d1",
    64: "6s2 4f7 5d1",
    70: "6s2 4f14",
    74: "6s2 4f14 5d4",
    78: "6s1 4f14 5d9",
    79: "6s1 4f14 5d10",
    82: "6s2 4f14 5d10 6p2",
    90: "7s2 6d2",
    92: "7s2 5f3 6d1",
    94: "7s2 5f6",
    96: "7s2 5f7 6d1",
    103: "7s2 5f14 7p1",
    118: "7s2 5f14 6d10 7p6",
}


@pytest.mark.parametrize("number", OUTSIDE)
def test_ground_states(number):
    outside = {part[:2]: int(part[2:]) for part in OUTSIDE[number].split()}
    noble = max((gas for gas in (0, 2, 10, 18, 36, 54, 86) if gas < number), default=0)
    core = electron_configuration(noble) if noble else {}
    assert electron_configuration(number) == core | outside

    by_letter = dict.fromkeys("spdf", 0)
    for subshell, count in outside.items():
        by_letter[subshell[1]] += count
    assert valence_electrons(number) == by_letter


def test_all_electrons_are_there():
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        held = electron_configuration(number)
        assert sum(held.values()) == number
        assert all(count <= 2 * (2 * "spdf".index(name[1]) + 1) for name, count in held.items())
        assert all(count >= 0 for count in valence_electrons(number).values())
    assert len(MOVED) == 20


@pytest.mark.parametrize("number", [0, 119])
def test_no_such_element(number):
    with pytest.raises(ValueError, match="1 .. 118"):
        electron_configuration(number)


def test_features_tell_elements_apart():
    table = configuration_table()
    assert table.shape == (119, 22) and not table[0].any()
    assert float(table.min()) == 0 and torch.equal(table.amax(0), torch.ones(22))
    assert len({tuple(row) for row in table[:, 1:].tolist()}) == len(table)  # without Z as well
    torch.testing.assert_close(table[:, 0], torch.arange(119) / 118)
