"""The picture of the README is what its script draws."""

import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from tests.support.documents import ROOT

FIGURES = ROOT / "docs" / "figures"
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
COORDINATES = ("d", "transform", "x", "y", "viewBox")
NAMES = ("id", "clip-path")  # of elements among each other, no part of the drawing
NEAR = 0.01  # points; the last digits may differ on another machine


class Drawing(NamedTuple):
    """Content of an svg file: texts, elements without coordinates, coordinates."""

    texts: list[str]
    elements: list[tuple]
    coordinates: np.ndarray


def read_drawing(path: Path) -> Drawing:
    """What the svg file shows; matplotlib draws a text as outlines and names it in a comment."""
    content = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(content)
    root.remove(next(each for each in root if each.tag.endswith("metadata")))

    elements, coordinates = [], []
    for element in root.iter():
        places = " ".join(element.get(name, "") for name in COORDINATES)
        others = {
            name: value
            for name, value in element.items()
            if name not in COORDINATES and name not in NAMES
        }
        elements.append((element.tag, others, NUMBER.sub("0", places)))
        coordinates += [float(number) for number in NUMBER.findall(places)]
    return Drawing(re.findall(r"<!-- (.*?) -->", content), elements, np.array(coordinates))


def test_the_script_draws_the_picture(tmp_path, monkeypatch):
    out = tmp_path / "drawn.svg"
    monkeypatch.setattr(sys, "argv", ["draw_picture.py", "--out", str(out)])
    runpy.run_path(str(FIGURES / "draw_picture.py"), run_name="__main__")

    drawn, kept = read_drawing(out), read_drawing(FIGURES / "near_and_far.svg")
    assert drawn.texts == kept.texts and "near field" in " ".join(drawn.texts)
    assert drawn.elements == kept.elements
    np.testing.assert_allclose(drawn.coordinates, kept.coordinates, rtol=0, atol=NEAR)
