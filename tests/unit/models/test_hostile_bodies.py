"""Bodies that no sane server sends are read without an exception, in a moment, and without impossible numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from rlm.models.adapt import Accepted
from rlm.models.chat import UnusableResponse, read_reply
from rlm.models.prices import Pricing
from rlm.models.refusals import (
    body_of,
    error_message,
    hidden_error,
    is_loading,
    is_too_long,
    room_for_reply,
    stated_window,
)
from rlm.models.stream import StreamCutOff, decode
from rlm.types import Message

ASKED = [Message(role="user", content="hello")]
SENT = {"model": "m", "messages": [{"role": "user", "content": "u"}], "stream": False, "top_p": 1, "max_tokens": 9}
INT64 = 2**63
LEVELS = (9, 90, 600, 3_000, 100_000)


def nested(before: str, after: str) -> Callable[[int], str]:
    return lambda levels: before * levels + "1" + after * levels


def reply(message: str, **more: str) -> str:
    fields = "".join(f', "{name}": {value}' for name, value in more.items())
    return f'{{"choices": [{{"message": {message}, "finish_reason": "stop"}}]{fields}}}'


LISTS, OBJECTS, CONTENTS = nested("[", "]"), nested('{"a":', "}"), nested('[{"content":', "}]")
DEEP: dict[str, Callable[[int], str]] = {
    "error in error": nested('{"error":', "}"),
    "detail in detail": nested('{"detail":', "}"),
    "message in message": nested('{"message":', "}"),
    "lists": LISTS,
    "error of lists": lambda levels: f'{{"error": {LISTS(levels)}}}',
    "code of lists": lambda levels: f'{{"error": {{"code": {LISTS(levels)}, "message": "x"}}}}',
    "reasoning of lists": lambda levels: reply(f'{{"content": "hi", "reasoning": {LISTS(levels)}}}'),
    "content of contents": lambda levels: reply(f'{{"content": {CONTENTS(levels)}}}'),
    "type of lists": lambda levels: reply(f'{{"content": [{{"type": {LISTS(levels)}}}]}}'),
    "usage of usages": lambda levels: reply('{"content": "hi"}', usage=OBJECTS(levels)),
    "finish reason of lists": lambda levels: f'{{"choices": [{{"finish_reason": {LISTS(levels)}}}]}}',
    "tool call": lambda levels: reply(
        f'{{"tool_calls": [{{"function": {{"name": "f", "arguments": {LISTS(levels)}}}}}]}}'
    ),
    "tool call in text": lambda levels: reply(
        f'{{"tool_calls": [{{"function": {{"name": "f", "arguments": "{LISTS(levels)}"}}}}]}}'
    ),
    "stream": lambda levels: "".join(
        f'data: {{"choices": [{{"delta": {{"content": "hi"}}}}], "usage": {OBJECTS(levels)}}}\n\n' for _ in range(3)
    ),
}
WIDE = {
    "huge cost": reply(
        '{"content": "hi"}', usage=f'{{"prompt_tokens": 1, "completion_tokens": 1, "cost": {"9" * 401}}}'
    ),
    "huge counts": reply('{"content": "hi"}', usage=f'{{"prompt_tokens": {INT64}, "completion_tokens": {10**400}}}'),
    "huge total": reply('{"content": "hi"}', usage=f'{{"prompt_tokens": 1, "total_tokens": {INT64}}}'),
    "infinite cost": reply('{"content": "hi"}', usage='{"prompt_tokens": 1, "completion_tokens": 1, "cost": Infinity}'),
    "huge digits": f'{{"error": {{"code": {"9" * 5_000}}}}}',
    "page of titles": "<html>" + "<title>" * 300_000,
    "stream of many counts": "".join(
        f'data: {{"choices": [{{"delta": {{"content": "hi"}}}}], "usage": {{"n{n}": 1}}}}\n\n' for n in range(10_000)
    )
    + "data: [DONE]\n\n",
}
HOSTILE = {f"{name}, {levels}": make(levels) for name, make in DEEP.items() for levels in LEVELS} | WIDE


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_is_read_without_an_exception(text: str) -> None:
    content, began = text.encode(), time.process_time()
    with suppress(UnusableResponse):
        usage = read_reply(
            content, messages=ASKED, model="m", pricing=Pricing(base_url="http://127.0.0.1/v1"), request_id=None
        ).usage
        assert max(usage.input_tokens, usage.output_tokens, usage.cost_usd or 0) < 1e9 + 1
    with suppress(ValueError, StreamCutOff):
        hidden = hidden_error(decode(content))
        assert hidden is None or json.dumps(hidden.body)
    refusal = body_of(content)
    assert isinstance(error_message(refusal), str)
    assert (str(refusal), is_too_long(400, refusal), is_loading(503, refusal)) is not None
    room_for_reply(refusal)
    Accepted().learn(400, refusal, sent=SENT)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("levels", [9, 600, 5_000])
@pytest.mark.parametrize(
    "wrap", [lambda inner: [inner], lambda inner: {"error": inner}, lambda inner: {"message": inner}]
)
def test_a_deep_error_is_read_without_an_exception(wrap: Callable[[object], object], levels: int) -> None:
    error: object = "x"
    for _ in range(levels):
        error = wrap(error)
    error_message(error)
    hidden_error(error)
    is_too_long(400, error)
    Accepted().learn(400, error, sent=SENT)


@pytest.mark.parametrize("value", [True, 1, 0, -5, 255, 10**30, 1_000_000_001])
def test_a_number_that_no_window_has_is_none(value: Any) -> None:
    assert stated_window({"error": {"n_ctx": value}}) is None
    assert stated_window({"error": {"message": f"the maximum context length is {int(value)} tokens"}}) is None
    assert stated_window({"error": {"n_ctx": value, "message": "the context length is 8192 tokens"}}) == 8192
