"""A step with a non-finite loss or gradient: which structures it was made of, and the step again.

    python -m train.bad_steps runs/md17

A training writes ``bad_step.npz`` into its folder: the place of the step in the run, the rows of
the training split in its batches, and the weights before it (the step changed none). The command
builds the run from its config.yaml, takes the same batches and says which loss and which gradients
are not finite. Random draws of the network itself (dropout) are other ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # `python train/bad_steps.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from easydict import EasyDict

from farfield.common.argument_parser import OneLineParser
from farfield.common.checkpoint import load_weights
from farfield.common.script import run_script
from farfield.common.yaml_files import read_yaml
from farfield.dataloader.batch_shares import Share
from farfield.dataloader.datasets.epoch_draws import EpochIndices
from farfield.dataloader.storage import files
from farfield.dataloader.storage.seals import check_sealed_npz, write_sealed_npz
from farfield.train.step import StepResult

if TYPE_CHECKING:
    from farfield.train.trainer import Trainer

BAD_STEP = "bad_step.npz"
WEIGHT = "weight:"  # prefix of the weights in the file
HINT = "train until a step is not finite"
MOST_NAMED = 8  # rows in a line


@dataclasses.dataclass(frozen=True)
class BadStep:
    """Where a step stands, what it was made of, and the weights before it.

    step, epoch, first  number of the step, its epoch, and its first batch in the epoch
    batches             number of batches
    rows                rows of the training split (structures of the step,)
    loss                of the step; a finite one has gradients that are not
    progress            fraction of the run that was done
    weights             name -> array
    """

    step: int
    epoch: int
    first: int
    batches: int
    rows: np.ndarray
    loss: float
    progress: float
    weights: dict[str, np.ndarray]

    @classmethod
    def of(cls, trainer: Trainer, result: StepResult, batches: int) -> BadStep:
        """The step that a trainer has just tried."""
        position = trainer.position
        sampler = trainer.train_loader.sampler
        sampler.set_epoch(position.epoch)
        chosen = islice(iter(sampler), position.batch, position.batch + batches)
        rows = [_rows_of(one) for one in chosen]

        # the step changed no weight
        state = trainer.model.state_dict()
        return cls(
            step=position.step + 1,
            epoch=position.epoch,
            first=position.batch,
            batches=batches,
            rows=np.concatenate([np.zeros(0, np.int64), *rows]),
            loss=float(result.scalars["loss"]),
            progress=float(trainer.task.progress),
            weights={name: value.detach().cpu().numpy() for name, value in state.items()},
        )

    @property
    def words(self) -> str:
        """The step and its structures in a line."""
        named = ", ".join(map(str, self.rows[:MOST_NAMED].tolist()))
        more = f" and {len(self.rows) - MOST_NAMED} more" if len(self.rows) > MOST_NAMED else ""
        what = "gradient" if math.isfinite(self.loss) else "loss"
        return (
            f"step {self.step} has a non-finite {what} (loss {self.loss:.4g}), training "
            f"structures {named}{more}"
        )

    def save(self, folder: Path) -> None:
        """Write ``bad_step.npz``, atomically; the one before is replaced."""
        numbers = dataclasses.asdict(self)
        weights, rows = numbers.pop("weights"), numbers.pop("rows")
        arrays = {WEIGHT + name: value for name, value in weights.items()}
        # numpy keeps nan, which json does not know
        arrays["loss"] = np.array(numbers.pop("loss"))
        place = np.array(json.dumps(numbers))
        write_sealed_npz(folder / BAD_STEP, {"place": place, "rows": rows, **arrays})

    @classmethod
    def load(cls, folder: str | Path) -> BadStep:
        """Read what :meth:`save` wrote; ``FileNotFoundError`` or ``ValueError`` in one line."""
        path = Path(folder) / BAD_STEP
        content = files.read_npz(path, ("place", "rows", "loss"), HINT)
        with np.load(path, allow_pickle=False) as archive:
            check_sealed_npz(path, archive.files, HINT)
            names = [name for name in archive.files if name.startswith(WEIGHT)]
        held = files.read_npz(path, names, HINT)
        weights = {name.removeprefix(WEIGHT): value for name, value in held.items()}
        try:
            place = files.parse_json(str(content["place"]))
            return cls(rows=content["rows"], loss=float(content["loss"]), weights=weights, **place)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); {HINT}") from None


def _rows_of(chosen) -> np.ndarray:
    """Rows of the training split that a batch is made of; of one rank, where several share it."""
    chosen = chosen.chosen if isinstance(chosen, Share) else chosen
    return np.ravel(chosen.indices if isinstance(chosen, EpochIndices) else chosen)


def batches_again(folder: str | Path) -> tuple[Trainer, list]:
    """Trainer with the weights before the bad step of a run, and the batches of the step.

    ``trainer.task.loss(trainer.model, batch)`` is the loss of one of them.
    """
    from farfield.train.launch import build_trainer

    bad = BadStep.load(folder)
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the folder of a run")
    config = EasyDict(read_yaml(path, unchanged=True))
    config.run.run_dir = str(folder)
    trainer, _ = build_trainer(config)

    weights = {name: torch.from_numpy(value) for name, value in bad.weights.items()}
    load_weights(trainer.model, weights, Path(folder) / BAD_STEP)
    trainer.task.progress = bad.progress
    batches = list(islice(trainer.train_loader.epoch(bad.epoch, bad.first), bad.batches))
    return trainer, [batch.to(device=trainer.device, dtype=trainer.dtype) for batch in batches]


def lines_about(folder: str | Path) -> list[str]:
    """What is not finite in the bad step of a run, for the reader."""
    bad = BadStep.load(folder)
    trainer, batches = batches_again(folder)
    trainer.model.train()
    lines = [bad.words, f"rows of the training split: {' '.join(map(str, bad.rows.tolist()))}"]

    for number, batch in enumerate(batches):
        trainer.model.zero_grad()
        loss, parts = trainer.task.loss(trainer.model, batch)
        told = ", ".join(f"{name} {float(value):.4g}" for name, value in parts.items())
        lines.append(f"batch {number}: loss {float(loss.detach()):.4g} ({told})")
        if not torch.isfinite(loss):
            continue
        loss.backward()
        lost = [
            name
            for name, weight in trainer.model.named_parameters()
            if weight.grad is not None and not torch.isfinite(weight.grad).all()
        ]
        lines.append(f"  weights with non-finite gradients: {', '.join(lost) or 'none'}")
    return lines


def build_parser() -> OneLineParser:
    """The one argument of the script."""
    parser = OneLineParser(__doc__, usage="%(prog)s FOLDER")
    parser.add_argument("folder", help="run folder with bad_step.npz")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    print("\n".join(lines_about(build_parser().parse_args(argv).folder)))


if __name__ == "__main__":
    run_script(main)
