"""All tasks by name. A task registers itself where its class stands:

    @TASKS.register("energy_forces")
    class EnergyForceTask(Task): ...

Modules of train/tasks are found when a name is looked up; a file of your own is read by
``--import my_task.py``. What a task is: train/tasks/task.py. The registry stands here because a
calculator, too, asks the task of a checkpoint which network it trained.
"""

from __future__ import annotations

from farfield.models.choices import Registry

TASKS: Registry[type] = Registry("task", package="farfield.train.tasks")

# name in run folders of earlier versions -> name today
FORMER_NAMES = {"md17": "energy_forces", "md22": "energy_forces", "qm9": "properties"}


def task_name(name: object) -> object:
    """The present name of a task; names that were never in use come back as they are."""
    return FORMER_NAMES.get(name, name) if isinstance(name, str) else name


def find_task(name: object) -> type:
    """The class of the task ``name``, also of a former name; ``ValueError`` where there is none."""
    return TASKS.find(task_name(name))
