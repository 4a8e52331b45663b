"""Functions of the host that cells may call by name: described to the model, their arguments checked against their types.

What a cell sends is data: decoded within bounds, bound to the function's parameters, and validated strictly (pydantic)
before the function sees it. What goes wrong inside of a function is the host's, and is not told: its text may hold what
the sandbox must not know.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import anyio
import msgpack
from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from rlm._util.logs import get_logger
from rlm.errors import ConfigError, ToolError
from rlm.protocol.plain import unpack_plain

from .threads import Threads

RESERVED: Final = frozenset(
    (
        *("context", "history", "answer", "tools", "FINAL", "FINAL_VAR", "SHOW_VARS", "LLMError", "ToolError"),
        *("llm_query", "llm_batch", "rlm_query", "llm_query_batched", "rlm_query_batched"),
    )
)
MAX_DESCRIPTION_CHARS: Final = 2_000
MAX_SHOWN_CHARS: Final = 500  # of a sentence on wrong arguments, and of arguments in a record
AT_ONCE: Final = 16  # calls of one sandbox that are decoded and served at once; others wait as the bytes that they are
MAX_ARGUMENT_BYTES: Final = 256 << 10  # of one call: decoded, hostile ones take 50 times as much
READ_AT_ONCE_BYTES: Final = 4 << 10  # in the thread of the event loop
STRICT: Final = ConfigDict(strict=True, arbitrary_types_allowed=False)

_log = get_logger("rlm.sandbox.tools")

Arguments = tuple[list[object], dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """One call: the value as msgpack or, when not `ok`, the sentence that says why there is none."""

    name: str
    arguments: str
    ok: bool
    data: bytes
    seconds: float


OnUse = Callable[[ToolUse], None]


@dataclass(frozen=True, slots=True)
class _Tool:
    function: Callable[..., Any]
    signature: inspect.Signature
    fixed: Set[str]  # names that a partial has bound
    checks: Mapping[str, TypeAdapter[Any]]
    description: str


class _Default:
    """Stands for a default in a description: its value may be what no model is to read."""

    def __repr__(self) -> str:
        return "…"


class Tools:
    """The functions that one sandbox may call.

    Args:
        functions: by the name that cells call them by; anything that can be called, plain or asynchronous. Parameters with
            a type take only values of exactly that type (and whole numbers where a float is asked for), within what
            `Annotated` says of them; those without one take any plain data: numbers, text, bytes, None, lists, dicts. A
            class with fields is built from a dict, as strictly as its own settings have it.
            What `functools.partial` binds by name is neither shown nor taken; of defaults it is shown only that they are.
            A plain function runs in a thread, and goes on there when its time is up or its cell has ended; while 16 do,
            further calls wait.
        seconds: for one call.
        on_use: is told of every call, when it has ended.

    Raises:
        ConfigError: a name or a function cannot be.
    """

    def __init__(
        self, functions: Mapping[str, Callable[..., object]], *, seconds: float = 60.0, on_use: OnUse | None = None
    ) -> None:
        self._tools = {name: _examined(name, function) for name, function in functions.items()}
        self._seconds = seconds
        self._on_use = on_use
        self._slots = anyio.CapacityLimiter(AT_ONCE)
        self._threads = Threads(AT_ONCE)
        self._reading = anyio.CapacityLimiter(1)

    def __bool__(self) -> bool:
        return bool(self._tools)

    def told(self, on_use: OnUse) -> Tools:
        """The same functions; of every call `on_use` is told."""
        tools = Tools({}, seconds=self._seconds, on_use=on_use)
        tools._tools = self._tools
        return tools

    @property
    def descriptions(self) -> dict[str, str]:
        """By name: the signature, and what the docstring says first."""
        return {name: tool.description for name, tool in self._tools.items()}

    async def use(self, name: str, arguments: bytes) -> ToolUse:
        """Serve one call of a cell. Raises nothing that the call can cause."""
        async with self._slots:
            began = time.perf_counter()
            shown = ""
            try:
                tool = self._tools.get(name)
                if tool is None:
                    raise ToolError(f"There is no tool {name[:MAX_SHOWN_CHARS]!r}.")
                given, shown = await self._read(arguments)
                value = await self._called(name, tool, _bound(name, tool, given))
                ok, data = True, _encoded(name, value)
            except ToolError as error:
                ok, data = False, str(error).encode("utf-8", "surrogatepass")
            except RecursionError:
                ok, data = False, b"The arguments are nested too deeply."
            seconds = time.perf_counter() - began
        use = ToolUse(name=name[:MAX_SHOWN_CHARS], arguments=shown, ok=ok, data=data, seconds=seconds)
        if self._on_use is not None:
            self._on_use(use)
        return use

    async def _read(self, arguments: bytes) -> tuple[Arguments, str]:
        """The arguments, and how they are shown. Of large ones this takes a tenth of a second."""
        if len(arguments) <= READ_AT_ONCE_BYTES:
            return _read(arguments)
        return await anyio.to_thread.run_sync(_read, arguments, limiter=self._reading)

    async def _called(self, name: str, tool: _Tool, bound: inspect.BoundArguments) -> object:
        begun = False

        def call() -> object:
            nonlocal begun
            begun = True
            return tool.function(*bound.args, **bound.kwargs)

        with anyio.move_on_after(self._seconds):
            try:
                value = call() if inspect.iscoroutinefunction(tool.function) else await self._threads.run(call)
                return await value if inspect.isawaitable(value) else value
            except ToolError:
                raise
            except (Exception, SystemExit) as error:
                raise _failed(name) from error
            except anyio.get_cancelled_exc_class() as error:
                if anyio.current_effective_deadline() == -math.inf:  # this call was cancelled, or its time is up
                    raise
                raise _failed(name) from error  # something else was, for which the function has waited
        if not begun:
            raise ToolError(
                f"The tool {name} was not called within {self._seconds:g} seconds: {AT_ONCE} calls of before still run."
            )
        raise ToolError(f"The tool {name} gave no value within {self._seconds:g} seconds.")


def _examined(name: str, function: Callable[..., object]) -> _Tool:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or name in RESERVED:
        raise ConfigError(f"A tool cannot be called {name!r}: give a name that is an identifier and not taken yet.")
    if not callable(function):
        raise ConfigError(f"The tool {name} is no function.")
    bare = _bare(function)
    inner, fixed = (bare.func, bare.keywords) if isinstance(bare, functools.partial) else (bare, {})
    try:
        signature = inspect.signature(bare, eval_str=True)
        parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in fixed]
        hints = _hints(parameters, inner)
        checks = {parameter: _check_of(hint) for parameter, hint in hints.items()}
    except (TypeError, ValueError, NameError, PydanticSchemaGenerationError, PydanticUserError) as error:
        raise ConfigError(f"The tool {name} has a signature that cannot be checked: {error}.") from error
    first = " ".join(_told(inner).partition("\n\n")[0].split())
    shown = f"{name}{signature.replace(parameters=[_shown(parameter) for parameter in parameters])}"
    description = shown + (f"\n\n{first}" if first else "")
    return _Tool(bare, signature, frozenset(fixed), checks, description[:MAX_DESCRIPTION_CHARS])


def _bare(function: Callable[..., object]) -> Callable[..., object]:
    """The same; partials without attributes, one of which (`__wrapped__`) would speak for another signature."""
    if not isinstance(function, functools.partial):
        return function
    return functools.partial(_bare(function.func), *function.args, **function.keywords)


def _code(function: Callable[..., object]) -> Callable[..., object]:
    """What runs when it is called."""
    if inspect.isroutine(function):
        return function
    return function.__init__ if inspect.isclass(function) else type(function).__call__


def _hints(parameters: Sequence[inspect.Parameter], function: Callable[..., object]) -> dict[str, Any]:
    """The types of those that have one; names within them (`list["Place"]`) are what they are where it was written."""
    written = {each.name: each.annotation for each in parameters if each.annotation is not inspect.Parameter.empty}
    names = getattr(inspect.unwrap(_code(function)), "__globals__", {})
    return get_type_hints(SimpleNamespace(__annotations__=written), globalns=names, include_extras=True)


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    """As the model is to see it."""
    kind = parameter.annotation
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    default = parameter.default if parameter.default is inspect.Parameter.empty else _Default()
    return parameter.replace(annotation=kind, default=default)


def _told(function: Callable[..., object]) -> str:
    """The docstring; of an object that can be called that of its class, or of what is called."""
    return inspect.getdoc(function) or inspect.cleandoc(_code(function).__doc__ or "")


def _check_of(hint: Any) -> TypeAdapter[Any]:
    """Strict; but a class with fields (model, dataclass, typed dict) is built from a dict, as its own settings have it."""
    try:
        check = TypeAdapter(hint, config=STRICT)
    except PydanticUserError:
        check = TypeAdapter(hint)
    check.rebuild()  # raises for a name that is not known yet, instead of at the first call
    return check


def _read(arguments: bytes) -> tuple[Arguments, str]:
    given = _decoded(arguments)
    return given, _clip(repr(given))


def _decoded(arguments: bytes) -> Arguments:
    if len(arguments) > MAX_ARGUMENT_BYTES:
        raise ToolError(f"The arguments have {len(arguments):,} bytes; a tool takes at most {MAX_ARGUMENT_BYTES:,}.")
    try:
        given = unpack_plain(arguments)
    except ValueError as error:
        raise ToolError("The arguments are no plain data.") from error
    match given:
        case [list(positional), dict(named)] if all(type(key) is str for key in named):
            return positional, named
        case _:
            raise ToolError("The arguments are no plain data.")


def _bound(name: str, tool: _Tool, given: Arguments) -> inspect.BoundArguments:
    for parameter in given[1]:
        if parameter in tool.fixed:
            raise ToolError(_clip(f"{name}: got an unexpected keyword argument {parameter!r}."))
    try:
        bound = tool.signature.bind(*given[0], **given[1])
    except TypeError as error:
        raise ToolError(_clip(f"{name}: {error}.")) from error
    for parameter, check in tool.checks.items():
        if parameter not in bound.arguments:
            continue
        value = bound.arguments[parameter]
        try:
            match tool.signature.parameters[parameter].kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    bound.arguments[parameter] = tuple(check.validate_python(item) for item in value)
                case inspect.Parameter.VAR_KEYWORD:
                    bound.arguments[parameter] = {key: check.validate_python(item) for key, item in value.items()}
                case _:
                    bound.arguments[parameter] = check.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = "".join(f"[{part!r}]" for part in first["loc"])
            raise ToolError(_clip(f"{name}: {parameter}{place}: {first['msg']}.")) from None
        except RecursionError:
            raise
        except (Exception, SystemExit) as error:  # a validator is the host's own code too
            raise _failed(name) from error
    return bound


def _failed(name: str) -> ToolError:
    """To be raised where the host's own code has raised; that is logged and not told."""
    _log.exception("tool_failed", tool=name)
    return ToolError(f"The tool {name} failed.")


def _encoded(name: str, value: object) -> bytes:
    try:
        data: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError) as error:
        _log.warning("tool_gave_no_plain_data", tool=name, reason=str(error))
        raise ToolError(f"The tool {name} gave a value that is not plain data.") from error
    return data


def _clip(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
