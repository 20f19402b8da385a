"""What a resumed run says of changes since it began."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from easydict import EasyDict

from farfield.common import checkpoint
from farfield.train.checkpointing import CHANGES_RESULTS, notes_on

OPTIONS = {
    "run": {"threads": 1},
    "training": {
        "epochs": 5,
        "max_cpu_minutes": None,
        "max_minutes": None,
        "lr": 0.1,
        "min_lr": 0.0,
        "clip_norm": 1.0,
        "beta2": 0.9,
    },
}


def notes(now=None, ranks=1, versions=None) -> list[str]:
    known = {**checkpoint.package_versions(), **(versions or {})}
    content = {"config": OPTIONS, "versions": known, "ranks": ranks}
    position = SimpleNamespace(epoch=3, batch=2, step=17)
    trainer = SimpleNamespace(
        position=position, folder=Path("run"), config=EasyDict({**OPTIONS, **(now or {})})
    )
    return notes_on(trainer, content)


def test_a_run_that_goes_on_as_it_was_says_where():
    assert notes() == ["continues from run/checkpoint_last.pt: epoch 3, batch 2, step 17"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"versions": {"torch": "1.0"}}, "note: torch was 1.0 and is "),
        ({"ranks": 2}, "note: ranks: 2 before, 1 now; "),
        ({"now": {"run": {"threads": 1, "speed": 9}}}, "note: the option speed is newer than this"),
    ],
)
def test_every_change_is_a_note(changes, words):
    (_, note) = notes(**changes)
    assert note.startswith(words)


@pytest.mark.parametrize("section, key", CHANGES_RESULTS)
def test_options_that_change_results_are_named(section, key):
    now = {section: {**OPTIONS[section], key: 3}}
    (_, note) = notes(now)
    before = OPTIONS[section][key]
    assert note.startswith(f"note: changed since the run began: {key} ({before} before, 3 now);")
    other = {"training": {**OPTIONS["training"], "beta2": 0.5}}
    assert len(notes(other)) == 1
