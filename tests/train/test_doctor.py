"""The doctor finds each planted fault and says what to type; a machine without one passes."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple

import pytest
import torch

from farfield.common import checkpoint
from farfield.models import graph_ops
from farfield.train import doctor, machine_checks, self_tests
from farfield.train.machine_checks import FINE, NOTE, WRONG, Finding

Usage = namedtuple("Usage", "total used free")


def other_version(name, version):
    """``package_version`` where one package has another version."""
    known = checkpoint.package_version
    return lambda asked: version if asked == name else known(asked)


def wrong_torch(patch, folder):
    patch.setattr(checkpoint, "package_version", other_version("torch", "1.13.1+cpu"))


def package_is_missing(patch, folder):
    missing = other_version("e3nn", checkpoint.NOT_INSTALLED)
    patch.setattr(checkpoint, "package_version", missing)


def numpy_clash(patch, folder):
    def refuse(array):
        raise RuntimeError("Numpy is not available")

    patch.setattr(torch, "from_numpy", refuse)


def no_compiler(patch, folder):
    def none():
        raise RuntimeError("no compiler")

    # torch remembers what it found before
    patch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)


def broken_compiler(patch, folder):
    compiler = folder / "c++"
    compiler.write_text("#!/bin/sh\necho no licence >&2\nexit 3\n")
    compiler.chmod(0o755)
    patch.setattr("farfield.models.compiled.library.cpp_compiler", lambda: str(compiler))


def cache_that_is_a_file(patch, folder):
    # root may write into any folder, but a file is none
    (folder / "farfield").write_text("")
    patch.setenv("XDG_CACHE_HOME", str(folder))


def full_disk(patch, folder):
    patch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 2**20))


def little_memory(patch, folder):
    (folder / "meminfo").write_text("MemAvailable:    20480 kB\n")
    patch.setattr(machine_checks, "MEMORY", folder / "meminfo")


def too_many_threads(patch, folder):
    patch.setenv("OMP_NUM_THREADS", "64")
    patch.setattr(os, "sched_getaffinity", lambda process: {0, 1})


def no_dgl(patch, folder):
    patch.setattr(machine_checks, "dgl_is_there", lambda: False)


def wrong_sums(patch, folder):
    right = graph_ops.sum_edges
    patch.setattr(graph_ops, "sum_edges", lambda graph, edges: 1.001 * right(graph, edges))


def detached_softmax(patch, folder):
    right = graph_ops.edge_softmax

    def once(graph, logits):
        """Its first derivative is right; the second is lost."""

        class Once(torch.autograd.Function):
            @staticmethod
            def forward(ctx, logits):
                ctx.save_for_backward(logits)
                return right(graph, logits)

            @staticmethod
            def backward(ctx, slope):
                (logits,) = ctx.saved_tensors
                held = logits.detach().requires_grad_()
                with torch.enable_grad():
                    values = right(graph, held)
                return torch.autograd.grad(values, held, slope)[0].detach()

        return Once.apply(logits)

    patch.setattr(graph_ops, "edge_softmax", once)


PLANTED = {
    wrong_torch: (machine_checks.packages, WRONG, "torch is 1.13.1+cpu, needed is >= 2.5"),
    package_is_missing: (machine_checks.packages, WRONG, "e3nn is not installed"),
    numpy_clash: (machine_checks.numpy_and_torch, WRONG, "Numpy is not available"),
    no_compiler: (machine_checks.compiler, NOTE, "no C++ compiler"),
    broken_compiler: (machine_checks.compiler, NOTE, "fails: no licence"),
    cache_that_is_a_file: (machine_checks.cache, WRONG, "cannot be written"),
    full_disk: (machine_checks.disk, WRONG, "1.0 MB free"),
    little_memory: (machine_checks.memory, NOTE, "21.0 MB free"),
    too_many_threads: (machine_checks.threads, NOTE, "64 threads on 2 cores"),
    no_dgl: (machine_checks.graph_library, NOTE, "torch computes the same"),
    wrong_sums: (self_tests.same_sums, WRONG, "sums over edges by torch are wrong"),
    detached_softmax: (self_tests.softmax_derivatives, WRONG, "second derivative"),
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found_with_its_fix(plant, monkeypatch, tmp_path):
    check, level, words = PLANTED[plant]
    plant(monkeypatch, tmp_path)
    (found,) = doctor.findings([check])
    assert found.level == level
    assert words in found.text
    assert found.fix in doctor.line_of(found) and found.fix
    assert "\n" not in found.text


@pytest.mark.parametrize(
    "check",
    [
        machine_checks.python_version,
        machine_checks.packages,
        machine_checks.numpy_and_torch,
        machine_checks.devices,
        self_tests.same_sums,
        self_tests.softmax_derivatives,
        self_tests.equivariance,
    ],
)
def test_this_machine_passes(check):
    (found,) = doctor.findings([check])
    assert found.level == FINE


def test_the_exit_code_says_whether_something_is_wrong(monkeypatch, capsys):
    def breaks():
        raise ZeroDivisionError("a check that fails")

    monkeypatch.setattr(machine_checks, "CHECKS", (lambda: Finding("one", NOTE, "slow", "wait"),))
    monkeypatch.setattr(self_tests, "CHECKS", ())
    doctor.main([])
    assert "nothing is wrong" in capsys.readouterr().out

    monkeypatch.setattr(self_tests, "CHECKS", (breaks,))
    with pytest.raises(SystemExit) as end:
        doctor.main([])
    assert end.value.code == 1
    shown = capsys.readouterr().out
    assert "WRONG  breaks" in shown and "1 of the checks" in shown
