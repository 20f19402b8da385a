"""Train the SE(3)-Transformer on the N-body experiment.

    python -m preprocess.preprocess_nbody --out data/nbody               # once
    python -m train.train_nbody --protocol p1000 --epochs 50             # a run in runs/nbody
    # after an interruption: goes on bit-identically
    python -m train.train_nbody --run-dir runs/nbody --resume
    python -m train.train_nbody --protocol p500 --max-cpu-minutes 45 --seeds 3 --run-dir runs/p500
    # the test table again, from the checkpoint alone
    python -m train.evaluate runs/nbody/checkpoint_best.pt

The run folder holds config.yaml, checkpoint_last.pt, checkpoint_best.pt, tensorboard/, plots/,
results.json and log.txt.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_nbody.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from easydict import EasyDict

from farfield.common import monitor
from farfield.common.command_line import OptionParser, run_script
from farfield.common.precision import PRECISIONS
from farfield.models.factory import DERIVED, MODELS
from farfield.models.networks.nbody_transformer import NBodyOptions
from farfield.train.data_order import EpochLoader
from farfield.train.launch import Script
from farfield.train.losses import LOSSES
from farfield.train.optimizers import OPTIMIZERS, SCHEDULES
from farfield.train.run_options import add_run_options, add_training_options, prepare_process
from farfield.train.tasks.nbody import (
    PROTOCOLS,
    TRAIN_STARTS,
    build_model_for,
    build_task,
    split_loader,
)
from farfield.train.trainer import Trainer

NBODY_MODELS = [name for name, (_, options) in MODELS.items() if options is NBodyOptions]


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("nbody", __doc__)
    add_run_options(parser, "runs/nbody")
    data = parser.section("data", "what is learned from")
    data.add(
        "--protocol",
        str,
        "p1000",
        choices=list(PROTOCOLS),
        main=True,
        help="p1000: 10 frames ahead from frame 0; p500: 5 frames, spread starts",
    )
    data.add("--data-path", str, "data/nbody", main=True, help="folder made by preprocess_nbody")
    windows = (
        "window drawn from a training simulation in an epoch: at frame 0, anywhere, or "
        "half and half (default of p1000; all for p500)"
    )
    data.add("--train-starts", str, None, choices=list(TRAIN_STARTS), help=windows)
    data.add(
        "--cache",
        bool,
        False,
        help="read the edge basis of the windows that are in the cache beside the data, compute "
        "the others",
    )
    model = parser.section("model", "the network")
    model.add(
        "--model",
        str,
        "se3_transformer_nbody",
        key="name",
        choices=NBODY_MODELS,
        help="name in models.factory",
    )
    model.add_fields(NBodyOptions, skip=(*DERIVED, "horizon"))  # the protocol decides the horizon
    loss = parser.section("loss", "what is minimised")
    loss.add("--loss", str, "mse", choices=list(LOSSES), help="cost of a residual")
    loss.add("--loss-scale", float, 1.0, above=0, help="where a robust loss bends")
    loss.add("--weight-displacement", float, 1.0, low=0, help="weight of x")
    loss.add("--weight-velocity", float, 1.0, low=0, help="weight of v")
    loss.add(
        "--waypoint-weight",
        float,
        0.5,
        low=0,
        help="weight of the same loss at the states between the updates of the model",
    )
    add_training_options(
        parser, OPTIMIZERS, SCHEDULES, PRECISIONS, epochs=60, lr=3e-3, ema_decay=0.995
    )
    return parser


def protocol_presets(values: dict) -> dict:
    """Defaults that depend on the protocol."""
    return {"train_starts": PROTOCOLS[values["protocol"]].train_starts}


def build_trainer(config: EasyDict) -> tuple[Trainer, EpochLoader]:
    """The trainer of one seed and its test data. Writes nothing; ``ValueError`` or ``OSError`` for
    whatever cannot be trained.
    """
    device = prepare_process(config)
    model, task = build_model_for(config), build_task(config)
    train, val, test = (
        split_loader(config, split, training=split == "train") for split in ("train", "val", "test")
    )
    folder = Path(config.run.run_dir)
    return Trainer(
        model, task, train, val, config, folder, device, monitor.RunLog(folder / "log.txt")
    ), test


def describe(trainer: Trainer, test: EpochLoader):
    """What is learned from, and what learns."""
    config = trainer.config
    sizes = [len(loader.dataset) for loader in (trainer.train_loader, trainer.val_loader, test)]
    counts = "{} training windows, {} validation, {} test".format(*sizes)
    weights = sum(weight.numel() for weight in trainer.model.parameters())
    trainer.log(
        f"{config.data.protocol}, seed {config.run.seed}: {counts}; {weights} weights; run "
        f"folder {trainer.folder}"
    )


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    Script("train.train_nbody", build_trainer, describe).run(
        build_parser().parse_config(argv, protocol_presets)
    )


if __name__ == "__main__":
    run_script(main)
