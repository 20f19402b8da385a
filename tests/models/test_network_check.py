"""The validator passes every network of the package and names the mistake of a broken one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from farfield.models.layers.radial import polynomial_envelope
from farfield.models.network import NETWORKS, EnergyNetwork
from farfield.models.network_check import CHECKS, check_network
from farfield.models.potential import Potential, PotentialOptions
from tests.support.law_cases import cutoff_graph
from tests.support.registries import restore_registries, saved_registries

pytestmark = pytest.mark.usefixtures("double")

CUTOFF = 4.0
SMALL = {"irreps": "8x0e+8x1o", "radial_hidden": 8, "near_heads": 2, "far_key_features": 2}


def molecules() -> AtomBatch:
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([5, 3])
    positions = 1.5 * torch.randn(8, 3, generator=generator, dtype=torch.float64)
    numbers = torch.tensor([1, 6, 8, 1, 1, 6, 8, 1])
    graph = cutoff_graph(positions, counts, CUTOFF)
    return AtomBatch(graph, positions, numbers, cutoff=CUTOFF)


def bodies() -> AtomBatch:
    batch, generator = molecules(), torch.Generator().manual_seed(1)
    features = {
        "velocities": torch.randn(8, 3, generator=generator, dtype=torch.float64),
        "charges": torch.tensor([1.0, -1.0] * 4, dtype=torch.float64),
    }
    return dataclasses.replace(batch, atomic_numbers=None, node_features=features)


@pytest.mark.parametrize(
    ("config", "batch"),
    [
        ({"name": "e2former", **SMALL}, molecules),
        ({"name": "e2former", "forces": "direct", **SMALL}, molecules),
        ({"name": "e2former_properties", "targets": "homo,dipole,r2", "cutoff": 4.0}, molecules),
        ({"name": "se3_transformer_properties", "bond_kinds": False}, molecules),
        ({"name": "se3_transformer_nbody", "updates": 2}, bodies),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_networks_of_the_package_pass(config, batch):
    torch.manual_seed(0)
    check_network(build_model(config), batch())


@dataclasses.dataclass(frozen=True)
class Cut(PotentialOptions):
    cutoff: float = CUTOFF


class Broken(EnergyNetwork):
    """An energy per atom from distances to the neighbours, with one mistake by name."""

    Options = PotentialOptions

    def __init__(self, mistake: str = ""):
        super().__init__()
        self.options, self.mistake = PotentialOptions(), mistake
        self.strength = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        graph, x = batch.graph, batch.positions
        vectors = x[graph.dst] - x[graph.src]
        lengths = vectors.norm(dim=1)
        terms = {
            "": torch.exp(-lengths),
            "translation": torch.exp(-lengths) * x[graph.src, 0],
            "rotation": torch.exp(-lengths) * vectors[:, 0],
            "permutation": torch.exp(-lengths) * (1 + torch.arange(len(lengths))),
            "batch": torch.exp(-lengths) / graph.num_nodes,
            "finite": torch.exp(-lengths) / 0.0,
        }
        if self.mistake == "jump":
            terms["jump"] = torch.exp(-lengths)
        elif self.mistake != "finite":
            fade = polynomial_envelope(lengths / CUTOFF)
            terms = {name: fade * value for name, value in terms.items()}
        term = terms.get(self.mistake, terms[""])
        each = x.new_zeros(graph.num_nodes).index_add(0, graph.dst, term)
        energy = self.strength * each
        answers = {
            "rows": {"atomic_energy": energy[:-1]},
            "shape": {"atomic_energy": energy.unsqueeze(1)},
            "name": {"energy": energy},
            "type": energy,
            "detached": {"atomic_energy": energy.detach()},
        }
        return answers.get(self.mistake, {"atomic_energy": energy})


def test_a_network_of_ones_own_passes():
    alone = Broken()
    alone.options = Cut()
    for network in (alone, Potential(alone)):
        errors = check_network(network, molecules())
        assert list(errors) == [*CHECKS, "batching", "cutoff"] and max(errors.values()) < 1e-8


@pytest.mark.parametrize(
    ("mistake", "quoted"),
    [
        ("translation", "atomic_energy breaks under translation"),
        ("rotation", "atomic_energy breaks under rotation"),
        ("permutation", "atomic_energy breaks under permutation"),
        ("batch", "depends on its batch"),
        ("finite", "is not finite"),
        ("jump", "jumps at the cutoff of 4.0 Angstrom"),
        ("rows", "one row for each of the 8 nodes, got the shape .7,."),
        ("shape", "atomic_energy must have the shape .8,., a scalar a node, got .8, 1."),
        ("name", "outputs.. promises 'atomic_energy', forward gives energy"),
        ("type", "forward must return a dict of predictions, got Tensor"),
        ("detached", "atomic_energy is cut off from positions and weights"),
    ],
)
def test_a_mistake_is_named(mistake, quoted):
    broken = Broken(mistake)
    broken.options = Cut()
    with pytest.raises(ValueError, match=quoted):
        check_network(broken, molecules())
    if "breaks" not in quoted:
        with pytest.raises(ValueError, match=quoted):
            check_network(Potential(broken), molecules())


def test_network_and_batch_must_have_one_type():
    with pytest.raises(ValueError, match="weights of torch.float32, the batch positions of"):
        check_network(Broken().float(), molecules())


def test_outputs_must_be_what_is_promised():
    broken = Broken()
    broken.outputs = lambda: {"energy": Potential(Broken()).outputs()["energy"]}
    with pytest.raises(ValueError, match="promises 'energy', forward gives atomic_energy"):
        check_network(broken, molecules())
    with pytest.raises(ValueError, match=">= 2 structures, got 1"):
        check_network(Broken(), molecules().split()[0])


def test_values_that_turn_nan_when_atoms_move_are_found():
    first = molecules()

    class Nervous(Broken):
        def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
            out = super().forward(batch)
            same = torch.equal(batch.positions, first.positions)
            return out if same else {name: value * float("nan") for name, value in out.items()}

    with pytest.raises(ValueError, match="breaks under translation: error nan"):
        check_network(Nervous(), first)


def test_a_network_must_keep_its_options():
    class Forgetful(Broken):
        def __init__(self, options):
            super().__init__()
            self.options = None

    state = saved_registries()
    try:
        NETWORKS.register("forgetful")(Forgetful)
        with pytest.raises(ValueError, match="model forgetful: its constructor must set"):
            build_model({"name": "forgetful"})
    finally:
        restore_registries(state)
