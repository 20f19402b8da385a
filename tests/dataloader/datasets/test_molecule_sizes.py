"""Molecules by their number of atoms."""

import numpy as np
import pytest

from farfield.dataloader.datasets.molecule_sizes import MoleculeSizes, parse_range
from tests.support.qm9_data import NAMES, molecules


def names_of(**ranges):
    return [NAMES[place] for place in MoleculeSizes(**ranges).chosen(molecules())]


def test_both_ends_count_and_so_does_hydrogen_where_it_is_asked_for():
    assert names_of(atoms="3,4") == ["NH3", "H2O", "C2H2", "HCN", "H2CO"]
    assert names_of(atoms="5") == ["CH4"]
    assert names_of(heavy_atoms="1") == ["CH4", "NH3", "H2O"]
    assert names_of(heavy_atoms="5, 9") == ["C6H6", "C5H5N", "C4H4O"]
    assert names_of(atoms="3,6", heavy_atoms="2,3") == ["C2H2", "HCN", "H2CO", "CH3OH", "CH3CN"]
    assert np.array_equal(MoleculeSizes().chosen(molecules()), np.arange(len(NAMES)))


@pytest.mark.parametrize("text", ["9,5", "a", "5,", "-3", "1,2,3", "0", ""])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ValueError, match="atoms must be one number or a range such as 5,9, got"):
        MoleculeSizes(atoms=text)


def test_a_range_without_molecules_is_refused():
    message = "no molecule is left by heavy_atoms 20,30; the molecules have 1 to 6, give a range"
    with pytest.raises(ValueError, match=message):
        names_of(heavy_atoms="20,30")
    assert parse_range("atoms", "7") == (7, 7)
