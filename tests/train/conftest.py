"""Data of the tests of training."""

import pytest

from tests.support.md_data import make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of random structures, made once for each file of tests."""
    return make_data(tmp_path_factory.mktemp("data") / "set")
