"""The options of a model given by name: its window, its limit on output, and fields of every request. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final, Protocol

from rlm.errors import ConfigError

WINDOW: Final = "context_window"  # tokens of a conversation and its reply together
MAX_OUTPUT: Final = "max_output_tokens"  # limit on the output tokens of every reply
MAX_TOKENS_FIELD: Final = "max_tokens_field"  # the server's name for that limit
RESERVED_FIELDS: Final = frozenset({"messages", "model", "n", "stream", "stream_options", "timeout"})
SECRET_FIELDS: Final = frozenset({"extra_headers", "extra_query", "extra_body"})  # the first two may contain keys
TEXT_FIELDS: Final = frozenset({MAX_TOKENS_FIELD, "reasoning_effort", "service_tier", "stop", "user", "verbosity"})
NAMED_OPTIONS: Final = (WINDOW, MAX_OUTPUT, MAX_TOKENS_FIELD, "temperature")  # shown and suggested by name
FLAG_OPTIONS: Final = (WINDOW, MAX_OUTPUT, "temperature")  # those of flags
IN_CODE_ONLY: Final = "pass it in code, to OpenAIModel(sampling=...)"
EXAMPLE: Final = 'use names and values, such as {"temperature":0.2}'
MIN_LIKENESS: Final = 0.87  # of a misspelled name; top_p and top_k, which are two names, have 0.8


class _Test(Protocol):
    def __call__(self, value: Any, /) -> bool: ...


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    )


_TOKENS: Final = (_whole, "a whole number of tokens, 1 or more")
_RULES: Final[Mapping[str, tuple[_Test, str]]] = {  # of the options whose mistakes are worth a sentence
    WINDOW: _TOKENS,
    MAX_OUTPUT: _TOKENS,
    MAX_TOKENS_FIELD: (lambda value: isinstance(value, str) and value != "", "the name of a field"),
    "max_tokens": _TOKENS,
    "max_completion_tokens": _TOKENS,
    "temperature": (_number(0), "a number, 0 or more"),
    "top_p": (_number(0, 1), "a number from 0 to 1"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "reasoning_effort": (lambda value: isinstance(value, str) and value != "", "a word such as low"),
    "stop": (lambda value: isinstance(value, str | list | tuple), "text or a list of texts"),
}


def checked_options(options: object, *, name: str) -> dict[str, object]:
    """Validated options, as JSON has them: with lists for tuples. None as a value leaves an option out.

    Args:
        options: `context_window`, `max_output_tokens` and `max_tokens_field`; any other key is a field of the request
            body, such as `temperature`.
        name: the setting or argument that contains them, for the error.

    Raises:
        ConfigError: an option is invalid, or does not belong here.
    """
    if not isinstance(options, Mapping):
        raise ConfigError(f"{name} is invalid: {EXAMPLE}.")
    checked: dict[str, object] = {}
    for key, value in options.items():
        if key in RESERVED_FIELDS:
            raise ConfigError(f"{key!r} in {name} is invalid: remove it, rlm sets this field.")
        if key in SECRET_FIELDS:
            raise ConfigError(f"{key!r} in {name} may contain a key: {IN_CODE_ONLY}.")
        valid, expected = _RULES.get(key, (None, ""))
        if valid is None:
            if near := get_close_matches(key, _RULES, n=1, cutoff=MIN_LIKENESS):
                raise ConfigError(f"{key!r} in {name} is invalid: did you mean {near[0]}?")
        elif value is not None and not valid(value):
            raise ConfigError(f"{key}={value!r} in {name} is invalid: use {expected}.")
        checked[key] = _as_json(key, value, name)
    return checked


def sub_model_options(
    root: Mapping[str, object], sub: Mapping[str, object], *, same_model: bool
) -> Mapping[str, object]:
    """The options of a sub-model. Those of the root model apply only to the same model at the same server.

    They describe a model: the window of one model, or its effort, may be invalid for another.
    """
    return {**root, **sub} if same_model else sub


def model_arguments(options: Mapping[str, object]) -> dict[str, Any]:
    """The arguments of `OpenAIModel` for validated options."""
    given = {key: value for key, value in options.items() if value is not None}
    arguments: dict[str, Any] = {WINDOW: given.pop(WINDOW, None)}
    field = given.pop(MAX_TOKENS_FIELD, None)
    if field is not None:
        arguments[MAX_TOKENS_FIELD] = field
    limit = given.pop(MAX_OUTPUT, None)
    if limit is not None:
        given[str(field or "max_completion_tokens")] = limit
    return {**arguments, "sampling": given}


def from_text(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options from flags and variables, where numbers are text. Other texts, and those of text fields, stay."""
    return {key: value if key in TEXT_FIELDS else _parsed(value) for key, value in values.items()}


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _as_json(key: str, value: object, name: str) -> object:
    """The value as it is read from a record."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        raise ConfigError(f"{key!r} in {name} is invalid: use JSON data.") from None
