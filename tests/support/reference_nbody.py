"""The N-body protocol for one simulation at a time, written from its description with whole
matrices: slow and plain.
"""

import numpy as np


def draw(rng, bodies: int, frames: int = 49):
    """Charges (bodies,), positions and velocities (3, bodies), in the order of the protocol; the
    two noise blocks are drawn and dropped.
    """
    charges = rng.choice(np.array([-1.0, 0.0, 1.0]), size=(bodies, 1), p=[0.5, 0.0, 0.5])
    position = rng.randn(3, bodies)
    velocity = rng.randn(3, bodies)
    velocity = velocity * 0.5 / np.sqrt((velocity**2).sum(axis=0)).reshape(1, -1)
    rng.randn(frames, 3, bodies)
    rng.randn(frames, 3, bodies)
    return charges[:, 0], position, velocity


def coulomb(charges: np.ndarray):
    """Position (3, bodies) -> clipped forces (3, bodies) between charges."""
    products = np.outer(charges, charges)

    def force(x: np.ndarray) -> np.ndarray:
        points = x.transpose()
        norm = (points**2).sum(axis=1)
        squared = norm.reshape(-1, 1) + norm.reshape(1, -1) - 2 * points.dot(points.transpose())
        with np.errstate(divide="ignore", invalid="ignore"):
            strength = products / np.power(squared, 1.5)
        return _clipped(strength, x)

    return force


def springs(present: np.ndarray):
    """Position (3, bodies) -> clipped forces (3, bodies) of the springs ``present`` (bodies,
    bodies).
    """
    return lambda x: _clipped(-0.1 * present, x)


def _clipped(strength: np.ndarray, x: np.ndarray) -> np.ndarray:
    np.fill_diagonal(strength, 0)
    difference = np.stack([np.subtract.outer(component, component) for component in x])
    return np.clip((strength * difference).sum(axis=-1), -100, 100)


def trajectory(force, position: np.ndarray, velocity: np.ndarray, frames: int):
    """Positions and velocities (frames, bodies, 3)."""
    x, v = position.copy(), velocity.copy()
    xs, vs = [], []
    v += 0.001 * force(x)
    for step in range(1, (frames + 1) * 100):
        x += 0.001 * v
        over, under = x > 5, x < -5
        x[over], v[over] = 10 - x[over], -np.abs(v[over])
        x[under], v[under] = -10 - x[under], np.abs(v[under])
        if step % 100 == 0:
            xs.append(x.T.copy())
            vs.append(v.T.copy())
        v += 0.001 * force(x)
    return np.array(xs), np.array(vs)
