"""Laws of the batches of a moving structure: they are those of fresh pairs, bit for bit, and pairs
are rarely searched.
"""

import numpy as np
import pytest
import torch
from ase import Atoms

from farfield.dataloader.from_ase import batch_from_atoms
from farfield.dataloader.moving_structure import MovingStructure

CUTOFF = 3.0


def structure(pbc) -> tuple[Atoms, np.random.Generator]:
    rng = np.random.default_rng(3)
    cell = 7 * np.eye(3) + 0.3 * rng.standard_normal((3, 3))
    return Atoms("C40", rng.uniform(0, 7, (40, 3)), cell=cell, pbc=pbc), rng


def same(one, other) -> bool:
    """Whether two batches have equal tensors."""
    pairs = [(one.positions, other.positions), (one.atomic_numbers, other.atomic_numbers)]
    pairs += [(one.graph.src, other.graph.src), (one.graph.dst, other.graph.dst)]
    pairs += [(one.cell, other.cell), (one.image_shift, other.image_shift)]
    return all(a is None and b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("pbc", [False, True, [True, False, True]])
def test_every_step_has_the_batch_of_a_fresh_search(pbc):
    atoms, rng = structure(pbc)
    moving = MovingStructure(CUTOFF)
    for _ in range(60):
        # the walk takes atoms through the walls of the cell
        atoms.positions += 0.03 * rng.standard_normal((40, 3)) + [0.05, 0, 0]
        assert same(moving.batch(atoms), batch_from_atoms([atoms], CUTOFF))
    assert 2 <= moving.searches <= 30


def test_another_structure_cell_or_input_is_searched_anew():
    atoms, _ = structure(True)
    atoms.info["total_charge"] = 1
    moving = MovingStructure(CUTOFF, inputs=["total_charge"])
    moving.batch(atoms)
    moving.batch(atoms)
    assert moving.searches == 1

    atoms.info["total_charge"] = 2
    assert moving.batch(atoms).graph_features["total_charge"].tolist() == [2.0]
    atoms.set_cell(1.01 * atoms.cell.array, scale_atoms=True)
    assert same(moving.batch(atoms), batch_from_atoms([atoms], CUTOFF))
    atoms.numbers[0] = 1
    assert moving.batch(atoms).atomic_numbers[0] == 1
    assert moving.searches == 4


def test_positions_that_are_not_numbers_are_refused():
    atoms, _ = structure(False)
    moving = MovingStructure(CUTOFF)
    moving.batch(atoms)
    atoms.positions[3] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        moving.batch(atoms)
