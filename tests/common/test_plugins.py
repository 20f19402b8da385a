"""Files of a user are executed once, and their mistakes are one line."""

import pytest

from farfield.common import plugins
from farfield.models.choices import Registry

TOYS = Registry("toy")


def write(path, text: str):
    path.write_text(text)
    return path


def test_a_file_registers_what_it_holds_and_runs_once(tmp_path):
    file = write(
        tmp_path / "mine.py",
        f"from {__name__} import TOYS\nTOYS.register('mine')(object())\ncalls = [1]\n",
    )
    module = plugins.import_file(file)
    assert "mine" in TOYS and plugins.import_file(str(file)) is module


def test_the_option_is_taken_out_of_a_command_line(tmp_path):
    one = write(tmp_path / "one.py", "")
    two = write(tmp_path / "two.py", "")
    arguments = ["--import", str(one), "--out", "x", f"--import={two}"]
    assert plugins.import_named_files(arguments) == ["--out", "x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = nothing\n", "line 2: NameError: name 'nothing' is not defined"),
        ("x = 1\ny = = 2\n", "line 2: SyntaxError"),
        ("import no_such_module_anywhere", "line 1: ModuleNotFoundError"),
    ],
)
def test_mistakes_in_a_file_are_one_line_that_names_the_place(tmp_path, text, message):
    file = write(tmp_path / "broken.py", text)
    with pytest.raises(ValueError, match=message) as caught:
        plugins.import_file(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_what_is_no_python_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give an existing file"):
        plugins.import_file(tmp_path / "absent.py")
    with pytest.raises(ValueError, match=r"must be a Python file \(\.py\), got '.txt'"):
        plugins.import_file(write(tmp_path / "mine.txt", ""))
    with pytest.raises(ValueError, match="--import needs the name of a Python file"):
        plugins.import_named_files(["--import"])
