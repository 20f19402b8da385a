"""Traced potentials as shared libraries: compiled by torch's inductor, kept on the disk.

    <cache>/potential_<key>.so     the program: everything but the weights
    <cache>/potential_<key>.json   its outputs, the sizes it serves, the places of its weights,
                                   and the checksum of the library
    <cache>/edge_sums_<key>.so     kernels/edge_sums.cpp

The cache is ``$XDG_CACHE_HOME/farfield``, by default ``~/.cache/farfield``. A key is a checksum of
all that decides the program: options and sizes of the network, its inputs, the files of
``farfield.models``, the version of torch, the processor and the number of threads. Weights are put
in when a program is loaded, so that networks of one shape share it; what follows from the weights
alone is computed once, then.

Cost: a minute of CPU time for a network of the size of the presets, nothing where it is kept.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import tempfile
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.compiled.traced_inputs import Inputs
from farfield.models.kernels.edge_sums import DECLARATIONS, SOURCE
from farfield.models.potential import Potential
from farfield.models.tracing import NotTraceableError

if TYPE_CHECKING:
    from farfield.models.compiled.trace import Trace

MODELS = pathlib.Path(__file__).resolve().parents[1]


def cache_folder() -> pathlib.Path:
    """Where programs are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "farfield"


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled potential with its weights: ``run(tensors) -> predictions by name``.

    inputs: how a batch becomes its tensors. max_atoms: of a structure, None for any number.
    """

    inputs: Inputs
    names: tuple[str, ...]
    max_atoms: int | None
    runner: object

    def run(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """Predictions of a batch, given its tensors in the order of ``inputs``."""
        return dict(zip(self.names, self.runner.run(tensors), strict=True))


def kept(potential: Potential, inputs: Inputs) -> bool:
    """Whether the disk has the program of a potential for batches with these inputs."""
    return _files(potential, inputs)[1].exists()


def make_program(potential: Potential, batch: AtomBatch) -> Program:
    """The program of a potential for batches like this one: from the disk, or compiled and kept.

    The potential is in evaluation mode, on the CPU, and its weights ask for no gradient. Raises
    :class:`NotTraceableError` in one line for a network that cannot be traced, without a C++
    compiler, and where compiling fails.
    """
    inputs = Inputs.of(batch)
    library, facts = _files(potential, inputs)
    said = _whole_facts(library, facts)
    if said is None:
        _compiler()  # refuses where there is none

        # what traces costs a second that runs without a new program do not wait for
        from farfield.models.compiled.trace import trace

        traced = trace(potential, batch)
        _load_edge_sums()
        _compile(traced, library)
        said = _facts(potential, traced) | {"checksum": _checksum(library.read_bytes())}
        _write_whole(facts, json.dumps(said, indent=1).encode())

    _load_edge_sums()
    runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)
    tensors = {**dict(potential.named_parameters()), **dict(potential.named_buffers())}
    weights = {place: tensors[name].detach() for place, name in said["weights"].items()}
    runner.update_constant_buffer(weights, False, False)
    return Program(inputs, tuple(said["outputs"]), said["max_atoms"], runner)


def _whole_facts(library: pathlib.Path, facts: pathlib.Path) -> dict | None:
    """What is kept of a program; None where it is missing or damaged, and has to be made again."""
    try:
        said = json.loads(facts.read_text(encoding="utf-8"))
        whole = said["checksum"] == _checksum(library.read_bytes())
    except (OSError, ValueError, KeyError):
        return None
    return said if whole else None


def _facts(potential: Potential, traced: Trace) -> dict:
    """What a later session needs to know of a program."""
    names = {id(tensor): name for name, tensor in potential.named_buffers()}
    names |= {id(tensor): name for name, tensor in potential.named_parameters()}
    used = {node.target for node in traced.graph.graph.nodes if node.op == "get_attr"}
    held = {place: getattr(traced.graph, place) for place in sorted(used)}
    weights = {place: names[id(one)] for place, one in held.items() if id(one) in names}
    return {"outputs": list(traced.names), "max_atoms": traced.max_atoms, "weights": weights}


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
            command = [_compiler(), "-std=c++20", "-O3", "-march=native", "-fPIC", "-shared"]
            command += [f"-I{torch_folder / 'include'}", str(SOURCE), "-o", str(made)]
            command += [f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise NotTraceableError(f"compiling failed: {done.stderr.strip().splitlines()[0]}")
            os.replace(made, library)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _compiler() -> str:
    """The C++ compiler that inductor uses; NotTraceableError where there is none."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return get_cpp_compiler()
    except Exception as error:  # noqa: BLE001  its class is private
        raise NotTraceableError("there is no C++ compiler; install g++, or set CXX") from error


def _files(potential: Potential, inputs: Inputs) -> tuple[pathlib.Path, pathlib.Path]:
    """Library and facts of the program of a potential for these inputs."""
    shapes = {name: list(tensor.shape) for name, tensor in potential.state_dict().items()}
    decisive = {
        "network": f"{type(potential.network).__qualname__} {potential.options!r}",
        "potential": [potential.forces, potential.stress],
        "shapes": shapes,
        "inputs": repr(inputs),
        "machine": _machine(),
    }
    key = _checksum(json.dumps(decisive, sort_keys=True).encode(), _sources().encode())
    stem = cache_folder() / f"potential_{key}"
    return stem.with_suffix(".so"), stem.with_suffix(".json")


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
