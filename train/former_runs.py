"""Run folders of earlier versions: their configuration in the words of today.

Only names have changed, never a meaning, so that a run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

from farfield.common.checkpoint_formats import current_model_options
from farfield.train.tasks.task_registry import task_name


def current_config(saved: Mapping) -> dict:
    """The configuration of a checkpoint or a ``config.yaml``, with the names of today."""
    found = {**saved, "task": task_name(saved.get("task"))}
    if isinstance(saved.get("model"), Mapping):
        found["model"] = current_model_options(saved["model"])
    return found
