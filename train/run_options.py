"""Options that all training scripts have, and what is set before a training begins. Their parser:
``common.command_line``.
"""

import math
import random
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from easydict import EasyDict

from farfield.common.command_line import OptionParser, add_config_option, find_device

# what a continued run may change: where and how long it runs, and what it shows
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
        "progress",
        "data_path",
        "epochs",
        "max_cpu_minutes",
        "max_minutes",
        "patience",
        "validate_every",
        "checkpoint_every",
        "log_every",
        "max_bad_steps",
    }
)


def decided_elsewhere(presets: Mapping[str, Mapping], measured: frozenset[str]) -> dict[str, str]:
    """Field -> what decides it, for `Section.add_fields`: ``--preset`` for what any preset sets,
    the data for what they measure.
    """
    return {name: "--preset" for preset in presets.values() for name in preset} | dict.fromkeys(
        measured, "the data"
    )


def add_run_options(parser: OptionParser, run_dir: str):
    """Where the run lives, which machine it uses, how it continues."""
    add_config_option(parser)
    run = parser.section("run", "where the run lives and what it uses")
    run.add(
        "--run-dir",
        str,
        run_dir,
        help="folder of the run: checkpoints, tensorboard, plots, results",
    )
    run.add(
        "--resume", bool, False, help="go on from checkpoint_last.pt, on the CPU bit-identically"
    )
    run.add("--overwrite", bool, False, help="throw away the run in the folder")
    run.add("--seed", int, 0, low=0, high=2**31 - 1, help="seed of weights and data order")
    run.add(
        "--seeds",
        int,
        1,
        low=1,
        high=1000,
        help="train this many seeds one after the other and print mean +- std",
    )
    run.add("--device", str, "cpu", help="cpu, cuda, cuda:1, ...")
    run.add("--threads", int, 1, low=1, high=4096, help="torch threads")
    run.add(
        "--workers",
        int,
        0,
        low=0,
        high=256,
        help="processes that load data (0: the training process itself)",
    )
    run.add(
        "--pause-after",
        int,
        None,
        low=1,
        help="stop after this many more epochs of the planned run, as an interrupt would",
    )
    run.add("--progress", bool, True, help="progress bar")


def add_training_options(
    parser: OptionParser,
    optimizers,
    schedules,
    precisions,
    batch_words: str = "graphs in a batch",
    **defaults,
):
    """Length, optimiser, schedule, averaging and bookkeeping of the training; the three arguments
    are registries.

    ``defaults`` (``lr=0.003``) take the place of the general ones for a script that knows better; a
    ``batch_size`` of None: by the data.
    """
    by_data = {"decided": "the data"} if defaults.get("batch_size", 1) is None else {}
    training = parser.section("training", "length, optimiser, schedule")

    def add(flag: str, kind: type, default, **limits):
        training.add(
            flag, kind, defaults.get(flag.lstrip("-").replace("-", "_"), default), **limits
        )

    add("--epochs", int, 100, low=1, help="planned passes over the training data")
    add(
        "--max-cpu-minutes",
        float,
        None,
        above=0,
        help="stop when the process has used this much CPU time",
    )
    add("--max-minutes", float, None, above=0, help="stop after this much wall time")
    add("--batch-size", int, 128, low=1, help=batch_words, **by_data)
    add("--accumulate", int, 1, low=1, help="batches whose gradients make one step")
    add("--optimizer", str, "adam", choices=list(optimizers), help="optimiser")
    add("--lr", float, 1e-3, above=0, high=100, help="largest learning rate")
    add("--weight-decay", float, 0.0, low=0, high=100, help="weight decay")
    add("--beta2", float, 0.999, low=0, below=1, help="memory of the squared gradients")
    add("--lr-schedule", str, "cosine", choices=list(schedules), help="learning rate over the run")
    add("--warmup-steps", int, 100, low=0, help="steps of linear warm-up")
    add("--min-lr", float, 1e-5, low=0, help="learning rate at the end")
    add(
        "--plateau-patience",
        int,
        10,
        low=1,
        help="plateau schedule: validations without progress before the rate halves",
    )
    add(
        "--clip-norm",
        float,
        1.0,
        above=0,
        high=math.inf,
        help="largest gradient norm; inf for none",
    )
    add(
        "--ema-decay",
        float,
        0.0,
        low=0,
        below=1,
        help="averaging of the weights for evaluation; 0 for none",
    )
    add(
        "--precision",
        str,
        "float32",
        choices=list(precisions),
        help="numbers of weights and batches",
    )
    add(
        "--patience", int, None, low=1, help="stop after this many validations without a better one"
    )
    add("--validate-every", int, 1, low=1, help="epochs between validations")
    add(
        "--checkpoint-every",
        int,
        None,
        low=1,
        help="also write checkpoint_last.pt every this many steps",
    )
    add("--log-every", int, 10, low=1, help="steps between tensorboard rows")
    add("--max-bad-steps", int, 10, low=1, help="non-finite steps in a row before giving up")


def prepare_process(config: EasyDict) -> torch.device:
    """Set threads and every random generator from ``config.run``; returns the device, or raises
    ``ValueError`` if it is not there.
    """
    torch.set_num_threads(config.run.threads)
    random.seed(config.run.seed)
    np.random.seed(config.run.seed)  # noqa: NPY002 - libraries that draw from the global generator follow the seed too
    torch.manual_seed(config.run.seed)
    warnings.filterwarnings(
        "ignore", "Detected call of `lr_scheduler.step"
    )  # a first step with a non-finite loss moves no weight
    return find_device(config.run.device)
