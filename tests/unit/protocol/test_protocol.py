"""Bytes in, messages out: any split gives the same messages, and no input does harm."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import msgpack
import pytest
from hypothesis import given
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
    Load,
    Loaded,
    Message,
    Outcome,
    Output,
    Payload,
    ProtocolError,
    Query,
    Ready,
    Reply,
    Result,
    Start,
    ToolCall,
    TypeName,
    pack,
    unpack,
)

numbers = st.integers(0, 2**63 - 1)
texts = st.text(alphabet=st.characters(), max_size=50)
blobs = st.builds(Blob, stream=numbers, size=numbers)
payloads = st.binary(max_size=50) | blobs
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    int: numbers,
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: texts,
    bytes: st.binary(max_size=50),
    Payload: payloads,
    Payload | None: st.none() | payloads,
    str | None: st.none() | texts,
    bool | None: st.none() | st.booleans(),
    Kind: st.sampled_from(get_args(Kind)),
    ContextKind: st.sampled_from(get_args(ContextKind)),
    TypeName: st.sampled_from(get_args(TypeName)),
    Outcome: st.sampled_from(get_args(Outcome)),
}


def built(kind: type[Message]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: FIELDS[hint] for name, hint in get_type_hints(kind).items()})


messages = st.one_of([built(kind) for kind in get_args(Message)])

# A legal conversation: the guest's messages in the order of the table.
cells = st.lists(
    st.tuples(st.lists(built(Output) | built(Query) | built(ToolCall) | built(Chunk), max_size=4), built(Result)),
    max_size=3,
)


@given(messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert unpack(pack(message)) == message


@given(built(Ready), cells, st.data())
def test_any_split_of_the_stream_gives_the_same_messages(
    ready: Ready, cells: list[tuple[list[Message], Result]], data: st.DataObject
) -> None:
    guest, host = Connection(Role.GUEST), Connection(Role.HOST)
    expected: list[Message] = []
    received: list[Message] = []

    def tell(message: Message) -> None:
        expected.append(message)
        stream = guest.send(message)
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            host.receive_data(stream[:size])
            stream = stream[size:]
            while (arrived := host.next_message()) is not None:
                received.append(arrived)

    def order(message: Message) -> None:
        guest.receive_data(host.send(message))
        assert guest.next_message() == message

    tell(ready)
    order(
        Start(version=1, depth=1, max_output_bytes=1, worker_memory_bytes=1, max_calls_in_flight=1, max_value_bytes=1)
    )
    for number, (during, result) in enumerate(cells):
        order(Execute(cell=number, code=b"", seconds=1.0, calls=True))
        for message in during:
            tell(message)
        tell(result)
    assert received == expected
    assert host.state is guest.state is State.IDLE


@given(st.lists(st.binary(max_size=200)))
def test_arbitrary_bytes_raise_nothing_but_the_protocols_own_error(pieces: list[bytes]) -> None:
    host = Connection(Role.HOST)
    try:
        for piece in pieces:
            host.receive_data(piece)
            while host.next_message() is not None:
                pass
    except ProtocolError:
        assert host.state is State.CLOSED


@given(st.binary(max_size=300))
def test_an_arbitrary_frame_body_raises_nothing_but_the_protocols_own_error(body: bytes) -> None:
    try:
        unpack(body)
    except ProtocolError:
        return


WRONG = st.recursive(st.none() | st.booleans() | st.integers(-10, 10) | st.text() | st.binary(), st.lists)


@given(st.sampled_from([kind.__name__ for kind in get_args(Message)]), st.lists(WRONG), st.integers(0, 20))
def test_a_message_with_too_many_or_wrong_fields_raises_nothing_but_the_protocols_own_error(
    name: str, fields: list[Any], place: int
) -> None:
    with pytest.raises(ProtocolError):
        unpack(msgpack.packb([name, *fields[:place], [None], *fields[place:]]))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"message": "Chunk", "stream": 1, "data": b""}, id="a map"),
        pytest.param(["Chunk", 1, {}], id="an empty map inside"),
        pytest.param(["Chunk", 1, {"key": 1}], id="a map inside"),
        pytest.param(["Reset", ["Reset"]], id="a message inside"),
        pytest.param(["Reply", 1, True, ["Reset"]], id="a message in place of a value"),
        pytest.param([1, 2], id="a value that was sent ahead"),
        pytest.param([True, 2], id="neither name nor number"),
        pytest.param([], id="nothing"),
        pytest.param("Reset", id="a name alone"),
    ],
)
def test_anything_but_one_array_of_a_name_and_its_fields_is_refused(body: object) -> None:
    with pytest.raises(ProtocolError):
        unpack(msgpack.packb(body))


def test_an_announced_frame_above_the_limit_is_refused_before_any_byte_of_it_is_kept() -> None:
    host = Connection(Role.HOST)
    host.receive_data((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="the limit is"):
        host.next_message()
    with pytest.raises(ProtocolError, match="closed"):
        host.receive_data(b"x")


def test_a_frame_of_many_empty_maps_is_refused_without_building_them() -> None:
    bomb = b"\xdd" + (MAX_FRAME_BYTES - 5).to_bytes(4, "big") + b"\x80" * (MAX_FRAME_BYTES - 5)
    with pytest.raises(ProtocolError, match="msgpack"):
        unpack(bomb)


def test_nested_arrays_are_refused() -> None:
    with pytest.raises(ProtocolError):
        unpack(b"\x91" * 100_000 + b"\xc0")


def test_a_message_that_does_not_fit_into_a_frame_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="does not fit"):
        pack(Chunk(stream=1, data=b"x" * (MAX_FRAME_BYTES + 1)))


@pytest.mark.parametrize("value", [True, -1, 1.5, "1", None, b"1", 2**63, 2**64 - 1])
def test_a_number_field_takes_whole_numbers_from_zero_only(value: object) -> None:
    with pytest.raises(ProtocolError, match="field"):
        unpack(msgpack.packb(["Chunk", value, b"x"]))


GUEST_FIRST = Ready(version=1, digest="d", python="3")
START = Start(version=1, depth=0, max_output_bytes=1, worker_memory_bytes=1, max_calls_in_flight=1, max_value_bytes=1)
RESULT = Result(cell=1, outcome="ok", error="", answer=None, stdout_bytes=0, stderr_bytes=0, snapshot=True, seconds=0.0)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(GUEST_FIRST, id="a second greeting"),
        pytest.param(RESULT, id="a result without a cell"),
        pytest.param(Output(cell=1, stream=1, data=b"x"), id="output without a cell"),
        pytest.param(Loaded(name="x", ok=True, type="str", size=1, error=""), id="loaded without a load"),
        pytest.param(START, id="what only the host says"),
        pytest.param(Chunk(stream=1, data=b"x"), id="a chunk while idle"),
    ],
)
def test_a_message_that_the_table_forbids_closes_the_connection(message: Message) -> None:
    host = Connection(Role.HOST)
    body = pack(GUEST_FIRST)
    host.receive_data(len(body).to_bytes(4, "big") + body)
    host.next_message()
    host.send(START)
    body = pack(message)
    host.receive_data(len(body).to_bytes(4, "big") + body)
    with pytest.raises(ProtocolError, match="not legal while idle"):
        host.next_message()
    assert host.state is State.CLOSED


def test_a_second_result_of_a_cell_is_refused() -> None:
    guest, host = Connection(Role.GUEST), Connection(Role.HOST)
    host.receive_data(guest.send(GUEST_FIRST))
    host.next_message()
    host.send(START)
    host.send(Execute(cell=1, code=b"", seconds=1.0, calls=True))
    body = pack(RESULT)
    frame = len(body).to_bytes(4, "big") + body
    host.receive_data(frame + frame)
    assert host.next_message() == RESULT
    with pytest.raises(ProtocolError, match="Result is not legal"):
        host.next_message()


def test_sending_an_illegal_message_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="Execute is not legal while starting"):
        Connection(Role.HOST).send(Execute(cell=1, code=b"", seconds=1.0, calls=True))


def test_a_late_reply_is_legal_after_its_cell() -> None:
    guest, host = Connection(Role.GUEST), Connection(Role.HOST)
    host.receive_data(guest.send(GUEST_FIRST))
    host.next_message()
    guest.receive_data(host.send(START) + host.send(Reply(call=1, ok=True, text=b"")))
    assert guest.next_message() == START
    assert guest.next_message() == Reply(call=1, ok=True, text=b"")


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(min_size=1, max_size=100))))
def test_values_are_assembled_in_order_and_never_exceed_their_limits(chunks: list[tuple[int, bytes]]) -> None:
    streams = Streams(max_bytes=300, max_streams=3)
    expected: dict[int, bytes] = {}
    for stream, data in chunks:
        total = sum(map(len, expected.values()))
        fits = total + len(data) <= 300 and (stream in expected or len(expected) < 3)
        if not fits:
            with pytest.raises(ProtocolError):
                streams.add(Chunk(stream=stream, data=data))
            continue
        streams.add(Chunk(stream=stream, data=data))
        expected[stream] = expected.get(stream, b"") + data
    for stream, value in expected.items():
        assert streams.take(stream, len(value)) == value


def test_a_value_of_another_size_than_announced_is_refused() -> None:
    streams = Streams(max_bytes=CHUNK_BYTES, max_streams=1)
    streams.add(Chunk(stream=1, data=b"abc"))
    with pytest.raises(ProtocolError, match="size"):
        streams.take(1, 4)


def test_empty_chunks_are_refused_because_no_limit_counts_them() -> None:
    with pytest.raises(ProtocolError, match="empty"):
        Streams(max_bytes=1, max_streams=1).add(Chunk(stream=1, data=b""))


def test_messages_are_frozen_plain_data() -> None:
    load = Load(name="x", kind="text", value=b"")
    with pytest.raises(dataclasses.FrozenInstanceError):
        load.name = "y"  # type: ignore[misc]  # what must fail
