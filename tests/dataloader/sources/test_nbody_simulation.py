"""Laws of the N-body generator: the protocol itself, conservation, walls, the stream of random
numbers.
"""

import numpy as np
import pytest

from farfield.dataloader.sources.nbody_simulation import (
    BOX,
    STEPS_PER_FRAME,
    TIME_STEP,
    draw_starts,
    integrate,
    reflect,
    simulate_nbody,
)
from tests.support import reference_nbody as slow


def legacy(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)  # noqa: NPY002 - the protocol's generator


def start(positions, velocities, charges) -> dict[str, np.ndarray]:
    """One simulation from lists (bodies, 3)."""
    position, velocity = (
        np.array(values, dtype=float).T[None] for values in (positions, velocities)
    )
    return {
        "start_positions": position,
        "start_velocities": velocity,
        "charges": np.array([charges], dtype=float),
    }


def test_random_numbers_follow_the_protocol_through_the_splits():
    rng, other = legacy(42), legacy(42)
    parts = [draw_starts(count, rng) for count in (3, 2)]
    for part in parts:
        for index in range(len(part["charges"])):
            charges, position, velocity = slow.draw(other, 5)
            assert np.array_equal(part["charges"][index], charges)
            assert np.array_equal(part["start_positions"][index], position)
            assert np.array_equal(part["start_velocities"][index], velocity)


@pytest.mark.parametrize(("bodies", "frames"), [(2, 12), (5, 49), (9, 5), (20, 5)])
def test_frames_are_those_of_the_protocol(bodies, frames):
    begin = draw_starts(2, legacy(42), bodies)
    result = integrate(begin, frames=frames)
    for index in range(2):
        force = slow.coulomb(begin["charges"][index])
        x, v = slow.trajectory(
            force, begin["start_positions"][index], begin["start_velocities"][index], frames
        )
        np.testing.assert_allclose(result["positions"][index], x, rtol=0, atol=1e-10)
        np.testing.assert_allclose(result["velocities"][index], v, rtol=0, atol=1e-10)


def test_springs_follow_their_law():
    begin = draw_starts(3, legacy(1), dynamics="springs")
    result = integrate(begin, "springs", frames=20)
    present = result["springs"]
    assert set(np.unique(present)) == {0.0, 1.0}
    assert np.array_equal(present, present.transpose(0, 2, 1))
    assert not present.diagonal(axis1=1, axis2=2).any()
    assert not result["charges"].any()
    for index in range(3):
        x, _ = slow.trajectory(
            slow.springs(present[index].copy()),
            begin["start_positions"][index],
            begin["start_velocities"][index],
            20,
        )
        np.testing.assert_allclose(result["positions"][index], x, rtol=0, atol=1e-10)


def test_first_frame_is_hundred_steps_after_the_start():
    # equal charges far apart hardly feel each other: free flight
    begin = start([[-4, 0, 0], [4, 0, 0]], [[0, 0.5, 0], [0, 0, 0.5]], [0, 0])
    result = integrate(begin, frames=2)
    flight = begin["start_positions"] + STEPS_PER_FRAME * TIME_STEP * begin["start_velocities"]
    np.testing.assert_allclose(result["positions"][0, 0], flight[0].T, atol=1e-13)


def test_momentum_and_energy_of_two_charges():
    begin = start([[-0.5, 0, 0], [0.5, 0.2, 0]], [[0.1, 0.4, 0], [0, -0.3, 0.2]], [1, -1])
    result = integrate(begin, frames=15)
    x, v = result["positions"][0], result["velocities"][0]
    np.testing.assert_allclose(
        v.sum(axis=1),
        np.broadcast_to(begin["start_velocities"][0].sum(axis=1), (15, 3)),
        atol=1e-12,
    )
    difference = x[:, 0] - x[:, 1]
    distance = np.linalg.norm(difference, axis=1, keepdims=True)
    half_kick = (
        0.5 * TIME_STEP * difference / distance**3
    )  # the scheme keeps velocities half a step behind positions
    v = v + np.stack([-half_kick, half_kick], axis=1)
    kinetic = 0.5 * (v**2).sum(axis=(1, 2))
    assert np.ptp(kinetic - 1 / distance[:, 0]) < 1e-3 * np.ptp(kinetic)
    assert np.ptp(kinetic) > 0.1


def test_like_charges_repel_and_opposite_charges_attract():
    for charges, grows in (([1, 1], True), ([1, -1], False)):
        result = integrate(
            start([[-1, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]], charges), frames=5
        )
        distance = np.linalg.norm(
            result["positions"][0, :, 0] - result["positions"][0, :, 1], axis=1
        )
        assert (distance[-1] > 2) == grows


def test_force_is_clipped():
    # at a distance of 0.01 the unclipped force is 10^4; the first kick is dt * 100 = 0.1
    begin = start([[0, 0, 0], [0.01, 0, 0]], [[0, 0, 0], [0, 0, 0]], [1, 1])
    result = integrate(begin, frames=1)
    assert 0.1 < result["velocities"][0, 0, 1, 0] < 100 * STEPS_PER_FRAME * TIME_STEP


def test_walls_mirror_and_turn_inward():
    position = np.array([5.25, -5.5, 4.0, -5.0])
    velocity = np.array([2.0, -3.0, 1.0, -1.0])
    reflect(position, velocity)
    assert position.tolist() == [4.75, -4.5, 4.0, -5.0]
    assert velocity.tolist() == [-2.0, 3.0, 1.0, -1.0]


def test_fast_particles_stay_in_the_box_with_their_speed():
    begin = start([[4.9, 0, 0], [-4.9, -4.9, 3]], [[3, 0, 0], [-2, -1, 2.5]], [0, 0])
    result = integrate(begin, frames=30)
    assert np.abs(result["positions"]).max() <= BOX
    speed = np.abs(begin["start_velocities"][0].T)
    np.testing.assert_allclose(
        np.abs(result["velocities"][0]), np.broadcast_to(speed, (30, 2, 3)), atol=1e-13
    )


def test_result_depends_on_the_seed_alone(monkeypatch):
    from farfield.dataloader.sources import nbody_simulation

    first = simulate_nbody(9, legacy(3), frames=4)
    monkeypatch.setattr(nbody_simulation, "PAIRS_PER_CHUNK", 80)  # chunks of 8
    done = []
    second = simulate_nbody(9, legacy(3), frames=4, progress=done.append)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert sum(done) == 9 * 4
    assert not np.array_equal(
        first["positions"], simulate_nbody(9, legacy(4), frames=4)["positions"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bodies": 1}, "bodies must be >= 2, got 1"),
        ({"num_simulations": 0}, "num_simulations must be >= 1, got 0"),
        ({"frames": 0}, "frames must be >= 1, got 0"),
        ({"dynamics": "magnets"}, "dynamics must be one of charged, springs, got 'magnets'"),
    ],
)
def test_bad_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate_nbody(**({"num_simulations": 2, "rng": legacy(0)} | change))
