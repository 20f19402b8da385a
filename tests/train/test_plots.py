"""Laws of the pictures: units on the axes, training next to validation, some for any session."""

import numpy as np
import pytest

from farfield.train import plots as drawing
from farfield.train.run_plots import RunPlots
from tests.support.toy_training import ToyTask, toy_trainer

HISTORY = [
    {
        "epoch": epoch,
        "cpu_minutes": 0.1 * epoch,
        "energy_mae": 9.0 / epoch,
        "force_mae": 50.0 / epoch,
        "force_norm_mae": 90.0 / epoch,
        "train_forces": 0.1 / epoch,
        "train_loss": 0.5 / epoch,
        "selection": 0.4 / epoch,
    }
    for epoch in (1, 2, 3)
]


class Described:
    """What a picture needs of a task."""

    curves = ("energy_mae", "force_mae")
    training_curves = {"force_norm_mae": ("forces", 1e3), "selection": ("loss", 1.0)}
    units = {
        "energy_mae": "meV",
        "force_mae": "meV/A",
        "force_norm_mae": "meV/A",
        "forces": "eV/A",
    }


def lines_of(axis) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axis.get_lines()}


def test_errors_of_one_unit_share_an_axis(plots):
    figure = drawing.draw_curves(HISTORY, Described, {"energy_mae": 141.0})
    energy, forces, loss = figure.axes
    assert energy.get_ylabel() == "error (meV)" and forces.get_ylabel() == "error (meV/A)"
    assert set(lines_of(energy)) == {"energy_mae, validation", "energy_mae, baseline"}
    assert set(lines_of(forces)) == {
        "force_mae, validation",
        "force_norm_mae, validation",
        "force_norm_mae, training",
    }
    assert set(lines_of(loss)) == {"loss, validation", "loss, training"}


def test_a_training_curve_is_in_the_unit_of_its_axis(plots):
    figure = drawing.draw_curves(HISTORY, Described, {})
    shown = lines_of(figure.axes[1])["force_norm_mae, training"]
    assert shown == pytest.approx([100.0, 50.0, 100 / 3]), "0.1 eV/A are 100 meV/A"


def test_the_mean_absolute_error_stands_in_the_picture(plots):
    target = np.linspace(-1, 1, 50)
    figure = drawing.draw_pairs({"forces": (target + 0.25, target)}, Described.units, "test split")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["MAE 0.25 eV/A"]
    assert axis.get_xlabel() == "target (eV/A)"


@pytest.mark.parametrize("count", [1, 3, 7])
def test_many_quantities_fall_into_rows(plots, count):
    pairs = {f"quantity {i}": (np.arange(5.0), np.arange(5.0)) for i in range(count)}
    width, height = drawing.draw_pairs(pairs, {}).get_size_inches()
    assert width < 13 and height < 5 * -(-count // 3)
    drawing.draw_errors(pairs, {})  # errors of zero have a place on the log axis


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_finite_end_no_training(plots, value):
    target = np.linspace(-1, 1, 5)
    one, all_of_them = target.copy(), np.full(5, value)
    one[2] = value
    for prediction in (one, all_of_them):
        for draw in (drawing.draw_pairs, drawing.draw_errors):
            draw({"forces": (prediction, target)}, {}).canvas.draw()


def test_an_interrupted_run_has_plots(plots, tmp_path):
    toy_trainer(tmp_path, "--pause-after", "1").fit()
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "learning_curve.png",
        "predictions.png",
        "errors.png",
    }


def test_plots_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    """A second of drawing is followed by a hundred without; 30 seconds at least lie between."""
    now, drawn = [0.0], []
    monkeypatch.setattr("farfield.train.run_plots.time.monotonic", lambda: now[0])
    run_plots = RunPlots(tmp_path, ToyTask())

    def write(history, best):
        drawn.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(run_plots, "write", write)
    for second in range(0, 300, 10):
        now[0] = max(now[0], float(second))
        run_plots.after_validation(HISTORY, None, {})
    assert drawn == [30.0, 140.0, 250.0]
