"""The messages that each end may send, and their encoding.

A message is one msgpack array: its name, then its field values in order. Fields are plain data; `unpack` checks each one
against its declared type first. Maps are not used: their keys would stay in the host's memory (see `plain`).
Standard library and msgpack only.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgpack

VERSION: Final = 3

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_FRAME_BYTES: Final = MIB  # decoding takes memory in proportion to the frame, so the limit is on the frame
CHUNK_BYTES: Final = 512 * KIB  # half a frame: fast, and a small message never waits long behind a chunk
INLINE_BYTES: Final = 32 * KIB  # values up to this size travel inside their message
MAX_TEXT_BYTES: Final = 256 * KIB  # limit of a text field (error texts); larger texts are payloads
MAX_FIELDS: Final = 15  # fields of a message; none has more
MAX_NUMBER: Final = 2**63  # databases and traces store 64-bit signed integers

Outcome = Literal["ok", "error", "timeout", "died"]
Kind = Literal["text", "bytes", "data", "file", "folder", "tools"]
ContextKind = Literal["text", "bytes", "data"]  # kinds of values that a cell can pass to a sub-call
TypeName = Literal["", "str", "bytes", "list", "dict"]


class ProtocolError(Exception):
    """The peer broke the protocol: an oversized, malformed, unknown or out-of-order message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Refers to a value that was sent ahead as `Chunk`s, by its stream number and its size in bytes."""

    stream: int
    size: int


Payload = bytes | Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Host, first message: the limits of this sandbox.

    Attributes:
        depth: How many levels may be called below this RLM (0: no sub-calls).
        max_output_bytes: How much of each output stream of a cell is kept.
        worker_memory_bytes: Address-space limit of the worker.
        max_calls_in_flight: How many calls may be pending at once.
        max_value_bytes: Limit on the total size of pending calls, and on the size of a final answer.
    """

    version: int
    depth: int
    max_output_bytes: int
    worker_memory_bytes: int
    max_calls_in_flight: int
    max_value_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Host: bind `name` to a value. `kind` is the encoding of its bytes:

    - `text`: UTF-8 with surrogatepass.
    - `bytes`: raw bytes.
    - `data`: one msgpack value (same text encoding).
    - `file`: the bytes of a file, which become a `str` if they are UTF-8, else `bytes`.
    - `folder`: a msgpack map of relative path to the bytes of a file.
    - `tools`: a msgpack map of function name to description. Instead of a variable, it binds host functions by name.
    """

    name: str
    kind: Kind
    value: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """Host: run a cell (UTF-8 code, surrogatepass). `seconds` is its time limit, as `rlm.protocol.clock` measures it.

    `calls` is false when the host serves no calls: then the guest rejects them itself.
    """

    cell: int
    code: Payload
    seconds: float
    calls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Host: the answer to a query (UTF-8, surrogatepass) or to a tool call (one msgpack value).

    If not `ok`, `text` is the error message.
    """

    call: int
    ok: bool
    text: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Host: write a file into the working directory; `path` is relative and plain (see `rlm.protocol.paths`)."""

    path: str
    value: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """Host: send a regular file of the working directory, unless it exceeds `max_bytes`."""

    path: str
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFiles:
    """Host: list up to `max_files` regular files of the working directory."""

    max_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Host: end every process of the model's code, empty its folders, and start a new REPL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Either end: the next bytes of a large value, at most `CHUNK_BYTES`. The message that uses the stream follows."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Guest, first message: its protocol version and the digest of its sources."""

    version: int
    digest: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Guest: the outcome of a `Load`. `type` and `size` describe the Python value (for example `str`, characters)."""

    name: str
    ok: bool
    type: TypeName
    size: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Guest: bytes that the cell wrote to a standard stream (1: stdout, 2: stderr), sent without delay."""

    cell: int
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Guest: the cell calls a model. `batch` groups the calls of one `llm_batch`; 0 is a single `llm_query`.

    `context` is a value for a recursive call. `context_kind` is its encoding (see `Load`).
    """

    cell: int
    call: int
    batch: int
    prompt: Payload
    context: Payload | None
    context_kind: ContextKind
    model: str | None
    recurse: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Guest: the last message of a cell.

    Attributes:
        outcome: `ok`; `error` (an exception); `timeout` (stopped at its time limit); or `died` (its process ended).
            After `timeout` and `died`, the REPL's variables are those from before the cell.
        error: The traceback, or how the cell ended.
        answer: The final answer of the cell, if any.
        stdout_bytes: How much the cell wrote. If that exceeds the `Output` sent, the middle was cut: the guest sent
            the first `max_output_bytes // 2` bytes and the last ones.
        stderr_bytes: The same for standard error.
        snapshot: False if the state was too large for a second copy.
        seconds: How much of its time limit the cell used.
    """

    cell: int
    outcome: Outcome
    error: str
    answer: Payload | None
    stdout_bytes: int
    stderr_bytes: int
    snapshot: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """Guest: the cell calls a host function. `arguments` are plain data: `[positional, named]`."""

    cell: int
    call: int
    name: str
    arguments: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Guest: the outcome of a `Put`, `Get`, `ListFiles` or `Reset`.

    For `ListFiles`, `value` is plain data: `[sizes by path, number of further files]`.
    """

    ok: bool
    error: str
    value: Payload | None


HostMessage = Start | Load | Execute | Reply | Chunk | Put | Get | ListFiles | Reset
GuestMessage = Ready | Loaded | Output | Query | Result | Chunk | ToolCall | Response
Message = HostMessage | GuestMessage

_TYPES: Final[dict[str, type[Message]]] = {t.__name__: t for t in typing.get_args(Message)}


def _checks(cls: type[Message]) -> dict[str, tuple[type | None, ...]]:
    """The concrete types that each field of a message allows (None stands for nil)."""
    hints = typing.get_type_hints(cls)
    return {field.name: tuple(_concrete(hints[field.name])) for field in dataclasses.fields(cls)}


def _concrete(hint: Any) -> typing.Iterator[Any]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        for part in typing.get_args(hint):
            yield from _concrete(part)
    elif typing.get_origin(hint) is Literal:
        yield hint
    else:
        yield None if hint is types.NoneType else hint


_FIELDS: Final = {name: _checks(cls) for name, cls in _TYPES.items()}


def _check(value: Any, allowed: tuple[Any, ...]) -> Any:
    for kind in allowed:
        if kind is None:
            if value is None:
                return None
        elif kind is float:
            if type(value) in (float, int):
                return float(value)
        elif kind is int:
            if type(value) is int and 0 <= value < MAX_NUMBER:
                return value
        elif typing.get_origin(kind) is Literal:
            if type(value) is str and value in typing.get_args(kind):
                return value
        elif type(value) is kind:
            return value
    raise ProtocolError("a field has a value of the wrong type")


def pack(message: Message) -> bytes:
    """Encode a message as msgpack.

    Raises:
        ProtocolError: The message does not fit into a frame.
    """
    name = type(message).__name__
    values = [getattr(message, field) for field in _FIELDS[name]]
    values = [[value.stream, value.size] if isinstance(value, Blob) else value for value in values]
    data: bytes = msgpack.packb([name, *values], unicode_errors="surrogatepass")
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a {name} message of {len(data)} bytes does not fit into a frame")
    return data


def unpack(data: bytes | bytearray | memoryview) -> Message:
    """Decode the body of a frame, and check every field.

    Raises:
        ProtocolError: The bytes are not a valid message.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError("a frame is longer than the limit")
    try:
        message = msgpack.unpackb(
            data,
            list_hook=_read,
            unicode_errors="surrogatepass",
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=CHUNK_BYTES,
            max_array_len=1 + MAX_FIELDS,
            max_map_len=0,
            max_ext_len=0,
        )
    except ProtocolError:
        raise
    except Exception as error:  # msgpack documents no closed set of errors for hostile input
        raise ProtocolError("a frame does not hold a valid msgpack value") from error
    if not isinstance(message, Message):
        raise ProtocolError("a frame does not hold a message")
    return message


def _read(items: list[Any]) -> Message | Blob:
    """Interpret an array as soon as its last item is decoded, so that nested arrays cannot pile up in memory."""
    match items:
        case [int(stream), int(size)]:
            return Blob(stream=_check(stream, (int,)), size=_check(size, (int,)))
        case [str(name), *values] if name in _TYPES:
            declared = _FIELDS[name]
            if len(values) != len(declared):
                raise ProtocolError(f"a {name} message has too few or too many fields")
            fields = zip(declared, values, strict=True)
            return _TYPES[name](**{field: _check(value, declared[field]) for field, value in fields})
        case _:
            raise ProtocolError("a message has an unknown type")
