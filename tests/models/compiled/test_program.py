"""Laws of a program on the disk, for a network of a few operations that has all sums over edges of
the C++: it is the network, with other weights too, and is found again.
"""

import dataclasses

import pytest
import torch

from farfield.models.compiled import library, program
from farfield.models.compiled.compiled_potential import CompiledPotential
from farfield.models.compiled.traced_inputs import Inputs
from farfield.models.compiled.training_program import (
    GRADIENT,
    LOSS,
    make_training_program,
    trainable,
)
from tests.models.compiled.test_compiled_potential import batch, error
from tests.models.compiled.test_training_program import OBJECTIVE, assert_same, labelled
from tests.support.small_potential import small_potential


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A compiled network; its program is in a cache of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        lines = []
        made = CompiledPotential(small_potential(0), "on", lines.append)
        assert made.prepare(batch([6, 6])), lines
        assert "compiling the potential" in lines[0] and "pays after" in lines[1]
        yield made


@pytest.mark.parametrize("sizes", [[6, 6], [9] * 5, [3, 3, 3], [40] * 2])
def test_a_program_is_the_network_on_every_size(compiled, sizes):
    given = batch(sizes, 1)
    expected = compiled.potential(given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.potential, "forward", None)  # it computes by its program
        assert error(compiled(given), expected) < 1e-12


def test_it_repeats_bit_for_bit(compiled):
    first, second = (compiled(batch([7, 7])) for _ in range(2))
    assert torch.equal(first["forces"], second["forces"])


def test_networks_of_one_shape_share_a_program_and_keep_their_weights(compiled, monkeypatch):
    monkeypatch.setattr(library, "_compile", None)  # nothing is compiled again
    other, given = CompiledPotential(small_potential(1), "auto"), batch([8, 8])
    assert other.is_worth(given)
    assert other.settle(given, True)
    assert error(other(given), other.potential(given)) < 1e-12
    assert error(compiled(given), compiled.potential(given)) < 1e-12
    assert error(other(given), compiled(given)) > 1e-6


def test_a_damaged_program_is_made_again(compiled):
    files = program.files_of(compiled.potential, _other_inputs()[0])
    assert files.whole_facts()["outputs"] == ["energy", "forces"]
    content = files.library.read_bytes()
    try:
        files.library.unlink()
        files.library.write_bytes(content[:-1] + b"?")
        assert files.whole_facts() is None
    finally:
        files.library.unlink()  # the one that is loaded stays as it is
        files.library.write_bytes(content)


def test_what_decides_a_program_is_in_its_name(compiled):
    names = {program.files_of(small_potential(0), made).library for made in _other_inputs()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_machine", lambda: "another processor")
        names.add(program.files_of(small_potential(0), _other_inputs()[0]).library)
    assert len(names) == 4 and not program.kept(small_potential(0), _other_inputs()[1])


def _other_inputs():
    """Inputs of batches that need programs of their own; the first is that of the fixture."""
    first = program.Inputs.of(batch([6, 6]))
    changes = ({}, {"single": True}, {"dtype": torch.float32})
    return [dataclasses.replace(first, **change) for change in changes]


def test_without_a_compiler_one_line_says_so(monkeypatch, tmp_path):
    from torch._inductor import cpp_builder

    def none():
        raise RuntimeError("no compiler")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    library._load_edge_sums.cache_clear()
    lines, given = [], batch([6, 6])
    made = CompiledPotential(small_potential(0), "on", lines.append)
    assert torch.equal(made(given)["forces"], made.potential(given)["forces"])
    assert lines[1:] == [
        "computing without compiled code: there is no C++ compiler; install g++, or set CXX"
    ]


def test_a_compiled_step_is_that_of_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = small_potential(0).train().requires_grad_(True)
    given = labelled([6, 4])
    inputs = Inputs.of_training(given, True)
    program = make_training_program(network, OBJECTIVE, given, inputs)

    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.1)
    for sizes in [[6, 4], [3, 9, 7]]:
        given = labelled(sizes, 2)
        total, parts, gradients = program.run(
            [one.detach() for one in trainable(network).values()],
            inputs.tensors(given),
            OBJECTIVE.factors({"forces": 0.5}),
        )
        assert set(parts) == {"energy", "forces"}
        named = zip(program.weights, gradients, strict=True)
        found = {GRADIENT + name: one for name, one in named if one is not None}
        assert_same({LOSS: total, **found}, network, given, [("forces", 0.5)])
