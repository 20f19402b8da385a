"""Ranks of a training that are killed at random moments: the run ends as an undisturbed one.

    python -m benchmarks.reliability.kill_ranks --number 20
    python -m benchmarks.reliability.kill_ranks --number 20 --launcher slurm

torchrun starts a training on two ranks (``slurm``: examples/cluster/train.slurm starts one torchrun
for each of two tasks, with a stand-in for ``srun``). A rank drawn at random gets SIGKILL at a
moment drawn evenly between the first checkpoint and the end of an undisturbed run; torchrun starts
the ranks again, and they continue from the last checkpoint. At the end the averaged weights are
compared with the undisturbed ones. A kill after the results were written is drawn again.
Cost: half a minute for each kill, most of it imports.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.reliability.small_programs import prepare_inputs, training_arguments
from farfield.common import checkpoint
from farfield.common.command_line import OptionParser, run_script
from farfield.models.choices import check_choice

ROOT = Path(__file__).resolve().parents[2]
MODULE = "train.train_potential"
RANKS = 2
EQUAL = 1e-6  # largest difference of an averaged weight, float64
MOST_DRAWS = 4  # for each kill, where many come too late
TRIAL = "FARFIELD_TRIAL"  # names the processes of a trial

LAUNCHERS = ("torchrun", "slurm")
TRAINING = ["--precision", "float64", "--epochs", "6", "--checkpoint-every", "1", "--lr", "0.01"]
COLUMNS = {
    "launcher": "launcher",
    "seconds": "undisturbed (s)",
    "kills": "kills",
    "same": "ended the same",
    "difference": "largest difference",
    "other": "other",
}

# tasks of two machines, both of them this one
SRUN = '#!/bin/bash\n"$@" & first=$!\n"$@" & second=$!\nwait $first && wait $second\n'
SCONTROL = "#!/bin/bash\necho 127.0.0.1\n"


class Moments(NamedTuple):
    """Seconds after its start at which a run wrote its first checkpoint, and ended."""

    checkpoint: float
    end: float


class Training:
    """A training on two ranks in the background; its output goes to a file next to the run."""

    def __init__(self, launcher: str, inputs: Path, run: Path, number: int):
        self.run, self.trial = run, f"{os.getpid()}.{number}"
        self.output = run.with_suffix(".txt")
        self.start = time.monotonic()
        options = [*training_arguments(inputs, run), *TRAINING]
        command, environment = launched(launcher, options, run, number)
        with open(self.output, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                command,
                env=os.environ | environment | {TRIAL: self.trial, "OMP_NUM_THREADS": "1"},
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    def wait_for_checkpoint(self) -> float:
        """Seconds from the start to the first checkpoint; RuntimeError if the run ends before."""
        while not (self.run / checkpoint.LAST).exists():
            if self.process.poll() is not None:
                raise RuntimeError(f"the training fails: {self.said()}")
            time.sleep(0.005)
        return self.seconds

    def kill(self, rank: int) -> bool:
        """SIGKILL to a rank; False if it has ended."""
        found = process_with({TRIAL: self.trial, "RANK": str(rank)})
        if found is not None:
            os.kill(found, signal.SIGKILL)
        return found is not None

    def said(self) -> str:
        """The end of its output."""
        return self.output.read_text(encoding="utf-8", errors="replace").strip()[-2000:]


def process_with(environment: dict[str, str]) -> int | None:
    """Id of a process that was started with these variables, or None."""
    wanted = {f"{name}={value}".encode() for name, value in environment.items()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            held = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended, or belongs to someone else
            continue
        if wanted <= set(held):
            return int(entry.name)
    return None


def launched(
    launcher: str, options: list[str], run: Path, number: int
) -> tuple[list[str], dict[str, str]]:
    """Command and environment that train on two ranks and start them again where one is lost.

    number: of the trial; each has a port of its own. ValueError for an unknown launcher.
    """
    check_choice("launcher", launcher, LAUNCHERS)
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        torchrun += [f"--nproc_per_node={RANKS}", "--max-restarts=3"]
        return [*torchrun, "-m", MODULE, *options], {}

    # two tasks with one rank each
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        stand_in = run.parent / name
        stand_in.write_text(text, encoding="utf-8")
        stand_in.chmod(0o755)
    cluster = {
        "PATH": f"{run.parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": str(RANKS),
        "SLURM_JOB_ID": str(os.getpid() + number),
        "SLURM_CPUS_PER_TASK": "1",
        "PYTHON": sys.executable,
        "SCRIPT": MODULE,
        "RESTARTS": "3",
    }
    return ["bash", str(ROOT / "examples/cluster/train.slurm"), str(run), *options], cluster


def averaged_weights(run: Path) -> dict[str, np.ndarray]:
    """Averaged weights at the end of a run, by name."""
    held = checkpoint.read_checkpoint(run / checkpoint.LAST)["averaged"]
    return {name: value.double().numpy() for name, value in held.items()}


def difference(run: Path, expected: dict[str, np.ndarray]) -> float:
    """Largest difference of an averaged weight."""
    found = averaged_weights(run)
    return max(float(np.abs(found[name] - value).max()) for name, value in expected.items())


def measure(
    launcher: str, inputs: Path, folder: Path, kills: int, generator: np.random.Generator
) -> dict:
    """Kill ranks ``kills`` times; a row of the table, and what went wrong."""
    folder.mkdir()
    whole = Training(launcher, inputs, folder / "whole", 0)
    checkpointed = whole.wait_for_checkpoint()
    if whole.process.wait():
        raise RuntimeError(f"the training fails undisturbed: {whole.said()}")
    moments, expected = Moments(checkpointed, whole.seconds), averaged_weights(whole.run)

    hits, faults, largest = 0, [], 0.0
    for number in range(1, 1 + MOST_DRAWS * kills):
        if hits == kills:
            break
        run, rank = folder / str(number), int(generator.integers(RANKS))
        training = Training(launcher, inputs, run, number)
        training.wait_for_checkpoint()
        wait = float(generator.uniform(0, moments.end - moments.checkpoint))
        time.sleep(wait)
        training_lasts = not (run / "results.json").exists()
        killed = training_lasts and training.kill(rank)
        code = training.process.wait()
        if not killed:
            continue

        hits += 1
        apart = difference(run, expected) if code == 0 else float("inf")
        largest = max(largest, apart)
        if not apart <= EQUAL:
            faults.append(
                f"rank {rank} killed {wait:.2f} s after a checkpoint: code {code}, weights "
                f"{apart:.1e} apart; {training.said()}"
            )
        print(f"{launcher}: {hits - len(faults)} of {hits}", flush=True)

    row = {"launcher": launcher, "seconds": moments.end, "kills": hits, "difference": largest}
    return row | {"same": hits - len(faults), "other": len(faults), "faults": faults}


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("kill_ranks", __doc__)
    bench = parser.section("bench", "what is killed")
    bench.add("--number", int, 20, low=1, help="number of kills")
    bench.add("--launcher", str, "torchrun", choices=LAUNCHERS, help="what starts the ranks")
    bench.add("--seed", int, 0, low=0, help="seed of the moments and ranks")
    bench.add("--json", str, None, help="file for the row, with what went wrong")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        inputs = prepare_inputs(Path(folder) / "inputs")
        where = Path(folder) / options.launcher
        row = measure(options.launcher, inputs, where, options.number, generator)
    print(*row["faults"], sep="\n", end="")
    harness.finish([row], COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
