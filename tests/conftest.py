"""What saves time in all tests.

Variables are set before torch is imported: small tensors on several OpenMP threads wait for each
other most of the time. The garbage collector leaves what is imported alone: half a million objects
that live to the end.
"""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DGLBACKEND", "pytorch")

import pytest

gc.disable()  # until everything is imported


def pytest_collection_finish():
    """From here on only new objects are searched for garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_plots():
    """Nothing is drawn, it would be a third of the time; gives what `plots` puts back."""
    from farfield.common import figures
    from farfield.simulate import md_results
    from farfield.train import monitor, plots

    drawing = [(plots, name) for name in ("draw_pairs", "draw_errors", "draw_curves")]
    drawing += [(figures, "save_figure"), (monitor.Monitor, "picture")]
    drawing += [(md_results, "draw_energies")]
    originals = [(place, name, getattr(place, name)) for place, name in drawing]
    with pytest.MonkeyPatch.context() as patch:
        for place, name in drawing:
            patch.setattr(place, name, lambda *arguments: None)
        yield originals


@pytest.fixture
def plots(no_plots, monkeypatch):
    """For tests that look at pictures: they are drawn."""
    for place, name, function in no_plots:
        monkeypatch.setattr(place, name, function)
