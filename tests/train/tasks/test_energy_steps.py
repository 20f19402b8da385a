"""An energy with steps, as of the near field in half precision, gives no conservative forces."""

import pytest

from farfield.train.tasks.energy_forces import EnergyForceTask
from tests.support.md_data import config_for, make_data

FLASH = ("--near-kernel-implementation", "flash")


def test_its_slope_is_refused_and_forces_read_directly_are_not(tmp_path):
    data = make_data(tmp_path / "set")
    with pytest.raises(ValueError, match="'flash' rounds to 8 bits.*memory_efficient, or") as error:
        EnergyForceTask.build(config_for(data, *FLASH))
    assert "\n" not in str(error.value)

    built = EnergyForceTask.build(config_for(data, *FLASH, "--forces", "direct"))
    assert any("staircase" in remark for remark in built.model.remarks)
