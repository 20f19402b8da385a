"""Laws of the orthogonal matrices: quaternions, mirrors, and rotations that are evenly spread."""

import math

import pytest
import torch

from farfield.models.so3.rotations import (
    even_rotations,
    householder_matrices,
    matrices_of_quaternions,
)
from tests.support.draws import draw


def rotation_about(axis: torch.Tensor, angle: float) -> torch.Tensor:
    """exp(angle [axis]_x): the reference, from the definition of a rotation."""
    x, y, z = (axis / axis.norm()).tolist()
    generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(angle * generator)


@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0, math.pi, 5.0])
def test_a_quaternion_turns_about_its_axis_by_twice_its_angle(angle):
    for axis in draw(4, 3, seed=1):
        unit = axis / axis.norm()
        half = torch.tensor([math.cos(angle / 2)], dtype=torch.float64)
        quaternion = torch.cat([half, math.sin(angle / 2) * unit])
        scaled = torch.stack([quaternion, -3.0 * quaternion])  # length and sign do not matter
        for found in matrices_of_quaternions(scaled):
            assert torch.allclose(found, rotation_about(axis, angle), atol=1e-14)


def test_a_mirror_turns_its_normal_around_and_leaves_the_plane():
    normals, others = draw(5, 3, seed=2), draw(5, 3, seed=3)
    inside = torch.linalg.cross(normals, others)
    mirrors = householder_matrices(normals)
    assert torch.allclose((mirrors @ normals.unsqueeze(-1)).squeeze(-1), -normals, atol=1e-14)
    assert torch.allclose((mirrors @ inside.unsqueeze(-1)).squeeze(-1), inside, atol=1e-14)


@pytest.mark.parametrize("count", [1, 2, 32, 500])
def test_even_rotations_are_rotations_and_the_same_in_every_call(count):
    rotations = even_rotations(count)
    identity = torch.eye(3, dtype=torch.float64)
    assert rotations.shape == (count, 3, 3)
    assert torch.allclose(rotations @ rotations.mT, identity.expand_as(rotations), atol=1e-14)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(count, dtype=torch.float64))
    assert torch.equal(rotations, even_rotations(count))


def test_even_rotations_average_what_all_rotations_average():
    """E[R] = 0 and E[R_ab R_cd] = delta_ac delta_bd / 3, to less than random rotations give."""
    count = 512
    rotations = even_rotations(count).flatten(1)  # (count, 9)
    second = rotations.T @ rotations / count
    random_error = count**-0.5
    assert rotations.mean(0).abs().max() < 0.2 * random_error
    assert (second - torch.eye(9, dtype=torch.float64) / 3).abs().max() < 0.2 * random_error


def test_no_rotation_is_far_from_the_even_ones():
    """A spiral on the quaternions fills them: 512 rotations leave no hole of 40 degrees."""
    random = matrices_of_quaternions(draw(400, 4, seed=4)).flatten(1)
    trace = random @ even_rotations(512).flatten(1).T  # of R^T S, (random, even)
    angle = torch.rad2deg(torch.acos(((trace.amax(1) - 1) / 2).clamp(-1, 1)))
    assert angle.max() < 40


def test_less_than_one_rotation_is_refused():
    with pytest.raises(ValueError, match="number of rotations must be >= 1, got 0"):
        even_rotations(0)
