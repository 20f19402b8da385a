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
