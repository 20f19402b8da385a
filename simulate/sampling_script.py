"""What sample and relax_diffusion do around their molecules: files, table, interruptions."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from farfield.common.log import RunLog, format_table, write_json
from farfield.common.session import Interrupted, cpu_seconds
from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.commands import called_as
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.simulate.batch_folder import BatchFolder
from farfield.simulate.molecule_files import write_sdf
from farfield.simulate.sampling_batches import Remarks, SamplingJob, no_remarks, run_job
from farfield.simulate.trained_sampler import SampledMolecules, SampleSettings, TrainedSampler


def run_options(
    options: argparse.Namespace,
    sampler: TrainedSampler,
    start: Structures,
    log: RunLog,
    *,
    relax: bool,
    settings: SampleSettings,
    remarks: Remarks = no_remarks,
    **decides: object,
) -> tuple[SampledMolecules, BatchFolder]:
    """Sample the molecules ``start`` as the options say, and write ``--out`` and ``--sdf``.

    decides: what else decides the content of the files, and must be the same in a resumed run. The
    folder of the batches is still there; close it at the end of all work.
    """
    trajectory = None if options.trajectory is None else Path(options.trajectory)
    job = SamplingJob(sampler, settings, start, relax, options.batch_size, remarks, trajectory)
    time_checkpoint = options.time_checkpoint
    recorded = job.recorded(
        checkpoint=files.file_checksum(options.checkpoint),
        time_checkpoint=time_checkpoint and files.file_checksum(time_checkpoint),
        **decides,
    )
    folder = BatchFolder(options.out, recorded, options.resume, options.overwrite)

    torch.set_num_threads(options.threads)
    log(f"{len(start)} molecules, {sampler.describe()}")
    if sampler.elements is None:
        log(
            "note: elements are not checked, since the checkpoint does not say them and the "
            f"training data cannot be read ({sampler.missing})"
        )
    begin = cpu_seconds()
    found = run_job(job, folder, options.progress)
    if not options.resume:  # a session that went on made only some of the steps
        spent = 1000 * (cpu_seconds() - begin) / max(int(found.steps.sum()), 1)
        log(f"{spent:.3g} ms of CPU time per step of a molecule")
    if options.sdf is not None:
        bonds = BOND_RULES[options.bonds](found.structures)
        items = {"steps": found.steps, "converged": found.converged}
        write_sdf(options.sdf, found.structures, bonds, items)
    return found, folder


def finish(
    options: argparse.Namespace, folder: BatchFolder, rows: list[dict], log: RunLog, words: str
) -> None:
    """Print the rows of the table and what they are, write ``--json``, and close the folder."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    log(format_table([{name: row.get(name, "") for name in columns} for row in rows]))
    log(words)
    if options.json is not None:
        write_json(options.json, {"settings": folder.settings, "rows": rows})
    folder.close()

    written = {"molecules": options.out, "sdf": options.sdf, "trajectories": options.trajectory}
    written["table"] = options.json
    log("   ".join(f"{name} {path}" for name, path in written.items() if path is not None))


def run_interruptible(
    module: str, argv: list[str] | None, work: Callable[[list[str] | None], object]
) -> None:
    """``work(argv)``; an interruption says how the script ``module`` goes on."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        work(argv)
    except (Interrupted, KeyboardInterrupt) as stop:
        command = f"{called_as(module)} {shlex.join(resumed_words(given))}"
        raise Interrupted(f"{str(stop) or 'interrupted'}; continue with: {command}") from None


def resumed_words(argv: Sequence[str]) -> list[str]:
    """Arguments that continue the run of ``argv``."""
    return [*(word for word in argv if word not in ("--resume", "--overwrite")), "--resume"]
