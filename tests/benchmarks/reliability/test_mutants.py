"""Faults in the code: where they are put, which tests are near, and who notices."""

import ast
from pathlib import Path

import pytest

from benchmarks.reliability import mutants
from benchmarks.reliability.mutation_sites import find_mutants
from benchmarks.reliability.near_tests import NearTests

TOY = '''"""A toy: 1 + 1."""


def clamped(value: int = 1 | 2) -> int:
    """Never above 3."""
    if value != value:
        raise ValueError(f"not {1 + 1} < 2")
    return min(value, 3)


def unread(value):
    return value - 200


def counted(rounds):
    while rounds:
        rounds -= 100
    return rounds
'''
TOY_TEST = """from train.toy import clamped, counted


def test_clamped():
    assert clamped(2) == 2 and clamped(5) == 3


def test_counted():
    assert counted(200) == 0
"""


@pytest.fixture
def toy(tmp_path):
    """A checkout with one module and its tests."""
    root = tmp_path / "toy"
    (root / "train").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "train" / "toy.py").write_text(TOY)
    (root / "tests" / "test_toy.py").write_text(TOY_TEST)
    return root


def places(source: str) -> list[tuple[str, str, str]]:
    return [(mutant.kind, mutant.before, mutant.after) for mutant in find_mutants(source)]


def outcomes_of(root: Path, faults: list[mutants.Fault]) -> dict:
    with mutants.start_worker(root, ["pytest"]) as worker:
        return mutants.Trials(root, worker, files=2, budget=9.0, limit=0.4).run(faults)


def test_faults_are_in_what_is_computed_never_in_texts():
    found = [(kind, before) for kind, before, _ in places(TOY)]
    assert found == [
        ("constant", "1"),
        ("arithmetic", "1 | 2"),
        ("constant", "2"),
        ("compare", "value != value"),
        ("extreme", "min"),
        ("constant", "3"),
        ("arithmetic", "value - 200"),
        ("drop", "rounds -= 100"),
    ]


def test_a_fault_changes_its_place_alone():
    source = 'é = "ü"; x = [a < b <= c, not d, np.max(e), 0.5, True, 1e-9, 999]\nf(x)\nprint(x)\n'
    texts = [mutant.applied(source) for mutant in find_mutants(source)]
    assert all(ast.parse(text) for text in texts)
    changed = {
        "(a <= b <= c)": "a < b <= c",
        "(a < b < c)": "a < b <= c",
        "(d)": "not d",
        "np.min(e)": "np.max(e)",
        "1.0": "0.5",
        "False": "True",
        "\npass\n": "\nf(x)\n",
    }
    assert set(texts) == {source.replace(before, after) for after, before in changed.items()}


def test_pictures_and_lines_for_the_reader_are_left_alone():
    assert places("def draw_curve(axis):\n    axis.set(1 + 1)\n") == []
    assert places("log(1 + 1)\nif TYPE_CHECKING:\n    x = 1\n") == []
    assert find_mutants("x = 1 + 1", "plots.py") == []


def test_the_nearest_tests_come_first(toy):
    tests = toy / "tests"
    (toy / "train" / "user.py").write_text("from train import toy")
    (tests / "test_a_user.py").write_text("import train.user")
    (tests / "test_other.py").write_text("import train.nothing")
    (tests / "test_command.py").write_text("run('train.toy')")
    near = NearTests(toy).of(Path("train/toy.py"))
    assert near == ["tests/test_toy.py", "tests/test_command.py", "tests/test_a_user.py"]


def test_faults_are_killed_late_or_survive(toy):
    faults = [
        fault
        for fault in mutants.all_faults(toy, ["train"])
        if fault.mutant.before in ("min", "value - 200", "rounds -= 100")
    ]
    outcomes = outcomes_of(toy, faults)
    assert [outcome for outcome, _ in outcomes.values()] == ["killed", "survived", "late"]
    assert (toy / "train" / "toy.py").read_text() == TOY

    rows = mutants.table(outcomes)
    assert rows[0] == {**rows[1], "folder": "train"}
    assert rows[1]["faults"] == 3 and rows[1]["killed %"] == pytest.approx(200 / 3)


def test_a_test_that_fails_by_itself_kills_nothing(toy):
    broken = toy / "tests" / "test_toy.py"
    broken.write_text(TOY_TEST + "\n\ndef test_broken():\n    assert False\n")
    faults = mutants.all_faults(toy, ["train"])
    unread = [fault for fault in faults if fault.mutant.before == "value - 200"]
    outcomes = outcomes_of(toy, unread)
    assert [outcome for outcome, _ in outcomes.values()] == ["survived"]


def test_refusals_are_one_line(toy):
    where = ["--root", str(toy), "--folders"]
    with pytest.raises(ValueError, match="no folder nowhere in .*/toy; give folders"):
        mutants.main([*where, "nowhere"])
    with pytest.raises(ValueError, match="no such fault"):
        mutants.main([*where, "train", "--at", "train/toy.py:1"])
