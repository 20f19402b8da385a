"""Molecular dynamics as a yaml file describes it, beside the trained potential.

    python -m simulate.rollout --simulation_config_yml md.yml --model_dir runs/ethanol \\
        --identifier nve_500K

The run goes to MODEL_DIR/IDENTIFIER, with the potential MODEL_DIR/checkpoint_best.pt; called
again it continues. The file has the keys of published MD benchmarks (Fu et al. 2022,
arXiv:2210.07237):

    integrator: Langevin          # or NVE (VelocityVerlet)
    integrator_config:
      timestep: 0.5               # fs
      temperature: 500            # K, of the bath
      friction: 0.01              # 1/fs
    T_init: 500                   # K, of the first velocities
    steps: 200000
    save_freq: 100                # steps between frames
    init_idx: 0                   # structure of the test split
    purge: false                  # delete an earlier run first

Keys that are left out have the defaults of run_md; a key that nobody reads is an error. Analyse the
run with analyze_rollouts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if not __package__:  # `python simulate/rollout.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from farfield.common import checkpoint
from farfield.common.argument_parser import OneLineParser
from farfield.common.command_line import run_script
from farfield.common.yaml_files import read_yaml
from farfield.models.choices import check_choice
from farfield.simulate.analyze_rollouts import with_dashes
from farfield.simulate.dynamics import STATE

INTEGRATORS = {"NVE": "nve", "VelocityVerlet": "nve", "Langevin": "langevin"}
KEYS = {"steps": "--steps", "save_freq": "--record-every", "init_idx": "--index"}
INTEGRATOR_KEYS = {
    "timestep": "--timestep",
    "temperature": "--temperature",
    "friction": "--friction",
}
OTHER_KEYS = ("integrator", "integrator_config", "T_init", "purge")


def build_parser() -> OneLineParser:
    """All options of the script."""
    parser = OneLineParser(__doc__)
    file = "yaml file that describes the simulation"
    parser.add_argument("--simulation-config-yml", metavar="FILE", help=file)
    folder = "folder of the training run; its checkpoint_best.pt is the potential"
    parser.add_argument("--model-dir", metavar="DIR", help=folder)
    name = "name of the simulation: a folder in --model-dir (default: simulation)"
    parser.add_argument("--identifier", metavar="NAME", default="simulation", help=name)
    return parser


def read_options(argv: Sequence[str] | None = None):
    """The options of a command line; ValueError where one is missing."""
    found = build_parser().parse_args(with_dashes(sys.argv[1:] if argv is None else argv))
    for name in ("simulation_config_yml", "model_dir"):
        if getattr(found, name) is None:
            raise ValueError(f"--{name.replace('_', '-')} is missing; --help shows an example")
    return found


def read_settings(path: str | Path) -> dict:
    """Content of the yaml file; FileNotFoundError or ValueError in one line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"--simulation-config-yml {path} does not exist; give a yaml file, --help shows one"
        )
    content = read_yaml(path) or {}

    # a misspelled key would leave a default in its place
    if not isinstance(content, dict) or not isinstance(content.get("integrator_config", {}), dict):
        raise ValueError(f"{path} must hold keys with values, --help shows an example")
    for key in content:
        check_choice(f"{path}: key", key, [*KEYS, *OTHER_KEYS])
    for key in content.get("integrator_config", {}):
        check_choice(f"{path}: key of integrator_config", key, INTEGRATOR_KEYS)
    return content


def dynamics_options(settings: Mapping, path: str | Path) -> list[str]:
    """The settings as options of run_md; ValueError for what it cannot run."""
    integrator = settings.get("integrator", "NVE")
    check_choice(f"{path}: integrator", integrator, INTEGRATORS)
    bath = dict(settings.get("integrator_config", {}))
    first = settings.get("T_init")

    # one temperature stands for the bath and for the first velocities
    if INTEGRATORS[integrator] == "nve":
        bath.pop("friction", None)
        bath["temperature"] = first if first is not None else bath.get("temperature")
    elif first not in (None, bath.get("temperature")):
        raise ValueError(
            f"{path}: T_init {first} and temperature {bath.get('temperature')} differ, a Langevin "
            "run begins at the temperature of its bath; give both the same value"
        )

    words = ["--ensemble", INTEGRATORS[integrator]]
    for table, values in ((KEYS, settings), (INTEGRATOR_KEYS, bath)):
        for key, flag in table.items():
            if values.get(key) is not None:
                words += [flag, str(values[key])]
    return words


def run_md_arguments(options) -> list[str]:
    """The command line of run_md that the options stand for."""
    settings = read_settings(options.simulation_config_yml)
    model = Path(options.model_dir)
    folder = model / options.identifier
    words = ["--checkpoint", str(model / checkpoint.BEST), "--run-dir", str(folder)]
    words += dynamics_options(settings, options.simulation_config_yml)
    if settings.get("purge"):
        return [*words, "--overwrite"]
    return [*words, "--resume"] if (folder / STATE).exists() else words


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    from farfield.simulate import run_md

    run_md.main(run_md_arguments(read_options(argv)))


if __name__ == "__main__":
    run_script(main)
