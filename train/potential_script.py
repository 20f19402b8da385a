"""What train_md17 and train_md22 share: options, presets from the data folder, one run, several
seeds, near field against hybrid.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from easydict import EasyDict
from torch import nn

from farfield.common import monitor
from farfield.common.command_line import OptionParser
from farfield.common.precision import PRECISIONS
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.prepared_folder import load_statistics, stored_cutoff
from farfield.models.networks.blocks import ATTENTIONS, parse_schedule
from farfield.models.networks.e2former_options import PRESETS, E2FormerOptions
from farfield.train.data_order import EpochLoader
from farfield.train.launch import Script, check_layers, variant
from farfield.train.losses import LOSSES
from farfield.train.optimizers import OPTIMIZERS, SCHEDULES
from farfield.train.run_options import (
    add_run_options,
    add_training_options,
    prepare_process,
)
from farfield.train.tasks.energy_forces import (
    FAMILIES,
    build_model_for,
    build_task,
    set_references,
    split_loader,
)
from farfield.train.trainer import Trainer

SPLITS = ("train", "val", "test")
NEAR, WHOLE = "near", "near+far"  # rows and sub folders of a comparison
# settings found on MD17 ethanol (950 frames, 3 CPU minutes of one thread, near field alone):
# validation force error in meV/Angstrom batch 3: 18.8, 5: 16.5 (rate 0.01: 17.3), 8: 14.7
TUNED = {
    "optimizer": "adam",
    "lr": 5e-3,
    "min_lr": 0.0,
    "warmup_steps": 100,
    "clip_norm": 10.0,
    "ema_decay": 0.99,
}
BATCH_OF_TASK = {"md17": 8}  # structures, unless --batch-size or a limit of atoms or edges is given
ATOMS_PER_BATCH = (
    8 * 9
)  # what that batch is in atoms of ethanol, for tasks whose molecules differ in size
# options that say what the data are like
MEASURED = frozenset({"avg_degree", "avg_atoms", "far_design_radius"})


def build_parser(task: str, description: str, run_dir: str, data_path: str) -> OptionParser:
    """All options of a script."""
    parser = OptionParser(task, description)
    add_run_options(parser, run_dir)
    parser.section("run", "").add(
        "--compare",
        bool,
        False,
        help=f"train the near field alone as well, in {NEAR}/ and {WHOLE}/, one table",
    )
    data = parser.section("data", "what is learned from")
    data.add(
        "--data-path",
        str,
        data_path,
        main=True,
        help="folder made by preprocess_md17 or preprocess_md22",
    )
    data.add(
        "--max-atoms-per-batch",
        int,
        None,
        low=1,
        help="instead of --batch-size, or beside it, whichever is reached first",
    )
    data.add("--max-edges-per-batch", int, None, low=1, help="likewise, directed edges")
    model = parser.section(
        "model",
        "the network; lengths in Angstrom; what is not given comes from --preset, then from the "
        "data folder",
    )
    model.add(
        "--preset", str, "small", choices=list(PRESETS), main=True, help="size of the network"
    )
    model.add(
        "--model", str, "e2former", key="name", choices=["e2former"], help="name in models.factory"
    )
    model.add_fields(
        E2FormerOptions,
        decided=dict.fromkeys(MEASURED | {"cutoff"}, "the data"),
        presets=PRESETS,
        preset="small",
    )
    add_loss_options(parser)
    usual = (
        f"{BATCH_OF_TASK[task]} of them"
        if task in BATCH_OF_TASK
        else f"{ATOMS_PER_BATCH} atoms' worth"
    )
    words = f"graphs in a batch; unless named {usual}, or what a limit of atoms or edges allows"
    add_training_options(
        parser, OPTIMIZERS, SCHEDULES, PRECISIONS, words, epochs=300, batch_size=None, **TUNED
    )
    return parser


def add_loss_options(parser: OptionParser):
    """Weights and costs; errors in eV, eV/Angstrom, eV/Angstrom^3.

    An energy is a sum over atoms, so what a step does to it, wanted or not, grows with their
    number; so does its part of the gradient, unless the error is divided by them. Undivided
    energies of the 148 atoms of MD22's buckyball-catcher (weight 0.1) drown the forces: training
    stays at the error of zero forces for hundreds of steps (``--energy-per structure
    --weight-energy 0.1``), with divided ones it does not.
    """
    loss = parser.section("loss", "what is minimised")
    loss.add("--weight-energy", float, 0.2, low=0, main=True, help="weight of the energy part")
    loss.add("--weight-forces", float, 1.0, low=0, main=True, help="weight of the force part")
    loss.add("--weight-stress", float, 0.0, low=0, help="weight of the stress part")
    loss.add("--energy-loss", str, "mae", choices=list(LOSSES), help="cost of an energy error")
    loss.add(
        "--force-loss",
        str,
        "vector_norm",
        choices=list(LOSSES),
        help="cost of a force error; vector_norm is L2-MAE",
    )
    loss.add(
        "--energy-per",
        str,
        "atom",
        choices=["structure", "atom"],
        help="whether an energy error is divided by the atoms",
    )
    loss.add("--energy-scale", float, 0.01, above=0, help="where a robust energy loss bends, eV")
    loss.add(
        "--force-scale", float, 0.02, above=0, help="where a robust force loss bends, eV/Angstrom"
    )
    loss.add(
        "--late-energy-factor",
        float,
        1.0,
        low=0,
        help="the energy weight is multiplied with this late in the run",
    )
    loss.add(
        "--late-start", float, 0.75, low=0, high=1, help="fraction of the run from which on it is"
    )


def read_options(parser: OptionParser, argv: list[str] | None = None) -> EasyDict:
    """The configuration of a command line; ``FileNotFoundError`` without a data folder."""
    return parser.parse_config(
        argv, folder_presets, partial(measured_in_folder, BATCH_OF_TASK.get(parser.task))
    )


def folder_presets(values: dict) -> dict:
    """Options nobody named: ``--preset``, then the cutoff of the graphs."""
    return {"cutoff": stored_cutoff(values["data_path"]), **PRESETS[values["preset"]]}


def measured_in_folder(structures: int | None, values: dict) -> dict:
    """Options nobody named, by what the training split says; structures: of a batch without any
    limit, None for as many as have ``ATOMS_PER_BATCH``.
    """
    statistics = load_statistics(values["data_path"])
    found = {
        "avg_degree": statistics.average_neighbors or 1.0,
        "avg_atoms": statistics.average_atoms,
    }
    found["far_design_radius"] = max(1.0, statistics.design_radius)
    if not statistics.force_rms:
        found |= {"forces": "none", "weight_forces": 0.0, "weight_energy": 1.0}
    elif values["forces"] == "none":
        found |= {"weight_forces": 0.0, "weight_energy": 1.0}
    if values["batch_size"] is None:
        limited = values["max_atoms_per_batch"] or values["max_edges_per_batch"]
        by_size = structures or max(1, round(ATOMS_PER_BATCH / statistics.average_atoms))
        found["batch_size"] = statistics.structures if limited else by_size
    return found


def near_only(config: EasyDict) -> str:
    """The schedule of ``config`` without its far field; ``ValueError`` if there is none, or nothing
    else.
    """
    names = parse_schedule(config.model.schedule, config.model.layers)
    near = [ATTENTIONS[name].near_order for name in names if ATTENTIONS[name].near_order]
    if not near or not any(ATTENTIONS[name].far for name in names):
        mend = "give a schedule with both, e.g. --schedule hybrid-first-order"
        raise ValueError(
            f"--compare needs a near and a far field, --schedule {config.model.schedule} has "
            f"only one of them; {mend}"
        )
    return "+".join(f"{name}1" for name in near)


def build_trainer(config: EasyDict) -> tuple[Trainer, EpochLoader]:
    """The trainer of one run and its test data. Writes nothing; ``ValueError`` or ``OSError`` for
    whatever cannot be trained.
    """
    device = prepare_process(config)
    check_layers(config.model)
    statistics = load_statistics(config.data.data_path)
    model, task = build_model_for(config), build_task(config)
    set_references(model, statistics)
    train, val, test = (
        split_loader(config, split, statistics.references, training=split == "train")
        for split in SPLITS
    )
    for split, loader in zip(SPLITS, (train, val, test), strict=True):
        try_structures(model, split, loader.dataset)
    folder = Path(config.run.run_dir)
    return Trainer(
        model, task, train, val, config, folder, device, monitor.RunLog(folder / "log.txt")
    ), test


def try_structures(model: nn.Module, split: str, dataset: MoleculeDataset):
    """``ValueError`` for structures that the network refuses, before anything is trained or
    written.

    One structure of each kind of periodicity, all in one batch: what the network can say of them it
    can say of all.
    """
    periodic = dataset.structures.periodic
    kinds = [0] if periodic is None else np.unique(periodic, axis=0, return_index=True)[1]
    try:
        model.eval()(dataset[kinds].to(dtype=next(model.parameters()).dtype))
    except ValueError as error:
        raise ValueError(f"{split} split of the data: {error}") from None
    model.train()


def describe(trainer: Trainer, test: EpochLoader):
    """What is learned from, with units, and what learns."""
    config, log = trainer.config, trainer.log
    for split, loader in zip(SPLITS, (trainer.train_loader, trainer.val_loader, test), strict=True):
        dataset = loader.dataset
        edges = f"{int(dataset.edges_per_structure.sum())} edges within {dataset.cutoff} Angstrom"
        log(f"{split}: {dataset.structures.summary()}\n  {edges}, {len(loader)} batches")
    if config.model.forces == "none" and trainer.train_loader.dataset.structures.forces is not None:
        log(
            "note: the data have forces, or zeros in their place, which are not learned "
            "(--forces none)"
        )
    weights = sum(weight.numel() for weight in trainer.model.parameters())
    log(
        f"{config.model.schedule} ({config.model.irreps}), {weights} weights, seed "
        f"{config.run.seed}; run folder {trainer.folder}"
    )


def train_both(script: Script, config: EasyDict) -> list[dict] | None:
    """``--compare``: near field alone and with the far field, everything else equal; None if
    ``--pause-after`` ended the session.
    """
    if config.run.seeds > 1:
        raise ValueError(
            f"--compare trains one seed, --seeds is {config.run.seeds}; compare each seed in a "
            "run folder of its own"
        )
    schedules = {NEAR: near_only(config), WHOLE: config.model.schedule}
    configs = [
        variant(config, name, {"compare": False}, {"schedule": schedule})
        for name, schedule in schedules.items()
    ]
    return script.train_all(
        config,
        configs,
        "near field alone and with the far field",
        lambda results: comparison(schedules, results),
    )


def comparison(schedules: dict[str, str], results: list[dict]) -> list[dict]:
    """One row a run: size, time of a step (validations included), test errors in both families of
    units.
    """
    rows = []
    for (name, schedule), result in zip(schedules.items(), results, strict=True):
        milliseconds = 60e3 * result["cpu_minutes"] / max(1, result["steps"])
        row = {
            "row": name,
            "schedule": schedule,
            "weights": result["parameters"],
            "steps": result["steps"],
        }
        row |= {"cpu_minutes": result["cpu_minutes"], "cpu_ms_per_step": milliseconds}
        model_rows = [line for line in result["test"] if line["row"] == "model"]
        for unit, line in zip(FAMILIES, model_rows, strict=True):
            row |= {
                f"{metric} ({unit})": line[metric]
                for metric in ("energy_mae", "force_mae")
                if metric in line
            }
        rows.append(row)
    return rows


def run(module: str, parser: OptionParser, argv: list[str] | None = None):
    """Entry point of both scripts; ``module`` is the name of the calling one."""
    config = read_options(parser, argv)
    script = Script(module, build_trainer, describe)
    script.run(config, partial(train_both, script) if config.run.compare else None)
