"""Files of frames of one molecule with random labels."""

import numpy as np


def write_molecule(path, frames, seed, atoms=3):
    """Frames of one molecule of carbon."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(exist_ok=True)
    shape = (frames, atoms, 3)
    np.savez(
        path,
        Z=np.full(atoms, 6),
        R=1.5 * np.arange(atoms)[None, :, None] + 0.1 * generator.normal(size=shape),
        E=generator.normal(size=frames),
        F=generator.normal(size=shape),
    )
