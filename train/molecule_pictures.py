"""Pictures of molecules: balls and sticks, each row seen along the direction in which its first
molecule is thinnest. Bonds by the distance table of ``chemistry/distance_orders.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from farfield.common.figures import new_figure
from farfield.dataloader.chemistry.distance_orders import distance_orders
from farfield.dataloader.structures import Structures

INCHES = 1.9  # of a picture
BALL = 0.45  # radius of a ball / covalent radius
STICK = 1.5  # points, width of a single bond
MARGIN = 0.6  # Angstrom


class Picture(NamedTuple):
    """One molecule, or none, and the words above it."""

    title: str
    molecule: Structures


def draw_molecules(rows: Sequence[Sequence[Picture]]):
    """A figure with a row for each sequence of pictures; molecules of a row have one scale."""
    columns = max(map(len, rows))
    figure = new_figure((INCHES * columns, INCHES * len(rows)))

    # all in one pair of axes, a picture in each unit square: one for each picture draws slowly
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set(xlim=(-0.5, columns - 0.5), ylim=(0.5 - len(rows), 0.5), aspect="equal")
    for line, row in enumerate(rows):
        plane = _widest_plane(row[0].molecule.positions)
        flat = [_seen(one.molecule.positions, plane) for one in row]
        reach = max(np.abs(points[:, :2]).max(initial=0.0) for points in flat) + MARGIN
        for column, (one, points) in enumerate(zip(row, flat, strict=True)):
            centre = np.array([column, -line])
            if len(points):
                _draw(axis, one.molecule, points, centre, 0.5 / reach)
            axis.text(column, 0.5 - line, one.title, ha="center", va="top", fontsize="small")
    return figure


def _widest_plane(positions: np.ndarray) -> np.ndarray:
    """Axes (3, 3) in rows: in the plane where atoms lie widest, then towards the eye."""
    centred = positions - positions.mean(0)
    return np.linalg.svd(centred.T @ centred)[0].T


def _seen(positions: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Positions (atoms, 3) about their mean on the axes of a plane."""
    return (positions - positions.sum(0) / max(len(positions), 1)) @ plane.T


def _draw(axis, molecule: Structures, points: np.ndarray, centre: np.ndarray, scale: float) -> None:
    """Sticks, then balls, the nearest to the eye last.

    points (atoms, 3): x, y and towards the eye. centre (2,): of the picture on the axes. scale:
    length on the axes of an Angstrom.
    """
    from matplotlib.collections import LineCollection, PatchCollection  # --help does not wait
    from matplotlib.patches import Circle

    places = centre + scale * points[:, :2]
    table = distance_orders(molecule)
    sticks = LineCollection(places[table.ends], linewidths=STICK * table.kinds, colors="0.4")
    axis.add_collection(sticks)

    order = np.argsort(points[:, 2])
    numbers = molecule.atomic_numbers[order]
    radii = scale * BALL * covalent_radii[numbers]
    balls = [Circle(place, radius) for place, radius in zip(places[order], radii, strict=True)]
    colours = jmol_colors[numbers]
    axis.add_collection(
        PatchCollection(balls, facecolors=colours, edgecolors="0.2", linewidths=0.5, zorder=3)
    )
