"""Laws of generation: molecules have the compositions that were asked, depend on seed and number
alone, are what the network knows, and are counted as the metrics count them; bad input is one line.
"""

import json

import ase.io
import numpy as np
import pytest

from farfield.common.session import Interrupted
from farfield.dataloader.structures import Structures
from farfield.simulate import sample, sampling_batches
from farfield.simulate.molecule_choice import choose, compositions, with_compositions_of
from farfield.simulate.molecule_noise import MoleculeNoise
from farfield.simulate.superposition import superpose
from farfield.simulate.trained_sampler import SampledMolecules, SampleSettings
from tests.support.diffusion_runs import knowing_sampler, numbered
from tests.support.qm9_data import molecules


def generate(checkpoint, out, *more):
    """Table and molecules of a run."""
    options = ["--out", str(out), "--no-progress", "--max-steps", "6", "--batch-size", "3"]
    table = sample.sample([str(checkpoint), *options, *more])
    return table, ase.io.read(out, ":")


# ---- what is made


def test_formulas_take_turns(diffusions, tmp_path):
    formulas = ["--composition", "C2H6O", "--composition", "CO2", "--number", "5"]
    table, found = generate(diffusions["joint"], tmp_path / "out.xyz", *formulas)
    names = [one.get_chemical_formula() for one in found]
    assert names == ["C2H6O", "CO2", "C2H6O", "CO2", "C2H6O"] and table["molecules"] == 5
    for one in found:
        np.testing.assert_allclose(one.positions.mean(0), 0, atol=1e-6)


def test_compositions_come_from_the_training_molecules(diffusions, data, tmp_path):
    training = Structures.load(data / "train.npz")
    _, found = generate(diffusions["joint"], tmp_path / "out.xyz", "--number", "8")
    asked = sorted(str(one.symbols.formula.format("hill")) for one in found)
    chosen = [training[[place]].atomic_numbers for place in range(len(training))]
    known = sorted(ase.Atoms(numbers).symbols.formula.format("hill") for numbers in chosen)
    assert asked == known, "eight of eight: each once"

    sizes = ["--like", str(data), "--atoms", "4,5", "--number", "20"]
    _, found = generate(diffusions["joint"], tmp_path / "some.xyz", *sizes)
    assert {len(one) for one in found} <= {4, 5} and len(found) == 20


def test_molecules_depend_on_seed_and_number_alone(diffusions, tmp_path):
    def positions(name, *more):
        options = ["--dtype", "float64", *more]
        _, found = generate(diffusions["joint"], tmp_path / f"{name}.xyz", *options)
        return [one.positions for one in found]

    many = positions("many", "--number", "7")
    few = positions("few", "--number", "4", "--batch-size", "1")
    for one, other in zip(few, many, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-6)
    other = positions("other", "--number", "4", "--seed", "1")
    assert not any(one.shape == two.shape and np.allclose(one, two) for one in other for two in few)


def test_a_network_that_knows_the_molecules_makes_them(diffusions):
    known = numbered(molecules(("CH4", "H2O", "CH3OH")))
    sampler = knowing_sampler(diffusions["joint"], known)
    found = sampler.generate(known, SampleSettings(max_steps=40))
    assert found.converged.all() and found.steps.tolist() == [13, 13, 13]
    for place in range(3):
        rows = slice(*known.offsets[place : place + 2])
        rmsd, _ = superpose(found.structures.positions[rows], known.positions[rows])
        assert rmsd < 1e-3


def test_noise_is_normal_and_of_each_molecule():
    counts = [2000, 3]
    noise, alone = MoleculeNoise(counts, [4, 7], seed=3), MoleculeNoise([3], [7], seed=3)
    for _ in range(2):
        drawn = noise()
        np.testing.assert_array_equal(drawn[2000:], alone())
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05
    assert abs(MoleculeNoise([3], [7], seed=4)() - MoleculeNoise([3], [7], seed=3)()).min() > 0


def test_fewer_molecules_are_the_first_of_more():
    np.testing.assert_array_equal(choose(4, 10, seed=1), choose(9, 10, seed=1)[:4])
    assert sorted(choose(10, 10, seed=2)) == list(range(10))
    assert np.bincount(choose(25, 10, seed=2)).min() == 2


# ---- what is said of it


def test_the_table_counts_what_is_new(monkeypatch, tmp_path):
    """Known molecules are valid and not new; without their composition nothing is compared."""
    found = molecules(("CH4", "CH4", "H2O"))
    options = sample.read_options(["x.pt", "--out", str(tmp_path / "out.xyz")])
    sampled = SampledMolecules(found, np.array([5, 6, 7]), np.array([True, True, False]))
    table = sample.sample_table(sampled, molecules(("CH4", "C2H6", "CH3OH")), options)
    assert table["valid"] == 1.0 and table["unique_molecules"] == 2
    assert table["novel_molecules"] == 1 and table["novel"] == 0.5
    assert table["steps_mean"] == 6 and table["converged"] == pytest.approx(2 / 3)
    assert "novel" not in sample.sample_table(sampled, None, options)


def test_only_equal_compositions_are_compared():
    known = molecules(("CH4", "C2H6", "CH3OH", "C2H2"))
    same = with_compositions_of(known, molecules(("CH3OH", "CH4")))
    assert same.counts.tolist() == [5, 6]
    assert compositions(known)[0, [1, 6]].tolist() == [4, 1]


def test_files_hold_the_same_molecules(diffusions, tmp_path):
    files = {name: tmp_path / name for name in ("a.sdf", "a.json", "ways")}
    options = ["--sdf", "a.sdf", "--json", "a.json", "--trajectory", "ways"]
    words = [str(files.get(word, word)) for word in options]
    table, found = generate(
        diffusions["noise"], tmp_path / "a.xyz", "--number", "4", "--trajectory-every", "2", *words
    )
    for number, one in enumerate(found):
        way = ase.io.read(files["ways"] / f"molecule_{number:06d}.xyz", ":")
        np.testing.assert_array_equal(way[-1].positions, one.positions)
        assert [frame.info["step"] for frame in way] == [0, 2, 4, 6]
        assert one.info["steps"] == 6 and one.info["index"] == number
    assert files["a.sdf"].read_text().count("$$$$\n") == 4
    kept = json.loads(files["a.json"].read_text())
    assert kept["rows"][0]["stable_atoms"] == table["stable_atoms"]


# ---- interruptions


def test_an_interrupted_run_goes_on_to_the_same_molecules(diffusions, tmp_path, monkeypatch):
    """Stopped after any batch."""
    number = ["--number", "8"]
    table, _ = generate(diffusions["joint"], tmp_path / "whole.xyz", *number)
    keep, kept = sampling_batches.write_batch, []

    def stopping(*arguments):
        if len(kept) in (1, 2):
            kept.append(None)
            raise KeyboardInterrupt
        keep(*arguments)
        kept.append(arguments[2])

    monkeypatch.setattr(sampling_batches, "write_batch", stopping)
    out = tmp_path / "parts.xyz"
    words = [str(diffusions["joint"]), "--out", str(out), "--no-progress", "--max-steps", "6"]
    words += ["--batch-size", "3", *number]
    for more in ([], ["--resume"]):
        with pytest.raises(Interrupted, match="interrupted; continue with: .*sample .* --resume$"):
            sample.main([*words, *more])
    resumed, _ = generate(diffusions["joint"], out, *number, "--resume")
    assert out.read_bytes() == (tmp_path / "whole.xyz").read_bytes()
    assert resumed == pytest.approx(table, nan_ok=True)
    assert kept == [0, None, None, 1, 2]


# ---- bad input


@pytest.mark.parametrize(
    "network, more, message",
    [
        ("joint", ["--composition", "C2Xx"], "--composition must be a formula of elements such as"),
        ("joint", ["--composition", ""], "--composition must be a formula of elements such as"),
        ("joint", ["--composition", "CH3Cl"], r"structure 0: unknown element Cl \(Z = 17\)"),
        ("joint", ["--composition", "CO", "--like", "x"], "--like chooses molecules of a folder"),
        ("joint", ["--composition", "CO", "--heavy-atoms", "2"], "--heavy-atoms chooses molecules"),
        ("joint", ["--like", "/nowhere"], "/nowhere/train.npz does not exist; make the folder"),
        ("joint", ["--atoms", "90"], "no molecule is left by atoms 90"),
        ("joint", ["--atoms", "many"], "atoms must be one number or a range such as 5,9"),
        ("joint", ["--number", "0"], "--number: must be >= 1, got 0"),
        ("joint", ["--max-steps", "0"], "--max-steps: must be >= 1, got 0"),
        ("joint", ["--convergence-step", "-1"], "--convergence-step: must be >= 0"),
        ("time", [], "predicts time, sampler jt needs noise"),
        ("joint", ["--bonds", "edn"], "--bonds: must be one of edm, edm_sulfur, perceived, got"),
        ("joint", ["--steps", "4"], "unknown option --steps"),
    ],
)
def test_options_that_do_not_fit_are_one_line(diffusions, tmp_path, network, more, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        generate(diffusions[network], tmp_path / "out.xyz", *more)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_missing_training_data_need_a_composition(diffusions, tmp_path, monkeypatch):
    def missing(folder, split):
        raise FileNotFoundError(f"{folder} has gone")

    for module in ("trained_sampler", "molecule_choice"):
        monkeypatch.setattr(f"farfield.simulate.{module}.open_structures", missing)
    with pytest.raises(OSError, match="training data are not there .*give --like FOLDER, or --com"):
        generate(diffusions["joint"], tmp_path / "out.xyz")
    table, _ = generate(
        diffusions["joint"], tmp_path / "out.xyz", "--composition", "CO", "--number", "1"
    )
    assert table["molecules"] == 1 and "novel" not in table
