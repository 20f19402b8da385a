"""Pictures of trajectories: bonds, h(r), g(r) and mean squared displacements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from farfield.common import figures
from farfield.simulate.pair_distributions import middles
from farfield.simulate.rollout_results import Analysis, Reference

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_plots(
    folder: Path, found: Sequence[Analysis], reference: Reference | None, options
) -> None:
    """Write every picture that the results allow."""
    figures.save_figure(folder / "bonds.png", draw_bonds(found, options.max_bond_change))
    figures.save_figure(folder / "distances.png", draw_densities(found, reference, options))
    distance = middles(options.rdf_limit, options.bins)
    curves = {
        f"{name}, {one.name}": (distance, values)
        for one in found
        for name, values in one.distributions.items()
    }
    if curves:
        figures.save_figure(folder / "radial.png", _draw(curves, "r (A)", "g(r)"))

    moved = {
        f"{name}, {one.name}": (one.frame_time * np.arange(len(values)), values)
        for one in found
        for name, values in one.displacements.items()
    }
    if moved:
        figure = _draw(moved, "time (ps)", "mean squared displacement (A$^2$)")
        figures.save_figure(folder / "displacements.png", figure)


def draw_bonds(found: Sequence[Analysis], limit: float) -> Figure:
    """Largest change of a bond against time, and the limit."""
    timed = all(one.frame_time is not None for one in found)
    curves = {
        one.name: ((one.frame_time if timed else 1) * np.arange(len(one.changes)), one.changes)
        for one in found
    }
    figure = _draw(curves, "time (ps)" if timed else "frame", "largest change of a bond (A)")
    figure.axes[0].axhline(limit, color="k", linestyle=":", linewidth=1)
    return figure


def draw_densities(found: Sequence[Analysis], reference: Reference | None, options) -> Figure:
    """h(r) of every trajectory and of the reference."""
    distance = middles(options.xlim, options.bins)
    curves = {one.name: (distance, one.density) for one in found}
    if reference is not None:
        curves[f"reference, {reference.name}"] = (distance, reference.density)
    return _draw(curves, "r (A)", "h(r) (1/A)")


def _draw(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], across: str, up: str) -> Figure:
    """One panel with named curves."""
    figure = figures.new_figure((7, 4))
    axis = figure.subplots()
    for name, (x, y) in curves.items():
        axis.plot(x, np.where(np.isfinite(y), y, np.nan), linewidth=1, label=name)
    axis.set(xlabel=across, ylabel=up)
    axis.legend(fontsize="small")
    return figure
