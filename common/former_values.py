"""Options that runs of earlier versions do not name, with what they were then."""

from __future__ import annotations

from collections.abc import Container

FORMER_VALUES = {"far_kernel": "standing_waves", "norm_epsilon": 1e-4}
"""Option of a network -> its value where a run does not say it."""


def former_values(known: Container[str], given: Container[str]) -> dict:
    """Values of the options among ``known`` that a run of an earlier version does not name."""
    return {
        name: value for name, value in FORMER_VALUES.items() if name in known and name not in given
    }
