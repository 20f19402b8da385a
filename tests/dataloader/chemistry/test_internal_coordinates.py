"""Atoms placed by internal coordinates have these coordinates."""

import numpy as np

from farfield.dataloader.chemistry.internal_coordinates import dihedral_angles, place_atoms


def test_a_placed_atom_has_its_length_angle_and_dihedral():
    rng = np.random.default_rng(0)
    first, second, third = rng.standard_normal((3, 50, 3))
    dihedral = rng.uniform(-np.pi, np.pi, 50)
    placed = place_atoms(first, second, third, 1.5, 1.9, dihedral)

    bond, back = placed - third, second - third
    length = np.linalg.norm(bond, axis=-1)
    cosine = (bond * back).sum(-1) / length / np.linalg.norm(back, axis=-1)
    np.testing.assert_allclose(length, 1.5, rtol=1e-12)
    np.testing.assert_allclose(np.arccos(cosine), 1.9, rtol=1e-10)
    np.testing.assert_allclose(dihedral_angles(first, second, third, placed), dihedral, atol=1e-10)


def test_a_clockwise_turn_is_positive():
    """Seen from the second atom to the third: from up to the right."""
    up, eye, far, right = np.array([[0.0, 1, 0], [0, 0, 0], [0, 0, -1], [1, 0, -1]])
    assert np.isclose(np.degrees(dihedral_angles(up, eye, far, right)), 90)
