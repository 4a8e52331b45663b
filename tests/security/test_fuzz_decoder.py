"""Any bytes, split anywhere, become messages or the protocol's error, and take memory in proportion to a frame.

With `atheris` (PyPI) the same checks run under a coverage-guided fuzzer: `scripts/fuzz_decoder.py`.
"""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.protocol.connection import Connection, Role, State, Streams
from rlm.protocol.messages import (
    CHUNK_BYTES,
    MAX_FRAME_BYTES,
    Blob,
    Chunk,
    ContextKind,
    Execute,
    Kind,
    Message,
    Outcome,
    Payload,
    ProtocolError,
    Ready,
    Start,
    TypeName,
    pack,
    unpack,
)
from rlm.protocol.plain import unpack_plain
from rlm.sandbox.docker.attach import STDERR_TAIL_BYTES, Demultiplexer

FRAMES = int(os.environ.get("RLM_FUZZ_FRAMES", "100000"))
MEMORY_FACTOR = 4  # memory for everything decoded from a frame, relative to its size
MEMORY_SLACK = 256 * 1024  # nested lists, of which msgpack accepts a thousand

numbers = st.sampled_from([0, 1, 127, 128, 2**31, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
payloads = st.binary(max_size=300) | st.builds(Blob, stream=numbers, size=numbers)
texts = st.text(alphabet=st.characters(), max_size=50)
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    int: numbers,
    float: st.floats(),
    bool: st.booleans(),
    str: texts,
    bytes: st.binary(max_size=300),
    Payload: payloads,
    Payload | None: st.none() | payloads,
    str | None: st.none() | texts,
    bool | None: st.none() | st.booleans(),
    Kind: st.sampled_from(get_args(Kind)),
    ContextKind: st.sampled_from(get_args(ContextKind)),
    TypeName: st.sampled_from(get_args(TypeName)),
    Outcome: st.sampled_from(get_args(Outcome)),
}
messages = st.one_of(
    *(
        st.builds(kind, **{name: FIELDS[hint] for name, hint in get_type_hints(kind).items()})
        for kind in get_args(Message)
    )
)
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.integers(-(2**63), -1) | st.floats() | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.binary(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The body of a message with changed, inserted or removed bytes."""
    body = bytearray(pack(draw(messages)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(["change", "insert", "delete"])):
            case "change" if place < len(body):
                body[place] = draw(st.integers(0, 255))
            case "insert":
                body[place:place] = draw(st.binary(min_size=1, max_size=8))
            case _:
                del body[place : place + draw(st.integers(1, 8))]
    return bytes(body)


bodies = (
    st.binary(max_size=300)
    | mutated()
    | messages.map(pack)
    | plain.map(lambda value: msgpack.packb(value, unicode_errors="surrogatepass"))
)


def decoded(body: bytes) -> Message | None:
    """The message, or None if the protocol's error rejected it. Encoding it again must give an equal message."""
    try:
        message = unpack(body)
    except ProtocolError:
        return None
    again = pack(message)
    assert pack(unpack(again)) == again
    kind, *fields = msgpack.unpackb(body, unicode_errors="surrogatepass")
    assert kind == type(message).__name__
    for name, value in zip(get_type_hints(type(message)), fields, strict=True):
        kept = getattr(message, name)
        if isinstance(kept, Blob):
            kept = [kept.stream, kept.size]
        assert kept == value or (kept != kept and value != value), name
    return message


@given(bodies)
def test_a_body_is_a_message_that_says_the_same_or_the_declared_error(body: bytes) -> None:
    decoded(body)


@given(st.lists(bodies, max_size=6), st.lists(st.integers(0, 2000), max_size=8), st.sampled_from(Role))
def test_any_split_of_the_stream_changes_nothing(frames: list[bytes], cuts: list[int], role: Role) -> None:
    stream = b"".join(map(frame, frames))
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    whole = heard(role, [stream])
    assert heard(role, [stream[start:end] for start, end in pairwise(places)]) == whole


def started(role: Role) -> Connection:
    """One end, in the state that accepts the most messages."""
    guest, host = Connection(Role.GUEST), Connection(Role.HOST)
    host.receive_data(guest.send(Ready(version=1, digest="d", python="3")))
    host.next_message()
    start = Start(
        version=1, depth=0, max_output_bytes=1, worker_memory_bytes=1, max_calls_in_flight=1, max_value_bytes=1
    )
    guest.receive_data(host.send(start))
    guest.next_message()
    if role is Role.GUEST:
        return guest
    host.send(Execute(cell=1, code=b"", seconds=1.0, calls=True))
    return host


def heard(role: Role, pieces: list[bytes]) -> tuple[list[str], str]:
    """The messages as text (NaN does not equal itself), and the connection's state afterwards."""
    connection = started(role)
    got: list[str] = []
    try:
        for piece in pieces:
            connection.receive_data(piece)
            while (message := connection.next_message()) is not None:
                got.append(repr(message))
    except ProtocolError:
        assert connection.state is State.CLOSED
        with pytest.raises(ProtocolError):
            connection.next_message()
        with pytest.raises(ProtocolError):
            connection.receive_data(b"x")
    return got, connection.state.value


def costly(size: int) -> list[bytes]:
    """Bodies of about this size that could decode to much larger objects."""
    return [
        b"\xdd" + size.to_bytes(4, "big") + b"\x80" * size,
        b"\xdf" + size.to_bytes(4, "big") + b"\xc0" * size,
        b"\x91" * size,
        b"\x9f" * size,
        b"\x81\xa1x" * (size // 3),
        b"\x93\xa5Chunk\x01" + b"\x92" * size,
        b"\x9f" + b"\x92\x90\x90" * 15,
        tree(b"\x90", b"\x92", size),
        tree(b"\x80", b"\x92", size),
        tree(b"\x91\xa5Reset", b"\x92", size),
        tree(b"\x91\xa5Reset", b"\x93\xa5Chunk", size),
        tree(b"\x92\x01\x01", b"\x92", size),
        tree(b"\x80", b"\x82\xa1a\x80\xa1b", size),
        b"\xdb" + size.to_bytes(4, "big") + "é".encode() * (size // 2),
        b"\xc6" + size.to_bytes(4, "big") + bytes(size),
        b"\xc9" + size.to_bytes(4, "big") + b"\x01" + bytes(size),
        b"\xc6\xff\xff\xff\xff" + bytes(size),
        b"\xdd\xff\xff\xff\xff" + b"\xc0" * size,
        b"\xdf\xff\xff\xff\xff" + b"\xc0" * size,
        frame(pack(Chunk(stream=1, data=bytes(min(size, CHUNK_BYTES)))))[4:],
        msgpack.packb(["Loaded", "\U0001f600" * (size // 16), True, "é" * (size // 8), 1, ""]),
    ]


def tree(leaf: bytes, branch: bytes, size: int) -> bytes:
    """A binary tree of arrays: many leaves without deep nesting."""
    built = leaf
    while len(branch) + 2 * len(built) <= size:
        built = branch + 2 * built
    return built


@pytest.mark.parametrize("number", range(len(costly(100))))
@pytest.mark.parametrize("size", [1000, MAX_FRAME_BYTES - 100, MAX_FRAME_BYTES - 5])
def test_no_frame_costs_more_than_a_few_times_its_size(number: int, size: int) -> None:
    body = costly(size)[number]
    connection = started(Role.HOST)
    tracemalloc.start()
    try:
        connection.receive_data(frame(body))
        connection.next_message()
    except ProtocolError:
        assert connection.state is State.CLOSED
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < MEMORY_FACTOR * len(body) + MEMORY_SLACK


@given(
    st.lists(st.tuples(numbers, st.binary(max_size=400)) | numbers.flatmap(lambda n: st.tuples(st.just(n), numbers)))
)
def test_assembled_values_never_exceed_their_limit(steps: list[tuple[int, bytes | int]]) -> None:
    streams = Streams(max_bytes=1000, max_streams=4)
    held: dict[int, bytes] = {}
    for stream, step in steps:
        try:
            if isinstance(step, bytes):
                streams.add(Chunk(stream=stream, data=step))
                held[stream] = held.get(stream, b"") + step
            else:
                assert streams.take(stream, step) == held.pop(stream, b"")
        except ProtocolError:
            if not isinstance(step, bytes):
                held.pop(stream, None)
        assert sum(map(len, held.values())) <= 1000
        assert len(held) <= 4


# The engine's own stream

parts = st.lists(st.tuples(st.sampled_from([0, 1, 1, 1, 2, 3]), st.binary(max_size=100)))


@given(parts, st.lists(st.integers(0, 1000), max_size=8))
def test_the_attached_stream_gives_standard_output_wherever_it_is_split(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(bytes([number, 0, 0, 0]) + frame(data) for number, data in frames)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    demultiplexer = Demultiplexer()
    output = b"".join(demultiplexer.feed(stream[start:end]) for start, end in pairwise(places))
    assert output == b"".join(data for number, data in frames if number == 1)
    rest = b"".join(data for number, data in frames if number != 1)[-STDERR_TAIL_BYTES:]
    assert demultiplexer.stderr == rest.decode("utf-8", "backslashreplace").strip()


@given(st.lists(st.binary(max_size=2000)))
def test_an_attached_stream_of_any_bytes_raises_its_own_error_and_gives_no_more_than_it_got(
    pieces: list[bytes],
) -> None:
    demultiplexer = Demultiplexer()
    for piece in pieces:
        try:
            assert len(demultiplexer.feed(piece)) <= len(piece)
        except ValueError:
            return
        assert len(demultiplexer.stderr.encode()) <= 4 * STDERR_TAIL_BYTES  # an escape takes four characters


# Without the overhead of hypothesis: a hundred thousand fit into a minute


def pool() -> list[bytes]:
    examples: list[bytes] = []

    @settings(max_examples=200, database=None, derandomize=True)
    @given(messages)
    def collect(message: Message) -> None:
        examples.append(pack(message))

    collect()
    return examples


@pytest.mark.parametrize(
    "frames", [pytest.param(5000, id="5000"), pytest.param(FRAMES, id="all", marks=pytest.mark.long)]
)
@pytest.mark.timeout(300)
def test_many_mutated_frames_raise_the_declared_error_and_leave_nothing(frames: int) -> None:
    choose = random.Random(int(os.environ.get("RLM_FUZZ_SEED", "1")))
    seeds = pool()
    kept = refused = 0
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(frames):
        body = bytearray(choose.choice(seeds))
        for _ in range(choose.randrange(4)):
            place = choose.randrange(len(body) + 1)
            body[place : place + choose.randrange(3)] = choose.randbytes(choose.randrange(3))
        if decoded(bytes(body)) is None:
            refused += 1
        else:
            kept += 1
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"{frames} frames: {kept} messages, {refused} refused, {after - before} bytes more held")
    assert kept > frames // 10
    assert refused > frames // 10
    assert after - before < 100_000


@pytest.mark.parametrize("read", [unpack, unpack_plain])
def test_refused_frames_leave_nothing_however_nested(read: Callable[[bytes], object]) -> None:
    """Each frame is rejected after its texts were decoded: everything built until then is freed."""
    text = b"\xd9\xc8" + b"x" * 200
    ends = b"\xc1", b"\x92\x01\xc1", b"\x81" + text, b"\x92\x01", b"\x90"
    bodies = [b"\x92" + text + b"\x92" + text + end for end in ends]
    refused = 0
    tracemalloc.start()
    for _ in range(1000):
        for body in bodies:
            try:
                read(body)
            except (ProtocolError, ValueError):
                refused += 1
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert refused == 1000 * len(bodies)
    assert held < 100_000
