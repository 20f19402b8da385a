"""What a trajectory is worth: every measure of ``analyze_rollouts`` on one set of frames.

Conserved quantities are measured against the sizes of their parts, so they are dimensionless:

    momentum          max over frames of | P(t) - P(0) | / mean of sum_i | p_i |
    angular momentum  max over frames of | L(t) - L(0) | / mean of sum_i | r_i x p_i |

about the centre of mass, of open structures. Measures that a file does not allow are nan: without
momenta there is no temperature, without energies no drift, without times no diffusion. Cost: linear
in frames; see the modules of the measures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ase import Atoms

from farfield.simulate.bond_stability import Bonds, find_bonds, largest_changes, stable_frames
from farfield.simulate.diffusivity import (
    diffusion_coefficients,
    in_nano,
    squared_displacements,
    unwrapped,
)
from farfield.simulate.md_results import summarise
from farfield.simulate.pair_distributions import (
    density_error,
    distance_density,
    middles,
    radial_distributions,
)
from farfield.simulate.rollout_frames import Frames
from farfield.simulate.velocities import degrees_of_freedom, kinetic_temperature

UNITS = {
    "frames": "",
    "stable_frames": "",
    "stability_time": "ps",
    "distance_mae": "",
    "mean_temperature": "K",
    "drift": "meV/atom/ps",
    "momentum": "",
    "angular_momentum": "",
}
DIFFUSIVITY_UNIT = "1e-9 m^2/s"


@dataclasses.dataclass(frozen=True)
class Reference:
    """What trajectories are compared with: its atomic numbers, its bonds and its h(r) (bins,)."""

    name: str
    numbers: np.ndarray
    bonds: Bonds
    density: np.ndarray

    @classmethod
    def of(cls, frames: Frames, options, progress: Callable[[int], object]) -> Reference:
        """The reference that frames are, with the options of the analysis."""
        density = distance_density(frames, options.xlim, options.bins, progress)
        return cls(frames.name, frames.numbers, find_bonds(frames), density)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Results of one trajectory.

    values         name -> number, units in ``UNITS``
    diffusivity    element -> D, 1e-9 m^2/s
    changes        largest change of a bond in every frame (frames,), Angstrom
    density        h(r) of the stable frames (bins,), 1/Angstrom
    distributions  pair of elements -> g(r) (bins,)
    displacements  element -> MSD (times,), Angstrom^2
    frame_time     time between frames, ps; None where nobody says it
    """

    name: str
    values: dict[str, float]
    diffusivity: dict[str, float]
    changes: np.ndarray
    density: np.ndarray
    distributions: dict[str, np.ndarray]
    displacements: dict[str, np.ndarray]
    frame_time: float | None

    def row(self) -> dict[str, object]:
        """Its line of the table."""
        found = {"trajectory": self.name, **self.values}
        return found | {f"D {element}": value for element, value in self.diffusivity.items()}


def analyse(
    frames: Frames,
    options,
    reference: Reference | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Analysis:
    """All measures of one trajectory.

    options: of the section ``analysis`` of analyze_rollouts. Distributions and diffusion count the
    stable frames alone. ValueError for a reference of another structure.
    """
    bonds = find_bonds(frames.first(1)) if reference is None else reference.bonds
    if reference is not None and not np.array_equal(frames.numbers, reference.numbers):
        raise ValueError(
            f"the reference {reference.name} has other atoms than {frames.name}, or the same in "
            "another order; give frames of the same structure"
        )
    changes = largest_changes(frames, bonds)
    stable = stable_frames(changes, options.max_bond_change)
    kept = frames.first(max(stable, 1))
    progress(len(frames) - len(kept))

    density = distance_density(kept, options.xlim, options.bins, progress)
    distributions = {}
    if frames.periodic.all():
        distributions = radial_distributions(kept, options.rdf_limit, options.bins)
    displacements, diffusivity = _diffusion(kept, options)

    values = {"frames": len(frames), "stable_frames": stable, "stability_time": np.nan}
    if frames.time is not None:
        values["stability_time"] = float(frames.time[max(stable, 1) - 1] - frames.time[0]) / 1000
    values["distance_mae"] = np.nan
    if reference is not None:
        values["distance_mae"] = density_error(density, reference.density, options.xlim)
    values |= _thermodynamics(frames) | conserved(frames)
    step = _frame_time(frames)
    return Analysis(
        frames.name,
        values,
        diffusivity,
        changes,
        density,
        distributions,
        displacements,
        None if step is None else step / 1000,
    )


def _frame_time(frames: Frames) -> float | None:
    """Time between frames, fs; None where it is not known or not the same."""
    if frames.time is None or len(frames) < 2:
        return None
    steps = np.diff(frames.time)
    return float(steps[0]) if np.allclose(steps, steps[0], rtol=1e-6) else None


def _diffusion(frames: Frames, options) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """MSD and D by element, of structures that repeat and whose times are known."""
    from ase.data import chemical_symbols

    step = _frame_time(frames)
    if step is None or not frames.periodic.any():
        return {}, {}
    moved = squared_displacements(unwrapped(frames), frames.numbers, options.origins)
    found = diffusion_coefficients(moved, step, options.fit_from)
    names = [chemical_symbols[number] for number in np.unique(frames.numbers)]
    by_element = dict(zip(names, moved.T, strict=True))
    return by_element, {
        name: in_nano(value) for name, value in zip(names, found.tolist(), strict=True)
    }


def _thermodynamics(frames: Frames) -> dict[str, float]:
    """Mean temperature, and the drift of the total energy."""
    if frames.momenta is None:
        return {"mean_temperature": np.nan, "drift": np.nan}
    kinetic = (frames.momenta**2 / (2 * frames.masses[:, None])).sum((1, 2))
    temperature = kinetic_temperature(kinetic, degrees_of_freedom(_atoms(frames, 0)))
    found = {"mean_temperature": float(temperature.mean()), "drift": np.nan}

    # the drift as run_md counts it
    if frames.potential is None or frames.time is None:
        return found
    log = {
        "time_fs": frames.time,
        "kinetic_eV": kinetic,
        "total_eV": kinetic + frames.potential,
        "temperature_K": temperature,
    }
    return found | {"drift": summarise(log, len(frames.numbers))["drift"]}


def _atoms(frames: Frames, index: int) -> Atoms:
    """One frame with its momenta."""
    return Atoms(
        frames.numbers,
        frames.positions[index],
        momenta=frames.momenta[index],
        cell=None if frames.cells is None else frames.cells[index],
        pbc=frames.periodic,
    )


def conserved(frames: Frames) -> dict[str, float]:
    """Relative changes of momentum and, of an open structure, angular momentum; see above."""
    found = {"momentum": np.nan, "angular_momentum": np.nan}
    if frames.momenta is None:
        return found
    found["momentum"] = _largest_change(frames.momenta)
    if not frames.periodic.any():
        centre = np.average(frames.positions, 1, frames.masses)[:, None]
        found["angular_momentum"] = _largest_change(
            np.cross(frames.positions - centre, frames.momenta)
        )
    return found


def _largest_change(parts: np.ndarray) -> float:
    """Largest change of the sum over atoms of (frames, atoms, 3), in units of the parts."""
    total = parts.sum(1)
    size = np.linalg.norm(parts, axis=2).sum(1).mean()
    return float(np.linalg.norm(total - total[0], axis=1).max() / size) if size else 0.0


def results_of(found: Sequence[Analysis], reference: Reference | None, options) -> dict:
    """Rows, units and curves of several trajectories, as json holds them; the last row is the mean
    where there are several.
    """
    rows = [one.row() for one in found]
    if len(rows) > 1:
        rows.append(means(rows))

    # curves by trajectory
    density = {one.name: one.density.tolist() for one in found}
    radial = {
        one.name: {pair: values.tolist() for pair, values in one.distributions.items()}
        for one in found
    }
    return {
        "rollouts": rows,
        "units": {name: unit_of(name) for name in rows[0] if unit_of(name)},
        "reference": None if reference is None else reference.name,
        "distances": {
            "r": middles(options.xlim, options.bins).tolist(),
            "reference": None if reference is None else reference.density.tolist(),
            "h": density,
        },
        "radial": {"r": middles(options.rdf_limit, options.bins).tolist(), "g": radial},
    }


def unit_of(name: str) -> str:
    """Unit of a column; empty where it has none."""
    return DIFFUSIVITY_UNIT if name.startswith("D ") else UNITS.get(name, "")


def shown_rows(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Rows whose columns have their unit behind the name."""
    heads = {name: f"{name} ({unit_of(name)})" if unit_of(name) else name for name in rows[0]}
    return [{heads[name]: row.get(name, "") for name in heads} for row in rows]


def means(rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Mean and sample standard deviation over trajectories of every number of their rows."""
    found: dict[str, object] = {"trajectory": f"mean of {len(rows)}"}
    for name in rows[0]:
        if name != "trajectory":
            values = np.array([row.get(name, np.nan) for row in rows], np.float64)
            found[name] = f"{values.mean():.4g} +- {values.std(ddof=1):.2g}"
    return found
