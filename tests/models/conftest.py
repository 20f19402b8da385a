"""Fixtures of the tests of models."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def double():
    """Networks are made in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
