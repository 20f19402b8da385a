"""Pages run from top to bottom, in one folder each: their blocks build on each other.

Python blocks run as they stand; a block with a title is a file of that name. Commands run on the
pages that lead through one piece of work, with trainings and simulations made short.
"""

import pytest

from tests.support import documents
from tests.support.documents import PAGES
from tests.support.registries import restore_registries, saved_registries

WITH_COMMANDS = ("README.md", "docs/first_run.md", "docs/own_data.md", "docs/how_to/")
WITH_CODE = [
    page for page in PAGES if page.startswith(WITH_COMMANDS) or documents.blocks(page, "python")
]
SMALL_E2FORMER = ("--irreps", "4x0e+4x1o", "--schedule", "hybrid-first-order1")
SMALL_NETWORKS = {  # of scripts whose network a command does not name
    "train.train_denoise": ("--dim", "4", "--heads", "1", "--dim-head", "4", "--depth", "1"),
    "train.train_diffusion": ("--irreps", "4x0e+4x1o", "--schedule", "first-order1"),
}
SHORT_TRAINING = ("--epochs", "1", "--max-cpu-minutes", "0.003", "--no-progress")
SHORT_SIMULATION = ("--steps", "10", "--no-progress")
SHORT_SAMPLING = ("--max-steps", "3", "--no-progress")


def run_command(words: list[str]) -> None:
    """Call a script of the project with shorter work; other programs are left alone."""
    if words[0] not in ("python", "farfield"):
        return
    module, arguments = documents.script_of(words)
    if module == "preprocess.preprocess_md17":
        arguments += documents.FEW_FRAMES
    if module.startswith("train.train_"):
        arguments += SHORT_TRAINING
        if "--model" not in arguments:
            arguments += SMALL_NETWORKS.get(module, SMALL_E2FORMER)
    if module == "simulate.run_md":
        arguments += SHORT_SIMULATION
    if module in ("simulate.sample", "simulate.relax_diffusion"):
        arguments += SHORT_SAMPLING
    if "--number" in arguments:
        arguments += ("--number", "4")
    documents.load_script(module).main(arguments)


@pytest.mark.parametrize("page", WITH_CODE)
def test_page_runs(page, equipped_folder, new_process, monkeypatch):
    monkeypatch.syspath_prepend(str(equipped_folder(page)))
    names = {"__name__": "__main__"}
    here = saved_registries()  # of the Python session that the blocks share
    for block in documents.blocks(page):
        if block.language == "python" and not block.file:
            restore_registries(here)
            lines = "\n" * (block.line - 1)  # an error names the line of the page
            exec(compile(lines + block.code, page, "exec"), names)
            here = saved_registries()
        elif block.language == "shell" and page.startswith(WITH_COMMANDS):
            for words in block.commands:
                new_process()
                run_command(words)


def test_an_error_in_a_block_names_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("# Title\n\n```python\nx = 1\ny = nothing\n```\n")
    (block,) = documents.blocks("page.md")
    assert block.line == 4 and block.code == "x = 1\ny = nothing\n"
