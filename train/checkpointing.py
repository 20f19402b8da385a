"""The state of a trainer in a checkpoint, and back.

A checkpoint holds everything that decides the next step: weights, averages, optimiser, schedule,
position in the data order, random states. On the CPU, with the same seed, machine and thread count,
a continued run is bit-identical to an uninterrupted one (sums on a GPU have no fixed order).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from torch import Tensor

from farfield.common import checkpoint, ranks
from farfield.common.command_line import plain, saved_config
from farfield.common.run_folder import check_same_run, newer_options
from farfield.train.budget import Position
from farfield.train.former_runs import current_config
from farfield.train.run_options import FREE_ON_RESUME

if TYPE_CHECKING:
    from farfield.train.data_order import EpochLoader
    from farfield.train.trainer import Trainer

# options that a resumed run may change, but whose change makes another run of it
CHANGES_RESULTS = (
    ("run", "threads"),
    ("training", "epochs"),
    ("training", "max_cpu_minutes"),
    ("training", "max_minutes"),
    ("training", "lr"),
    ("training", "min_lr"),
    ("training", "clip_norm"),
)


def state_of(trainer: Trainer) -> dict:
    """Content of a checkpoint."""
    trainer.budget.read_clocks()
    averaged = trainer.averaged

    # what decides the next step, then what the run has found, then what it was made with
    return {
        "config": saved_config(trainer.config),
        "weights": trainer.model.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "position": asdict(trainer.position),
        "random": checkpoint.random_states(trainer.device),
        "history": trainer.history,
        "best": trainer.best,
        "units": dict(trainer.task.units),
        "cutoff": graph_cutoff(trainer.train_loader),
        "elements": trained_elements(trainer.train_loader),
        "versions": checkpoint.recorded_versions(),
        "data": trainer.data_hash,
        "ranks": ranks.count(),
    }


def graph_cutoff(loader: EpochLoader) -> float | None:
    """Cutoff of the graphs of a loader, Angstrom; None where its data set has no such thing."""
    return getattr(loader.dataset, "cutoff", None)


def trained_elements(loader: EpochLoader) -> list[int] | None:
    """Atomic numbers of the structures of a loader; None where its data set has no atoms."""
    return getattr(loader.dataset, "elements", None)


def find_resumable(trainer: Trainer) -> dict | None:
    """Content of ``checkpoint_last.pt`` of the run folder, None if there is none.

    ``ValueError`` if it belongs to another configuration or other data.
    """
    path = trainer.folder / checkpoint.LAST
    if not path.exists():
        return None

    content = checkpoint.read_run(path, trainer.device)
    content["config"] = current_config(content["config"])
    check_same_run(path, content["config"], plain(trainer.config), FREE_ON_RESUME)
    if content["data"] != trainer.data_hash:
        raise ValueError(
            f"cannot resume {path}: it was trained and validated on other structures or labels "
            "than these; give the data it began with, or start another run with --run-dir"
        )
    before, now = content.get("cutoff"), graph_cutoff(trainer.train_loader)
    if before not in (None, now):
        raise ValueError(
            f"cannot resume {path}: it was trained on graphs with cutoff {before} A, these have "
            f"{now} A; give the data it began with, or start another run with --run-dir"
        )
    return content


def restore(trainer: Trainer, content: dict) -> None:
    """Continue from what :func:`find_resumable` has found.

    ``ValueError`` if the checkpoint belongs to another model, or is not complete.
    """
    path = trainer.folder / checkpoint.LAST
    checkpoint.load_weights(trainer.model, content["weights"], path)
    if trainer.averaged is not None:
        checkpoint.load_weights(trainer.averaged, content["averaged"] or {}, path)

    try:
        trainer.optimizer.load_state_dict(content["optimizer"])
        trainer.schedule.load_state_dict(content["schedule"])
        trainer.budget.position = Position(**content["position"])
        states = {name: _on_cpu(state) for name, state in content["random"].items()}
        checkpoint.restore_random_states(states, trainer.device)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint {path} is not complete ({error}); start another run with --run-dir"
        ) from None

    # the state of the schedule holds the rate of the start
    before = content["config"]["training"]["lr"]
    if before != trainer.options.lr:
        trainer.schedule.rescale(trainer.options.lr / before)

    trainer.history = content["history"]
    trainer.best = _newer_best(trainer, content["best"])


def notes_on(trainer: Trainer, content: dict) -> list[str]:
    """Lines for the log of a resumed run: where it goes on, and what may change its results."""
    position = trainer.position
    lines = [
        f"continues from {trainer.folder / checkpoint.LAST}: epoch {position.epoch}, batch "
        f"{position.batch}, step {position.step}"
    ]
    for name, version in checkpoint.package_versions().items():
        before = content["versions"].get(name)
        if before != version:
            lines.append(
                f"note: {name} was {before} and is {version} now; the run may not continue "
                "bit-identically"
            )

    before = content.get("ranks", 1)
    if before != ranks.count():
        lines.append(
            f"note: ranks: {before} before, {ranks.count()} now; the same batches are shared "
            "differently, so sums are rounded differently"
        )

    for name, value in newer_options(content["config"], plain(trainer.config)).items():
        lines.append(f"note: the option {name} is newer than this run; it is {value}")

    then, now = content["config"], trainer.config
    changed = [
        f"{key} ({then[section][key]} before, {now[section][key]} now)"
        for section, key in CHANGES_RESULTS
        if then[section][key] != now[section][key]
    ]
    if changed:
        lines.append(
            f"note: changed since the run began: {', '.join(changed)}; it does not continue "
            "bit-identically"
        )
    return lines


def _newer_best(trainer: Trainer, best: dict | None) -> dict | None:
    """``best``, or what ``checkpoint_best.pt`` says if a kill came between the two checkpoints of
    a validation.
    """
    path = trainer.folder / checkpoint.BEST
    if not path.exists():
        return best
    written = checkpoint.read_run(path, trainer.device)["best"]
    is_newer = written and (best is None or written["selection"] < best["selection"])
    return written if is_newer else best


def _on_cpu(state):
    """Random states with every tensor on the CPU, where torch reads them."""
    if isinstance(state, Tensor):
        return state.cpu()
    return [_on_cpu(item) for item in state] if isinstance(state, list) else state
