"""Host functions that cells may call by name, with checked arguments and a description for the model.

Arguments from a cell are decoded within limits, bound to the function's parameters, and validated strictly (pydantic)
before the function sees them. Errors inside a function stay on the host: their text may contain secrets.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import msgpack
from pydantic import ValidationError

from rlm._util.logs import get_logger
from rlm.errors import ToolError
from rlm.protocol.plain import unpack_plain

from .signatures import HostFunction, inspect_function
from .threads import Threads

MAX_SHOWN_CHARS: Final = 500  # limit of an error about arguments, and of recorded arguments
MAX_CONCURRENT_TOOL_CALLS: Final = 16  # per sandbox; further calls wait undecoded
MAX_ARGUMENT_BYTES: Final = 256 << 10  # per call; hostile arguments take 50 times as much memory when decoded
INLINE_DECODE_BYTES: Final = 4 << 10  # larger arguments are decoded in a thread, off the event loop

_log = get_logger("rlm.sandbox.tools")

Arguments = tuple[list[object], dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """One finished call.

    Attributes:
        name: Name of the tool.
        arguments: The arguments as shortened text.
        ok: Whether the call returned a value.
        data: The value as msgpack; if not `ok`, the error message.
        seconds: Duration.
    """

    name: str
    arguments: str
    ok: bool
    data: bytes
    seconds: float


OnUse = Callable[[ToolUse], None]


class Tools:
    """The host functions that one sandbox may call.

    Annotated parameters accept only values of exactly that type (and integers for a float), within the constraints of
    `Annotated`. Parameters without annotation accept plain data: numbers, text, bytes, None, lists, dicts. Classes with
    fields are built from a dict, as strictly as their own settings demand.

    Arguments that `functools.partial` binds by name are neither shown to cells nor accepted from them. Cells see that a
    parameter has a default, but not its value.

    A plain function runs in a thread. It continues there after its time limit or the end of its cell. While 16 calls run,
    further calls wait.

    Args:
        functions: Callables by the name that cells use; plain or asynchronous.
        seconds: Time limit of a call.
        on_use: Called after every call.

    Raises:
        ConfigError: A name or a signature is invalid.
    """

    def __init__(
        self, functions: Mapping[str, Callable[..., object]], *, seconds: float = 60.0, on_use: OnUse | None = None
    ) -> None:
        self._tools = {name: inspect_function(name, function) for name, function in functions.items()}
        self._seconds = seconds
        self._on_use = on_use
        self._slots = anyio.CapacityLimiter(MAX_CONCURRENT_TOOL_CALLS)
        self._threads = Threads(MAX_CONCURRENT_TOOL_CALLS)
        self._reading = anyio.CapacityLimiter(1)

    def __bool__(self) -> bool:
        return bool(self._tools)

    def with_callback(self, on_use: OnUse) -> Tools:
        """Tools with the same functions and another `on_use`. Reuses the inspected signatures, which saves milliseconds."""
        tools = Tools({}, seconds=self._seconds, on_use=on_use)
        tools._tools = self._tools
        return tools

    @property
    def descriptions(self) -> dict[str, str]:
        """For each name, the signature and the first paragraph of the docstring."""
        return {name: tool.description for name, tool in self._tools.items()}

    async def use(self, name: str, arguments: bytes) -> ToolUse:
        """Serve one call of a cell. Every failure becomes a `ToolUse` that is not `ok`."""
        async with self._slots:
            start = time.perf_counter()
            shown = ""
            try:
                tool = self._tools.get(name)
                if tool is None:
                    raise ToolError(f"Unknown tool {name[:MAX_SHOWN_CHARS]!r}.")
                decoded, shown = await self._read(arguments)
                value = await self._invoke(name, tool, _bind(name, tool, decoded))
                ok, data = True, _encode(name, value)
            except ToolError as error:
                ok, data = False, str(error).encode("utf-8", "surrogatepass")
            except RecursionError:
                ok, data = False, b"The arguments are nested too deeply."
            seconds = time.perf_counter() - start
        use = ToolUse(name=name[:MAX_SHOWN_CHARS], arguments=shown, ok=ok, data=data, seconds=seconds)
        if self._on_use is not None:
            self._on_use(use)
        return use

    async def _read(self, arguments: bytes) -> tuple[Arguments, str]:
        """Decode arguments and format them for records. Large arguments take a tenth of a second, so a thread does it."""
        if len(arguments) <= INLINE_DECODE_BYTES:
            return _read(arguments)
        return await anyio.to_thread.run_sync(_read, arguments, limiter=self._reading)

    async def _invoke(self, name: str, tool: HostFunction, bound: inspect.BoundArguments) -> object:
        started = False

        def call() -> object:
            nonlocal started
            started = True
            return tool.function(*bound.args, **bound.kwargs)

        with anyio.move_on_after(self._seconds):
            try:
                value = call() if inspect.iscoroutinefunction(tool.function) else await self._threads.run(call)
                return await value if inspect.isawaitable(value) else value
            except ToolError:
                raise
            except (Exception, SystemExit) as error:
                raise _tool_failure(name) from error
            except anyio.get_cancelled_exc_class() as error:
                if anyio.current_effective_deadline() == -math.inf:  # this call was cancelled, or timed out
                    raise
                raise _tool_failure(name) from error  # the function awaited something that was cancelled
        if not started:
            raise ToolError(
                f"The tool {name} did not start within {self._seconds:g} seconds: "
                f"{MAX_CONCURRENT_TOOL_CALLS} earlier calls are still running."
            )
        raise ToolError(f"The tool {name} did not return within {self._seconds:g} seconds.")


def _read(arguments: bytes) -> tuple[Arguments, str]:
    decoded = _decode(arguments)
    return decoded, _clip(repr(decoded))


def _decode(arguments: bytes) -> Arguments:
    if len(arguments) > MAX_ARGUMENT_BYTES:
        raise ToolError(f"The arguments have {len(arguments):,} bytes; a tool takes at most {MAX_ARGUMENT_BYTES:,}.")
    try:
        decoded = unpack_plain(arguments)
    except ValueError as error:
        raise ToolError("The arguments are not plain data.") from error
    match decoded:
        case [list(positional), dict(named)] if all(type(key) is str for key in named):
            return positional, named
        case _:
            raise ToolError("The arguments are not plain data.")


def _bind(name: str, tool: HostFunction, arguments: Arguments) -> inspect.BoundArguments:
    positional, named = arguments
    for parameter in named:
        if parameter in tool.fixed:
            raise ToolError(_clip(f"{name}: got an unexpected keyword argument {parameter!r}."))
    try:
        bound = tool.signature.bind(*positional, **named)
    except TypeError as error:
        raise ToolError(_clip(f"{name}: {error}.")) from error
    for parameter, validator in tool.validators.items():
        if parameter not in bound.arguments:
            continue
        value = bound.arguments[parameter]
        try:
            match tool.signature.parameters[parameter].kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    bound.arguments[parameter] = tuple(validator.validate_python(item) for item in value)
                case inspect.Parameter.VAR_KEYWORD:
                    bound.arguments[parameter] = {key: validator.validate_python(item) for key, item in value.items()}
                case _:
                    bound.arguments[parameter] = validator.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = "".join(f"[{part!r}]" for part in first["loc"])
            raise ToolError(_clip(f"{name}: {parameter}{place}: {first['msg']}.")) from None
        except RecursionError:
            raise
        except (Exception, SystemExit) as error:  # a validator is host code too
            raise _tool_failure(name) from error
    return bound


def _tool_failure(name: str) -> ToolError:
    """Log the current exception of host code, and return an error without its details."""
    _log.exception("tool_failed", tool=name)
    return ToolError(f"The tool {name} failed.")


def _encode(name: str, value: object) -> bytes:
    try:
        data: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError) as error:
        _log.warning("tool_result_rejected", tool=name, reason=str(error))
        raise ToolError(f"The tool {name} returned a value that is not plain data.") from error
    return data


def _clip(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
