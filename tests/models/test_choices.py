"""Laws of names that a user chooses from."""

import dataclasses

import pytest

from farfield.models.choices import (
    Registry,
    check_at_least,
    check_choice,
    check_choices,
    check_positive,
)


@dataclasses.dataclass
class Options:
    norm: str = "layer"
    heads: int = 4
    cutoff: float = 5.0


def test_a_wrong_choice_is_one_line_with_all_names_and_a_guess():
    with pytest.raises(ValueError, match="^norm must be one of layer, rms, got 'layr'; did you"):
        check_choice("norm", "layr", ["layer", "rms"])
    with pytest.raises(ValueError, match="got 7$"):
        check_choice("norm", 7, ["layer", "rms"])
    check_choice("norm", "rms", ["layer", "rms"])


def test_options_are_checked_by_attribute():
    check_choices(Options(), {"norm": ["layer"]})
    check_at_least(Options(), 1, ["heads"])
    check_positive(Options(), ["cutoff"])
    with pytest.raises(ValueError, match="norm of the far field must be one of"):
        check_choices(Options("x"), {"norm": ["layer"]}, "of the far field")
    with pytest.raises(ValueError, match="heads must be >= 1, got 0"):
        check_at_least(Options(heads=0), 1, ["heads"])
    for wrong in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="cutoff must be > 0 and finite"):
            check_positive(Options(cutoff=wrong), ["cutoff"])


def test_a_registry_takes_a_name_once_and_guesses():
    shapes = Registry("shape")

    @shapes.register("ball")
    class Ball:
        pass

    shapes.register("ball")(Ball)  # the same entry again, as when a module is imported twice
    assert list(shapes) == ["ball"] and shapes["ball"] is shapes.find("ball") is Ball
    assert "cube" not in shapes and shapes.get("cube") is None
    with pytest.raises(ValueError, match="registered already"):
        shapes.register("ball")(int)
    with pytest.raises(ValueError, match="shape must be one of ball, got 'bal'; did you mean"):
        shapes.find("bal")


def test_entries_of_a_package_are_found_without_a_list_of_its_files(tmp_path, monkeypatch):
    package = tmp_path / "package_of_toys"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text(
        "from farfield.models.choices import Registry\n"
        "TOYS = Registry('toy', package='package_of_toys')\n"
    )
    for name in ("ball", "doll"):
        (package / f"{name}.py").write_text(
            f"from package_of_toys.registry import TOYS\nTOYS.register('{name}')('{name}!')\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    from package_of_toys.registry import TOYS

    assert TOYS.find("doll") == "doll!" and list(TOYS) == ["ball", "doll"]
    with pytest.raises(ValueError, match="toy must be one of ball, doll, got 'dol'; did you mean"):
        TOYS.find("dol")


def test_a_module_that_cannot_be_imported_is_named_every_time(tmp_path, monkeypatch):
    package = tmp_path / "package_of_broken_toys"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    toys = Registry("toy", package="package_of_broken_toys")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
            toys.find("ball")
