"""One conversation with a guest: values in, cells run, queries answered, files in and out.

All input from the guest is untrusted. Illegal, oversized or late input is `SandboxMisbehaved`, and ends the session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NoReturn

import anyio
import msgpack
from anyio.abc import TaskGroup

from rlm.config import SandboxConfig
from rlm.errors import ConfigError, SandboxMisbehaved, SandboxStartError
from rlm.protocol.messages import (
    MIB,
    VERSION,
    Execute,
    Get,
    ListFiles,
    Load,
    Loaded,
    Output,
    Put,
    Query,
    Ready,
    Reply,
    Reset,
    Response,
    Result,
    Start,
    ToolCall,
)
from rlm.types import CellResult

from .base import Answer, LoadedValue, OnOutput, QueryReply, SandboxQuery
from .cell import RunningCell
from .channel import Channel, Stream, deadline
from .files import MAX_FILES, Listing, check_path, read_listing
from .tools import Tools
from .values import Value, opaque

LOAD_SECONDS: Final = 60.0  # limit to build a value from received bytes ...
LOAD_SECONDS_PER_BYTE: Final = 0.2 / MIB  # ... a hundred times the measured time
MAX_CELL_SECONDS: Final = 1e6  # every clock involved can represent this
GRACE_SECONDS: Final = 10.0  # how long the host waits beyond a cell's time limit, which the guest enforces
REQUEST_SECONDS: Final = 60.0  # limit to write or read a file, or to reset
MAX_SHOWN_CHARS: Final = 300  # characters of guest text in an error message


class Session:
    """The host's end of one conversation. Runs one operation at a time. An error or a cancellation ends it.

    Args:
        stream: Connection to the guest.
        config: Sets the limits.
    """

    def __init__(self, stream: Stream, config: SandboxConfig) -> None:
        self._config = config
        self._channel = Channel(stream, config)
        self._tools: Tools | None = None
        self._cells = 0

    async def handshake(self, *, digest: str, depth: int, worker_memory_bytes: int) -> None:
        """Check the guest's identity and send its limits. The caller sets the deadline.

        Raises:
            SandboxStartError: The guest was built from other sources.
            SandboxDied, SandboxMisbehaved: The sandbox is gone.
        """
        with self._channel.exclusive():
            ready = await self._channel.expect(Ready)
            if ready.version != VERSION or ready.digest != digest:
                raise SandboxStartError(
                    "The sandbox image was built from other sources than this version of rlm: "
                    "rebuild it with `rlm image build`."
                )
            await self._channel.send(
                Start(
                    version=VERSION,
                    depth=depth,
                    max_output_bytes=self._config.max_output_bytes,
                    worker_memory_bytes=worker_memory_bytes,
                    max_calls_in_flight=self._config.max_calls_in_flight,
                    max_value_bytes=self._config.max_value_bytes,
                )
            )

    async def load(self, name: str, value: Value) -> LoadedValue:
        """Bind a variable; see `SandboxProtocol.load`."""
        if not name.isidentifier():
            raise ConfigError(f"The variable name {name!r} is invalid: use a Python identifier.")
        return await self._load(name, value)

    async def offer(self, tools: Tools) -> None:
        """Bind host functions; see `SandboxProtocol.offer`."""
        self._tools = tools
        descriptions = msgpack.packb(tools.descriptions)
        await self._load("tools", opaque("tools", descriptions))

    async def _load(self, name: str, value: Value) -> LoadedValue:
        with self._channel.exclusive():
            payload = await self._channel.send_value(value.pieces(), value.size)
            await self._channel.send(Load(name=name, kind=value.kind, value=payload))
            with deadline(LOAD_SECONDS + LOAD_SECONDS_PER_BYTE * value.size, "did not load a value in time"):
                loaded = await self._channel.expect(Loaded)
            if loaded.size > value.size:
                raise SandboxMisbehaved("The sandbox reported a larger value than it received.")
        if not loaded.ok:
            raise ConfigError(f"The sandbox could not load `{name}`: {_excerpt(loaded.error)}.")
        return LoadedValue(type=loaded.type, size=loaded.size)

    async def put(self, path: str, content: Value) -> None:
        """Write a file; see `Sandbox.put`."""
        check_path(path)
        with self._channel.exclusive():
            value = await self._channel.send_value(content.pieces(), content.size)
            response = await self._request(Put(path=path, value=value))
        if not response.ok:
            raise ConfigError(f"The sandbox could not write {path!r}: {_excerpt(response.error)}.")

    async def get(self, path: str, *, max_bytes: int) -> bytes:
        """Read a file; see `Sandbox.get`."""
        check_path(path)
        if not 0 <= max_bytes <= self._config.max_value_bytes:
            limit = f"{self._config.max_value_bytes:,} (SandboxConfig.max_value_bytes)"
            raise ConfigError(f"max_bytes={max_bytes:,} is invalid: use 0 to {limit}.")
        with self._channel.exclusive():
            response = await self._request(Get(path=path, max_bytes=max_bytes))
            content = self._response_value(response)
            if len(content) > max_bytes:
                raise SandboxMisbehaved("The sandbox sent a larger file than the host requested.")
        if not response.ok:
            raise ConfigError(f"The sandbox could not read {path!r}: {_excerpt(response.error)}.")
        return content

    async def files(self) -> Listing:
        """List files; see `Sandbox.files`."""
        with self._channel.exclusive():
            response = await self._request(ListFiles(max_files=MAX_FILES))
            data = self._response_value(response)
            listing = read_listing(data) if response.ok else Listing()
        if not response.ok:
            raise ConfigError(f"The sandbox could not list its files: {_excerpt(response.error)}.")
        return listing

    async def reset(self) -> None:
        """Start over in the same container; see `Sandbox.reset`."""
        with self._channel.exclusive():
            response = await self._request(Reset())
            if not response.ok:
                raise SandboxMisbehaved("The sandbox could not be reset.")
        if self._tools is not None:
            await self.offer(self._tools)

    async def _request(self, request: Put | Get | ListFiles | Reset) -> Response:
        await self._channel.send(request)
        with deadline(REQUEST_SECONDS, "did not complete a file request or a reset in time"):
            return await self._channel.expect(Response)

    def _response_value(self, response: Response) -> bytes:
        value = b"" if response.value is None else self._channel.value_of(response.value)
        self._channel.discard_values()
        return value

    async def run(
        self,
        code: str,
        *,
        seconds: float,
        answer: Answer | None = None,
        on_output: OnOutput | None = None,
    ) -> CellResult:
        """Run one cell; see `SandboxProtocol.run`."""
        if not 0 < seconds <= MAX_CELL_SECONDS:
            raise ConfigError(f"seconds={seconds!r} is invalid: use a number above 0, at most {MAX_CELL_SECONDS:g}.")
        with self._channel.exclusive():
            self._cells += 1
            payload = await self._channel.send_bytes(code.encode("utf-8", "surrogatepass"))
            calls = answer is not None or self._tools is not None
            await self._channel.send(Execute(cell=self._cells, code=payload, seconds=seconds, calls=calls))
            cell = RunningCell(
                self._cells,
                seconds=seconds + GRACE_SECONDS,
                config=self._config,
                answer=answer or _reject_query,
                on_output=on_output,
            )
            try:
                async with anyio.create_task_group() as answers:
                    result = await self._until_result(cell, answers)
                    cell.end()
            except BaseExceptionGroup as group:
                _raise_first(group)
            final = None if result.answer is None else _decode(self._channel.value_of(result.answer))
            stdout, stdout_cut = cell.stdout.finish(result.stdout_bytes)
            stderr, stderr_cut = cell.stderr.finish(result.stderr_bytes)
            self._channel.discard_values()
        return CellResult(
            outcome=result.outcome,
            stdout=stdout,
            stderr=stderr,
            stdout_cut=stdout_cut,
            stderr_cut=stderr_cut,
            error=result.error,
            answer=final,
            snapshot=result.snapshot,
            seconds=result.seconds,
        )

    async def _until_result(self, cell: RunningCell, answers: TaskGroup) -> Result:
        """Read messages until the cell has ended. Each call is answered in its own task."""
        with cell.timeout:
            while True:
                message = await self._channel.receive()
                if getattr(message, "cell", cell.number) != cell.number:
                    raise SandboxMisbehaved("The sandbox reported on a cell that is not running.")
                match message:
                    case Output():
                        cell.add_output(message)
                    case Query():
                        query, size = self._query(message)
                        cell.call_started(query.call, size)
                        answers.start_soon(self._answer, cell, query.call, partial(_ask, cell.answer, query))
                    case ToolCall():
                        arguments = self._channel.value_of(message.arguments)
                        cell.call_started(message.call, len(arguments))
                        answers.start_soon(
                            self._answer, cell, message.call, partial(self._use_tool, message.name, arguments)
                        )
                    case Result():
                        return message
                    case _:
                        raise SandboxMisbehaved(f"The sandbox sent a {type(message).__name__} during a cell.")
        raise SandboxMisbehaved(f"The sandbox did not end a cell within {GRACE_SECONDS:g} s after its time limit.")

    def _query(self, message: Query) -> tuple[SandboxQuery, int]:
        """The query of a message, and its size in bytes."""
        prompt = self._channel.value_of(message.prompt)
        context = None
        if message.context is not None:
            context = opaque(message.context_kind, self._channel.value_of(message.context))
        query = SandboxQuery(
            call=message.call,
            batch=message.batch,
            prompt=_decode(prompt),
            context=context,
            model=message.model,
            recurse=message.recurse,
        )
        return query, len(prompt) + (context.size if context is not None else 0)

    async def _answer(self, cell: RunningCell, call: int, compute: Callable[[], Awaitable[tuple[bool, bytes]]]) -> None:
        """Compute an answer unless the cell ends first, then send all of it."""
        with cell.answering() as scope:
            ok, data = await compute()
        if not scope.cancelled_caught:
            await self._channel.send(Reply(call=call, ok=ok, text=await self._channel.send_bytes(data)))
            cell.call_answered(call)

    async def _use_tool(self, name: str, arguments: bytes) -> tuple[bool, bytes]:
        if self._tools is None:
            return False, b"This sandbox has no tools."
        use = await self._tools.use(name, arguments)
        return use.ok, use.data


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise SandboxMisbehaved("The sandbox sent text that is not UTF-8.") from error


def _excerpt(error: str) -> str:
    return error[:MAX_SHOWN_CHARS].rstrip(".")


async def _ask(answer: Answer, query: SandboxQuery) -> tuple[bool, bytes]:
    reply = await answer(query)
    return reply.ok, reply.text.encode("utf-8", "surrogatepass")


async def _reject_query(query: SandboxQuery) -> QueryReply:
    return QueryReply(ok=False, text="This sandbox has no models to call.")


def _raise_first(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise what ended the cell; the other errors of the group follow from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    raise error from error.__cause__
