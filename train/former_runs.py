"""Run folders of earlier versions: their configuration in the words of today.

Only names have changed, never a meaning, so that a run continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

from farfield.common.checkpoint_formats import current_model_options
from farfield.common.task_registry import task_name
from farfield.models.factory import DEFAULT_PRESET


def current_config(saved: Mapping) -> dict:
    """The configuration of a checkpoint or a ``config.yaml``, with the names of today."""
    config = {**saved, "task": task_name(saved.get("task"))}
    model = saved.get("model")
    if isinstance(model, Mapping) and "name" in model:
        # networks without presets had no such option: theirs is the default one, which sets nothing
        config["model"] = {"preset": DEFAULT_PRESET, **current_model_options(model)}
    return config
