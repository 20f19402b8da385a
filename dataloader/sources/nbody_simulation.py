"""N-body simulations by the public protocol: particles that repel, attract, or hang on springs.

Charged particles (the default) feel F_i = sum_j q_i q_j (x_i - x_j) / |x_i - x_j|^3, particles on
springs F_i = -k sum_j s_ij (x_i - x_j) with k = 0.1 and s_ij = s_ji in {0, 1}. Every component of
F_i is clipped to +-100. The motion is a kick-drift scheme with dt = 0.001,

    v <- v + dt F(x)
    x <- x + dt v
    walls at +-5:  x > 5:  x <- 10 - x, v <- -|v|  (the same below -5 with the other sign)

and every 100th x and v is a frame, 49 in all; the initial state is not a frame. All quantities are
dimensionless.

Source: the simulator of Kipf et al. 2018 (arXiv:1802.04687) in three dimensions, as used by Fuchs
et al. 2020 (arXiv:2006.10503). The draws follow it number by number on NumPy's legacy generator;
per simulation: interactions, positions N(0, s), directions of speed 0.5, and two blocks of normal
numbers (frames x 3 x bodies) that the protocol draws as observation noise of size zero. A close
encounter turns the last digit of a force into another trajectory (5 % of the simulations by their
last frame), so every operation is the protocol's, in its order: the squared distance |a|^2 + |b|^2
- 2 a.b with a.b from the linear algebra library, the power 3/2, the order in which NumPy sums. With
the same NumPy on the same machine the frames are the protocol's bit for bit; elsewhere they agree
to rounding.

Cost: all simulations of a chunk move together in arrays (3, bodies, simulations) that fit in the
cache: 1.3 ms per simulation of 5 bodies (a loop over simulations takes 170 ms).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from farfield.models.choices import check_choice

TIME_STEP = 0.001
STEPS_PER_FRAME = 100
FRAME_TIME = TIME_STEP * STEPS_PER_FRAME
FRAMES = 49
BOX = 5.0  # half width
SPEED = 0.5
LARGEST_FORCE = 0.1 / TIME_STEP
PARTIAL_SUMS = 8  # of NumPy's sum over a contiguous axis
PAIRS_PER_CHUNK = 3840  # of simulations that move together, so that a step fits in the cache
LEAST_CHUNK = 8  # simulations


class ChargedParticles:
    """Coulomb forces between charges +-1, each sign with probability 1/2.

    Initial positions are drawn from N(0, 1).
    """

    position_std = 1.0

    def draw(self, rng: np.random.RandomState, bodies: int) -> dict[str, np.ndarray]:
        """Charges (bodies,)."""
        signs = np.array([-1.0, 0.0, 1.0])
        return {"charges": rng.choice(signs, size=(bodies, 1), p=[0.5, 0.0, 0.5])[:, 0]}

    def coupling(
        self, drawn: dict[str, np.ndarray], first: np.ndarray, second: np.ndarray
    ) -> np.ndarray:
        """Products q_i q_j (pairs, simulations) of the particles ``first`` and ``second``."""
        charges = drawn["charges"].T
        return charges[first] * charges[second]

    def strength(
        self, coupling: np.ndarray, squared_distances: Callable[[], np.ndarray], out: np.ndarray
    ) -> np.ndarray:
        """Factor q_i q_j / r^3 of x_i - x_j in the force of every pair."""
        np.power(squared_distances(), 1.5, out=out)
        return np.divide(coupling, out, out=out)


class Springs:
    """Springs of strength 0.1 and rest length 0, between two particles with probability 1/2.

    Initial positions are drawn from N(0, 1/2).
    """

    position_std = 0.5
    constant = 0.1

    def draw(self, rng: np.random.RandomState, bodies: int) -> dict[str, np.ndarray]:
        """Springs (bodies, bodies), symmetric, 0 or 1; charges (bodies,) are zero."""
        drawn = rng.choice(np.array([0.0, 0.5, 1.0]), size=(bodies, bodies), p=[0.5, 0.0, 0.5])
        below = np.tril(drawn, -1)
        return {"charges": np.zeros(bodies), "springs": below + below.T}

    def coupling(
        self, drawn: dict[str, np.ndarray], first: np.ndarray, second: np.ndarray
    ) -> np.ndarray:
        """Springs (pairs, simulations) between the particles ``first`` and ``second``."""
        return np.ascontiguousarray(drawn["springs"][:, first, second].T)

    def strength(
        self, coupling: np.ndarray, squared_distances: Callable[[], np.ndarray], out: np.ndarray
    ) -> np.ndarray:
        """Factor -k s_ij of x_i - x_j in the force of every pair, at any distance."""
        return np.multiply(coupling, -self.constant, out=out)


DYNAMICS = {"charged": ChargedParticles(), "springs": Springs()}


def find_dynamics(name: str):
    """The dynamics called ``name``; ``ValueError`` for an unknown name."""
    check_choice("dynamics", name, DYNAMICS)
    return DYNAMICS[name]


def simulate_nbody(
    num_simulations: int,
    rng: np.random.RandomState,
    bodies: int = 5,
    dynamics: str = "charged",
    frames: int = FRAMES,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Simulate ``num_simulations`` boxes of ``bodies`` particles by the protocol of this module.

    rng: legacy generator; splits that follow each other share one, since the protocol has a single
    stream of random numbers. progress: called with the number of newly finished frames (simulations
    x frames in all).

    Returns float64 arrays ``positions`` and ``velocities`` (simulations, frames, bodies, 3),
    ``charges`` (simulations, bodies), and for springs ``springs`` (simulations, bodies, bodies).
    ``ValueError`` for sizes that are too small and for unknown dynamics.
    """
    start = draw_starts(num_simulations, rng, bodies, dynamics, frames)
    return integrate(start, dynamics, frames, progress)


def draw_starts(
    num_simulations: int,
    rng: np.random.RandomState,
    bodies: int = 5,
    dynamics: str = "charged",
    frames: int = FRAMES,
) -> dict[str, np.ndarray]:
    """The random part: ``start_positions``, ``start_velocities`` (simulations, 3, bodies) and what
    the dynamics draws. Cost: 80 us each.
    """
    law = find_dynamics(dynamics)
    for name, value, least in (
        ("num_simulations", num_simulations, 1),
        ("bodies", bodies, 2),
        ("frames", frames, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}")

    rows = []
    for _ in range(num_simulations):
        drawn = law.draw(rng, bodies)
        drawn["start_positions"] = rng.standard_normal((3, bodies)) * law.position_std
        direction = rng.standard_normal((3, bodies))
        length = np.sqrt((direction**2).sum(axis=0)).reshape(1, -1)
        drawn["start_velocities"] = direction * SPEED / length

        # the protocol draws observation noise of size zero here
        rng.standard_normal((2, frames, 3, bodies))
        rows.append(drawn)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def integrate(
    start: dict[str, np.ndarray],
    dynamics: str = "charged",
    frames: int = FRAMES,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Move the simulations drawn by :func:`draw_starts` to their frames.

    Arguments and results as in :func:`simulate_nbody`.
    """
    count, _, bodies = start["start_positions"].shape
    chunk = max(LEAST_CHUNK, PAIRS_PER_CHUNK // (bodies * (bodies - 1) // 2))
    positions = np.empty((count, frames, bodies, 3))
    velocities = np.empty((count, frames, bodies, 3))
    for first in range(0, count, chunk):
        part = {name: values[first : first + chunk] for name, values in start.items()}
        box = _Boxes(part, find_dynamics(dynamics))

        # (3, bodies, simulations) -> (simulations, bodies, 3)
        for frame in range(frames):
            box.advance(STEPS_PER_FRAME)
            positions[first : first + chunk, frame] = box.position.transpose(2, 1, 0)
            velocities[first : first + chunk, frame] = box.velocity.transpose(2, 1, 0)
            if progress is not None:
                progress(box.position.shape[2])
    kept = {name: values for name, values in start.items() if not name.startswith("start_")}
    return {"positions": positions, "velocities": velocities, **kept}


class _Boxes:
    """State of a chunk of simulations, and the work arrays of a step.

    position, velocity: (3, bodies, simulations).
    """

    def __init__(self, start: dict[str, np.ndarray], law):
        self.position = np.ascontiguousarray(start["start_positions"].transpose(1, 2, 0))
        self.velocity = np.ascontiguousarray(start["start_velocities"].transpose(1, 2, 0))
        _, bodies, count = self.position.shape
        self.law = law

        # pairs first < second, in this order and sorted by second
        self.first, self.second = np.triu_indices(bodies, 1)
        self.coupling = law.coupling(start, self.first, self.second)
        self.by_second = np.lexsort((self.first, self.second))

        # rows: pairs in which a body is first; columns: in which it is second, sorted by second
        ends = np.cumsum(np.arange(bodies - 1, -1, -1))
        self.rows = [slice(end - (bodies - 1 - body), end) for body, end in enumerate(ends)]
        ends = np.cumsum(np.arange(bodies))
        self.columns = [slice(end - body, end) for body, end in enumerate(ends)]

        # work arrays
        self.norm = np.empty((bodies, count))
        self.sums = np.empty((PARTIAL_SUMS, *self.position.shape))
        self.scratch = np.empty_like(self.position)
        self.one, self.other = np.empty((2, 3, len(self.first), count))
        self.squared, self.strength = np.empty((2, len(self.first), count))

    def advance(self, steps: int):
        """``steps`` times kick, drift, reflect."""
        for _ in range(steps):
            np.multiply(self.forces(), TIME_STEP, out=self.scratch)
            self.velocity += self.scratch
            np.multiply(self.velocity, TIME_STEP, out=self.scratch)
            self.position += self.scratch
            reflect(self.position, self.velocity)

    def forces(self) -> np.ndarray:
        """Clipped force on every particle (3, bodies, simulations)."""
        strength = self.law.strength(self.coupling, self.squared_distances, self.strength)
        on_first, on_second = self.one, self.other
        self.position.take(self.first, axis=1, out=on_first, mode="clip")
        on_first -= self.position.take(self.second, axis=1, out=on_second, mode="clip")
        on_first *= strength
        by_second = on_first.take(self.by_second, axis=1, out=on_second, mode="clip")
        force = self._sum_of_pairs(on_first, by_second)
        np.minimum(force, LARGEST_FORCE, out=force)
        return np.maximum(force, -LARGEST_FORCE, out=force)

    def _sum_of_pairs(self, by_first: np.ndarray, by_second: np.ndarray) -> np.ndarray:
        """Sum over the partners j of every particle, in the order of NumPy's ``sum``.

        That is eight partial sums, then one for the rest.
        """
        bodies = self.position.shape[1]
        grouped = bodies - bodies % PARTIAL_SUMS
        sums = self.sums
        sums[: PARTIAL_SUMS if grouped else 1] = 0
        for j in range(bodies):
            # partners from here on are added to the joined sum
            if j == grouped and grouped:
                _join(sums)
            partial = sums[j % PARTIAL_SUMS if j < grouped else 0]
            partial[:, :j] += by_second[:, self.columns[j]]
            partial[:, j + 1 :] -= by_first[:, self.rows[j]]
        if grouped == bodies:
            _join(sums)
        return sums[0]

    def squared_distances(self) -> np.ndarray:
        """``|a|^2 + |b|^2 - 2 a.b`` of every pair (pairs, simulations)."""
        np.multiply(self.position, self.position, out=self.scratch)
        np.add(self.scratch[0], self.scratch[1], out=self.norm)
        self.norm += self.scratch[2]
        squared = self.norm.take(self.first, axis=0, out=self.squared, mode="clip")
        squared += self.norm.take(self.second, axis=0, out=self.strength, mode="clip")

        # (simulations, bodies, bodies), by one BLAS call per simulation
        points = np.ascontiguousarray(self.position.transpose(2, 0, 1))
        products = np.matmul(points.transpose(0, 2, 1), points)
        np.multiply(products[:, self.first, self.second].T, 2, out=self.strength)
        squared -= self.strength
        return squared


def _join(sums: np.ndarray):
    """Add the eight partial sums by halves into the first."""
    step = 1
    while step < PARTIAL_SUMS:
        sums[:: 2 * step] += sums[step :: 2 * step]
        step *= 2


def reflect(position: np.ndarray, velocity: np.ndarray):
    """Elastic walls at +-BOX, in place: a particle beyond a wall is mirrored and flies inward."""
    if position.max() > BOX:
        beyond = position > BOX
        position[beyond] = 2 * BOX - position[beyond]
        velocity[beyond] = -np.abs(velocity[beyond])
    if position.min() < -BOX:
        beyond = position < -BOX
        position[beyond] = -2 * BOX - position[beyond]
        velocity[beyond] = np.abs(velocity[beyond])
