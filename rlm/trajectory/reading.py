"""The events of a run, as its `events.jsonl` holds them: typed, and as far as they go."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from rlm import events
from rlm.errors import ConfigError
from rlm.events import Event

KINDS: Final = {kind.__name__: kind for kind in Event.__subclasses__()}


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events in their order. A last line that was cut off ends them; events and fields of newer versions are left out.

    Raises:
        ConfigError: this is no record of a run.
    """
    broken = 0
    for number, line in enumerate(lines, 1):
        if broken:
            raise ConfigError(f"Line {broken} of the events is no event: this is no record of a run, or a damaged one.")
        try:
            found = json.loads(line)
        except ValueError:
            broken = number
            continue
        if not isinstance(found, dict) or found.get("v") != events.SCHEMA_VERSION:
            raise ConfigError(
                f"Line {number} is no event of version {events.SCHEMA_VERSION}: this record is of another version of rlm."
            )
        kind = KINDS.get(str(found.get("type")))
        if kind is not None:
            try:
                yield _made(kind, found)
            except (KeyError, TypeError) as error:
                raise ConfigError(
                    f"Line {number} is no {kind.__name__} event: it lacks or mistypes {error}."
                ) from error


def _made(kind: Any, found: dict[str, Any]) -> Any:
    """A dataclass of the fields that it knows. Raises KeyError or TypeError with the field that is missing or wrong."""
    hints = _hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in found:
            values[field.name] = _fitting(found[field.name], hints[field.name], field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(field.name)
    return kind(**values)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fitting(value: Any, hint: Any, name: str) -> Any:
    """The value as its type wants it. Words of a Literal may be newer than this version."""
    if get_origin(hint) is UnionType or NoneType in get_args(hint):
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise TypeError(name)
        return _made(hint, value)
    plain = str if get_origin(hint) is Literal else get_origin(hint) or hint
    if plain is float and type(value) is int:
        return value
    expected = dict if plain is Mapping else plain
    if expected in (str, int, float, bool, dict) and type(value) is not expected:
        raise TypeError(name)
    return value
