"""Built backbones: ideal bonds and angles, the hand of a helix, no clashes, one result a seed."""

import numpy as np
import pytest

from farfield.dataloader.chemistry.internal_coordinates import dihedral_angles
from farfield.dataloader.sources import built_backbones
from farfield.dataloader.sources.built_backbones import (
    backbone_positions,
    build_backbones,
    draw_torsions,
    first_clash,
)

IDEAL = {"N-CA": 1.458, "CA-C": 1.525, "C-N": 1.329, "C-O": 1.231}  # Angstrom
ANGLES = {"N-CA-C": 111.2, "CA-C-N": 116.2, "C-N-CA": 121.7, "CA-C-O": 120.8, "O-C-N": 123.0}


@pytest.fixture(scope="module")
def chains():
    return build_backbones(12, 8, 40, seed=3)


def angle(one, middle, other):
    """Degrees (...,)."""
    left, right = one - middle, other - middle
    cosine = (left * right).sum(-1)
    cosine /= np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return np.degrees(np.arccos(cosine))


def test_bonds_and_angles_are_ideal(chains):
    for chain in chains:
        n, ca, c, o = chain.positions.swapaxes(0, 1)
        bonds = {"N-CA": (n, ca), "CA-C": (ca, c), "C-N": (c[:-1], n[1:]), "C-O": (c, o)}
        for name, (one, other) in bonds.items():
            np.testing.assert_allclose(np.linalg.norm(one - other, axis=-1), IDEAL[name])
        angles = {
            "N-CA-C": (n, ca, c),
            "CA-C-N": (ca[:-1], c[:-1], n[1:]),
            "C-N-CA": (c[:-1], n[1:], ca[1:]),
            "CA-C-O": (ca, c, o),
            "O-C-N": (o[:-1], c[:-1], n[1:]),
        }
        for name, atoms in angles.items():
            np.testing.assert_allclose(angle(*atoms), ANGLES[name], rtol=1e-6)


def test_torsions_are_those_that_were_asked_for():
    torsions = draw_torsions(20, np.random.default_rng(0))
    n, ca, c, o = backbone_positions(torsions).swapaxes(0, 1)
    found = {
        "phi": (dihedral_angles(c[:-1], n[1:], ca[1:], c[1:]), torsions[1:, 0]),
        "psi": (dihedral_angles(n[:-1], ca[:-1], c[:-1], n[1:]), torsions[:-1, 1]),
        "omega": (dihedral_angles(ca[:-1], c[:-1], n[1:], ca[1:]), torsions[:-1, 2]),
        "O": (dihedral_angles(n, ca, c, o), torsions[:, 1] + np.pi),
    }
    for name, (angles, expected) in found.items():
        turns = (angles - expected) / (2 * np.pi)
        np.testing.assert_allclose(turns, np.round(turns), atol=1e-10, err_msg=name)


def test_a_helix_of_l_residues_is_right_handed():
    """phi -57, psi -47: 3.6 residues a turn, 1.5 Angstrom a residue, turning as a screw does."""
    torsions = np.tile(np.radians([-57.0, -47.0, 180.0]), (20, 1))
    ca = backbone_positions(torsions)[:, 1]

    # second differences point to the axis and turn with the helix
    inward = ca[2:] - 2 * ca[1:-1] + ca[:-2]
    axis = np.cross(inward[0], inward[1])
    axis *= np.sign(axis @ (ca[-1] - ca[0])) / np.linalg.norm(axis)
    rise = (ca[1:] - ca[:-1]) @ axis
    turn = np.arctan2(np.cross(inward[0], inward[1]) @ axis, inward[0] @ inward[1])
    np.testing.assert_allclose(rise, 1.5, atol=0.1)
    assert turn > 0, "counter-clockwise on the way up: right-handed"
    assert 2 * np.pi / turn == pytest.approx(3.6, abs=0.1)

    mirrored = backbone_positions(-torsions)[:, 1]
    np.testing.assert_allclose(mirrored, ca * [1, 1, -1], atol=1e-9)


def test_several_chains_are_built_at_once():
    torsions = np.stack([draw_torsions(6, np.random.default_rng(seed)) for seed in range(3)])
    together = backbone_positions(torsions)
    for one, alone in zip(together, torsions, strict=True):
        np.testing.assert_allclose(one, backbone_positions(alone), atol=1e-12)


def test_no_two_residues_clash(chains):
    for chain in [*chains, *build_backbones(1, 150, 150, seed=1)]:
        ca = chain.positions[:, 1]
        one, other = np.triu_indices(len(ca), 3)
        assert (np.linalg.norm(ca[one] - ca[other], axis=-1) > 3.7).all()


def test_a_clash_is_found_where_it_is():
    ca = np.arange(6.0)[:, None] * [5, 0, 0]
    positions = np.repeat(ca[:, None], 4, 1)
    assert first_clash(positions) is None
    positions[4, 1] = positions[1, 1] + [0, 3, 0]
    assert first_clash(positions) == 4


def test_chains_depend_on_seed_and_number_alone(chains):
    again, other = build_backbones(5, 8, 40, seed=3), build_backbones(5, 8, 40, seed=4)
    for one, two in zip(again, chains, strict=False):
        assert one.name == two.name and np.array_equal(one.positions, two.positions)
        assert np.array_equal(one.residues, two.residues)
    assert [len(chain.residues) for chain in again] != [len(chain.residues) for chain in other]
    assert {len(chain.residues) for chain in chains} <= set(range(8, 41))


def test_a_chain_that_cannot_be_built_is_one_line(monkeypatch):
    monkeypatch.setattr(built_backbones, "CLASH", 100.0)
    monkeypatch.setattr(built_backbones, "MOST_DRAWS", 3)
    with pytest.raises(ValueError, match="no chain of 10 residues .* lower --residues"):
        build_backbones(1, 10, 10)


def test_a_seed_gives_the_chains_that_it_always_gave():
    """Tables name sets by their seed; the means are those of every set that was built so far."""
    torsions = np.degrees(draw_torsions(300, np.random.default_rng(0)))
    np.testing.assert_allclose(torsions.mean(0), [-86.88234944, 43.34538598, 179.51280076])
    np.testing.assert_allclose(torsions.std(0), [30.17526584, 85.31077547, 3.6563744], rtol=1e-6)
    last = build_backbones(2, 40, 40, seed=1)[1].positions[-1, 1]
    np.testing.assert_allclose(last, [28.308206510, 51.613519733, -2.416331915], rtol=1e-6)
