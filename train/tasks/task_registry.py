"""All tasks by name. A task registers itself where its class stands:

    @TASKS.register("energy_forces")
    class EnergyForceTask(Task): ...

Modules of this folder are found when a name is looked up; a file of your own is read by
``--import my_task.py``.
"""

from __future__ import annotations

from farfield.models.choices import Registry
from farfield.train.tasks.task import Task

TASKS: Registry[type[Task]] = Registry("task", package="farfield.train.tasks")

# name in run folders of earlier versions -> name today
FORMER_NAMES = {"md17": "energy_forces", "md22": "energy_forces", "qm9": "properties"}


def task_name(name: object) -> object:
    """The present name of a task; names that were never in use come back as they are."""
    return FORMER_NAMES.get(name, name) if isinstance(name, str) else name


def find_task(name: object) -> type[Task]:
    """The class of the task ``name``, also of a former name; ``ValueError`` where there is none."""
    return TASKS.find(task_name(name))
