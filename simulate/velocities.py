"""First velocities, and the temperature that they have.

    T = 2 E_kin / (f k),      f = 3 N - removed

A run at constant energy keeps total momentum and, for an open structure, angular momentum. Where
they are zero their degrees of freedom hold no heat: 3 for the momentum; 3 for the rotation, 2 for a
structure on a line. A bath heats every degree of freedom, so there f = 3 N. Cost: linear in the
atoms.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units

AT_REST = 1e-5  # share of the momenta: files of structures have eight digits
ON_A_LINE = 1e-3  # second extent of a structure over the first


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann velocities of exactly this temperature (K), without drift.

    Open structures do not rotate either. The temperature is the average of the degrees of freedom
    that are left, as :func:`degrees_of_freedom` counts them.
    """
    from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta

    thermalize_momenta(atoms, temperature, rng=rng)
    if len(atoms) > 1:
        Stationary(atoms, preserve_temperature=False)
        if not atoms.pbc.any():
            # atoms on a line have no inertia around it: ASE divides by zero and drops the result
            with np.errstate(divide="ignore", invalid="ignore"):
                ZeroRotation(atoms, preserve_temperature=False)

    # the draw and what was removed leave another temperature
    now = kinetic_temperature(atoms.get_kinetic_energy(), degrees_of_freedom(atoms))
    if now > 0:
        atoms.set_momenta(atoms.get_momenta() * (temperature / now) ** 0.5)


def degrees_of_freedom(atoms: Atoms) -> int:
    """Degrees of freedom that hold heat in a run at constant energy from these momenta."""
    number, momenta = atoms.get_number_of_degrees_of_freedom(), atoms.get_momenta()
    if len(atoms) == 1:
        return number

    if np.abs(momenta.sum(0)).max() <= AT_REST * np.abs(momenta).sum():
        number -= 3
    if not atoms.pbc.any() and _does_not_rotate(atoms):
        number -= 2 if _extent_ratio(atoms) < ON_A_LINE else 3
    return max(number, 1)


def kinetic_temperature(kinetic: float, number: int) -> float:
    """Temperature (K) of a kinetic energy (eV) in so many degrees of freedom."""
    return 2 * kinetic / (number * units.kB)


def counted_degrees(kinetic: float, temperature: float) -> int:
    """Degrees of freedom with which a temperature (K) was computed; inverse of the above."""
    return round(2 * kinetic / (temperature * units.kB))


def _does_not_rotate(atoms: Atoms) -> bool:
    arms = atoms.positions - atoms.get_center_of_mass()
    angular = np.cross(arms, atoms.get_momenta())
    most = (np.linalg.norm(arms, axis=1) * np.linalg.norm(atoms.get_momenta(), axis=1)).sum()
    return bool(np.linalg.norm(angular.sum(0)) <= AT_REST * most)


def _extent_ratio(atoms: Atoms) -> float:
    """Second principal extent of a structure over the first: 0 for atoms on a line."""
    extents = np.linalg.svd(atoms.positions - atoms.positions.mean(0), compute_uv=False)
    return float(extents[1] / extents[0]) if extents[0] > 0 else 0.0
