"""The doors as they are in a new process, for tests that register something."""

from __future__ import annotations

from typing import Any

from farfield.common import plugins
from farfield.common.task_registry import TASKS
from farfield.dataloader.sources.source_registry import SOURCES
from farfield.models.far_field.expansion import EXPANSIONS
from farfield.models.network import NETWORKS
from farfield.models.option_fields import option_fields

DOORS = (SOURCES, NETWORKS, EXPANSIONS, TASKS)
State = list[tuple[dict, dict[Any, Any]]]  # a table of this process, what it held


def saved_registries() -> State:
    """What the doors, and the list of imported files, hold now."""
    for door in DOORS:
        len(door)  # reads its package, which happens once in a process

    tables = [door._entries for door in DOORS]
    return [(table, dict(table)) for table in [*tables, plugins._IMPORTED]]


def restore_registries(state: State) -> None:
    """Give the doors back what they held; choices of options are looked up again."""
    option_fields.cache_clear()
    for table, content in state:
        table.clear()
        table.update(content)
