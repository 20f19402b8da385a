"""The picture of the README: one molecule, its near edges and its far moments.

    python docs/figures/draw_picture.py                  # writes docs/figures/near_and_far.svg

The molecule is 4-amino-4'-nitrostilbene, built from bonds of 1.40 Angstrom at 120 degrees. One
atom listens. Its near field is every atom inside the cutoff. Its far field is all atoms: each adds
to the moments, and the atom reads the moments. Every call writes the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline

BOND, BOND_TO_H, NITRO = 1.40, 1.08, 1.23  # Angstrom
CUTOFF = 3.0
LISTENER = 3  # the ring carbon that carries the amino group
MOMENTS = np.array([3.55, -4.1])  # centre of the box
NEAR, FAR, INK = "#0f766e", "#c2570c", "#1f2937"
COLOURS = {"C": "#4b5563", "N": "#3b5bdb", "O": "#e03131", "H": "#d1d5db"}
SIZES = {"C": 0.27, "N": 0.27, "O": 0.27, "H": 0.17}


def unit(degrees: float) -> np.ndarray:
    """Unit vector at an angle to the x axis."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def molecule() -> tuple[list[str], np.ndarray]:
    """Elements and positions (atoms, 2), in Angstrom."""
    elements, places = [], []

    def add(element: str, place: np.ndarray):
        elements.append(element)
        places.append(place)

    # two benzene rings, joined by CH=CH
    first_carbon, second_carbon = 2 * BOND * unit(0), 2 * BOND * unit(0) + BOND * unit(60)
    left, right = np.zeros(2), second_carbon + 2 * BOND * unit(0)
    for centre in (left, right):
        for angle in range(0, 360, 60):
            add("C", centre + BOND * unit(angle))
    add("C", first_carbon)
    add("C", second_carbon)
    add("H", first_carbon + BOND_TO_H * unit(-60))
    add("H", second_carbon + BOND_TO_H * unit(120))
    for centre in (left, right):
        for angle in (60, 120, 240, 300):
            add("H", centre + (BOND + BOND_TO_H) * unit(angle))

    # the amino group on the left, the nitro group on the right
    amino, nitro = left - 2 * BOND * unit(0), right + 2 * BOND * unit(0)
    add("N", amino)
    add("N", nitro)
    for angle in (60, -60):
        add("H", amino - BOND_TO_H * unit(angle))
        add("O", nitro + NITRO * unit(angle))
    return elements, np.array(places)


def draw_bonds(axes: Axes, places: np.ndarray):
    """A line for each pair of atoms that is as close as a bond."""
    for i, here in enumerate(places):
        for there in places[i + 1 :]:
            if np.linalg.norm(there - here) < 1.05 * BOND:
                axes.plot(*zip(here, there, strict=True), color="#9ca3af", lw=3.2, zorder=3)


def draw_atoms(axes: Axes, elements: list[str], places: np.ndarray):
    """A disc for each atom, a ring around the listener."""
    for element, place in zip(elements, places, strict=True):
        disc = Circle(place, SIZES[element], fc=COLOURS[element], ec="white", lw=1.4, zorder=6)
        axes.add_patch(disc)
    ring = Circle(places[LISTENER], 0.42, fc="none", ec=INK, lw=2.2, zorder=7)
    axes.add_patch(ring)


def draw_near_field(axes: Axes, places: np.ndarray):
    """The cutoff and an edge from each atom inside it."""
    target = places[LISTENER]
    axes.add_patch(Circle(target, CUTOFF, fc=NEAR, ec="none", alpha=0.10, zorder=0))
    axes.add_patch(Circle(target, CUTOFF, fc="none", ec=NEAR, lw=1.6, ls=(0, (5, 3)), zorder=1))

    distances = np.linalg.norm(places - target, axis=1)
    for source in places[(distances > 0) & (distances < CUTOFF)]:
        edge = FancyArrowPatch(
            source,
            target,
            arrowstyle="-|>",
            mutation_scale=11,
            shrinkA=6,
            shrinkB=13,
            color=NEAR,
            lw=1.5,
            connectionstyle="arc3,rad=0.12",
            zorder=5,
        )
        axes.add_patch(edge)


def draw_far_field(axes: Axes, places: np.ndarray):
    """A thread from each atom to the moments, and the way back to the listener."""
    mouth = MOMENTS + np.array([0.0, 0.95])
    for place in places:
        bend = np.array([0.5 * (place[0] + mouth[0]), mouth[1] + 0.9])
        thread = Outline([place, bend, mouth], [Outline.MOVETO, Outline.CURVE3, Outline.CURVE3])
        axes.add_patch(PathPatch(thread, fc="none", ec=FAR, lw=0.9, alpha=0.5, zorder=2))
    answer = FancyArrowPatch(
        MOMENTS - np.array([2.9, 0.1]),
        places[LISTENER],
        arrowstyle="-|>",
        mutation_scale=20,
        shrinkA=0,
        shrinkB=14,
        color=FAR,
        lw=2.8,
        connectionstyle="arc3,rad=-0.5",
        zorder=4,
    )
    axes.add_patch(answer)


def draw_moments(axes: Axes):
    """The box of moments: one shape for each degree l, |Y_l| in the plane, coloured by its sign."""
    corner = MOMENTS - np.array([2.9, 0.95])
    box = FancyBboxPatch(
        corner, 5.8, 1.9, boxstyle="round,pad=0,rounding_size=0.25", fc="#fff7ed", ec=FAR, lw=1.8
    )
    axes.add_patch(box)
    for degree in range(3):
        centre = MOMENTS + np.array([-1.75 + 1.75 * degree, 0.18])
        angles = np.linspace(0, 2 * np.pi, 97)
        radius = np.cos(degree * angles)
        shape = centre + 0.55 * np.abs(radius)[:, None] * np.stack(
            [np.cos(angles), np.sin(angles)], 1
        )
        for sign, colour in ((1, FAR), (-1, "#fdba74")):
            lobes = np.where((sign * radius >= 0)[:, None], shape, centre)
            axes.fill(*lobes.T, color=colour, lw=0, zorder=4)
        axes.text(*(centre - [0, 0.83]), f"$l = {degree}$", ha="center", va="center", size=11)


def label(axes: Axes, place: tuple[float, float], title: str, words: str, colour: str):
    """A title in colour with a line of text under it."""
    axes.text(*place, title, color=colour, size=16, weight="bold", va="bottom")
    axes.text(place[0], place[1] - 0.12, words, color=INK, size=12, va="top")


def draw() -> Figure:
    """The whole picture."""
    elements, places = molecule()
    figure = Figure(figsize=(10, 6.1), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    draw_near_field(axes, places)
    draw_far_field(axes, places)
    draw_moments(axes)
    draw_bonds(axes, places)
    draw_atoms(axes, elements, places)

    near_words = "edges from atoms inside the cutoff\nto the ringed atom"
    label(axes, (-4.6, 4.0), "near field", near_words, NEAR)
    far_words = "all atoms add to the\nmoments; every atom\nreads them"
    label(axes, (7.0, -3.65), "far field", far_words, FAR)
    axes.set(xlim=(-5.0, 10.6), ylim=(-5.35, 4.6), aspect="equal")
    axes.axis("off")
    return figure


def main():
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).with_name("near_and_far.svg")
    parser.add_argument("--out", type=Path, default=default, help="svg or png file to write")
    out = parser.parse_args().out

    # a fixed salt and no date: the same bytes in every call
    matplotlib.rcParams["svg.hashsalt"] = "farfield"
    draw().savefig(out, dpi=100, metadata={"Date": None} if out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
