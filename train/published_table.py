"""The table of all published names that are known, made from the code that translates them."""

from __future__ import annotations

from farfield.models.published_names import ABSENT, ANYTHING
from farfield.train.published_files import ALIASES, FIELDS, NOTES, SIZES
from farfield.train.published_training import IGNORED, REFUSED_UNLESS_OFF, SETTINGS

HEAD = "| published | here | what happens |\n|---|---|---|"


def known_names() -> str:
    """Two tables in Markdown: options of the network, options of the training."""
    network = [*_mapped_rows(), *_absent_rows()]
    training = [*_setting_rows(), *_left_out_rows()]
    return "\n".join(["**Network**", "", HEAD, *network, "", "**Training**", "", HEAD, *training])


def _row(published: str, here: str, text: str) -> str:
    return f"| `{published}` | {here} | {text} |"


def _mapped_rows() -> list[str]:
    rows = []
    for name, field in ALIASES.items():
        converted = any(alias.name == name and alias.convert for alias in field.aliases)
        text = "translated, with its values" if converted else "translated"
        note = f"; {NOTES[name]}" if name in NOTES else ""
        rows.append(_row(name, f"`{field.name}`", text + note))
    names = {name: name for name in NOTES if name in FIELDS}
    names |= SIZES
    for name, here in names.items():
        note = f"; {NOTES[name]}" if name in NOTES else ""
        rows.append(_row(name, f"`{here}`", f"translated{note}"))
    return rows


def _absent_rows() -> list[str]:
    rows = []
    for name, absent in ABSENT.items():
        if name in SIZES:
            continue
        if absent.harmless == ANYTHING:
            rows.append(_row(name, "-", f"left out: {absent.why}"))
            continue
        values = ", ".join("null" if one is None else f"{one!r}".lower() for one in absent.harmless)
        text = f"left out if {values}; else refused: {absent.why}; {absent.instead}"
        rows.append(_row(name, "-", text))
    return rows


def _setting_rows() -> list[str]:
    return [
        _row(
            name,
            f"`{setting.section}.{setting.option}`",
            f"translated{setting.words and '; '}{setting.words}",
        )
        for name, setting in SETTINGS.items()
    ]


def _left_out_rows() -> list[str]:
    refused = [
        _row(name, "-", f"left out if off; else refused: {why}")
        for name, why in REFUSED_UNLESS_OFF.items()
    ]
    return refused + [_row(name, "-", f"left out: {why}") for name, why in IGNORED.items()]
