"""Tasks of the training scripts; importing the package registers all of them."""

from farfield.train.tasks import energy_forces, nbody, properties
from farfield.train.tasks.task_registry import TASKS, find_task

__all__ = ["TASKS", "energy_forces", "find_task", "nbody", "properties"]
