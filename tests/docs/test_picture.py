"""The picture of the README is what its script draws."""

import re
import runpy
import sys
from collections import Counter

from tests.support.documents import ROOT

FIGURES = ROOT / "docs" / "figures"


def shapes(path) -> Counter:
    """Number of elements of each kind in an svg file: the last digits may differ elsewhere."""
    return Counter(re.findall(r"<(\w+)", path.read_text(encoding="utf-8")))


def test_the_script_draws_the_picture(tmp_path, monkeypatch):
    out = tmp_path / "drawn.svg"
    monkeypatch.setattr(sys, "argv", ["draw_picture.py", "--out", str(out)])
    runpy.run_path(str(FIGURES / "draw_picture.py"), run_name="__main__")
    assert shapes(out) == shapes(FIGURES / "near_and_far.svg")
