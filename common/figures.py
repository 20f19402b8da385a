"""Figures as png files; matplotlib is imported when the first figure is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from farfield.dataloader.storage import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(path: Path, figure: Figure):
    """Write a png atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of this size in inches."""
    # without pyplot: a notebook that imports this keeps its own backend
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
