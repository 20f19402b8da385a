"""Laws of a program on the disk, for a network of a few operations that has all sums over edges of
the C++: it is the network, with other weights too, and is found again.
"""

import dataclasses

import pytest
import torch
from torch import nn

from farfield.models.compiled import library, program
from farfield.models.compiled.compiled_potential import CompiledPotential
from farfield.models.edges import edge_vectors, safe_length
from farfield.models.graph_ops import sum_edges
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.kernels.harmonic_sum import memory_efficient_sum
from farfield.models.network import EnergyNetwork
from farfield.models.potential import Potential, PotentialOptions
from farfield.models.so3.harmonics import solid_harmonics
from tests.models.compiled.test_compiled_potential import batch, error


class SmallNetwork(EnergyNetwork):
    """``e_i = tanh of scalars of two sums over edges``; 11 channels, a register and some more."""

    Options = PotentialOptions
    channels = 11

    def __init__(self):
        super().__init__()
        self.options = PotentialOptions()
        self.elements = nn.Embedding(10, self.channels)
        self.radial = nn.Linear(1, self.channels)

    def forward(self, given):
        graph = given.graph
        vectors = edge_vectors(given.positions, graph)
        fading = torch.exp(-safe_length(vectors)).unsqueeze(1)
        weights, x = self.radial(fading) * fading, self.elements(given.atomic_numbers)

        # degree 1 of the neighbours, its square, and a sum of rows
        slots = EdgeSlots(graph.src, graph.dst, graph.num_nodes, graph.num_nodes)
        harmonics = solid_harmonics(vectors, 1)[:, 1:]
        vector = memory_efficient_sum(slots, harmonics, weights, x.unsqueeze(1))
        scalars = vector.square().sum((1, 2)) + sum_edges(graph, weights)
        return {"atomic_energy": torch.tanh(scalars * x).sum(1)}


def potential(seed: int) -> Potential:
    torch.manual_seed(seed)
    made = Potential(SmallNetwork()).double().eval().requires_grad_(False)
    made.set_reference({1: -1.0, 6: -2.0 - seed, 8: -3.0})
    return made


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A compiled network; its program is in a cache of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        lines = []
        made = CompiledPotential(potential(0), "on", lines.append)
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
    other, given = CompiledPotential(potential(1), "auto"), batch([8, 8])
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
    names = {program.files_of(potential(0), made).library for made in _other_inputs()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_machine", lambda: "another processor")
        names.add(program.files_of(potential(0), _other_inputs()[0]).library)
    assert len(names) == 4 and not program.kept(potential(0), _other_inputs()[1])


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
    made = CompiledPotential(potential(0), "on", lines.append)
    assert torch.equal(made(given)["forces"], made.potential(given)["forces"])
    assert lines[1:] == [
        "computing without compiled code: there is no C++ compiler; install g++, or set CXX"
    ]
