"""Whether data and network have what a loss of energies, forces, stresses and charges needs.

Every error is one line that says what is missing and what to type.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from farfield.common.configuration import DECIDED_BY_DATA
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.structures import LABELS_OF_CHARGE


def stress_weight(config) -> float:
    """Weight of the stress in the loss: 0 where the data ask for one and the user for no stress."""
    if "weight_stress" in config.get(DECIDED_BY_DATA, ()) and not config.model.get("stress"):
        return 0.0
    return config.loss.weight_stress


def check_labels(config, dataset: MoleculeDataset) -> None:
    """``ValueError`` where the loss needs labels that the data do not have, or predictions that
    the network does not make.
    """
    model, loss, path = config.model, config.loss, config.data.data_path
    learns_forces, learns_stress = loss.weight_forces > 0, stress_weight(config) > 0
    has_stress = dataset.has("stress")

    if learns_forces and not dataset.has("forces"):
        raise ValueError(f"{path} has no forces; give --weight-forces 0 --forces none")
    if learns_forces and model.forces == "none":
        raise ValueError("--forces none predicts no forces; give --weight-forces 0")
    if learns_stress and not has_stress:
        raise ValueError(
            f"{path} has no stress to learn; preprocess with --stress-key, or give "
            "--weight-stress 0"
        )
    if learns_stress and not model.stress:
        raise ValueError("the network predicts no stress; give --stress or --weight-stress 0")
    if model.stress and not dataset.has("cell"):
        raise ValueError(f"{path} has no cells, so there is no stress to predict; give --no-stress")


def check_charges(
    config, weights: Mapping[str, float], model: nn.Module, datasets: Mapping[str, MoleculeDataset]
) -> None:
    """``ValueError`` where charges or dipoles are learned that a split or the network lacks.

    weights: part of the loss -> weight > 0. datasets: by the name of their split.
    """
    for part in LABELS_OF_CHARGE:
        if part not in weights:
            continue
        if part not in model.outputs():
            raise ValueError(
                f"--weight-{part} {weights[part]:g} needs a network that predicts {part}; "
                f"{config.model.name} with these options gives {', '.join(model.outputs())}; give "
                f"other options, or --weight-{part} 0"
            )

        for split, dataset in datasets.items():
            if not dataset.has(part):
                raise ValueError(
                    f"the {split} split of {config.data.data_path} has no {part} to learn; "
                    f"preprocess with --{part}-key (and --rebuild where the folder exists), or "
                    f"give --weight-{part} 0"
                )
