"""Inspects host functions: how the model sees them, and how their arguments are validated."""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from rlm.errors import ConfigError

RESERVED_NAMES: Final = frozenset(
    (
        *("context", "history", "answer", "tools", "FINAL", "FINAL_VAR", "SHOW_VARS", "LLMError", "ToolError"),
        *("llm_query", "llm_batch", "rlm_query", "llm_query_batched", "rlm_query_batched"),
    )
)
MAX_DESCRIPTION_CHARS: Final = 2_000
STRICT: Final = ConfigDict(strict=True, arbitrary_types_allowed=False)


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A function that cells may call.

    Attributes:
        function: The callable.
        signature: Its signature, including bound parameters.
        fixed: Parameters that a partial binds by name.
        validators: A validator for each annotated parameter.
        description: Signature and summary for the model.
    """

    function: Callable[..., Any]
    signature: inspect.Signature
    fixed: Set[str]
    validators: Mapping[str, TypeAdapter[Any]]
    description: str


class _HiddenDefault:
    """Stands for a default in a description, as its value may be secret."""

    def __repr__(self) -> str:
        return "…"


def inspect_function(name: str, function: Callable[..., object]) -> HostFunction:
    """Inspect a function that cells call by `name`.

    Raises:
        ConfigError: The name is invalid, or the signature is not supported.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or name in RESERVED_NAMES:
        raise ConfigError(f"The tool name {name!r} is invalid: use an identifier that is not reserved.")
    if not callable(function):
        raise ConfigError(f"Tool {name!r} is not callable.")
    bare = _without_attributes(function)
    inner, fixed = (bare.func, bare.keywords) if isinstance(bare, functools.partial) else (bare, {})
    try:
        signature = inspect.signature(bare, eval_str=True)
        parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in fixed]
        hints = _hints(parameters, inner)
        validators = {parameter: _validator_for(hint) for parameter, hint in hints.items()}
    except (TypeError, ValueError, NameError, PydanticSchemaGenerationError, PydanticUserError) as error:
        raise ConfigError(f"The signature of tool {name!r} is not supported: {error}.") from error
    summary = " ".join(_docstring(inner).partition("\n\n")[0].split())
    shown = f"{name}{signature.replace(parameters=[_public_parameter(parameter) for parameter in parameters])}"
    description = shown + (f"\n\n{summary}" if summary else "")
    return HostFunction(bare, signature, frozenset(fixed), validators, description[:MAX_DESCRIPTION_CHARS])


def _without_attributes(function: Callable[..., object]) -> Callable[..., object]:
    """Copy partials without their attributes: `__wrapped__` would announce another signature."""
    if not isinstance(function, functools.partial):
        return function
    return functools.partial(_without_attributes(function.func), *function.args, **function.keywords)


def _code(function: Callable[..., object]) -> Callable[..., object]:
    """The function that runs when a callable is called."""
    if inspect.isroutine(function):
        return function
    return function.__init__ if inspect.isclass(function) else type(function).__call__


def _hints(parameters: Sequence[inspect.Parameter], function: Callable[..., object]) -> dict[str, Any]:
    """Types of the annotated parameters. Names in strings (`list["City"]`) are resolved in the function's module."""
    annotations = {each.name: each.annotation for each in parameters if each.annotation is not inspect.Parameter.empty}
    names = getattr(inspect.unwrap(_code(function)), "__globals__", {})
    return get_type_hints(SimpleNamespace(__annotations__=annotations), globalns=names, include_extras=True)


def _public_parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter as the model sees it."""
    kind = parameter.annotation
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    default = parameter.default if parameter.default is inspect.Parameter.empty else _HiddenDefault()
    return parameter.replace(annotation=kind, default=default)


def _docstring(function: Callable[..., object]) -> str:
    """The docstring of a callable: its own, or that of its class or its `__call__`."""
    return inspect.getdoc(function) or inspect.cleandoc(_code(function).__doc__ or "")


def _validator_for(hint: Any) -> TypeAdapter[Any]:
    """A strict validator. Classes with fields (model, dataclass, typed dict) keep their own settings."""
    try:
        validator = TypeAdapter(hint, config=STRICT)
    except PydanticUserError:
        validator = TypeAdapter(hint)
    validator.rebuild()  # raises for an unknown name now, rather than at the first call
    return validator
