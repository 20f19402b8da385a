"""Laws of the augmentation: matrices uniform over their group, drawn from the place of a batch in
its run alone, one for each structure of each copy.
"""

import numpy as np
import pytest
import torch

from farfield.dataloader.augmentation import GROUPS, Augmentation
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.models.edges import edge_vectors
from tests.support.molecule_data import random_crystals, random_structures

COUNT = 20_000


def batch(double=False):
    dtype = torch.float64 if double else torch.float32
    return MoleculeDataset(random_structures(), 5.0, dtype=dtype)[[0, 1, 2, 3]]


@pytest.mark.parametrize("group", list(GROUPS))
def test_matrices_are_uniform_over_their_group(group):
    """The averages of the Haar measure: E[R] = 0, E[R_ab R_cd] = delta_ac delta_bd / 3, within five
    standard errors; and half of the orthogonal matrices mirror.
    """
    matrices = GROUPS[group](COUNT, np.random.default_rng(0))
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(matrices @ matrices.mT, identity.expand_as(matrices), atol=1e-13)

    flat, error = matrices.flatten(1), COUNT**-0.5
    assert flat.mean(0).abs().max() < 5 * error / 3**0.5
    assert (flat.T @ flat / COUNT - torch.eye(9) / 3).abs().max() < 5 * error / 3

    mirrored = (torch.linalg.det(matrices) < 0).double().mean()
    expected = 0.5 if group == "orthogonal" else 0.0
    assert abs(mirrored - expected) < (5 * 0.5 * error if expected else 1e-12)


def test_the_angles_of_rotations_have_the_density_of_haar():
    """P(angle < a) = (a - sin a) / pi; Kolmogorov's distance at 1 in 10,000."""
    matrices = GROUPS["rotations"](COUNT, np.random.default_rng(1))
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    angles = torch.acos(((trace - 1) / 2).clamp(-1, 1)).sort().values
    expected = (angles - angles.sin()) / np.pi
    assert (expected - torch.arange(COUNT) / COUNT).abs().max() < 2.2 * COUNT**-0.5


def test_mirrors_have_uniform_normals():
    """-R of a mirrored matrix is a uniform rotation, as any other."""
    matrices = GROUPS["orthogonal"](COUNT, np.random.default_rng(2))
    mirrored = -matrices[torch.linalg.det(matrices) < 0]
    assert mirrored.mean(0).abs().max() < 5 * (3 * len(mirrored)) ** -0.5


def global_states():
    """States of the generators that other code may draw from."""
    return [*np.random.get_state()[1], *torch.get_rng_state().tolist()]  # noqa: NPY002


def test_the_place_in_the_run_decides_alone():
    augmentation, whole = Augmentation("orthogonal", 2, seed=3), batch()
    first = augmentation(whole, 1, 5).positions
    np.random.rand(7), torch.rand(7)  # noqa: NPY002
    before = global_states()
    assert torch.equal(first, augmentation(whole, 1, 5).positions)
    assert before == global_states(), "no global generator is touched"

    for other in (
        augmentation(whole, 2, 5),
        augmentation(whole, 1, 6),
        Augmentation("orthogonal", 2, seed=4)(whole, 1, 5),
    ):
        assert not torch.allclose(first, other.positions, atol=1e-2)


def test_every_structure_of_every_copy_has_a_matrix_of_its_own():
    whole = batch(double=True)
    found = Augmentation("orthogonal", copies=3)(whole, 0, 0)
    assert found.num_graphs == 3 * whole.num_graphs and found.num_nodes == 3 * whole.num_nodes

    # the matrix of a structure of three atoms or more, from its positions
    matrices = []
    for place, one in enumerate(found.split()):
        before = whole.split()[place % whole.num_graphs]
        if before.num_nodes < 4:
            continue
        matrix = torch.linalg.lstsq(before.positions, one.positions).solution.T
        assert torch.allclose(matrix @ matrix.T, torch.eye(3).double(), atol=1e-6)
        assert torch.allclose(before.labels["forces"] @ matrix.T, one.labels["forces"], atol=1e-6)
        assert torch.equal(before.labels["energy"], one.labels["energy"])
        matrices.append(matrix)
    assert len(matrices) == 6
    apart = torch.cdist(torch.stack(matrices).flatten(1), torch.stack(matrices).flatten(1))
    assert (apart + 10 * torch.eye(6)).min() > 0.1


def test_edges_keep_their_lengths():
    whole = batch()
    found = Augmentation("orthogonal", copies=2)(whole, 0, 0)
    before = edge_vectors(whole.positions, whole.graph).norm(dim=1)
    assert torch.allclose(edge_vectors(found.positions, found.graph).norm(dim=1), before.repeat(2))


def test_crystals_turn_with_their_cells():
    whole = MoleculeDataset(random_crystals(), 3.0, dtype=torch.float64)[[0, 2]]
    found = Augmentation("rotations")(whole, 0, 0)
    assert torch.allclose(torch.linalg.det(found.cell), torch.linalg.det(whole.cell))
    trace = [one.labels["stress"].diagonal(dim1=1, dim2=2).sum(1) for one in (whole, found)]
    assert torch.allclose(*trace) and not torch.allclose(whole.cell, found.cell, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "rotation"}, "group must be one of .*did you mean 'rotations'"),
        ({"group": "rotations", "copies": 0}, "copies must be >= 1, got 0"),
        ({"group": "rotations", "seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_bad_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**arguments)


def test_what_is_no_batch_of_structures_is_refused():
    with pytest.raises(ValueError, match="only batches of structures .AtomBatch. can be turned"):
        Augmentation("rotations")([1, 2], 0, 0)
