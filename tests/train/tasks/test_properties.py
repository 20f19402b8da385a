"""Laws of the property task: baselines against formulas, weights of targets."""

import numpy as np
import pytest

from farfield.train.losses import WeightedLoss
from farfield.train.tasks.properties import PropertyTask, parse_weights
from farfield.train.tasks.property_baselines import LINEAR, MEAN, Baselines
from farfield.train.tasks.task import Evaluation


def test_a_linear_law_of_the_elements_is_found_exactly():
    rng = np.random.default_rng(1)
    counts = rng.integers(2, 6, 30)
    numbers = rng.choice([1, 6, 8], counts.sum())
    atoms = {1: 0.5, 6: -2.0, 8: 1.0}
    values = np.array(
        [3 + sum(atoms[z] for z in part) for part in np.split(numbers, np.cumsum(counts)[:-1])]
    )
    fitted = Baselines.fit(numbers, counts, {"alpha": values})
    np.testing.assert_allclose(fitted.guess(LINEAR, "alpha", numbers, counts), values, atol=1e-10)
    np.testing.assert_allclose(fitted.guess(MEAN, "alpha", numbers, counts), values.mean())


def test_weights_are_read():
    assert (
        parse_weights("U0=2, gap=0.5", ["U0", "gap", "mu"]) == {"U0": 2.0, "gap": 0.5}
        and parse_weights(None, ["U0"]) == {}
    )


def test_selection_is_the_mean_error_relative_to_the_mean():
    task = PropertyTask(WeightedLoss("mae", {"gap": 1.0, "mu": 1.0}, 1.0), None)
    gap, mu = task.curves
    errors = {gap: 0.1, mu: 0.3}
    means = {MEAN: {gap: 0.5, mu: 0.6}}
    assert task.selection(Evaluation(errors, means)) == pytest.approx((0.2 + 0.5) / 2)

    # nothing to learn where all molecules are the same
    means[MEAN][mu] = 0.0
    with pytest.raises(ValueError, match="mu is the same for all molecules"):
        task.selection(Evaluation(errors, means))
