"""Python blocks of the documents run as they stand. The blocks of a page share one folder and build
on each other; a block with a title is a file of that name.
"""

import shutil

import pytest

from tests.support import documents
from tests.support.documents import PAGES

WITH_CODE = [page for page in PAGES if documents.blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_CODE)
def test_blocks_run(page, prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in documents.blocks(page, "python"):
        if block.file:
            (tmp_path / block.file).write_text(block.code, encoding="utf-8")
        else:
            lines = "\n" * (block.line - 1)  # an error names the line of the page
            exec(compile(lines + block.code, page, "exec"), names)


def test_an_error_in_a_block_names_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("# Title\n\n```python\nx = 1\ny = nothing\n```\n")
    (block,) = documents.blocks("page.md")
    assert block.line == 4 and block.code == "x = 1\ny = nothing\n"
