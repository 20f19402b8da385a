"""Tools of the benchmarks: what a step costs in time and memory, and how two programs compare.

Time. CPU seconds of the process (``time.process_time``, user + system), because other work on the
machine disturbs them less than the wall clock; on a GPU, wall seconds between synchronisations.
Programs are compared *interleaved*: one after the other in every round, so that a slow minute of
the machine slows all of them, and the ratio is also taken round by round.

Memory. Growth of the resident set above the loaded program: in a fresh process, after everything is
built, the high-water mark of the process is reset, the step runs once, and the mark is read. Blocks
that the allocator keeps for itself count, as they do for a user.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # libraries read it once, when they are loaded

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from farfield.dataloader.storage.files import write_json  # noqa: E402
from farfield.models.choices import check_choice  # noqa: E402

STEPS = ("forward", "train")


@dataclasses.dataclass
class Program:
    """A network bound to its inputs.

    module: holds the parameters. run: computes the outputs, a tuple of tensors.
    """

    name: str
    module: nn.Module
    run: Callable[[], tuple[Tensor, ...]]

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.module.parameters())

    def forward(self) -> None:
        """One evaluation without a graph for gradients."""
        with torch.no_grad():
            self.run()

    def train(self) -> None:
        """Forward and backward of the mean square of all outputs, no optimiser step."""
        self.module.zero_grad(set_to_none=True)
        sum(output.square().mean() for output in self.run()).backward()


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times longer another program takes than ours.

    value: ratio of the medians. least, most: smallest and largest ratio within one round.
    """

    value: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.least:.2f}, {self.most:.2f}]"


def seconds(function: Callable[[], None], device: torch.device | str = "cpu") -> float:
    """Cost of one call: CPU seconds of this process; on a GPU, wall seconds."""
    if torch.device(device).type != "cuda":
        start = time.process_time()
        function()
        return time.process_time() - start

    # Kernels run on after their launch: wait for them before reading the clock.
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def interleave(
    tasks: dict[str, Callable[[], None]],
    rounds: int,
    device: torch.device | str = "cpu",
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Seconds of every task in every round, the tasks taking turns.

    rounds: timed rounds, at least 1 (ValueError). warm_up: untimed rounds before them.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be >= 1, got {rounds}")

    for _ in range(warm_up):
        for task in tasks.values():
            task()

    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            times[name].append(seconds(task, device))
    return times


def ratio(other: list[float], ours: list[float]) -> Ratio:
    """Times of another program over ours, both from :func:`interleave`."""
    each = [b / a for a, b in zip(ours, other, strict=True)]
    return Ratio(statistics.median(other) / statistics.median(ours), min(each), max(each))


def _status_mb(field: str) -> float:
    """A ``kB`` line of this process's status, in MB (10^6 bytes)."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(
        f"the kernel reports no {field} for a process: memory is measured on Linux only"
    )


def _resident_growth(function: Callable[[], None]) -> float:
    """MB by which the resident set of this process rises at most during one call."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    start = _status_mb("VmRSS")
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    except OSError:  # a kernel that forbids it: the mark of the whole process has to do
        function()
        return max(0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - start)

    function()
    return max(0.0, _status_mb("VmHWM") - start)


def _build_and_measure(build: Callable[..., Program], arguments: tuple, step: str) -> float:
    torch.set_num_threads(1)
    return _resident_growth(getattr(build(*arguments), step))


def peak_memory_mb(build: Callable[..., Program], arguments: tuple, step: str) -> float:
    """Peak MB (10^6 bytes) of one step above the loaded program, in a fresh process.

    build: a function at the top of a module. arguments: its arguments, picklable. step: "forward"
    or "train".
    """
    check_choice("step", step, STEPS)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_build_and_measure, (build, arguments, step))


def peak_device_memory_mb(function: Callable[[], None], device: torch.device | str) -> float:
    """Peak MB of tensors on a GPU during one call above what was held before."""
    torch.cuda.synchronize(device)
    start = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - start) / 1e6


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu(device: torch.device | str) -> dict[str, str]:
    """The name of a GPU; nothing for the CPU."""
    if torch.device(device).type != "cuda":
        return {}
    return {"gpu": torch.cuda.get_device_name(device)}


def environment(
    packages: tuple[str, ...] = ("torch", "dgl", "e3nn", "numpy"),
    device: torch.device | str = "cpu",
) -> dict:
    """What a reader needs to judge the numbers: processor, threads, allocator, versions."""
    allocator_settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")
    }
    versions = {name: version for name in packages if (version := _version(name))}

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "allocator": " ".join([*platform.libc_ver(), "malloc"]),
        "allocator_settings": allocator_settings,
        "python": platform.python_version(),
        "versions": versions,
        **_gpu(device),
    }


def describe_environment(report: dict) -> str:
    """The report of :func:`environment` in two lines."""
    settings = ", ".join(f"{key}={value}" for key, value in report["allocator_settings"].items())
    packages = {"python": report["python"], **report["versions"]}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())

    gpu = f"{report['gpu']}, host " if "gpu" in report else ""
    cpu = f"{report['cpu']}, {report['cores']} cores, {report['threads']} thread(s)"
    return f"{gpu}{cpu}, {report['allocator']} ({settings or 'default settings'})\n{versions}"


def start(
    packages: tuple[str, ...] = ("torch", "dgl", "e3nn", "numpy"),
    output: str | None = None,
    device: torch.device | str = "cpu",
) -> dict:
    """Begin measuring: take one thread, print the environment, and return its report.

    output: file for the rows; FileNotFoundError if its folder does not exist.
    """
    if output:
        check_folder(output)
    torch.set_num_threads(1)
    report = environment(packages, device)
    print(describe_environment(report), flush=True)
    return report


def table(rows: list[dict], columns: dict[str, str]) -> str:
    """Rows as aligned text, a missing value as a dash; columns: keys of a row -> headings."""
    lines = [list(columns.values())]
    lines += [[_cell(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    return "\n".join(_aligned(line, widths) for line in lines)


def finish(rows: list[dict], columns: dict[str, str], options: object, report: dict) -> None:
    """Print the table of all rows, and :func:`keep` them."""
    print(table(rows, columns))
    keep(options, report, rows=rows)


def keep(options: object, environment: dict, **tables: object) -> None:
    """Write tables to the file of ``--json``, if it is given, with what they were measured on.

    options: of the script, ``json`` among them. environment: report of :func:`start`.
    """
    if options.json:
        content = {"environment": environment, "options": dict(vars(options)), **tables}
        write_json(options.json, content)


def _aligned(line: list[str], widths: list[int]) -> str:
    """The first column to the left, all others to the right."""
    first, *others = (
        text.rjust(width) if column else text.ljust(width)
        for column, (text, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join([first, *others])


def _cell(value: object) -> str:
    """A value as text: about three digits of a float."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 0.1:
        return f"{value:.3g}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def plain_rows(rows: list[dict]) -> list[dict]:
    """Rows whose ratios are dictionaries, as a json file needs them."""
    return [
        {
            key: dataclasses.asdict(value) if isinstance(value, Ratio) else value
            for key, value in row.items()
        }
        for row in rows
    ]


def chosen(text: str, known: Iterable[str], flag: str) -> list[str]:
    """Names of a list "a,b", or all that are ``known`` for "all"; ValueError for any other."""
    known = list(known)
    names = known if text == "all" else text.split(",")
    for name in names:
        check_choice(flag, name, known)
    return names


def check_folder(path: str | pathlib.Path) -> None:
    """Raise FileNotFoundError, before any measuring, unless an output file has a folder."""
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"folder {path.parent} of the output file {path.name} does not exist: make it first"
        )


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are a ``ValueError`` of one line."""

    def error(self, message: str):
        raise ValueError(f"{message.removeprefix('argument ')} (--help lists all options)")
