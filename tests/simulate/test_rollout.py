"""A simulation described by a yaml file is the same run of run_md."""

import shutil

import pytest

from farfield.common import checkpoint
from farfield.simulate import rollout, run_md
from farfield.simulate.dynamics import STATE, TRAJECTORY

LANGEVIN = """
integrator: Langevin
integrator_config: {timestep: 0.5, temperature: 500, friction: 0.02}
T_init: 500
steps: 6
save_freq: 2
init_idx: 1
"""


def arguments(folder, text, name="one"):
    """Options of the script for a file with ``text``."""
    file = folder / "md.yml"
    file.write_text(text)
    return ["--simulation_config_yml", str(file), "--model_dir", str(folder), "--identifier", name]


def test_the_run_is_the_one_of_run_md_and_goes_on(potential, tmp_path):
    shutil.copy(potential, tmp_path / checkpoint.BEST)
    rollout.main(arguments(tmp_path, LANGEVIN))
    direct = tmp_path / "direct"
    options = ["--ensemble", "langevin", "--temperature", "500", "--friction", "0.02"]
    options += ["--steps", "6", "--record-every", "2", "--index", "1", "--no-progress"]
    run_md.main(["--checkpoint", str(potential), "--run-dir", str(direct), *options])
    path = tmp_path / "one" / TRAJECTORY
    assert path.read_bytes() == (direct / TRAJECTORY).read_bytes()

    # called again it continues, and `purge` begins again
    before = path.read_bytes()
    rollout.main(arguments(tmp_path, LANGEVIN.replace("steps: 6", "steps: 8")))
    assert path.read_bytes().startswith(before) and len(path.read_bytes()) > len(before)
    rollout.main(arguments(tmp_path, f"{LANGEVIN}purge: true"))
    assert path.read_bytes() == before and (tmp_path / "one" / STATE).exists()


def test_an_nve_run_begins_at_its_temperature(tmp_path):
    text = (
        "integrator: VelocityVerlet\nintegrator_config: {temperature: 300, friction: 1}\nT_init: 5"
    )
    words = rollout.run_md_arguments(rollout.read_options(arguments(tmp_path, text)))
    assert words[words.index("--ensemble") :] == ["--ensemble", "nve", "--temperature", "5"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("integrater: Langevin", "integrator"),
        ("integrator: NoseHoover", "must be one of NVE"),
        ("integrator_config: {frictoin: 1}", "friction"),
        ("integrator: Langevin\nintegrator_config: {temperature: 300}\nT_init: 5", "differ"),
        ("[1, 2]", "must hold keys"),
        ("a: [", "not readable as yaml"),
    ],
)
def test_what_cannot_run_is_one_line(tmp_path, text, words):
    with pytest.raises(ValueError, match=words) as caught:
        rollout.main(arguments(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_options_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="--model-dir is missing"):
        rollout.main(["--simulation_config_yml", "md.yml"])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        rollout.main(["--simulation_config_yml", str(tmp_path / "no.yml"), "--model_dir", "runs"])
