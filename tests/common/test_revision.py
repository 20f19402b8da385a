"""Laws of the recorded source: the revision of a checkout, its changes, and the package without."""

import os
import subprocess

import farfield
from farfield.common.checkpoint import recorded_versions
from farfield.common.revision import source_revision

NAMES = ["-c", "user.name=me", "-c", "user.email=me@example.org"]


def git(folder, *arguments) -> str:
    command = ["git", "-C", str(folder), *NAMES, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def asked_again(folder) -> str:
    source_revision.cache_clear()
    return source_revision(folder)


def test_a_checkout_is_known_by_its_commit_and_its_changes(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "one.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "One")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert len(commit) == 40 and asked_again(tmp_path) == commit

    # a file of one's own beside it is no change of the source
    (tmp_path / "two.py").write_text("2")
    assert asked_again(tmp_path) == commit
    (tmp_path / "one.py").write_text("2")
    assert asked_again(tmp_path) == f"{commit} with changes"


def test_without_git_the_package_is_named(tmp_path, monkeypatch):
    package = f"farfield {farfield.__version__}"
    assert asked_again(tmp_path) == package
    (tmp_path / ".git").mkdir()
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    assert asked_again(tmp_path) == package


def test_runs_record_it():
    source_revision.cache_clear()
    assert recorded_versions()["revision"] == source_revision()
