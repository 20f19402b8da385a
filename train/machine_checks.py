"""Checks of the machine and of what is installed, for ``train.doctor``: one function, one fault.

Each returns a `Finding`: fine, a note (something is slower or may fail later), or wrong (results
or runs are in danger), with what to type. Cost: an import of torch and DGL.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

from farfield.common import checkpoint
from farfield.common.quantities import file_size
from farfield.dataloader.storage.files import make_folder
from farfield.models.compiled import library
from farfield.models.graph_ops import dgl_is_there
from farfield.models.tracing import NotTraceableError

FINE, NOTE, WRONG = "ok", "note", "WRONG"
LEAST_DISK = 1 << 30  # bytes
LEAST_MEMORY = 1 << 30
MEMORY = Path("/proc/meminfo")


class Finding(NamedTuple):
    """What a check found: its name, a level, the facts, and what to do about them."""

    name: str
    level: str
    text: str
    fix: str = ""


def python_version() -> Finding:
    """Python 3.11 or later."""
    found = platform.python_version()
    if _parts(found) < [3, 11]:
        return Finding("python", WRONG, f"{found} is too old", "install Python 3.11")
    return Finding("python", FINE, found)


def packages() -> Finding:
    """Every package that is needed, in a version that the code was written for."""
    wrong, told = [], []
    for name, low, below in required():
        found = checkpoint.package_version(name)
        told.append(f"{name} {found}")
        if found == checkpoint.NOT_INSTALLED:
            wrong.append(f"{name} is not installed")
        elif not _parts(low) <= _parts(found) < _parts(below):
            wrong.append(f"{name} is {found}, needed is >= {low} and < {below}")
    if wrong:
        fix = "pip install -r requirements.txt"
        return Finding("packages", WRONG, "; ".join(wrong), fix)
    return Finding("packages", FINE, ", ".join(told))


def required() -> list[tuple[str, str, str]]:
    """Packages that farfield needs, each with its lowest version and the first that is too new."""
    found = []
    for line in metadata.requires("farfield") or ():
        match = re.fullmatch(r"([\w.-]+)\s*(?:<([\d.]+),)?>=([\d.]+)(?:,<([\d.]+))?", line.strip())
        if match:
            name, before, low, after = match.groups()
            found.append((name, low, before or after or "999"))
    return found


def _parts(version: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", version.split("+")[0])[:3]]


def numpy_and_torch() -> Finding:
    """Arrays go from numpy to torch and back: they do not where one was built for another numpy."""
    import numpy as np

    try:
        same = torch.from_numpy(np.arange(3.0)).numpy().tolist() == [0.0, 1.0, 2.0]
    except (RuntimeError, TypeError) as error:
        text = f"torch cannot read arrays of numpy {np.__version__} ({_line(error)})"
        return Finding("numpy", WRONG, text, "pip install 'numpy>=2,<3' 'torch>=2.5'")
    if not same:
        return Finding(
            "numpy", WRONG, "torch reads other numbers than numpy wrote", "reinstall both"
        )
    return Finding("numpy", FINE, f"numpy {np.__version__} and torch share memory")


def graph_library() -> Finding:
    """DGL can be imported; torch computes the same without, only slower."""
    if dgl_is_there():
        return Finding("dgl", FINE, f"dgl {checkpoint.package_version('dgl')}")
    return Finding(
        "dgl",
        NOTE,
        "DGL cannot be imported; torch computes the same, slower for large batches",
        "pip install 'dgl>=1.1.3,<2' (Python 3.11)",
    )


def compiler() -> Finding:
    """A C++ compiler makes a library that can be loaded: --compile needs one."""
    fix = "install g++, or set CXX to a C++ compiler; without one leave --compile off"

    # a library of one function, made and called
    try:
        command = library.cpp_compiler()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "one.cpp"
            source.write_text('extern "C" int one() { return 1; }\n', encoding="utf-8")
            made = source.with_suffix(".so")
            arguments = [command, "-shared", "-fPIC", str(source), "-o", str(made)]
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
            if done.returncode:
                return Finding("compiler", NOTE, f"{command} fails: {_line(done.stderr)}", fix)
            value = ctypes.CDLL(str(made)).one()
    except (OSError, NotTraceableError, subprocess.SubprocessError) as error:
        return Finding("compiler", NOTE, _line(error), fix)
    if value != 1:
        return Finding("compiler", WRONG, f"{command} makes code that computes wrong", fix)
    return Finding("compiler", FINE, command)


def cache() -> Finding:
    """Compiled programs can be kept."""
    folder = library.cache_folder()
    fix = f"make {folder} writable, or set XDG_CACHE_HOME to a folder that is"
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror}); programs are compiled again"
        return Finding("cache", WRONG, text, fix)
    return Finding("cache", FINE, f"{folder} can be written")


def disk(folder: str | Path = ".") -> Finding:
    """At least 1 GB of free disk space where runs are written."""
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK:
        text = f"{file_size(free)} free in {Path(folder).resolve()}"
        return Finding("disk", WRONG, text, "free some space, or run elsewhere")
    return Finding("disk", FINE, f"{file_size(free)} free")


def memory() -> Finding:
    """At least 1 GB of free memory."""
    try:
        line = re.search(r"MemAvailable:\s+(\d+) kB", MEMORY.read_text(encoding="utf-8"))
    except OSError:
        line = None
    if line is None:
        return Finding("memory", NOTE, "free memory is not known")
    free = 1024 * int(line.group(1))
    if free < LEAST_MEMORY:
        fix = "end other programs, or give --max-atoms-per-batch"
        return Finding("memory", NOTE, f"{file_size(free)} free", fix)
    return Finding("memory", FINE, f"{file_size(free)} free")


def threads() -> Finding:
    """Not more threads than cores: they wait for each other."""
    cores = len(os.sched_getaffinity(0))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    used = max(torch.get_num_threads(), int(asked) if asked.isdigit() else 0)
    if used > cores:
        text = f"{used} threads on {cores} cores"
        return Finding("threads", NOTE, text, f"export OMP_NUM_THREADS={cores}, --threads {cores}")
    return Finding("threads", FINE, f"{used} on {cores} cores")


def devices() -> Finding:
    """The CPU, and what else torch sees."""
    if not torch.cuda.is_available():
        return Finding("devices", FINE, "cpu")
    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(count))
    return Finding("devices", FINE, f"cpu, cuda ({names})")


def _line(error: object) -> str:
    return " ".join(str(error).split())[:160]


CHECKS: tuple[Callable[[], Finding], ...] = (
    python_version,
    packages,
    numpy_and_torch,
    graph_library,
    devices,
    threads,
    compiler,
    cache,
    disk,
    memory,
)
