"""Laws of the tables of several seeds."""

from farfield.train.results import mean_table


def test_the_mean_over_seeds():
    tables = [[{"row": "model", "x": x}, {"row": "Linear", "x": 4.0}] for x in (1.0, 3.0)]
    rows = mean_table(tables)
    assert rows == [{"row": "model", "x": "2 +- 1.4"}, {"row": "Linear", "x": 4.0}]
