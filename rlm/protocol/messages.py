"""The messages of the channel: what each end may say, and how it is packed.

A message is one msgpack array: its name, and the values of its fields in their order. Fields are plain data; `unpack` checks
every one of them against the declared type before anything else sees it. There are no maps: their keys would stay in the
host's memory (see `plain`). Standard library and msgpack only.
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

MAX_FRAME_BYTES: Final = MIB  # decoding costs memory in proportion to the frame, so the frame is what is bounded
CHUNK_BYTES: Final = 512 * KIB  # half a frame: fast enough, and a small message never waits long behind it
INLINE_BYTES: Final = 32 * KIB  # values up to this size travel inside their message
MAX_TEXT: Final = 256 * KIB  # of a text field (error texts); larger texts are payloads
MAX_FIELDS: Final = 15  # more than any message has
MAX_NUMBER: Final = 2**63  # what a database and a trace can hold

Outcome = Literal["ok", "error", "timeout", "died"]
Kind = Literal["text", "bytes", "data", "file", "folder", "tools"]
ContextKind = Literal["text", "bytes", "data"]  # of what a cell hands on
TypeName = Literal["", "str", "bytes", "list", "dict"]


class ProtocolError(Exception):
    """The peer broke the protocol: an oversized, malformed, unknown or out-of-order message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A value that was sent ahead as `Chunk`s: the number of its stream and its total size in bytes."""

    stream: int
    size: int


Payload = bytes | Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Host, first message: what this sandbox may use.

    `depth` is the number of levels that may be called below this RLM (0: no sub-calls); `max_output_bytes` bounds what
    is kept of each output stream of a cell; `worker_memory_bytes` becomes the worker's address-space limit;
    `max_calls_in_flight` is the number of unanswered queries after which another one is misbehaviour, and `max_value_bytes`
    that of the bytes that these may hold together, and a final answer.
    """

    version: int
    depth: int
    max_output_bytes: int
    worker_memory_bytes: int
    max_calls_in_flight: int
    max_value_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Host: bind `name` to a value. `kind` says how its bytes are encoded:

    `text` UTF-8 with surrogatepass; `bytes` as they are; `data` one msgpack value (same text encoding); `file` a file's
    bytes, a `str` if they are UTF-8 else `bytes`; `folder` a msgpack map of relative path to a file's bytes; `tools` no
    variable but functions of the host, a msgpack map of name to description: each is bound to its own name in every cell.
    """

    name: str
    kind: Kind
    value: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """Host: run a cell (UTF-8 code, surrogatepass). `seconds` is the cell's own time, as `rlm.protocol.clock` counts it.

    `calls` is false where nobody would answer a call: then the guest refuses them by itself.
    """

    cell: int
    code: Payload
    seconds: float
    calls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Host: the answer to a query (UTF-8, surrogatepass) or to a tool call (one msgpack value); when not `ok`, the sentence
    that says why there is none.
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
    """Host: send a regular file of the working directory, if it has at most `max_bytes`."""

    path: str
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFiles:
    """Host: name the regular files in the working directory, at most so many."""

    max_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Host: end every process of the model's code, empty its folders, and begin with a new REPL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Either end: the next bytes of a large value, at most `CHUNK_BYTES`, ahead of the message that names the stream."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Guest, first message: the protocol version it speaks and the digest of the sources it was built from."""

    version: int
    digest: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Guest: the outcome of a `Load`. `type` and `size` describe the value as Python sees it (`str`, characters)."""

    name: str
    ok: bool
    type: TypeName
    size: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Guest: bytes that the cell wrote to a standard stream (1 stdout, 2 stderr), as they appear."""

    cell: int
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Guest: the cell calls a model. `batch` groups the calls of one `llm_batch`; 0 is a single `llm_query`.

    `context` is a value for a recursive call, encoded as `context_kind` says (see `Load`).
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
    """Guest: a cell has ended; nothing more of it follows.

    `outcome`: `ok`; `error`, an exception (`error` is its traceback); `timeout`, stopped at its time limit; `died`, its
    process ended (`error` says how). After the last two the REPL's variables are those from before the cell.
    `answer` is the final answer that the cell gave, if any. `stdout_bytes` and `stderr_bytes` count all that was
    written; when that is more than the `Output` sent, the middle was cut: the first `max_output_bytes // 2` bytes and the
    last ones were sent. `snapshot` is false where the state was too large to keep a second copy.
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
    """Guest: the cell calls a function of the host. `arguments` are plain data: `[positional, named]`."""

    cell: int
    call: int
    name: str
    arguments: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Guest: the outcome of `Put`, `Get`, `ListFiles` (`value`: plain data, `[sizes by path, how many more]`) or `Reset`."""

    ok: bool
    error: str
    value: Payload | None


HostMessage = Start | Load | Execute | Reply | Chunk | Put | Get | ListFiles | Reset
GuestMessage = Ready | Loaded | Output | Query | Result | Chunk | ToolCall | Served
Message = (
    Start
    | Load
    | Execute
    | Reply
    | Chunk
    | Put
    | Get
    | ListFiles
    | Reset
    | Ready
    | Loaded
    | Output
    | Query
    | Result
    | ToolCall
    | Served
)

_TYPES: Final[dict[str, type[Message]]] = {t.__name__: t for t in typing.get_args(Message)}


def _checks(cls: type[Message]) -> dict[str, tuple[type | None, ...]]:
    """For each field of a message, the concrete types a decoded value may have (None stands for nil)."""
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
    raise ProtocolError("a field has a value that its type does not allow")


def pack(message: Message) -> bytes:
    """One message as msgpack bytes.

    Raises:
        ProtocolError: the message does not fit into a frame.
    """
    name = type(message).__name__
    values = [getattr(message, field) for field in _FIELDS[name]]
    values = [[value.stream, value.size] if isinstance(value, Blob) else value for value in values]
    data: bytes = msgpack.packb([name, *values], unicode_errors="surrogatepass")
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a {name} message of {len(data)} bytes does not fit into a frame")
    return data


def unpack(data: bytes | bytearray | memoryview) -> Message:
    """The message in one frame's body, every field checked.

    Raises:
        ProtocolError: whatever else the bytes hold.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError("a frame is longer than the limit")
    try:
        message = msgpack.unpackb(
            data,
            list_hook=_read,
            unicode_errors="surrogatepass",
            max_str_len=MAX_TEXT,
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
    """What an array means, told as soon as its last item is read: so nested ones cannot pile up in memory."""
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
