"""Rows of the history, and how often pictures are drawn."""

import pytest

from farfield.train.monitor import Monitor
from farfield.train.trainer import PICTURES
from tests.support.toy_training import toy_trainer


def test_rows_hold_place_and_minutes(tmp_path):
    trainer = toy_trainer(tmp_path, "--epochs", "3")
    trainer.fit()
    rows, position = trainer.history, trainer.position
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["step"] == position.step and rows[0]["step"] * 3 == position.step
    for clock, seconds in (("minutes", position.seconds), ("cpu_minutes", position.cpu_seconds)):
        times = [60 * row[clock] for row in rows]
        assert 0 <= times[0] <= times[1] <= times[2] <= seconds + 1e-9
    assert [row["progress"] for row in rows] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rows[-1]["learning_rate"] < rows[0]["learning_rate"]
    best = min(rows, key=lambda row: row["selection"])
    assert trainer.best["epoch"] == best["epoch"]
    assert rows[trainer.best["validation"] - 1] is best


@pytest.mark.parametrize("epochs, drawn", [(2 * PICTURES, PICTURES), (2, 2)])
def test_pictures_are_few_and_evenly_spaced(tmp_path, monkeypatch, epochs, drawn):
    steps = []
    monkeypatch.setattr(Monitor, "picture", lambda self, pairs, units, step: steps.append(step))
    trainer = toy_trainer(tmp_path, "--epochs", str(epochs))
    trainer.fit()
    each = trainer.position.step // drawn
    assert steps == [each * (number + 1) for number in range(drawn)]
