"""Molecules generated and relaxed by checkpoints of EdgeTransformers with every sampler, from the
command line, and what such networks cannot take, in one line.
"""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from farfield.common import checkpoint
from farfield.models.diffusion.samplers import SAMPLERS
from farfield.simulate import relax_diffusion, sample
from tests.support.diffusion_runs import train_briefly
from tests.support.small_diffusion import EDGES

AT_MOST = 7  # atoms


@pytest.fixture(scope="module")
def edges(data, tmp_path_factory):
    """Checkpoints by objective; the one of both objectives guesses the time for the other. And one
    of another process.
    """
    folder, model = tmp_path_factory.mktemp("edges"), {**EDGES, "max_atoms": AT_MOST}
    found = {
        name: train_briefly(folder / name, data, "--objective", name, model=model)
        for name in ("joint", "noise")
    }
    content = checkpoint.read_run(found["joint"])
    content["config"]["data"]["diffusion_steps"] = 40
    checkpoint.save_checkpoint(folder / "other.pt", content)
    return found | {"other": folder / "other.pt"}


def words_of(name: str, edges: dict, out) -> list[str]:
    """A command without its molecules."""
    times = ["--time-checkpoint", str(edges["joint"])] if name in ("as", "itp") else []
    run = ["--out", str(out), "--max-steps", "5", "--sampler", name, "--no-progress"]
    return [str(edges["joint" if name == "jt" else "noise"]), *run, *times]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_generates_and_relaxes(name, edges, tmp_path, capsys):
    command = words_of(name, edges, tmp_path / "sampled.xyz")
    sample.main([*command, "--composition", "CH2O", "--number", "3", "--batch-size", "2"])
    sampled = ase.io.read(tmp_path / "sampled.xyz", ":")
    assert [one.get_chemical_formula() for one in sampled] == ["CH2O"] * 3
    assert all(np.isfinite(one.positions).all() for one in sampled)

    start = [Atoms("OHH", [[0, 0, 0], [0.9, 0.3, 0], [-0.7, 0.5, 0.2]]), Atoms("CO", np.eye(3)[:2])]
    write(tmp_path / "start.xyz", start, format="extxyz")
    command = words_of(name, edges, tmp_path / "relaxed.xyz")
    times = ["--start", "4"] if name == "ddpm" else []
    relax_diffusion.main([command[0], str(tmp_path / "start.xyz"), *command[1:], *times])
    relaxed = ase.io.read(tmp_path / "relaxed.xyz", ":")
    for one, before in zip(relaxed, start, strict=True):
        assert one.numbers.tolist() == before.numbers.tolist()
        np.testing.assert_allclose(one.positions.mean(0), before.positions.mean(0), atol=1e-5)
        assert 1 <= one.info["steps"] <= 5
    assert "edge_transformer_diffusion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("jt", ["--composition", "C3H6"], "structure 0 has 9 atoms, the network takes at most 7"),
        ("jt", ["--composition", "CH3F"], r"structure 0: unknown element F \(Z = 9\); this model"),
        ("ddpm", ["--composition", "CO", "--time-checkpoint", "joint"], "asks no time network"),
        ("as", ["--composition", "CO", "--time-checkpoint", "other"], "trained with time_steps 40"),
        ("itp", ["--composition", "CO", "--time-checkpoint", "noise"], "sampler itp needs time of"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(name, more, message, edges, tmp_path):
    more = [str(edges.get(word, word)) for word in more]
    command = words_of(name, edges, tmp_path / "out.xyz")
    with pytest.raises(ValueError, match=message) as error:
        sample.main([*command, *more])
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_molecules_larger_than_the_network_are_refused_before_training(data, tmp_path):
    """The training split holds 6 atoms at most, and its first molecule fewer."""
    model = {**EDGES, "max_atoms": 5}
    words = "train split of the data: a structure has 6 atoms, the EdgeTransformer takes at most"
    with pytest.raises(ValueError, match=words) as error:
        train_briefly(tmp_path / "run", data, model=model)
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "run").exists()
