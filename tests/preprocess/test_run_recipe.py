"""Laws of the configurations in configs/: scripts take their options, networks are built, and each
one trains on a bundled sample.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from farfield.dataloader.sources.md22 import SAMPLE_SIZES
from farfield.models.factory import build_model
from farfield.preprocess import run_recipe
from tests.support.processes import ROOT

FILES = sorted((ROOT / "configs").glob("*.yaml"))
FAST = ("oc20_s2ef", "md22_AT-AT")
LEARNED_PROTOCOL = {**SAMPLE_SIZES, "chignolin": 8000}


def parsed(script: str, part: str, arguments: list[str]) -> dict:
    """What a script reads of its arguments, by option."""
    module = importlib.import_module(f"farfield.{part}.{part}_{script}")
    if part == "train":
        return vars(module.SCRIPT.parser().parse_args(arguments))
    if hasattr(module, "read_options"):
        return dict(module.read_options(arguments).data)
    return vars(module.build_parser().parse_args(arguments))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_scripts_take_the_options_and_the_network_is_built(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = run_recipe.read_recipe(file)
    for kind in (recipe, run_recipe.smoke(recipe, file.stem, 3)):
        for part, (script, arguments) in run_recipe.commands(kind).items():
            options = parsed(script, part, arguments)
            assert options

    # graphs and network agree, and the network has the sizes of a paper
    model = build_model({"name": "e2former", **recipe["train"]["model"]})
    options = model.network.options
    assert options.cutoff == recipe["preprocess"]["cutoff"]
    assert options.channels >= 128 and options.lmax == 2 and len(options.attentions()) >= 4


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_says_how_it_is_called(file):
    text = file.read_text()
    assert f"farfield run configs/{file.name}\n" in text
    assert len(max(text.splitlines(), key=len)) <= 100


def test_all_molecules_of_the_protocol_have_a_file_with_its_size():
    assert {file.stem.removeprefix("md22_") for file in FILES if "md22_" in file.stem} == set(
        LEARNED_PROTOCOL
    )
    for molecule, size in LEARNED_PROTOCOL.items():
        file = ROOT / "configs" / f"md22_{molecule}.yaml"
        assert f"{size} frames" in file.read_text()
        prepare = run_recipe.read_recipe(file)["preprocess"]
        assert prepare.get("molecule") == molecule or prepare["sample_size"] == size


def smoked(file: Path, folder: Path, monkeypatch, steps: int) -> dict:
    """Results of a few steps of a configuration on its sample."""
    monkeypatch.chdir(folder)
    run_recipe.main([str(file), "--smoke-steps", str(steps), "--no-progress"])
    return json.loads((folder / "runs" / "smoke" / file.stem / "results.json").read_text())


def check(results: dict, file: Path, steps: int) -> None:
    """The run took the steps, with the network of the file, and gave finite errors."""
    model = yaml.safe_load(file.read_text())["train"]["model"]
    saved = results["config"]["model"]
    assert {name: saved[name] for name in model} == model
    assert results["steps"] == steps
    assert all(0 <= row["force_mae"] < 1e5 for row in results["test"])


@pytest.mark.parametrize("name", FAST)
def test_a_few_steps_on_the_bundled_sample(name, tmp_path, monkeypatch, capfd):
    file = ROOT / "configs" / f"{name}.yaml"
    check(smoked(file, tmp_path, monkeypatch, steps=2), file, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_configuration_trains_on_its_sample(file, tmp_path, monkeypatch, capfd):
    check(smoked(file, tmp_path, monkeypatch, steps=12), file, steps=12)


@pytest.mark.slow
def test_a_minute_of_smoke(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run_recipe.main([str(ROOT / "configs" / "spice.yaml"), "--smoke", "--no-progress"])
    assert "ended by max_minutes" in capfd.readouterr().out


BAD = {
    "[": "not readable as yaml",
    "preprocess: {}": "must have the parts preprocess, train, smoke",
    "{preprocess: {script: md17}, train: {script: md17}, smoke: {sample: ethanol}}": "out among",
    "{preprocess: {script: md18, out: a}, train: {script: md17}, smoke: {sample: ethanol}}": "md18",
    "{preprocess: {script: md17, out: a}, train: {script: x}, smoke: {sample: ethanol}}": "'x'",
    "{preprocess: {script: md17, out: a}, train: {script: md17}, smoke: {sample: gold}}": "'gold'",
}


@pytest.mark.parametrize("text", BAD)
def test_other_files_are_refused_in_one_line(text, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=BAD[text]) as refusal:
        run_recipe.main([str(file)])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("steps", ["0", "two", "-1"])
def test_steps_are_whole_numbers(steps):
    with pytest.raises(ValueError, match="must be a whole number >= 1"):
        run_recipe.main(["recipe.yaml", "--smoke-steps", steps])


def test_options_behind_the_file_go_to_the_training(tmp_path, monkeypatch):
    called = {}
    for part in ("preprocess", "train"):
        module = importlib.import_module(f"farfield.{part}.{part}_md22")
        monkeypatch.setattr(module, "main", lambda words, part=part: called.update({part: words}))
    monkeypatch.setattr(sys, "argv", ["farfield run"])
    run_recipe.main([str(ROOT / "configs" / "md22_DHA.yaml"), "--device", "cuda", "--resume"])
    assert called["train"][-3:] == ["--device", "cuda", "--resume"]
    assert "--device" not in called["preprocess"] and called["preprocess"][:2] == [
        *("--molecule", "DHA")
    ]
    assert sys.argv[0] == "farfield train md22"


@pytest.mark.parametrize("odd", ["7: 3", "data: {true: 1}"])
def test_names_of_options_are_words(odd, tmp_path):
    text = (ROOT / "configs" / "md22_DHA.yaml").read_text()
    (tmp_path / "odd.yaml").write_text(text.replace("train:\n", f"train:\n  {odd}\n", 1))
    with pytest.raises(ValueError, match="odd.yaml: train names the option (7|True), names must"):
        run_recipe.read_recipe(tmp_path / "odd.yaml")
