"""All tasks by name. A task registers itself beside its class:

@TASKS.register("energy_forces")
class EnergyForceTask(Task): ...
"""

from __future__ import annotations

from farfield.models.choices import Registry
from farfield.train.tasks.task import Task

TASKS: Registry[type[Task]] = Registry("task")

# name in run folders of earlier versions -> name today
FORMER_NAMES = {"md17": "energy_forces", "md22": "energy_forces", "qm9": "properties"}


def task_name(name: object) -> object:
    """The present name of a task; names that were never in use come back as they are."""
    return FORMER_NAMES.get(name, name) if isinstance(name, str) else name


def find_task(name: object) -> type[Task]:
    """The class of the task ``name``, also of a former name; ``ValueError`` where there is none."""
    return TASKS.find(task_name(name))
