"""What the tests of the training scripts share."""

import pytest

from farfield.common import figures


@pytest.fixture(scope="module")
def no_plots():
    """Plots are tested with the loop; in the tests of the scripts they would be most of the
    time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save_figure", lambda path, figure: None)
        yield
