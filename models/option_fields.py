"""Options as nested dataclasses, and the flat names by which users know them.

An options class is a frozen dataclass. A field whose type is another options class is a group: the
options of the group have the name of the field in front, joined by an underscore. So
``options.far.heads`` is ``far_heads`` in a yaml file and ``--far-heads`` on a command line: one
name from the flag to the formula.

What a user reads about an option stands next to its type:

    heads: Annotated[int, "attention heads of the far field", MAIN] = 2
    expansion: Annotated[str, "how the sum over all atoms is taken", EXPANSIONS] = "auto"
    kappa_max: Annotated[float, "largest wave number, 1/Angstrom", Alias("fmm_kappa_max")] = 1.6
    edge_scalars: Annotated[int, "invariant features of an edge", DERIVED] = 0

A mapping lists the allowed names, ``MAIN`` marks an option that ``--help`` shows, ``Alias`` a
published name that is accepted too, ``DERIVED`` a field that the network sets and no user does.
``LISTED`` marks a text of whole numbers joined by commas: 64 and [64, 32] are accepted as well.
``LEADS`` marks the field of a group that has the name of the group itself: ``options.encoder.kind``
is ``encoder`` in a yaml file and ``--encoder`` on a command line.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from farfield.models.choices import nearest
from farfield.models.published_names import why_absent

MAIN = object()
DERIVED = object()
LISTED = object()
LEADS = object()


@dataclasses.dataclass(frozen=True)
class Alias:
    """A published name of an option.

    kind: type of its values where it differs from the option's. convert: (value, value of the
    option so far) -> value of the option. note: value -> what the user should know of it, "" for
    nothing.
    """

    name: str
    kind: type | None = None
    convert: Callable[[Any, Any], Any] | None = None
    note: Callable[[Any], str] = lambda value: ""


@dataclasses.dataclass(frozen=True)
class OptionField:
    """One option as users see it.

    name     flat name, ``far_heads``; the name of the group for the field that leads it
    path     names of the fields that lead to it, ``("far", "heads")``
    kind     type of its values: int, float, str or bool
    optional whether None is allowed
    default  value where nobody gives one
    help     noun, unit, effect
    choices  allowed names, or None
    main     whether ``--help`` shows it
    aliases  published names
    listed   whether it is a list of whole numbers, joined by commas
    """

    name: str
    path: tuple[str, ...]
    kind: type
    optional: bool
    default: Any
    help: str
    choices: tuple[str, ...] | None
    main: bool
    aliases: tuple[Alias, ...]
    listed: bool = False

    def check_type(self, value: Any) -> Any:
        """``value`` if its type fits; whole numbers pass as floats. ValueError otherwise."""
        if self.listed and type(value) is int:
            return str(value)
        if self.listed and isinstance(value, (list, tuple)):
            return ",".join(map(str, value))
        if self.kind is float and type(value) is int:
            return float(value)
        if type(value) is self.kind or (value is None and self.optional):
            return value
        raise ValueError(f"{self.name} must be of type {self.kind.__name__}, got {value!r}")


@functools.cache
def option_fields(options_class: type) -> dict[str, OptionField]:
    """All options of an options class by flat name, groups included, in order of definition."""
    return {field.name: field for field in _walk(options_class, None, ())}


def _walk(options_class: type, group: Any, path: tuple[str, ...]) -> Iterator[OptionField]:
    """Options of a class; ``group``: the instance whose values are the defaults, if it is one."""
    hints = _annotations(options_class)
    for field in dataclasses.fields(options_class):
        hint, *notes = hints[field.name]
        here = (*path, field.name)
        default = _default(field) if group is None else getattr(group, field.name)
        if dataclasses.is_dataclass(hint):
            yield from _walk(hint, default, here)
        elif DERIVED not in notes:
            yield _option_field(here, hint, notes, default)


def _default(field: dataclasses.Field) -> Any:
    """Default of a field; None where it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _annotations(options_class: type) -> dict[str, tuple]:
    """Field -> (type, *notes). A subclass that only changes a default inherits the notes."""
    found: dict[str, tuple] = {}
    for owner in reversed(options_class.__mro__):
        for name, hint in typing.get_type_hints(owner, include_extras=True).items():
            if typing.get_origin(hint) is typing.Annotated:
                found[name] = typing.get_args(hint)
            elif name not in found or dataclasses.is_dataclass(hint):
                found[name] = (hint,)
    return found


def _option_field(path: tuple[str, ...], hint: Any, notes: list, default: Any) -> OptionField:
    kinds = typing.get_args(hint) or (hint,)  # "int | None": both

    # a text is the help, a mapping the allowed names
    texts = [note for note in notes if isinstance(note, str)]
    tables = [note for note in notes if isinstance(note, Mapping)]

    return OptionField(
        name="_".join(path[:-1] if LEADS in notes else path),
        path=path,
        kind=kinds[0],
        optional=type(None) in kinds,
        default=default,
        help=texts[0] if texts else path[-1].replace("_", " "),
        choices=tuple(tables[0]) if tables else None,
        main=MAIN in notes,
        aliases=tuple(note for note in notes if isinstance(note, Alias)),
        listed=LISTED in notes,
    )


def canonical(
    options_class: type, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``values`` by flat name: groups are flattened, published names translated, types checked.

    values: flat names, published names, or nested groups (``{"far": {"heads": 2}}``). defaults:
    values that published names may build on (a preset). Raises ValueError in one line for an
    unknown name (with a guess), a wrong type, and an option that is given under two names.
    """
    fields = option_fields(options_class)
    aliases = {alias.name: (field, alias) for field in fields.values() for alias in field.aliases}
    base = {name: field.default for name, field in fields.items()} | dict(defaults or {})
    flat_names = {
        "_".join(field.path): name for name, field in fields.items() if len(field.path) > 1
    }

    flat: dict[str, Any] = {}
    translated: dict[str, Any] = {}
    for name, value in _flattened(values, fields, options_class):
        name = flat_names.get(name, name)
        if name in fields:
            _put_once(flat, name, name, fields[name].check_type(value))
        elif name in aliases:
            field, alias = aliases[name]
            _put_once(translated, field.name, name, (alias, value))
        else:
            raise ValueError(f"unknown option {name!r}; {_guess(name, fields, aliases)}")

    # published names come last, since one may build on the value of an option (lmax on irreps)
    for name, (alias, value) in translated.items():
        if alias.convert is not None:
            value = alias.convert(value, flat.get(name, base[name]))
        elif name in flat:
            raise ValueError(f"{alias.name} and {name} are one option; give one of them")
        flat[name] = fields[name].check_type(value)
    return flat


def _guess(name: str, fields: Mapping[str, Any], aliases: Mapping[str, Any]) -> str:
    """What a user may have meant by an unknown name."""
    near = nearest(name, [*fields, *aliases])
    known = f"known: {', '.join(fields)}"
    return why_absent(name) or (f"did you mean {near!r}?" if near else known)


def _put_once(target: dict, key: str, name: str, value: Any) -> None:
    if key in target:
        raise ValueError(f"option {name!r} is given twice; give it once")
    target[key] = value


def _flattened(
    values: Mapping[str, Any], fields: Mapping[str, OptionField], options_class: type
) -> Iterator[tuple[str, Any]]:
    """(flat name, value) of nested and flat values."""
    groups = {field.path[0] for field in fields.values() if len(field.path) > 1}
    for name, value in values.items():
        if isinstance(value, Mapping) and name in groups:
            yield from _flattened_group(name, value)
        else:
            yield str(name), value


def _flattened_group(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        flat = f"{prefix}_{name}"
        if isinstance(value, Mapping):
            yield from _flattened_group(flat, value)
        else:
            yield flat, value


def make_options(options_class: type, values: Mapping[str, Any]) -> Any:
    """An instance of ``options_class``; ``values`` and errors as in :func:`canonical`.

    The class itself checks limits and choices.
    """
    flat = canonical(options_class, values)
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = option_fields(options_class)[name].path
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[last] = value
    return _replaced(options_class(), tree)


def _replaced(options: Any, tree: Mapping[str, Any]) -> Any:
    """``options`` with the values of ``tree``, groups inside groups."""
    changes = {
        name: _replaced(getattr(options, name), value) if isinstance(value, Mapping) else value
        for name, value in tree.items()
    }
    return dataclasses.replace(options, **changes)


def flat_values(options: Any) -> dict[str, Any]:
    """Flat name -> value of every option of an instance; the inverse of :func:`make_options`."""
    values = {}
    for name, field in option_fields(type(options)).items():
        value = options
        for step in field.path:
            value = getattr(value, step)
        values[name] = value
    return values
