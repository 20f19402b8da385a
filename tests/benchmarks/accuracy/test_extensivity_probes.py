"""Probes are as far apart as they say, and whole where they come from a file."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from benchmarks.accuracy import extensivity_probes as probes
from tests.support.probe_files import save_pairs

EVERYTHING = range(1, 119)


def test_own_molecule_has_known_elements():
    assert probes.own_molecule(EVERYTHING)[0] == "ethanol"
    assert probes.own_molecule({1, 8})[0] == "H2O"
    name, atoms = probes.own_molecule({11, 17})
    assert (name, set(atoms.numbers)) == ("two atoms", {11, 17})
    name, atoms = probes.own_molecule({18})
    assert (name, len(atoms)) == ("two atoms", 2)


@pytest.mark.parametrize("charge", [0.0, 1.0])
def test_copies_are_as_far_apart_as_they_say(charge):
    name, atoms = probes.own_molecule(EVERYTHING)
    found = list(probes.own_pairs(name, atoms, charge))
    assert len(found) == len(probes.DISTANCES) * probes.ORIENTATIONS
    for probe in found:
        one, two = probe.parts
        assert cdist(one.positions, two.positions).min() == pytest.approx(probe.distance, abs=1e-6)
        assert probe.whole.info["charge"] == 2 * charge and probe.charges == (charge, charge)
        centroids = one.positions.mean(0), two.positions.mean(0)
        assert probe.axis == pytest.approx(np.linalg.norm(centroids[0] - centroids[1]))
        np.testing.assert_array_equal(
            probe.whole.positions, np.concatenate([one.positions, two.positions])
        )
        # rigid copies
        for part in probe.parts:
            np.testing.assert_allclose(
                part.get_all_distances(), atoms.get_all_distances(), atol=1e-9
            )


@pytest.mark.parametrize("ghost", probes.GHOSTS)
def test_ghosts_are_far_from_their_host_and_whole(ghost):
    _, atoms = probes.own_molecule(EVERYTHING)
    probe = probes.own_ghosts(atoms, ghost)
    (host,) = probe.parts
    around = probe.whole.positions[len(host) :]
    assert probe.distance == pytest.approx(cdist(host.positions, around).min())
    assert probe.distance >= probes.GHOST_DISTANCE
    # no two of them overlap
    size = len(around) // probes.NUM_GHOSTS
    centres = around.reshape(probes.NUM_GHOSTS, size, 3).mean(1)
    apart = cdist(centres, centres)[~np.eye(len(centres), dtype=bool)]
    assert apart.min() > probes.GHOST_SPACING - 0.5


def test_files_give_pairs_with_their_truth_and_leave_out_hosts_alone(tmp_path):
    save_pairs(tmp_path)
    (probe,) = probes.pairs_of_file(tmp_path / probes.PAIR_FILES[0])
    assert [part.get_chemical_formula() for part in probe.parts] == ["H2", "O"]
    assert (probe.kind, probe.distance, probe.axis) == ("one", 19.0, 19.5)
    assert probe.charges == (1.0, -1.0) and probe.whole.info["charge"] == 0
    assert probe.truth == {"energy": -0.7, "forces": 0.03}
    (ghost,) = probes.ghosts_of_file(tmp_path / probes.GHOST_FILE)
    assert (ghost.kind, ghost.distance, ghost.truth) == ("one O, H2", 19.0, {"forces": 0.002})

    # made here and of both files; charged copies only where they can be told from neutral ones
    own = len(probes.DISTANCES) * probes.ORIENTATIONS
    assert len(probes.pairs(EVERYTHING, False, str(tmp_path))) == own + 2
    assert len(probes.pairs(EVERYTHING, True, None)) == 2 * own
    assert len(probes.ghosts(EVERYTHING, str(tmp_path))) == len(probes.GHOSTS) + 1
