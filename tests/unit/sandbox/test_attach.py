"""The engine's stream format, however the data is split."""

from __future__ import annotations

from typing import cast

import anyio
import pytest
from anyio.abc import ByteStream
from hypothesis import given
from hypothesis import strategies as st

from helpers.scripted_guest import MemoryStream
from rlm.sandbox.docker.attach import MAX_STDERR_BYTES, STDERR_TAIL_BYTES, AttachedStream, Demultiplexer


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.lists(st.integers(1, 30)))
def test_any_split_of_the_attached_stream_gives_the_same_output(
    frames: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    data = b"".join(frame(stream, part) for stream, part in frames)
    demultiplexer = Demultiplexer()
    output = b""
    for size in sizes:
        output += demultiplexer.feed(data[:size])
        data = data[size:]
    output += demultiplexer.feed(data)
    assert output == b"".join(part for stream, part in frames if stream == 1)
    errors = b"".join(part for stream, part in frames if stream == 2)
    assert demultiplexer.stderr == errors.decode("utf-8", "backslashreplace").strip()


def test_only_the_end_of_standard_error_is_kept() -> None:
    demultiplexer = Demultiplexer()
    for _ in range(100):
        assert demultiplexer.feed(frame(2, b"x" * 1000)) == b""
    demultiplexer.feed(frame(2, b" the reason\n"))
    assert demultiplexer.stderr.endswith("x the reason")
    assert len(demultiplexer.stderr) <= STDERR_TAIL_BYTES


def test_messages_of_the_engine_count_as_standard_error() -> None:
    demultiplexer = Demultiplexer()
    assert demultiplexer.feed(frame(3, b"daemon: gone") + frame(1, b"out")) == b"out"
    assert demultiplexer.stderr == "daemon: gone"


def attached(stream: MemoryStream) -> AttachedStream:
    return AttachedStream(cast("ByteStream", stream))


@pytest.mark.parametrize("data", [b"HTTP/1.1 500 sorry", bytes([1, 0, 0, 1]) + b"\0\0\0\x01x"])
@pytest.mark.anyio
async def test_data_in_another_format_breaks_the_stream(data: bytes) -> None:
    ours, engine = MemoryStream.pair(buffered=1)
    await engine.send(data)
    with pytest.raises(anyio.BrokenResourceError):
        await attached(ours).receive()
    ours.close()
    engine.close()


@pytest.mark.anyio
async def test_too_much_standard_error_breaks_the_stream() -> None:
    ours, engine = MemoryStream.pair(buffered=100)
    for _ in range(MAX_STDERR_BYTES // 100_000 + 1):
        await engine.send(frame(2, b"x" * 100_000))
    with anyio.fail_after(5), pytest.raises(anyio.BrokenResourceError):
        await attached(ours).receive()
    ours.close()
    engine.close()


@pytest.mark.anyio
async def test_draining_reads_to_the_end() -> None:
    ours, engine = MemoryStream.pair(buffered=3)
    stream = attached(ours)
    for data in (frame(1, b"ignored"), frame(2, b"the rea"), frame(2, b"son")):
        await engine.send(data)
    engine.close()
    await stream.drain()
    assert stream.stderr == "the reason"
    ours.close()
