"""Laws of the help and of guesses: the help shows real defaults, a guess corrects spelling only."""

import dataclasses
import subprocess
import sys
from typing import Annotated

import pytest

from farfield.common import plugins
from farfield.common.command_line import OptionParser, add_config_option
from farfield.models.choices import nearest
from farfield.models.option_fields import Alias


def parser_of(*sections, **settings):
    parser = OptionParser("toy", "a toy", **settings)
    for name, options in sections:
        for flag, keywords in options.items():
            parser.section(name, "toys").add(flag, **keywords)
    return parser


def words(text: str) -> str:
    return " ".join(text.split())


def test_help_shows_main_options_and_help_all_the_rest(capsys):
    options = {
        "--size": {"kind": int, "default": 3, "main": True, "help": "edge length, cm"},
        "--hue": {"kind": float, "default": 0.5, "help": "share of red"},
    }
    parser = parser_of(("look", options))
    short, whole = parser.format_help(), parser.format_help(everything=True)
    assert "--size INT edge length, cm (default 3)" in words(short)
    assert "--hue" not in short and "--help-all" in short
    assert "--hue FLOAT share of red (default 0.5)" in words(whole)

    with pytest.raises(SystemExit) as left:
        parser.parse_config(["--help-all"])
    assert left.value.code == 0 and "--hue" in capsys.readouterr().out


def test_where_nothing_is_marked_help_shows_everything():
    text = parser_of(("look", {"--hue": {"help": "5 % of red"}})).format_help()
    assert "5 % of red" in text and "--help-all" not in text


def test_a_default_says_who_set_it():
    shape = dataclasses.make_dataclass(
        "Shape", [("size", float, 1.0), ("hue", float, 0.5), ("mean", float, 2.0)]
    )
    parser = OptionParser("toy", "a toy")
    parser.section("model", "net").add_fields(
        shape,
        decided={"mean": "the data"},
        presets={"small": {"size": 0.8}, "large": {"hue": 3.0}},
        preset="small",
    )
    text = words(parser.format_help())
    assert "--size FLOAT size (default 0.8, set by --preset small)" in text
    assert "--hue FLOAT hue (default 0.5)" in text
    assert "--mean FLOAT mean (default set by the data)" in text


def test_published_names_are_accepted_everywhere_and_shown_nowhere(tmp_path):
    def parse(*argv):
        parser = parser_of(
            ("model", {"--cutoff": {"kind": float, "default": 4.0, "aliases": ["max_radius"]}})
        )
        parser.add_argument("--config")
        return parser.parse_config(list(argv)).model, parser.format_help(everything=True)

    file = tmp_path / "options.yaml"
    file.write_text("model: {max_radius: 5.0}")
    assert parse("--max-radius", "6")[0] == {"cutoff": 6.0}
    assert parse("--config", str(file))[0] == {"cutoff": 5.0}
    assert parse("--config", str(file), "--cutoff", "3")[0] == {"cutoff": 3.0}
    assert "radius" not in parse()[1]

    file.write_text("max_radius: 5.0\ncutoff: 5.0")
    with pytest.raises(ValueError, match="cutoff is given twice"):
        parse("--config", str(file))


@pytest.mark.parametrize(
    ("value", "known", "guess"),
    [
        ("NVE", ["nve", "langevin"], "nve"),
        ("langevn", ["nve", "langevin"], "langevin"),
        ("first-ordre", ["zero-order", "first-order"], "first-order"),
        ("batchsize", ["batch_size"], "batch_size"),
        ("--max-atom-per-batch", ["--max-atoms-per-batch"], "--max-atoms-per-batch"),
        # other concepts, not misspellings
        ("nvt", ["nve", "langevin"], None),
        ("md22", ["md17"], None),
        ("float16", ["float32", "float64"], None),
        ("lumo", ["homo", "gap"], None),
        ("third-order", ["zero-order", "first-order"], None),
        ("near-value-lmax", ["far_value_lmax"], None),
        ("U0", ["U", "H"], None),
    ],
)
def test_a_guess_corrects_spelling_and_never_offers_another_concept(value, known, guess):
    assert nearest(value, known) == guess


def test_reading_a_command_line_imports_nothing_slow():
    code = (
        "import sys, farfield.common.command_line\n"
        "slow = {'torch', 'dgl', 'e3nn', 'matplotlib', 'ase', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'{sorted(slow)} imported' if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_published_name_may_change_another_option(tmp_path):
    def with_lmax(lmax, irreps):
        return irreps.split("x")[0] + f"x{lmax}"

    @dataclasses.dataclass(frozen=True)
    class Options:
        irreps: Annotated[str, "features", Alias("lmax", int, with_lmax)] = "8x1"

    def irreps(*argv):
        parser = OptionParser("toy", "a toy")
        parser.add_argument("--config")
        parser.section("model", "net").add_fields(Options)
        presets = {"irreps": "16x1"}
        return parser.parse_config(list(argv), lambda values: presets).model.irreps

    file = tmp_path / "options.yaml"
    file.write_text("lmax: 3")
    assert irreps() == "16x1"
    assert irreps("--lmax", "2") == "16x2"
    assert irreps("--lmax", "2", "--irreps", "4x1") == "4x2"
    assert irreps("--config", str(file)) == "16x3"
    assert irreps("--config", str(file), "--irreps", "4x1") == "4x1"
    with pytest.raises(ValueError, match="--lmax: must be a whole number, got 'two'"):
        irreps("--lmax", "two")


def test_the_short_help_of_the_training_scripts_is_short():
    from farfield.train import train_nbody, train_potential, train_qm9

    for script in (train_potential, train_qm9, train_nbody):
        parser = script.SCRIPT.parser()
        assert len(parser.main_actions) <= 23
        options = sum(len(section.options) for section in parser.sections.values())
        assert options > 30


def test_help_names_files_of_options_and_of_python():
    parser = OptionParser("toy", "a toy")
    add_config_option(parser)
    text = words(parser.format_help())
    assert "--config FILE yaml file with options" in text
    assert f"--import FILE {words(plugins.HELP)}" in text
