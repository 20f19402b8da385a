"""Traces as shared libraries: compiled by torch's inductor, kept on the disk.

    <cache>/<kind>_<key>.so        a program: everything but the weights
    <cache>/<kind>_<key>.json      what a later session needs to know of it, and its checksum
    <cache>/edge_sums_<key>.so     kernels/edge_sums.cpp

The cache is ``$XDG_CACHE_HOME/farfield``, by default ``~/.cache/farfield``. A key is a checksum of
all that decides the program: what the caller says, the files of ``farfield.models``, the version of
torch, the processor and the number of threads.

Cost: minutes of CPU time for a network of the size of the presets, nothing where it is kept.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from farfield.models.kernels.edge_sums import DECLARATIONS, SOURCE
from farfield.models.tracing import NotTraceableError

if TYPE_CHECKING:
    from farfield.models.compiled.trace import Trace

MODELS = pathlib.Path(__file__).resolve().parents[1]


def cache_folder() -> pathlib.Path:
    """Where programs are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "farfield"


@dataclasses.dataclass(frozen=True)
class KeptFiles:
    """Place of a program on the disk.

    Arguments
        kind      first word of the names of its files
        decisive  all that decides the program, for json
    """

    kind: str
    decisive: Mapping[str, object]

    @property
    def library(self) -> pathlib.Path:
        """The program."""
        return self._stem.with_suffix(".so")

    @property
    def facts(self) -> pathlib.Path:
        """What is known of it."""
        return self._stem.with_suffix(".json")

    @functools.cached_property
    def _stem(self) -> pathlib.Path:
        said = {**self.decisive, "machine": _machine()}
        key = _checksum(json.dumps(said, sort_keys=True).encode(), _sources().encode())
        return cache_folder() / f"{self.kind}_{key}"

    def whole_facts(self) -> dict | None:
        """What is kept of the program; None where it is missing or damaged, to be made again."""
        try:
            said = json.loads(self.facts.read_text(encoding="utf-8"))
            whole = said.pop("checksum") == self._checksum_with(said)
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None
        return said if whole else None

    def keep(self, said: dict) -> None:
        """Write what is known of the program, with a checksum over it and the library."""
        content = {**said, "checksum": self._checksum_with(said)}
        _write_whole(self.facts, json.dumps(content, indent=1).encode())

    def _checksum_with(self, said: dict) -> str:
        return _checksum(self.library.read_bytes(), json.dumps(said, sort_keys=True).encode())

    def load(self, make: Callable[[], tuple[Trace, dict]]) -> tuple[object, dict]:
        """The runner of the program, and its facts.

        make: gives the trace and the facts, where the program is not kept. Raises
        :class:`NotTraceableError` in one line without a C++ compiler, and where compiling fails.
        """
        said = self.whole_facts()
        if said is None:
            cpp_compiler()  # refuses where there is none
            traced, said = make()
            _load_edge_sums()
            _compile(traced, self.library)
            self.keep(said)

        _load_edge_sums()
        return torch._C._aoti.AOTIModelContainerRunnerCpu(str(self.library), 1), said


def places_of(module: nn.Module, traced: Trace) -> dict[str, str]:
    """Name in ``module`` of every tensor of it that a trace holds, by its place there."""
    names = {id(tensor): name for name, tensor in module.named_buffers()}
    names |= {id(tensor): name for name, tensor in module.named_parameters()}
    used = {node.target for node in traced.graph.graph.nodes if node.op == "get_attr"}
    held = {place: getattr(traced.graph, place) for place in sorted(used)}
    return {place: names[id(one)] for place, one in held.items() if id(one) in names}


def put_in(runner: object, module: nn.Module, places: Mapping[str, str]) -> None:
    """Give a program the tensors of ``module`` at the places of :func:`places_of`."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    held = {place: tensors[name].detach() for place, name in places.items()}
    runner.update_constant_buffer(held, False, False)


def _compile(traced: Trace, library: pathlib.Path) -> None:
    """Compile a trace into the file ``library``."""
    library.parent.mkdir(parents=True, exist_ok=True)

    # in a folder of its own: a library is whole or not there
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        options = {
            "aot_inductor.output_path": str(pathlib.Path(folder) / library.name),
            "aot_inductor.custom_ops_to_c_shims": DECLARATIONS,
            "aot_inductor.use_runtime_constant_folding": True,
            "compile_threads": 1,
        }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = torch._inductor.aot_compile(traced.graph, traced.example, options=options)
        except Exception as error:  # noqa: BLE001  the compiler may refuse whatever was traced
            raise NotTraceableError(f"compiling failed: {_first_line(error)}") from error
        os.replace(made, library)


@functools.cache
def _load_edge_sums() -> None:
    """Compile the sums over edges if they are not kept, and load them for all programs."""
    key = _checksum(SOURCE.read_bytes(), _machine().encode())
    library = cache_folder() / f"edge_sums_{key}.so"

    # the functions of torch that it calls are in a library that torch has loaded
    if not library.exists():
        torch_folder = pathlib.Path(torch.__file__).parent
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = pathlib.Path(folder) / library.name
            command = [cpp_compiler(), "-std=c++20", "-O3", "-march=native", "-fPIC", "-shared"]
            command += [f"-I{torch_folder / 'include'}", str(SOURCE), "-o", str(made)]
            command += [f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise NotTraceableError(f"compiling failed: {done.stderr.strip().splitlines()[0]}")
            os.replace(made, library)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def cpp_compiler() -> str:
    """The C++ compiler that inductor uses; NotTraceableError where there is none."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return get_cpp_compiler()
    except Exception as error:  # noqa: BLE001  its class is private
        raise NotTraceableError("there is no C++ compiler; install g++, or set CXX") from error


def _machine() -> str:
    """What code for this processor depends on."""
    cpu = pathlib.Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), platform.processor())
    return f"{torch.__version__} {torch.get_num_threads()} {platform.machine()} {flags}"


@functools.cache
def _sources() -> str:
    """Checksum of the files that say what networks compute."""
    files = sorted([*MODELS.rglob("*.py"), *MODELS.rglob("*.cpp")])
    return _checksum(*(file.read_bytes() for file in files))


def source_checksum(*objects: object) -> str:
    """Checksum of the files that define functions and classes, for the keys of what uses them."""
    files = sorted({inspect.getfile(one) for one in objects})
    return _checksum(*(pathlib.Path(file).read_bytes() for file in files))


def _checksum(*contents: bytes) -> str:
    total = hashlib.sha256()
    for content in contents:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:24]


def _write_whole(path: pathlib.Path, content: bytes) -> None:
    """Write a file that is whole or not there."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
