"""Laws of the rotation error: rounding alone for an equivariant network of any task, the known
values for a network that looks in a fixed direction, and one line for what cannot be judged.
"""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from farfield.common import checkpoint
from farfield.common.precision import PRECISIONS
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from farfield.models.heads.target_scaling import fit_scaling
from farfield.models.network import NETWORKS, EnergyNetwork, Network, Output
from farfield.models.potential import Potential, PotentialOptions
from farfield.models.so3.rotations import even_rotations
from farfield.train import evaluate, train_md17
from farfield.train.rotation_errors import rotation_table
from tests.support.md_data import SMALL, make_data
from tests.support.molecule_data import random_structures
from tests.support.qm9_data import molecules as real_molecules
from tests.support.registries import restore_registries, saved_registries
from tests.support.run_results import results_of

QUICK = ["--no-progress", "--epochs", "1", "--batch-size", "4"]


def molecules(sizes=(3, 5, 1, 4), dtype=torch.float64) -> AtomBatch:
    return MoleculeDataset(random_structures(sizes), 5.0, dtype=dtype)[list(range(len(sizes)))]


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Nothing to choose."""


class FixedDirection(Network):
    """x for every atom and structure, whatever lies there; and a scalar, the first coordinate."""

    Options = NoOptions
    predicts = "directions"

    def __init__(self):
        super().__init__()
        self.options = NoOptions()

    def outputs(self) -> dict[str, Output]:
        return {
            "axis": Output("node", "vector", "eV/Angstrom"),
            "pair": Output("node", "vectors", "length"),
            "tensor": Output("graph", "tensor"),
            "nothing": Output("node", "vector"),
            "place": Output("node", "scalar", "Angstrom"),
        }

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        x = batch.positions.new_tensor([1.0, 0.0, 0.0])
        axis = x.expand(batch.num_nodes, 3)
        return {
            "axis": axis,
            "pair": torch.cat([axis, 2 * axis], 1),
            "tensor": torch.outer(x, x).expand(batch.num_graphs, 3, 3),
            "nothing": 0 * axis,
            "place": batch.positions[:, 0],
        }


def test_a_fixed_direction_has_the_known_error():
    """|R x - x|^2 = 2 - 2 c with c uniform in -1 .. 1: mean length 4/3, at most 2. Of x x^T:
    |R x x^T R^T - x x^T|^2 = 2 - 2 c^2, mean length sqrt(2) pi / 4, at most sqrt(2).
    """
    rows = {
        row["row"]: row
        for row in rotation_table(FixedDirection(), [molecules()], 400, precision="float64")
    }
    for turn in ("rotations", "reflections"):
        axis = rows[f"axis, {turn}"]
        assert axis["unit"] == "meV/A" and axis["size"] == pytest.approx(1000)
        assert axis["mean"] == pytest.approx(4000 / 3, rel=0.01)
        assert axis["relative mean"] == pytest.approx(4 / 3, rel=0.01)
        assert 1990 < axis["max"] <= 2000 + 1e-9 and axis["relative max"] <= 2 + 1e-12

        pair = rows[f"pair, {turn}"]  # both vectors of a row turn alike
        assert pair["unit"] == "length" and pair["size"] == pytest.approx(5**0.5)
        assert pair["relative mean"] == pytest.approx(4 / 3, rel=0.01)
        tensor = rows[f"tensor, {turn}"]
        assert tensor["mean"] == pytest.approx(2**0.5 * math.pi / 4, rel=0.01)
        assert rows[f"nothing, {turn}"]["relative max"] == 0
    assert len(rows) == 10


def test_the_errors_are_those_of_a_loop_over_structures_and_rotations():
    batch, count = molecules(), 7
    rows = {
        row["row"]: row
        for row in rotation_table(FixedDirection(), [batch], count, precision="float64")
    }
    for turn, sign in (("rotations", 1), ("reflections", -1)):
        errors = [
            abs(float((sign * matrix @ point)[0] - point[0]))
            for matrix in even_rotations(count)
            for point in batch.positions
        ]
        row = rows[f"place, {turn}"]
        assert row["mean"] == pytest.approx(sum(errors) / len(errors))
        assert row["max"] == pytest.approx(max(errors))
        assert row["size"] == pytest.approx(float(batch.positions[:, 0].square().mean() ** 0.5))


def test_batches_are_judged_together():
    both = rotation_table(FixedDirection(), [molecules()], 5, precision="float64")
    parts = rotation_table(FixedDirection(), molecules().split(), 5, precision="float64")
    for one, two in zip(both, parts, strict=True):
        assert one == {
            name: value if isinstance(value, str) else pytest.approx(value)
            for name, value in two.items()
        }


def test_references_do_not_hide_the_error_of_an_energy():
    """The size of an energy is that of what geometry decides, not of its atoms."""
    model = build_model({"name": "e2former", "irreps": "4x0e+4x1o", "schedule": "first-order1"})
    model = model.double().eval()
    model.set_reference({1: -13.0, 6: -1000.0, 8: -2000.0}, scale=0.01)
    batch = molecules()
    (energy, *_) = rotation_table(model, [batch], 2, precision="float64")
    learned = (model(batch)["energy"] - model.reference_energy(batch)).detach()
    assert energy["row"] == "energy, rotations" and energy["unit"] == "meV"
    assert energy["size"] == pytest.approx(1000 * float(learned.square().mean() ** 0.5))
    assert energy["size"] < 1000


def test_references_do_not_hide_the_error_of_a_property():
    options = {"name": "e2former_properties", "targets": "U0,dipole", "cutoff": 5.0}
    model = build_model(options).double().eval()
    structures = random_structures((3, 5, 2, 4))
    values = {
        "U0": 1000.0 * structures.counts + [0.0, 1.0, 2.0, 3.0],
        "dipole": torch.eye(4, 3).numpy(),
    }
    readouts = {"U0": "sum", "dipole": "dipole"}
    model.set_scaling(fit_scaling(structures.atomic_numbers, structures.counts, values, readouts))
    batch = MoleculeDataset(structures, 5.0, dtype=torch.float64)[[0, 1, 2, 3]]
    rows = rotation_table(model, [batch], 2, precision="float64", units={"U0": "eV"})
    assert rows[0]["unit"] == "meV" and 0 < rows[0]["size"] < 1e5
    assert all(row["relative max"] < 1e-9 for row in rows)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_an_equivariant_network_has_errors_of_rounding(precision, forces):
    """On disturbed molecules: atoms that nearly meet make forces of the rounding of positions, and
    so do vectors that a symmetric place holds at zero.
    """
    torch.manual_seed(0)
    options = {"irreps": "8x0e+8x1o", "radial_hidden": 8, "near_heads": 2, "far_key_features": 2}
    model = build_model({"name": "e2former", "forces": forces, **options})
    model = model.to(dtype=PRECISIONS[precision]).eval()

    structures = real_molecules(("CH4", "H2O", "CH3OH", "C6H6"))
    noise = 0.1 * np.random.default_rng(0).standard_normal(structures.positions.shape)
    structures = dataclasses.replace(
        structures, energy=np.zeros(4), positions=structures.positions + noise
    )
    batch = MoleculeDataset(structures, 5.0, dtype=PRECISIONS[precision])[[0, 1, 2, 3]]
    rows = rotation_table(model, [batch], 4, precision=precision)
    limit = 1e-5 if precision == "float32" else 1e-12
    assert [row["row"] for row in rows][2:] == ["forces, rotations", "forces, reflections"]
    assert all(row["relative max"] <= limit and row["size"] > 0 for row in rows), rows


class Handed(EnergyNetwork):
    """An energy of triple products: it turns with a structure, and changes sign in the mirror."""

    Options = PotentialOptions

    def __init__(self):
        super().__init__()
        self.options = PotentialOptions()
        self.strength = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        x = batch.positions
        products = torch.linalg.det(torch.stack([x, x.roll(1, 0), x.roll(2, 0)], 1))
        return {"atomic_energy": self.strength * products * x.square().sum(1)}


def test_reflections_are_told_from_rotations():
    rows = {
        row["row"]: row
        for row in rotation_table(
            Potential(Handed()).eval(), [molecules((4,))], 3, precision="float64"
        )
    }
    assert rows["energy, rotations"]["relative max"] < 1e-12
    assert rows["energy, reflections"]["relative max"] == pytest.approx(2)
    assert rows["forces, reflections"]["relative max"] > 1


def test_values_that_are_not_finite_are_seen():
    class Sometimes(FixedDirection):
        def forward(self, batch):
            out = super().forward(batch)
            return {name: value.log() if name == "place" else value for name, value in out.items()}

    rows = rotation_table(Sometimes(), [molecules()], 3, precision="float64")
    assert math.isnan(rows[-1]["max"]) and math.isnan(rows[-1]["mean"])


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="Linear is no Network, so nothing says how its outputs"):
        rotation_table(nn.Linear(1, 1), [molecules()], 3)
    with pytest.raises(ValueError, match="there are no structures to turn"):
        rotation_table(FixedDirection(), [], 3)
    with pytest.raises(ValueError, match="must be >= 1, got 0"):
        rotation_table(FixedDirection(), [molecules()], 0)


# ---- the script


class Crooked(EnergyNetwork):
    """Energies that prefer a direction."""

    Options = PotentialOptions

    def __init__(self, options: PotentialOptions):
        super().__init__()
        self.options = options
        self.strength = nn.Parameter(torch.ones(3))

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        return {"atomic_energy": torch.tanh(batch.positions @ self.strength)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "folder")


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Checkpoints of an equivariant network and of one that is not."""
    state = saved_registries()
    NETWORKS.register("crooked")(Crooked)
    folder = tmp_path_factory.mktemp("runs")
    for name, options in (("e2former", SMALL), ("crooked", [])):
        model = ["--model", name, "--data-path", str(data), *options, *QUICK]
        train_md17.main([*model, "--run-dir", str(folder / name)])
    yield {name: folder / name / checkpoint.BEST for name in ("e2former", "crooked")}
    restore_registries(state)


def test_the_script_tells_who_is_equivariant(runs, tmp_path, capsys):
    worst = {}
    for name, path in runs.items():
        file = tmp_path / f"{name}.json"
        evaluate.main([str(path), "--equivariance", "--directions", "3", "--json", str(file)])
        content = json.loads(file.read_text())
        assert content["split"] == "test" and content["directions"] == 3
        assert [row["row"] for row in content["rows"]] == [
            f"{output}, {turn}"
            for output in ("energy", "forces")
            for turn in ("rotations", "reflections")
        ]
        assert [row["unit"] for row in content["rows"]] == ["meV", "meV", "meV/A", "meV/A"]
        worst[name] = [row["relative max"] for row in content["rows"]]
    assert max(worst["e2former"]) <= 1e-5 and min(worst["crooked"]) > 0.1
    assert "forces, reflections" in capsys.readouterr().out


def test_the_table_of_errors_stays_what_it_was(runs):
    """Turning structures is asked for; without, labels are compared as ever."""
    path = runs["e2former"]
    assert evaluate.evaluate_checkpoint(path) == results_of(path.parent)["test"]
    assert evaluate.evaluate_equivariance(path, "val", directions=2)[0]["size"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--directions", "3"], "--directions is for turned structures; add --equivariance"),
        (["--equivariance", "--directions", "0"], "--directions must be >= 1, got 0"),
        (["--equivariance", "--input", "x.xyz"], "--equivariance and --input exclude each other"),
        (
            ["--equivariance", "--energy-offset", "none"],
            "--energy-offset is for errors against labels, which --equivariance does not read",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(more, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluate.main(["checkpoint.pt", *more])
    assert "\n" not in str(error.value)
