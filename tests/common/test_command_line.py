"""Laws of the command line: order of the sources, limits, one-line errors with exit code 2."""

import dataclasses
import os
from typing import Annotated

import pytest
import torch
import yaml

from farfield.common.command_line import OptionParser, find_device, run_script, saved_config
from farfield.common.session import Interrupted
from tests.support.toy_training import toy_parser


def training(*argv, presets=None):
    return toy_parser().parse_config([*argv], presets).training


def test_explicit_beats_yaml_beats_preset_beats_default(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("training: {lr: 1e-2, epochs: 7}\nbeta2: 0.98\n")
    found = training(
        "--config",
        str(file),
        "--epochs",
        "9",
        presets=lambda values: {"lr": 0.5, "batch_size": 2 * values["epochs"]},
    )
    assert (found.epochs, found.lr, found.beta2) == (9, 0.01, 0.98)
    assert found.batch_size == 18, "a preset sees the values that were chosen"
    assert found.accumulate == 1


def test_an_explicit_default_still_beats_yaml(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("epochs: 7\nprogress: false\n")
    config = toy_parser().parse_config(["--config", str(file), "--epochs", "100", "--progress"])
    assert config.training.epochs == 100 and config.run.progress is True


def test_a_section_may_be_empty_and_may_have_the_name_of_an_option(tmp_path):
    parser = toy_parser()
    parser.section("loss", "what is minimised").add("--loss", str, "mse", help="cost")
    file = tmp_path / "some.yaml"
    for text in ("training:\nloss: mae", "training: {}\nloss: {loss: mae}"):
        file.write_text(text)
        assert parser.parse_config(["--config", str(file)]).loss == {"loss": "mae"}


def test_a_saved_configuration_reads_back_as_itself(tmp_path):
    config = toy_parser().parse_config(
        ["--clip-norm", "inf", "--max-cpu-minutes", "3", "--seed", "5", "--width", "3"]
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(saved_config(config)))
    again = toy_parser().parse_config(["--config", str(file)])
    assert saved_config(again) == saved_config(config)


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--epochs 0", "--epochs: must be >= 1, got 0; leave --epochs out for the default 100"),
        ("--lr 0", "--lr: must be > 0, got 0.0"),
        ("--lr nan", "--lr: must be > 0, got nan"),
        ("--lr inf", "--lr: must be <= 100, got inf"),
        ("--min-lr inf", "--min-lr: must be < inf, got inf"),
        ("--clip-norm nan", "--clip-norm: must be > 0, got nan"),
        ("--run-dir=", "--run-dir: must not be empty; leave --run-dir out for the default run"),
        ("--config=", ". is not a file: give an existing yaml file to --config"),
        ("--batch-size 2.5", "--batch-size: must be a whole number, got '2.5'"),
        ("--beta2 1", "--beta2: must be < 1, got 1.0"),
        (
            "--optimizer adem",
            "--optimizer: must be one of adam, adamw, radam, nadam, got 'adem'; did you "
            "mean 'adam'",
        ),
        ("--epoch 3", "unknown option --epoch; did you mean --epochs?"),
        ("--learning-rate 3", "unknown option --learning-rate; --help-all lists all options"),
        ("--lr-max 3", "unknown option --lr-max; --help-all lists all options"),
        ("run", "unexpected argument 'run'; options start with --"),
        ("--resume", "there is no run to resume"),
        ("--config missing.yaml", "missing.yaml does not exist"),
    ],
)
def test_bad_arguments_are_one_line(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        toy_parser().parse_config(argv.split())
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("trainng: {lr: 1}", "unknown option 'trainng'; did you mean 'training'"),
        ("training: {epocs: 3}", "unknown option 'epocs'; did you mean 'epochs'"),
        ("epochs: 0", "epochs must be >= 1, got 0"),
        ("epochs: [1, 2]", "epochs must be a whole number, got '[1, 2]'"),
        ("lr: null", "lr must be a number, got 'None'"),
        ("progress: 3", "progress must be true or false, got 3"),
        ("- 1", "must hold option names with values, got list"),
        ("a: [", "is not readable as yaml"),
        ("epochs: " + 5000 * "9", "is not readable as yaml"),
        ("training: 3", "the section training must hold option names with values, got 3"),
        (
            "training: {width: 3}",
            "'width' is not an option of the section training; move it to model",
        ),
        ("training: {epochs: 3}\nepochs: 4", "epochs is given twice"),
        ("task: qm9", "configures the task 'qm9', this script runs 'toy'"),
        ("lr: 0.1\nlr: 0.2\n", "'lr' is given twice (line 2); keep one of them"),
        ("training:\n  lr: 0.1\n  lr: 0.2\n", "'lr' is given twice (line 3)"),
        ("training: {}\ndata: {}\ntraining: {}\n", "'training' is given twice"),
    ],
)
def test_bad_yaml_is_one_error_that_names_the_file(text, message, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        toy_parser().parse_config(["--config", str(file)])
    assert message in str(error.value) and "bad.yaml" in str(error.value)


def test_fields_of_a_dataclass_become_options():
    @dataclasses.dataclass
    class Shape:
        size: Annotated[int, "how wide"] = 3
        mode: Annotated[str | None, "what is done", {"add": 1, "cat": 2}] = "add"
        twice: bool = False
        ratio: float = 0.5

    parser = OptionParser("toy", "")
    parser.add_argument("--config")
    parser.section("model", "net").add_fields(Shape, skip=("ratio",))
    assert parser.parse_config([]).model == {"size": 3, "mode": "add", "twice": False}
    assert parser.parse_config(["--mode", "none", "--twice", "--size", "4"]).model == {
        "size": 4,
        "mode": None,
        "twice": True,
    }
    described = " ".join(parser.format_help().split())
    assert (
        "--size INT how wide (default 3)" in described
        and "--mode {add,cat} what is done (default add)" in described
    )

    @dataclasses.dataclass
    class Wider(Shape):
        size: int = 5

    other = OptionParser("toy", "")
    other.section("model", "net").add_fields(Wider)
    assert "--size INT how wide (default 5)" in " ".join(other.format_help().split())


@pytest.mark.parametrize(
    "error, code",
    [
        (ValueError("a\nb"), 2),
        (FileNotFoundError("no file"), 2),
        (MemoryError(), 2),
        (Interrupted("continue with x"), 130),
    ],
)
def test_a_script_ends_with_one_line_and_its_code(error, code, capsys, monkeypatch):
    monkeypatch.delenv("FARFIELD_TRACEBACK", raising=False)

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_defect_of_the_program_keeps_its_traceback():
    def main():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run_script(main)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta", "meta:x"])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(
        ValueError, match=f"--device {name}: not usable here.*--device cpu"
    ) as error:
        find_device(name)
    assert os.linesep not in str(error.value)


def test_there_is_one_cpu():
    assert find_device("cpu:3") == find_device("cpu") == torch.device("cpu")


def test_a_template_does_not_bring_the_numbers_of_other_data(tmp_path):
    def parse(*argv):
        parser = toy_parser()
        data = parser.section("data", "data")
        data.add("--data-path", str, "data")
        parser.section("model", "net").add("--size", float, 1.0)
        return parser.parse_config(
            list(argv), lambda values: {"size": 4.0}, lambda values: {"size": 5.0}
        )

    file = tmp_path / "config.yaml"
    template = ["--config", str(file)]
    file.write_text(
        "measured: [size]\nmodel: {size: 2.0, width: 9}"
    )  # of a run whose data had decided the size
    other = parse(*template)
    assert (other.model.size, other.model.width, other.measured) == (5.0, 9, ["size"])
    named = parse(*template, "--size", "3")
    assert named.model.size == 3.0 and "measured" not in named
    again = parse("--resume", "--run-dir", str(tmp_path))
    assert again.model.size == 2.0 and again.measured == ["size"]
    file.write_text("model: {size: 2.0, width: 9}")  # named in that run, or written by hand
    assert parse(*template).model.size == 2.0
    file.write_text("measured: 3")
    with pytest.raises(ValueError, match="measured must be a list of names, got 3"):
        parse(*template)


def test_an_emptied_configuration_is_damaged(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ValueError, match=r"config.yaml is damaged \(it is empty\)"):
        toy_parser(tmp_path).parse_config(["--resume"])


def test_a_script_knows_better_defaults_and_former_names_of_its_task(tmp_path):
    def parse(*argv):
        parser = OptionParser("new", "", {"size": 7, "width": None}, {"old": "new"})
        parser.add_argument("--config")
        section = parser.section("model", "net")
        section.add("--size", int, 3, decided="the data", help="size")
        section.add("--width", int, 4, decided="the data", help="width")
        return parser.parse_config(list(argv)), " ".join(parser.format_help().split())

    config, described = parse()
    assert (config.model.size, config.model.width) == (7, None)
    assert "size (default 7)" in described and "width (default set by the data)" in described
    file = tmp_path / "old.yaml"
    file.write_text("task: old\nsize: 2")
    found, _ = parse("--config", str(file))
    assert found.task == "new" and found.model.size == 2


def test_a_default_without_an_option_is_named():
    parser = OptionParser("toy", "", {"bach_size": 7})
    parser.section("training", "").add("--batch-size", int, 3)
    with pytest.raises(ValueError, match="'toy' has a default for 'bach_size', .* 'batch_size'"):
        parser.parse_config([])


def test_a_run_whose_files_were_not_imported_says_which(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("imports: [my_toy.py]\ntraining: {optimizer: mine}")
    with pytest.raises(ValueError, match="got 'mine'; it was started with --import my_toy.py$"):
        toy_parser().parse_config(["--config", str(file)])
    file.write_text("imports: [my_toy.py]\ntraining: {epochs: 3}")
    assert toy_parser().parse_config(["--config", str(file)]).training.epochs == 3
