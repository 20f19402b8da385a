"""Training options of the published E2Former programs in the words of the training scripts.

Two forms of file are known: fairchem's (``optim.lr_initial``, ``loss_functions``) and flat names as
Hydra composes them (``max_lr``, ``warmup_num_steps``). A key is written with dots where it is
nested. Options of the network: ``models/published_names.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from farfield.models.published_words import published_forces


@dataclasses.dataclass(frozen=True)
class Setting:
    """A published option of a training that has one here: its section, its name, its value.

    convert: published value -> value here; ValueError for one that cannot be; None where it says
    nothing. words: what changes in the value, for the table.
    """

    section: str
    option: str
    convert: Callable[[Any], Any]
    words: str = ""


def number(value: Any) -> float:
    """A number, also where yaml reads "1e-6" as a text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"must be a number, got {value!r}") from None


def whole(value: Any) -> int:
    """A whole number."""
    if number(value) != int(number(value)):
        raise ValueError(f"must be a whole number, got {value!r}")
    return int(number(value))


def above_zero(value: Any) -> int | None:
    """A whole number, None where it is 0: "never"."""
    return whole(value) or None


def _one_of(names: Mapping[str, str]) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        found = names.get(str(value).lower())
        if found is None:
            raise ValueError(f"must be one of {', '.join(names)}, got {value!r}")
        return found

    return convert


OPTIMIZERS = _one_of({"adam": "adam", "adamw": "adamw", "radam": "radam", "nadam": "nadam"})
COURSES = _one_of({"cosine": "cosine"})
COSTS = _one_of({"mae": "mae", "l1": "mae", "mse": "mse", "rmse": "mse", "l2mae": "vector_norm"})
ENERGY_COSTS = _one_of({"mae": "mae", "l1": "mae", "mse": "mse", "rmse": "mse", "l2mae": "mae"})
MEANING = "rmse is mse, l2mae is vector_norm"

SETTINGS: Mapping[str, Setting] = {
    # fairchem
    "optim.batch_size": Setting("training", "batch_size", whole),
    "optim.num_workers": Setting("run", "workers", whole),
    "optim.lr_initial": Setting("training", "lr", number),
    "optim.optimizer": Setting("training", "optimizer", OPTIMIZERS, "in small letters"),
    "optim.optimizer_params.weight_decay": Setting("training", "weight_decay", number),
    "optim.scheduler_params.lambda_type": Setting("training", "lr_schedule", COURSES),
    "optim.max_epochs": Setting("training", "epochs", whole),
    "optim.clip_grad_norm": Setting("training", "clip_norm", number),
    "optim.ema_decay": Setting("training", "ema_decay", number),
    "loss_functions.energy.fn": Setting("loss", "energy_loss", ENERGY_COSTS, MEANING),
    "loss_functions.energy.coefficient": Setting("loss", "weight_energy", number),
    "loss_functions.forces.fn": Setting("loss", "force_loss", COSTS, MEANING),
    "loss_functions.forces.coefficient": Setting("loss", "weight_forces", number),
    # flat
    "seed": Setting("run", "seed", whole),
    "AutoGradForce": Setting("model", "forces", lambda on: published_forces(not on, "")),
    "train_batch_size": Setting("training", "batch_size", whole),
    "gradient_accumulation_steps": Setting("training", "accumulate", whole),
    "total_num_epochs": Setting("training", "epochs", whole),
    "optimizer_name": Setting("training", "optimizer", OPTIMIZERS),
    "max_lr": Setting("training", "lr", number),
    "lr": Setting("training", "lr", number),
    "min_lr": Setting("training", "min_lr", number),
    "warmup_num_steps": Setting("training", "warmup_steps", whole),
    "scheduler_config.warmup_num_steps": Setting("training", "warmup_steps", whole),
    "weight_decay": Setting("training", "weight_decay", number),
    "beta2": Setting("training", "beta2", number),
    "gradient_clipping": Setting("training", "clip_norm", number),
    "clip_grad_norm": Setting("training", "clip_norm", number),
    "energy_loss_weight": Setting("loss", "weight_energy", number),
    "force_loss_weight": Setting("loss", "weight_forces", number),
    "save_batch_interval": Setting("training", "checkpoint_every", above_zero, "0: left out"),
    "log_interval": Setting("training", "log_every", above_zero),
}

# of everything else that the files hold, why it is left out; a name stands for all below it
DATA = "data are prepared once: farfield preprocess, then --data-path"
RANKS = "torchrun says how many processes there are and where"
LOGS = "tensorboard/, log.txt and results.json are always written"
EPOCHS = "validations are counted in epochs: --validate-every"
ERRORS = "the test table always has all errors"
WHOLE = "all numbers are float32 or float64: --precision"

IGNORED: Mapping[str, str] = {
    "trainer": "the script chooses the trainer: farfield train potential",
    "includes": "a file that is included is converted by itself",
    "model.name": "the network is --model e2former",
    "model.pass_through_head_outputs": "heads belong to the network",
    "model.otf_graph": "graphs are made once, by preprocessing",
    "model.heads": "heads belong to the network: --forces",
    "heads": "heads belong to the network: --forces",
    "dataset": DATA,
    "outputs": ERRORS,
    "evaluation_metrics": ERRORS,
    "logger": LOGS,
    "slurm": "the cluster's own script starts the training",
    "optim.eval_batch_size": "evaluations choose their batches by the number of atoms",
    "optim.load_balancing": "batches are limited by --max-atoms-per-batch",
    "optim.scheduler": "optim.scheduler_params says which course",
    "optim.scheduler_params.warmup_factor": "the learning rate rises from zero",
    "optim.scheduler_params.warmup_epochs": "its steps depend on the data: --warmup-steps",
    "optim.eval_every": EPOCHS,
    "backbone": "the network is --model e2former",
    "strategy": RANKS,
    "strategy_config": RANKS,
    "local_rank": RANKS,
    "world_size": RANKS,
    "node_rank": RANKS,
    "rank": RANKS,
    "dist_backend": RANKS,
    "deepspeed_config": RANKS,
    "pipeline_model_parallel_size": RANKS,
    "tensor_model_parallel_size": RANKS,
    "cpu": "the machine: --device",
    "data_path": DATA,
    "data_path_list": DATA,
    "data_path_list_valid": DATA,
    "dataset_name_list": DATA,
    "dataset_name_list_valid": DATA,
    "dataset_split_raito": DATA,
    "dataset_sample_prob": DATA,
    "dataset_micro_batch_size": "give --max-atoms-per-batch",
    "train_val_test_split": DATA,
    "shuffle": "training batches are always shuffled",
    "loss_unit": "labels are read in their unit, errors are in eV and eV/Angstrom",
    "loss_fn": "costs are chosen for energies and forces: --energy-loss, --force-loss",
    "save_dir": "the folder of a run: --run-dir",
    "save_epoch_interval": "a checkpoint is written after every epoch",
    "val_batch_size": "evaluations choose their batches by the number of atoms",
    "val_batch_interval": EPOCHS,
    "val_batch_log_interval": EPOCHS,
    "val_epoch_interval": EPOCHS,
    "test_batch_interval": EPOCHS,
    "total_num_steps": "a run is as long as its epochs or minutes",
    "warmup_factor": "the learning rate rises from zero",
    "warmup_lr": "the learning rate rises from zero",
    "warmup_num_epochs": "warmup_num_steps says how many steps",
    "scheduler_config.warmup_min_lr": "the learning rate rises from zero",
    "init_lr": "the learning rate rises from zero",
    "beta1": "it is 0.9",
    "eps": "it is 1e-8",
    "grad_scaler_init": WHOLE,
    "experiment_name": "the folder of a run: --run-dir",
    "ifresume": "continue with --resume",
    "load_ckpt": "continue with --resume",
    "early_stopping": "give --patience",
    "early_stopping_patience": "give --patience",
    "early_stopping_metric": "the loss of the validation split chooses",
    "early_stopping_mode": "the loss of the validation split chooses",
    "wandb": LOGS,
    "wandb_team": LOGS,
    "wandb_group": LOGS,
    "wandb_project": LOGS,
    "wandb_run_name": LOGS,
    "aim": LOGS,
    "aim_dir": LOGS,
    "tb": LOGS,
    "tb_dir": LOGS,
    "swanlab": LOGS,
    "swanlab_project": LOGS,
    "defaults": "Hydra's list of files; each is converted by itself",
    "ifstack": "layers are never copied to deepen a network",
}

# refused unless off: (why, what to type)
HALF = "half precision rounds by 2e-4, where equivariance holds to 1e-5; give --precision float32"
REFUSED_UNLESS_OFF: Mapping[str, str] = {
    "fp16": HALF,
    "bf16": HALF,
    "auto_cast": HALF,
    "finetune_from_checkpoint_dir": "weights of other programs do not fit; train from the start",
    "finetune_from_checkpoint_id": "weights of other programs do not fit; train from the start",
    "optim.scheduler_params.lr_min_factor": "it is a share of the learning rate; give --min-lr",
}
