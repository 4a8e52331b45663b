"""A response body is decoded, or said to be cut off: never half of a reply."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.models.stream import StreamCutOff, decode

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": reason}
    return json.dumps({"choices": [choice]}, ensure_ascii=False)


@given(
    pieces=st.lists(TEXTS, max_size=6),
    reasoning=st.lists(TEXTS, max_size=3),
    comments=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    space=st.sampled_from(["", " "]),
    done=st.booleans(),
)
def test_the_pieces_of_a_stream_are_joined_in_order(
    pieces: list[str], reasoning: list[str], comments: bool, line_end: str, space: str, done: bool
) -> None:
    chunks = [chunk({"reasoning_content": text}) for text in reasoning] + [chunk({"content": text}) for text in pieces]
    events = [f"data:{space}{event}" for event in [*chunks, chunk(reason="stop"), *(["[DONE]"] if done else [])]]
    if comments:
        events = [line for event in events for line in (": keep-alive", event)]
    decoded: Any = decode((2 * line_end).join([*events, ""]).encode())
    (choice,) = decoded["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"].get("content", "") == "".join(pieces)
    assert choice["message"].get("reasoning_content", "") == "".join(reasoning)


@given(pieces=st.lists(TEXTS, min_size=1, max_size=6), data=st.data())
def test_a_stream_that_ends_anywhere_before_its_end_is_cut_off(pieces: list[str], data: st.DataObject) -> None:
    whole = "".join(f"data: {chunk({'content': text})}\n\n" for text in pieces).encode()
    end = data.draw(st.integers(len("data:"), len(whole)))
    with pytest.raises(StreamCutOff):
        decode(whole[:end])


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"data: {text}".encode(errors="replace")))
def test_whatever_bytes_a_server_sends_are_decoded_or_refused(body: bytes) -> None:
    with contextlib.suppress(ValueError, StreamCutOff):
        decode(body)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"data: " + b"[" * 100_000 + b"\n\ndata: 1\n\n"])
def test_deep_nesting_is_no_crash(body: bytes) -> None:
    with pytest.raises((ValueError, StreamCutOff)):
        decode(body)


def test_a_stream_of_a_megabyte_in_small_pieces_is_joined_in_linear_time() -> None:
    body = b"".join(f"data: {chunk({'content': 'x'})}\n\n".encode() for _ in range(20_000)) + b"data: [DONE]\n\n"
    decoded: Any = decode(body)
    assert decoded["choices"][0]["message"]["content"] == "x" * 20_000
