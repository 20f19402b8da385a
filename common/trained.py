"""A trained network out of its checkpoint: one loader for evaluation, prediction and dynamics.

Nothing in a checkpoint is ever executed. A network that a file of the user registered must be
registered again (``--import FILE``) before the checkpoint is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict
from torch import nn

from farfield.common import checkpoint
from farfield.common.configuration import IMPORTED_FILES, plain
from farfield.common.plugins import FLAG
from farfield.common.precision import PRECISIONS
from farfield.common.shipped import find_checkpoint
from farfield.common.task_registry import TASKS, task_name
from farfield.models.choices import check_choice
from farfield.models.diffusion.process import DiffusionProcess, ProcessOptions
from farfield.models.factory import build_model, network_class, network_names
from farfield.models.heads.per_set import head_names, single_head_weights
from farfield.models.network import Network


def _check_finite(path: str | Path, weights: dict[str, torch.Tensor]) -> None:
    """``ValueError`` for a checkpoint whose weights are not finite: all it predicts is nan."""
    lost = [
        name
        for name, value in weights.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
    if lost:
        raise ValueError(
            f"checkpoint {path} has {len(lost)} weights that are not finite ({lost[0]}): its "
            "training diverged; give checkpoint_best.pt, or train again with a lower --lr"
        )


def network_options(config: EasyDict) -> dict[str, Any]:
    """What :func:`build_model` reads of the configuration of a run."""
    return {key: value for key, value in plain(config.model).items() if key != "preset"}


def restore_network(config: EasyDict) -> nn.Module:
    """The network that a configuration describes, with new weights."""
    return build_model(network_options(config))


def diffusion_process(config: EasyDict) -> DiffusionProcess:
    """The process that the run of a configuration learns to reverse.

    ``ValueError`` for the run of another task.
    """
    data = config.get("data", {})
    if "noise_schedule" not in data:
        raise ValueError(
            f"a run of the task {config.get('task')!r} has no diffusion process; give a run of "
            "train_diffusion"
        )
    return DiffusionProcess(ProcessOptions(data.noise_schedule, data.diffusion_steps))


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What a checkpoint says about its run.

    path     of the checkpoint
    config   configuration of the run
    weights  the weights it is judged by: the averaged ones where averaging was on
    cutoff   of the graphs that it was trained on, Angstrom; None where it does not say one
    elements atomic numbers that it was trained on; None where it does not say them (no atoms, or a
             checkpoint from before they were recorded)
    """

    path: Path
    config: EasyDict
    weights: dict[str, torch.Tensor]
    cutoff: float | None = None
    elements: list[int] | None = None

    @classmethod
    def read(cls, path: str | Path, device: torch.device | str = "cpu") -> TrainedRun:
        """Read a checkpoint, the averaged weights where there are any.

        Raises FileNotFoundError or ValueError in one line for a file that is missing, damaged, or
        the checkpoint of something else.
        """
        content = checkpoint.read_run(path, torch.device(device))
        weights = checkpoint.evaluation_weights(content)
        _check_finite(path, weights)
        known = (content.get("cutoff"), content.get("elements"))
        return cls(find_checkpoint(path), EasyDict(content["config"]), weights, *known)

    def task(self) -> type:
        """The class of the task that was trained; ValueError where nobody registered it."""
        name = task_name(self.config.get("task"))
        self.check_registered("task", name, TASKS)
        return TASKS[name]

    def network(
        self,
        device: torch.device | str = "cpu",
        dtype: str = "float32",
        head: str | None = None,
        **changes: Any,
    ) -> nn.Module:
        """The trained network as its task restores it, in evaluation mode.

        head: of a network with several energy heads, the one that stays; None: all of them, or the
        only one. changes: options of the model that differ from the training, such as
        ``stress=True``. ``ValueError`` for a head there is not.
        """
        check_choice("dtype", dtype, PRECISIONS)
        self.check_registered("network", self.config.model.get("name"), network_names())
        config = EasyDict(plain(self.config))
        config.model.update(changes)
        model = self.task().restore(config)
        checkpoint.load_weights(model, self.weights, self.path)
        if head is not None:
            self.check_head(head)
            weights = single_head_weights(model, head)
            config.model.energy_heads = None
            model = self.task().restore(config)
            checkpoint.load_weights(model, weights, self.path)
        model = model.to(device=device, dtype=PRECISIONS[dtype])
        return model.eval()

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the energy heads of the network; none where it has one head."""
        return head_names(self.config.model.get("energy_heads"))

    def check_head(self, head: str | None) -> None:
        """``ValueError`` unless ``head`` chooses one of several heads, or None the only one."""
        if head is None and self.heads:
            raise ValueError(
                f"checkpoint {self.path} has the energy heads {', '.join(self.heads)}; choose one "
                "with --head NAME (in Python head=NAME)"
            )
        if head is not None and not self.heads:
            raise ValueError(f"checkpoint {self.path} has one energy head; leave --head {head} out")
        if head is not None:
            check_choice("--head", head, self.heads)

    def graph_cutoff(self, network: Network) -> float:
        """Cutoff of the graphs that ``network`` reads, Angstrom: its own, or of its training data.

        Raises ValueError where neither is known.
        """
        cutoff = self.cutoff if network.cutoff is None else network.cutoff
        if cutoff is None:
            raise ValueError(
                f"checkpoint {self.path} does not say the cutoff of its graphs, and its network "
                "takes any graph; train it again"
            )
        return float(cutoff)

    def check_predicts(self, what: str) -> None:
        """Raise ValueError unless the network predicts ``what`` ("potential", ...)."""
        name = self.config.model.get("name")
        self.check_registered("network", name, network_names())
        found = network_class(name).predicts
        if found != what:
            raise ValueError(
                f"checkpoint {self.path} holds the network {name!r}, which predicts {found}; give "
                f"the checkpoint of a {what}"
            )

    def check_registered(self, what: str, name: object, known: Iterable[str]) -> None:
        """Raise ValueError unless ``name`` is registered, saying which file registers it."""
        names = list(known)
        if name in names:
            return
        files = " ".join(f"{FLAG} {file}" for file in self.config.get(IMPORTED_FILES, ()))
        hint = f"the run was started with {files}" if files else f"give {FLAG} FILE if it is yours"
        problem = f"checkpoint {self.path} has the unknown {what} {name!r}"
        raise ValueError(f"{problem}; known: {', '.join(names)}; {hint}")
