"""The property task: one number or one vector for each molecule, several targets at once.

A network learns normalised labels, (value - reference) / scale with references per element and
scales of the *training* split; the loss is

    L = sum_t w_t mean_molecules cost(raw_t - label_t) / sum_t w_t

and errors are shown in the units of the published tables (dataloader.sources.qm9_targets.TARGETS):
mean absolute error of numbers, mean length of the error of vectors. Every table has two baselines
fitted to the training split of its folder: "mean" and "linear in the elements" (a constant and a
number for each element; vectors have zero in both, since a vector that does not turn with the
molecule can only be zero). Selection on the validation split: mean over the targets of the error
relative to that of the mean. Cost of a pass over a split: one evaluation of the network a molecule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor, nn

from farfield.common.command_line import plain
from farfield.common.precision import PRECISIONS
from farfield.dataloader.datasets.property_data import PropertyDataset, PropertyFolder
from farfield.dataloader.sources.qm9_targets import TARGETS
from farfield.models.factory import build_model
from farfield.models.heads.property_readouts import (
    READOUTS,
    choose_readouts,
    compositions,
    fit_scaling,
)
from farfield.train.data_order import EpochLoader, ordered_batches
from farfield.train.losses import WeightedLoss
from farfield.train.trainer import Evaluation, Task

WITH_BASIS = ("se3_transformer_properties",)  # networks that read the cached basis of the edges
EVALUATION_ATOMS = 2000  # most atoms in a batch of an evaluation
MEAN, LINEAR = "mean", "linear in the elements"


class Baselines:
    """What one knows without geometry: fitted to the training split, float64.

    elements: atomic numbers that occur there; coefficients: row name -> target -> (1 + elements,),
    a constant and a number per element; vectors have none.
    """

    def __init__(self, elements: np.ndarray, coefficients: Mapping[str, Mapping[str, np.ndarray]]):
        self.elements, self.coefficients = elements, coefficients

    @classmethod
    def fit(
        cls, numbers: np.ndarray, counts: np.ndarray, values: Mapping[str, np.ndarray]
    ) -> Baselines:
        """From atomic numbers (atoms,), atoms of each molecule (molecules,) and target ->
        (molecules,) or (molecules, 3).
        """
        elements = np.unique(numbers)
        design = np.column_stack([np.ones(len(counts)), compositions(numbers, counts, elements)])
        rows = {MEAN: {}, LINEAR: {}}
        for target, value in values.items():
            if value.ndim == 1:
                mean = value.mean()
                rows[MEAN][target] = np.concatenate([[mean], np.zeros(len(elements))])
                rows[LINEAR][target] = (
                    np.linalg.lstsq(design, value - mean, rcond=1e-9)[0] + rows[MEAN][target]
                )
        return cls(elements, rows)

    def guess(self, row: str, target: str, numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The baseline's value for every molecule (molecules,), or (1, 1) zero for a vector."""
        if target not in self.coefficients[row]:
            return np.zeros((1, 1))
        design = np.column_stack(
            [np.ones(len(counts)), compositions(numbers, counts, self.elements)]
        )
        return design @ self.coefficients[row][target]


class PropertyTask(Task):
    """Loss, metrics and table of properties.

    Arguments
        loss       `WeightedLoss` over the targets, of normalised residuals
        baselines  `Baselines` of the training split
    """

    def __init__(self, loss: WeightedLoss, baselines: Baselines):
        self.objective, self.baselines = loss, baselines
        self.targets = list(loss.weights)
        self.curves = [metric_name(target) for target in self.targets]
        self.units = {name: TARGETS[name].unit for name in self.targets}
        self.units |= {metric_name(name): TARGETS[name].shown_unit for name in self.targets}

    def loss(self, model: nn.Module, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, in standard deviations of what references leave."""
        return self.objective(model.raw(batch), batch.labels)

    def evaluate(self, model: nn.Module, batches: Iterable) -> Evaluation:
        """Errors over all molecules, of the model and of the baselines, in shown units."""
        predictions, labels, numbers, counts = (
            {name: [] for name in self.targets},
            {name: [] for name in self.targets},
            [],
            [],
        )
        for batch in batches:
            raw = model.raw(batch)
            for columns, values in ((predictions, raw), (labels, batch.labels)):
                scaled = model.heads.scaling(batch.graph, batch.atomic_numbers, values)
                for name in self.targets:
                    columns[name].append(scaled[name].detach().cpu().numpy())
            numbers.append(batch.atomic_numbers.cpu().numpy())
            counts.append(batch.graph.nodes_per_graph.cpu().numpy())
        target = {name: np.concatenate(chunks) for name, chunks in labels.items()}
        found = {name: np.concatenate(chunks) for name, chunks in predictions.items()}
        numbers, counts = np.concatenate(numbers), np.concatenate(counts)
        rows = {
            row: {name: self.baselines.guess(row, name, numbers, counts) for name in self.targets}
            for row in (MEAN, LINEAR)
        }
        errors = {row: errors_of(guess, target) for row, guess in rows.items()}
        pairs = {
            f"{name} ({TARGETS[name].unit})": (found[name], target[name]) for name in self.targets
        }
        return Evaluation(errors_of(found, target), errors, pairs)

    def selection(self, evaluation: Evaluation) -> float:
        """Mean over the targets of error / error of the mean; ``ValueError`` for a target in which
        nothing differs.
        """
        baseline = evaluation.baselines[MEAN]
        for name in self.targets:
            if not baseline[metric_name(name)] > 0:
                raise ValueError(
                    f"{name} is the same for all molecules of the validation split: there is "
                    "nothing to learn; leave it out"
                )
        return sum(evaluation.metrics[name] / baseline[name] for name in self.curves) / len(
            self.curves
        )

    def table(self, evaluation: Evaluation) -> list[dict]:
        """Rows model, mean, linear in the elements; one column a target, with its unit."""
        columns = {
            metric_name(name): f"{name} ({TARGETS[name].shown_unit})" for name in self.targets
        }
        rows = {"model": evaluation.metrics, **evaluation.baselines}
        return [
            {"row": label, **{columns[name]: value for name, value in row.items()}}
            for label, row in rows.items()
        ]


def metric_name(target: str) -> str:
    """Name of the error of a target in the history of a run."""
    return f"{target}_error"


def errors_of(
    found: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Mean absolute errors of numbers (molecules,), mean lengths of the errors of vectors
    (molecules, 3), in shown units.
    """
    errors = {}
    for name, wanted in target.items():
        error = found[name] - wanted
        size = np.abs(error) if wanted.ndim == 1 else np.linalg.norm(error, axis=1)
        errors[metric_name(name)] = TARGETS[name].shown_factor * float(size.mean())
    return errors


def readouts_of(config) -> dict[str, str]:
    """Readout of every target of ``config.model``."""
    return choose_readouts(config.model.targets, config.model.readouts)


def open_split(config, split: str, folder: PropertyFolder) -> PropertyDataset:
    """A split of a folder with the targets of the run as labels, in their units.

    ``ValueError`` if it is empty, or its graphs are not what the network asks for.
    """
    dtype = PRECISIONS[config.training.precision]
    basis = config.data.cache and config.model.name in WITH_BASIS
    dataset = folder.dataset(split, targets=tuple(readouts_of(config)), dtype=dtype, basis=basis)
    if not len(dataset):
        raise ValueError(
            f"the {split} split of {config.data.data_path} is empty; preprocess with other sizes "
            "of the splits"
        )
    check_graphs(config, dataset)
    return dataset


def check_graphs(config, dataset: PropertyDataset):
    """``ValueError`` for graphs that lack edges the network asks for, bonds it reads, or a basis of
    its degrees.
    """
    folder, model, rule = config.data.data_path, config.model, dataset.graph_rule
    if rule["kind"] == "cutoff" and model.cutoff > rule["cutoff"]:
        mend = f"lower --cutoff, or preprocess with --cutoff {model.cutoff}"
        raise ValueError(
            f"{folder} holds pairs within {rule['cutoff']} Angstrom, the network asks for "
            f"{model.cutoff}; {mend}"
        )
    if model.get("bond_kinds") and dataset.bond_kinds is None:
        raise ValueError(
            f"{folder} holds no bonds: give --no-bond-kinds, or preprocess with --bond-kinds"
        )
    if dataset.basis and dataset.lmax < model.lmax:  # a larger one serves as well
        mend = f"preprocess with --lmax {model.lmax}, or give --no-cache to compute it"
        raise ValueError(
            f"{folder} holds the edge basis of lmax {dataset.lmax}, the network has lmax "
            f"{model.lmax}; {mend}"
        )


def build_task(config, train: PropertyDataset) -> PropertyTask:
    """The task of ``config.model`` and ``config.loss``, with baselines of the training split."""
    weights = dict.fromkeys(readouts_of(config), 1.0) | parse_weights(
        config.loss.target_weights, readouts_of(config)
    )
    baselines = Baselines.fit(
        train.structures.atomic_numbers, train.structures.counts, train.values
    )
    return PropertyTask(WeightedLoss(config.loss.loss, weights, config.loss.loss_scale), baselines)


def parse_weights(text: str | None, targets: Iterable[str]) -> dict[str, float]:
    """``"U0=2,gap=0.5"`` -> weights; ``ValueError`` in one line for what cannot be read and for
    what is no target.
    """
    weights = {}
    for part in (text or "").split(",") if text else ():
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in targets:
            raise ValueError(
                f"--target-weights: {name!r} is no target ({', '.join(targets)}); write e.g. "
                f"{next(iter(targets))}=2"
            )
        try:
            weights[name] = float(number)
        except ValueError:
            raise ValueError(
                f"--target-weights: {part!r} has no number; write e.g. {name}=2"
            ) from None
    return weights


def build_model_for(config) -> nn.Module:
    """The network of ``config.model``."""
    return build_model(
        {key: value for key, value in plain(config.model).items() if key != "preset"}
    )


def fitted_scaling(config, train: PropertyDataset) -> dict:
    """Scales and references of the training split."""
    return fit_scaling(
        train.structures.atomic_numbers, train.structures.counts, train.values, readouts_of(config)
    )


def evaluation(config, split: str, model: nn.Module) -> tuple[PropertyTask, EpochLoader]:
    """The task, and all molecules of a split, in order, with labels normalised as the trained
    ``model`` has it.
    """
    folder = PropertyFolder.open(config.data.data_path)
    dataset = open_split(config, split, folder)
    dataset.set_scaling(model.heads.scaling.values())
    return build_task(config, open_split(config, "train", folder)), ordered_batches(
        dataset, EVALUATION_ATOMS
    )


def is_vector(readout: str) -> bool:
    """Whether a readout gives a vector."""
    return READOUTS[readout].kind == "vector"
