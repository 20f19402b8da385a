"""Configurations that differ from another one in a few settings."""

from __future__ import annotations

from pathlib import Path

from easydict import EasyDict

from farfield.common.command_line import plain


def variant(
    config: EasyDict, folder: str, run: dict | None = None, model: dict | None = None
) -> EasyDict:
    """``config`` in a sub folder of its run folder, with other settings in two sections."""
    one = EasyDict(plain(config))
    one.run.update(run_dir=str(Path(config.run.run_dir) / folder), **(run or {}))
    one.model.update(model or {})
    return one
