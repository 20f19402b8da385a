"""Commands of the documents are understood, the files they name exist, links lead somewhere."""

import re
import shlex

import pytest

from tests.support import documents
from tests.support.documents import PAGES, ROOT, Understood

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROGRAMS = ("make", "python", "farfield", "torchrun")
# of others: their options are not checked
OTHER_PROGRAMS = ("tensorboard", "pip", "git", "source", "sbatch", "apptainer")
COMMANDS = [(page, words) for page in PAGES for words in documents.commands(page)]
NAME_OF_FILE = re.compile(r"[\w.-]+(/[\w.-]+)+\.(py|md|toml|txt|yml|svg)|[A-Z]+\.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    for block in documents.blocks(page):
        assert block.language in documents.LANGUAGES, f"{page}:{block.line}"


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[shlex.join(words) for _, words in COMMANDS]
)
def test_command_is_understood(page, words, folder_of_page, monkeypatch, request):
    if "--import" in words:
        request.getfixturevalue("new_process")()
    if words[0] == "make":
        for target in words[1:]:
            assert "=" in target or re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
    elif words[0] in ("python", "farfield"):
        module, arguments = documents.script_of(words)
        monkeypatch.chdir(folder_of_page(page))
        script = documents.load_script(module)
        documents.stop_after_options(monkeypatch)
        with pytest.raises(Understood):
            script.main(arguments)
    else:
        assert words[0] in OTHER_PROGRAMS, f"{page}: {words[0]!r} is not a program of this project"


SHOWN_SCRIPTS = (
    "preprocess.preprocess_structures",
    "preprocess.preprocess_qm9",
    "preprocess.preprocess_qm7x",
    "preprocess.preprocess_nbody",
    "preprocess.preprocess_backbones",
    "train.train_potential",
    "train.train_nbody",
    "train.train_denoise",
    "train.train_diffusion",
    "train.train_qm9",
    "train.evaluate",
    "train.pack",
    "train.convert_config",
    "simulate.run_md",
    "simulate.large",
    "simulate.rollout",
    "simulate.analyze_rollouts",
    "simulate.sample",
    "simulate.relax_diffusion",
    "benchmarks.speed.bench_near_field",
)
OF_RUFF_AND_DOORS = {"--check", "--strict", "--import", "--smoke"}


def test_options_in_the_text_exist(monkeypatch):
    """An option that a page names without its command is an option of some script."""
    known = set(OF_RUFF_AND_DOORS)
    for module in SHOWN_SCRIPTS:
        known |= documents.flags_of(module, monkeypatch)
    for page in PAGES:
        for code in documents.inline_code(page):
            if code.startswith(PROGRAMS):
                continue
            named = [word for word in code.split() if re.fullmatch(r"--[a-z][a-z-]*", word)]
            assert known.issuperset(named), f"{page} names {code}"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    for code in documents.inline_code(page):
        if NAME_OF_FILE.fullmatch(code):
            assert (ROOT / code).exists(), f"{page} names {code}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = documents.FENCE.sub("", documents.read(page))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_a_wrong_option_would_be_found(monkeypatch):
    script = documents.load_script("train.train_md17")
    documents.stop_after_options(monkeypatch)
    with pytest.raises(ValueError, match="no-such-option"):
        script.main(["--no-such-option", "1"])


def test_the_readme_is_short():
    assert len(documents.read("README.md").encode()) <= 8000
