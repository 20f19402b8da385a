"""The options of a script are those of the network that the command line, a file or a run names."""

import pytest

from farfield.train import train_md17, train_qm9
from farfield.train.network_options import chosen_network
from farfield.train.tasks.properties import PropertyTask


def test_the_options_are_those_of_the_chosen_network(tmp_path):
    other, default = "se3_transformer_properties", PropertyTask.default_network

    def chosen(*argv):
        return chosen_network(PropertyTask, list(argv), str(tmp_path))

    assert chosen("--model", other) == other
    assert chosen() == chosen("--model", "unknown") == default
    (tmp_path / "config.yaml").write_text(f"model: {{name: {other}}}\n")
    (tmp_path / "flat.yaml").write_text(f"name: {other}\n")
    for file in ("config.yaml", "flat.yaml"):
        assert chosen("--config", str(tmp_path / file)) == other
    assert chosen("--resume") == other and chosen("--resume", "--model", default) == default
    with pytest.raises(ValueError, match="must be one of .*, got 'other'"):
        train_qm9.SCRIPT.read_options(["--model", "other"])


def test_the_help_shows_the_values_of_the_chosen_preset(capsys):
    for preset, irreps in (("small", "32x0e"), ("base", "64x0e")):
        with pytest.raises(SystemExit):
            train_md17.main(["--preset", preset, "--help"])
        assert f"(default {irreps}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match="--preset: must be one of small, base, paper, got 'big'"):
        train_md17.main(["--preset", "big", "--help"])
