"""Where memory is missing, the line says what was computed."""

from __future__ import annotations

import pytest

from farfield.common.script import user_message
from farfield.models.potential import Potential
from farfield.train import train_md17
from tests.support.md_data import SMALL

MISSING = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory. Error 12"


@pytest.mark.parametrize(("training", "calls"), [(False, 1), (True, 1), (False, 3)])
def test_sizes_of_the_batch_are_named(data, tmp_path, monkeypatch, training, calls):
    """In the first look at the data, in a step, and in a validation."""
    forward, seen = Potential.forward, []

    def lacking(self, batch):
        seen.append(self.training)
        if self.training == training and seen.count(training) == calls:
            raise RuntimeError(MISSING)
        return forward(self, batch)

    monkeypatch.setattr(Potential, "forward", lacking)
    arguments = ["--data-path", str(data), "--run-dir", str(tmp_path / "run"), *SMALL]
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as error:
        train_md17.main([*arguments, "--epochs", "1"])
    words = user_message(error.value)
    assert words.startswith("out of memory ([enforce fail at alloc_cpu.cpp:127] DefaultCPU")
    assert (
        " structures, " in words and " atoms, " in words and " edges); lower --batch-size" in words
    )
    assert "\n" not in words
