"""Doc strings as Markdown, for the reference pages (an extension of griffe, which reads them).

Names of Sphinx such as :func:`load` become plain code, and an indented block, which Markdown would
join with the line above, becomes a block of code.
"""

import re

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")


def as_markdown(text: str) -> str:
    """The text of a doc string for Markdown."""
    lines: list[str] = []
    for line in ROLE.sub(r"`\1`", text).splitlines():
        starts_block = line.startswith("    ") and lines and lines[-1].strip()
        if starts_block and not lines[-1].startswith("    "):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


class MarkdownDocStrings(griffe.Extension):
    """Changes every doc string when it has been read."""

    def on_object(self, *, obj: griffe.Object, **others) -> None:
        """See griffe."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
