"""The configuration of a run as plain data, fit to be stored with the run."""

from __future__ import annotations

from collections.abc import Mapping

# options of one session: how it starts and where it pauses is not part of the run
SESSION_ONLY = {
    "resume": False,
    "overwrite": False,
    "pause_after": None,
    "detach": False,
    "timestamp_id": False,
}

# keys of a configuration that are not sections of options
DECIDED_BY_DATA = "measured"  # names of the options that the data decided
IMPORTED_FILES = "imports"  # Python files of the user that were executed, for the record
IF_UNNAMED = "if_unnamed"  # option -> its value where nobody names it; of this session, not stored
NOTES = "notes"  # lines for the user about options of this session, not stored
NOT_SECTIONS = frozenset({"task", DECIDED_BY_DATA, IMPORTED_FILES, IF_UNNAMED, NOTES})


def plain(value):
    """Nested ``EasyDict`` as plain dicts and lists, fit for yaml, json and ``torch.load``."""
    if isinstance(value, Mapping):
        return {key: plain(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(content) for content in value]
    return value


def saved_config(config: Mapping) -> dict:
    """The configuration as it is stored with a run: plain, without the options of one session."""
    content = plain(config)
    for name in (IF_UNNAMED, NOTES):
        content.pop(name, None)
    run = content["run"]
    run |= {name: value for name, value in SESSION_ONLY.items() if name in run}
    return content
