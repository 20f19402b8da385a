"""Which source made a result: the git revision of the checkout, else the version of the package.

    source_revision()    "3f2a...9c", "3f2a...9c with changes", or "farfield 0.1.0"

Cost: two calls of git, once in a process.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import farfield

ROOT = Path(__file__).resolve().parents[1]  # the checkout, where there is one
GIT_SECONDS = 10  # a git that answers later counts as none


@functools.cache
def source_revision(root: Path = ROOT) -> str:
    """Revision of the checkout ``root``, with a word on changes that are not committed.

    A folder that is no checkout, and a machine without git, give the version of the package.
    """
    package = f"farfield {farfield.__version__}"
    if not (root / ".git").exists():
        return package
    try:
        revision = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return package
    return f"{revision} with changes" if changed else revision


def _git(root: Path, *arguments: str) -> str:
    """Answer of git on the checkout ``root``; it takes no lock that a user's git would wait for."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS)
    return found.stdout.strip()
