"""Data of the energy and force task: one set or several, their references, and the batches of a
split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from farfield.common.precision import TRAINING_PRECISIONS
from farfield.common.task_registry import TASKS
from farfield.dataloader.datasets.potential_sets import (
    JoinedSets,
    open_sets,
    statistics_of_all,
    statistics_of_each,
)
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.set_names import parse_sets
from farfield.dataloader.set_plan import SetPlan
from farfield.models.layers.conditioning import parse_inputs
from farfield.train.data_order import EpochLoader, ordered_batches, shuffled_batches
from farfield.train.split_checks import check_not_empty
from farfield.train.tasks.energy_force_checks import check_labels

References = Mapping[int, float]


def heads_of_sets(data_path: str, heads_per_set: bool) -> dict[str, str]:
    """Options of the network that follow from ``--heads-per-set``; ``ValueError`` for one set."""
    if not heads_per_set:
        return {}
    names = list(parse_sets(data_path))
    if len(names) < 2:
        raise ValueError(
            "--heads-per-set gives each of several sets a head, --data-path names one; leave it "
            "out, or give --data-path NAME=PATH,NAME=PATH"
        )
    return {"energy_heads": ",".join(names)}


def set_references(model: nn.Module, statistics: Statistics) -> None:
    """Give a new network the reference energies of a training split, and the size of what it
    learns as its scale.
    """
    model.set_reference(statistics.references, scale=statistics.learned_scale)


def set_references_of_sets(model: nn.Module, data_path: str) -> None:
    """The same with all sets together, or with each set for the head of its name.

    ``ValueError`` for heads that are not called as the sets are.
    """
    if not model.heads:
        set_references(model, statistics_of_all(data_path))
        return

    found = statistics_of_each(data_path)
    if tuple(found) != tuple(model.heads):
        raise ValueError(
            f"the network has the heads {', '.join(model.heads)}, the sets are "
            f"{', '.join(found)}; leave --energy-heads out and give --heads-per-set"
        )
    for head, statistics in zip(model.reference.heads, found.values(), strict=True):
        head.set(statistics.references, scale=statistics.learned_scale)


def references_of(model: nn.Module) -> list[References]:
    """Reference energies of a trained network, Z -> eV, of each head."""
    heads = model.reference.heads if model.heads else [model.reference]
    return [head.values() for head in heads]


def average_atoms(config) -> float:
    """Mean atoms of the training structures: an option of many networks, else measured."""
    if "avg_atoms" in config.model:
        return config.model.avg_atoms
    return statistics_of_all(config.data.data_path).average_atoms


def split_loader(
    config,
    split: str,
    references: References | Sequence[References],
    training: bool = False,
    optional_inputs: Sequence[str] = (),
) -> EpochLoader:
    """Batches of a split: shuffled and of the size of ``config``, or all structures in order.

    references: of all sets, or of each. optional_inputs: of the network, which batches have where
    the data have them.

    ``ValueError`` for neighbour graphs of another cutoff, unknown elements, and labels that the
    loss needs and the data do not have.
    """
    data = config.data
    dataset = open_sets(
        data.data_path,
        split,
        [references] if isinstance(references, Mapping) else references,
        data.get("set_weights"),
        cutoff=config.model.get("cutoff"),
        dtype=TRAINING_PRECISIONS[config.training.precision],
        inputs=parse_inputs(config.model.get("condition")),
        optional_inputs=optional_inputs,
    )
    check_not_empty(dataset, split, data.data_path)

    # one set is shuffled as it always was
    if training:
        check_labels(config, dataset)
        plan = {"plan_class": SetPlan} if isinstance(dataset, JoinedSets) else {}
        return shuffled_batches(dataset, config, **plan)
    return ordered_batches(dataset, TASKS["energy_forces"].max_evaluation_atoms)
