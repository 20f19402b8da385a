"""Checkpoints that come with the package, by their name.

    farfield.load("ethanol")

Each is ``checkpoints/NAME.pt``, with a model card ``NAME.md`` (data, licence, split, command, test
errors, limits) and ``NAME.json``, the errors that a test checks.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "checkpoints"


def shipped_names() -> list[str]:
    """Names of all shipped checkpoints."""
    return sorted(file.stem for file in FOLDER.glob("*.pt"))


def find_checkpoint(path: str | Path) -> Path:
    """The file that ``path`` names: a file, or a shipped checkpoint by its bare name.

    A file of the user comes first. FileNotFoundError for a bare name that is neither.
    """
    path = Path(path)
    is_bare = len(path.parts) == 1 and not path.suffix
    if path.exists() or not is_bare:
        return path
    file = FOLDER / f"{path}.pt"
    if not file.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist; give the checkpoint_best.pt of a run folder, or "
            f"the name of a shipped one: {', '.join(shipped_names()) or 'there is none'}"
        )
    return file
