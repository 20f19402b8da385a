"""Options that all training scripts have, and what is set before a training begins. Their parser:
``common.command_line``.
"""

import math
import os
import random
import warnings
from collections.abc import Callable

import numpy as np
import torch
from easydict import EasyDict

from farfield.common import ranks
from farfield.common.command_line import OptionParser, Section, add_config_option, find_device
from farfield.dataloader.augmentation import GROUPS, NO_AUGMENTATION
from farfield.train.initial_weights import add_initial_options

Adder = Callable[..., None]  # (flag, kind, default, **settings of Section.add)

CUBLAS_WORKSPACE = ":4096:8"  # cuBLAS repeats its sums with this buffer

# what a continued run may change: where and how long it runs, what it shows, and how large its
# steps are, which is how a run that diverges goes on
FREE_ON_RESUME = frozenset(
    {
        "run_dir",
        "resume",
        "overwrite",
        "seeds",
        "device",
        "threads",
        "workers",
        "pause_after",
        "detach",
        "timestamp_id",
        "progress",
        "data_path",
        "graph",
        "epochs",
        "max_cpu_minutes",
        "max_minutes",
        "patience",
        "validate_every",
        "checkpoint_every",
        "log_every",
        "max_bad_steps",
        "lr",
        "min_lr",
        "clip_norm",
    }
)


def add_run_options(parser: OptionParser, run_dir: str):
    """Where the run lives, which machine it uses, how it continues."""
    add_config_option(parser)
    run = parser.section("run", "where the run lives and what it uses")

    # the folder of the run
    folder = "folder of the run: checkpoints, tensorboard, plots, results"
    run.add("--run-dir", str, run_dir, main=True, help=folder)
    on = "continue from checkpoint_last.pt; on the CPU bit-identically, with --epochs"
    run.add("--resume", bool, False, main=True, help=on)
    run.add("--overwrite", bool, False, main=True, help="delete the run in the folder first")

    # what decides the results
    seed = "seed of the first weights and of the data order"
    run.add("--seed", int, 0, low=0, high=2**31 - 1, main=True, help=seed)
    seeds = "number of seeds, trained one after the other; the table shows mean +- std"
    run.add("--seeds", int, 1, low=1, high=1000, help=seeds)

    # the machine and the session
    run.add("--device", str, "cpu", main=True, help="cpu, cuda, cuda:1, ...")
    run.add(
        "--threads", int, 1, low=1, high=4096, main=True, help="CPU threads of torch, of each rank"
    )
    fixed = (
        "deterministic kernels of torch and cuDNN on a GPU: runs repeat, slower, and an operation "
        "without such a kernel is an error; on the CPU runs repeat anyway and nothing changes"
    )
    run.add("--deterministic", bool, False, help=fixed)
    workers = "processes that load data; 0: the training process loads"
    run.add("--workers", int, 0, low=0, high=256, help=workers)
    pause = "epochs after which this session pauses, as after an interrupt (default: no pause)"
    run.add("--pause-after", int, None, low=1, help=pause)
    run.add("--progress", bool, True, help="show a progress bar")
    back = "run in the background, with output.txt and pid in the run folder"
    run.add("--detach", bool, False, help=back)
    stamp = "put the time (UTC) behind the name of the run folder"
    run.add("--timestamp-id", bool, False, help=stamp)


def add_training_options(
    parser: OptionParser,
    optimizers,
    schedules,
    precisions,
    batch_size: str = "structures per batch",
):
    """Length, optimiser, schedule, averaging and bookkeeping of the training.

    optimizers, schedules, precisions: registries. batch_size: help text of the size of a batch. A
    script's default of None for ``batch_size`` leaves it to the data.
    """
    training = parser.section("training", "length, optimiser, schedule")
    batch_decided = "the data" if parser.option_defaults.get("batch_size", 1) is None else None
    add_length_options(training.add, batch_decided, batch_size)
    add_initial_options(training.add)
    add_augmentation_options(training.add)
    add_optimizer_options(training.add, optimizers, schedules, precisions)
    add_bookkeeping_options(training.add)


def add_length_options(add: Adder, batch_decided: str | None, batch_size: str):
    """When a training ends, and how much goes into a step.

    batch_decided: what decides the size of a batch where the user names none. batch_size: help text
    of the option.
    """
    add("--epochs", int, 100, low=1, main=True, help="passes over the training data")
    cpu = "CPU time in minutes after which training stops (default: no limit)"
    add("--max-cpu-minutes", float, None, above=0, main=True, help=cpu)
    wall = "wall time in minutes after which training stops (default: no limit)"
    add("--max-minutes", float, None, above=0, help=wall)
    patience = "validations without progress after which training stops (default: no limit)"
    add("--patience", int, None, low=1, help=patience)
    add("--batch-size", int, 128, low=1, main=True, decided=batch_decided, help=batch_size)
    add("--accumulate", int, 1, low=1, help="batches whose gradients are added up for one step")


def add_augmentation_options(add: Adder):
    """How training batches are turned; validation and tests never are."""
    turns = (
        "random turns of training structures: none, rotations, or orthogonal (with probability "
        "1/2 also mirrored)"
    )
    add("--augment", str, NO_AUGMENTATION, choices=[NO_AUGMENTATION, *GROUPS], help=turns)
    copies = (
        "copies of each training batch, each structure turned by a matrix of its own; a step "
        "costs as many times more"
    )
    add("--augment-copies", int, 1, low=1, high=1000, help=copies)


def add_optimizer_options(add: Adder, optimizers, schedules, precisions):
    """How a step is made from gradients."""
    add("--optimizer", str, "adam", choices=list(optimizers), help="rule of a step")
    add("--lr", float, 1e-3, above=0, high=100, main=True, help="largest learning rate")
    add("--weight-decay", float, 0.0, low=0, high=100, help="decay rate of the weights")
    beta2 = "decay of the average of squared gradients, per step"
    add("--beta2", float, 0.999, low=0, below=1, help=beta2)

    # the learning rate over the run
    course = "course of the learning rate over the run"
    add("--lr-schedule", str, "cosine", choices=list(schedules), help=course)
    add("--warmup-steps", int, 100, low=0, help="steps in which the learning rate rises linearly")
    add("--min-lr", float, 1e-5, low=0, help="learning rate at the end of the run")
    plateau = "validations without progress after which --lr-schedule plateau halves the rate"
    add("--plateau-patience", int, 10, low=1, help=plateau)

    # what keeps a training steady
    clip = "largest norm of the gradient, longer ones are shortened; inf: no limit"
    add("--clip-norm", float, 1.0, above=0, high=math.inf, help=clip)
    average = "decay of the averaged weights that are evaluated, per step; 0: no averaging"
    add("--ema-decay", float, 0.0, low=0, below=1, help=average)
    number = (
        "number type of the network; bf16-mixed: float32, with products of linear maps in bfloat16 "
        "while training, for GPUs, not for conservative forces"
    )
    add("--precision", str, "float32", choices=list(precisions), help=number)


def add_bookkeeping_options(add: Adder):
    """How often a training validates, saves and logs."""
    add("--validate-every", int, 1, low=1, help="epochs between validations")
    saved = "steps between writes of checkpoint_last.pt (default: one after every epoch)"
    add("--checkpoint-every", int, None, low=1, help=saved)
    add("--log-every", int, 10, low=1, help="steps between tensorboard rows")
    bad = "steps in a row with non-finite loss or gradient after which training gives up"
    add("--max-bad-steps", int, 10, low=1, help=bad)


def add_batch_limits(data: Section):
    """Limits of a batch that ``--batch-size`` does not set."""
    atoms = "largest number of atoms in a batch (default: no limit)"
    data.add("--max-atoms-per-batch", int, None, low=1, help=atoms)
    edges = "largest number of directed edges in a batch (default: no limit)"
    data.add("--max-edges-per-batch", int, None, low=1, help=edges)


def prepare_process(config: EasyDict) -> torch.device:
    """Set threads and every random generator from ``config.run``; returns the device.

    ``ValueError`` for a device that does not exist, and for a learning rate that ends above its
    start.
    """
    training = config.training
    if training.min_lr > training.lr:
        raise ValueError(
            f"--min-lr {training.min_lr} is above --lr {training.lr}, but the learning rate falls; "
            "lower --min-lr, or raise --lr"
        )

    torch.set_num_threads(config.run.threads)
    random.seed(config.run.seed)
    np.random.seed(config.run.seed)  # noqa: NPY002 - of libraries that draw from it
    torch.manual_seed(config.run.seed)

    # a first step with a non-finite loss moves no weight, and torch wonders why
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    device = find_device(ranks.device_name(config.run.device))
    if config.run.deterministic:
        use_deterministic_kernels(device)
    return device


def use_deterministic_kernels(device: torch.device) -> None:
    """From now on sums on a GPU have a fixed order; a device of another kind is left as it is.

    An operation that has no such kernel raises RuntimeError where it is called.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)  # before cuBLAS starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
