"""Errors of noise and time against sums over atoms and molecules, written out."""

import numpy as np
import pytest
import torch

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.train.tasks.diffusion_errors import ErrorSums, constant_guess

SIZES, TIMES = (4, 3, 2, 5), (0.1, 0.5, 0.6, 1.0)


def batch_of(sizes, times, noise):
    nothing = torch.zeros(0, dtype=torch.int64)
    return AtomBatch(
        GraphIndex(nothing, nothing, torch.tensor(sizes)),
        torch.zeros(sum(sizes), 3, dtype=torch.float64),
        labels={"noise": noise, "time": torch.tensor(times, dtype=torch.float64)},
    )


@pytest.fixture(scope="module")
def values():
    """Noise, guessed noise and guessed times of all atoms."""
    generator = torch.Generator().manual_seed(3)
    noise, guess = torch.randn(2, sum(SIZES), 3, generator=generator, dtype=torch.float64)
    time = 2 * torch.rand(sum(SIZES), generator=generator, dtype=torch.float64) - 0.5
    return noise, guess, time


def errors_in_batches(values, *cuts):
    """Errors of the four molecules in batches that end at the molecules ``cuts``."""
    noise, guess, time = values
    sums, first = ErrorSums(), 0
    for last in (*cuts, len(SIZES)):
        rows = slice(sum(SIZES[:first]), sum(SIZES[:last]))
        batch = batch_of(SIZES[first:last], TIMES[first:last], noise[rows])
        sums.add(batch, {"noise": guess[rows], "time": time[rows]})
        first = last
    return sums.errors()


def test_errors_are_those_of_their_definition_in_any_batches(values):
    noise, guess, time = (part.numpy() for part in values)
    true = np.repeat(TIMES, SIZES)
    squares = ((guess - noise) ** 2).mean(1)
    pieces = np.split(time.clip(0, 1), np.cumsum(SIZES)[:-1])
    expected = {
        "noise_mse": squares.mean(),
        "noise_mse_early": squares[true < 1 / 3].mean(),
        "noise_mse_middle": squares[(true >= 1 / 3) & (true < 2 / 3)].mean(),
        "noise_mse_late": squares[true >= 2 / 3].mean(),
        "time_mse": ((time - true) ** 2).mean(),
        "time_mae": np.abs([piece.mean() for piece in pieces] - np.array(TIMES)).mean(),
    }
    for cuts in ((), (1,), (1, 2, 3)):
        assert errors_in_batches(values, *cuts) == pytest.approx(expected, rel=1e-12)


def test_only_what_was_guessed_and_only_thirds_that_occur_have_errors(values):
    noise, guess, _ = values
    batch = batch_of(SIZES[:1], TIMES[:1], noise[:4])
    sums = ErrorSums()
    sums.add(batch, {"noise": guess[:4]})
    assert set(sums.errors()) == {"noise_mse", "noise_mse_early"}


def test_a_constant_guess_errs_by_the_spread_of_noise_and_time(values):
    """Uniform times lie 1/4 from their mean on average, with variance 1/12."""
    noise = values[0]
    times = [(place + 0.5) / 500 for place in range(500)]
    many = torch.cat([noise] * 500)[: 2 * 500]
    batch = batch_of([2] * 500, times, many)
    sums = ErrorSums()
    sums.add(batch, constant_guess(batch, ["noise", "time"]))
    found = sums.errors()
    assert found["noise_mse"] == pytest.approx(float(many.square().mean()), rel=1e-12)
    assert found["time_mse"] == pytest.approx(1 / 12, rel=1e-4)
    assert found["time_mae"] == pytest.approx(1 / 4, rel=1e-4)
