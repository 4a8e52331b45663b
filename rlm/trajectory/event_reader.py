"""Decodes the lines of `events.jsonl` into typed events. Pure."""

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

EVENT_TYPES: Final = {event_type.__name__: event_type for event_type in Event.__subclasses__()}


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Decode events in order. Skips a truncated last line, and events and fields of newer versions.

    Args:
        lines: One JSON object each.

    Raises:
        ConfigError: A line is not an event of this version.
    """
    broken = 0
    for number, line in enumerate(lines, 1):
        if broken:
            raise ConfigError(f"events.jsonl, line {broken}: not valid JSON. The file is damaged or not an event log.")
        try:
            data = json.loads(line)
        except ValueError:
            broken = number
            continue
        if not isinstance(data, dict) or data.get("v") != events.SCHEMA_VERSION:
            raise ConfigError(
                f"events.jsonl, line {number}: not an event of version {events.SCHEMA_VERSION}. "
                "Another version of rlm wrote this run."
            )
        event_type = EVENT_TYPES.get(str(data.get("type")))
        if event_type is not None:
            try:
                yield _decode(event_type, data)
            except (KeyError, TypeError) as error:
                raise ConfigError(
                    f"events.jsonl, line {number}: missing or mistyped field {error} of {event_type.__name__}."
                ) from error


def _decode(target: Any, data: dict[str, Any]) -> Any:
    """Build a dataclass from its known fields. KeyError and TypeError name a missing or mistyped field."""
    hints = _hints(target)
    values = {}
    for field in dataclasses.fields(target):
        if field.name in data:
            values[field.name] = _checked(data[field.name], hints[field.name], field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(field.name)
    return target(**values)


@cache
def _hints(target: type) -> dict[str, Any]:
    return get_type_hints(target)


def _checked(value: Any, hint: Any, name: str) -> Any:
    """The value, if its type matches the hint. Any string passes for a Literal: newer versions may add words."""
    if get_origin(hint) is UnionType or NoneType in get_args(hint):
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise TypeError(name)
        return _decode(hint, value)
    plain = str if get_origin(hint) is Literal else get_origin(hint) or hint
    if plain is float and type(value) is int:
        return value
    expected = dict if plain is Mapping else plain
    if expected in (str, int, float, bool, dict) and type(value) is not expected:
        raise TypeError(name)
    return value
