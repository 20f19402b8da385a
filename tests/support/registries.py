"""Registries as they are in a new process, for tests that register something."""

from __future__ import annotations

import gc
from typing import Any

from farfield.common import plugins
from farfield.models.choices import Registry
from farfield.models.option_fields import option_fields

State = list[tuple[dict, dict[Any, Any]]]  # a table of this process, what it held


def saved_registries() -> State:
    """What all registries, and the list of imported files, hold now."""
    registries = [each for each in gc.get_objects() if type(each) is Registry]
    for each in registries:
        len(each)  # reads its package, which happens once in a process

    tables = [each._entries for each in registries]
    return [(table, dict(table)) for table in [*tables, plugins._IMPORTED]]


def restore_registries(state: State) -> None:
    """Give all registries back what they held; choices of options are looked up again."""
    option_fields.cache_clear()
    for table, content in state:
        table.clear()
        table.update(content)
