"""A response body becomes a reply, or an error that says why not."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.models.chat import UnusableResponse, read_reply, request_body, utf8_safe
from rlm.models.prices import Price, Pricing
from rlm.models.refusals import error_message, is_too_long
from rlm.types import Message, ModelReply, Usage

ASKED = [Message(role="system", content="be brief"), Message(role="user", content="hello there")]
PRICED = Pricing(base_url="http://127.0.0.1/v1", price=Price(input=1.0, output=10.0))


def body(
    content: object = "hi", usage: object = None, reason: str = "stop", message: object = None, **more: Any
) -> bytes:
    message = {"role": "assistant", "content": content} if message is None else message
    choice = {"index": 0, "finish_reason": reason, "message": message}
    return json.dumps({"model": "m-2026", "choices": [choice], "usage": usage, **more}).encode()


def read(data: bytes, pricing: Pricing = PRICED) -> ModelReply:
    return read_reply(data, messages=ASKED, model="m", pricing=pricing, request_id="req-1")


def usage_of(**counts: object) -> Usage:
    return read(body(usage={"prompt_tokens": 1000, "completion_tokens": 100, **counts})).usage


def test_a_reply_carries_text_reason_model_request_id_and_usage() -> None:
    counts = {
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 600},
        "completion_tokens_details": {"reasoning_tokens": 70},
    }
    assert read(body("hi", counts, reason="length")) == ModelReply(
        text="hi",
        usage=Usage(
            calls=1,
            input_tokens=1000,
            output_tokens=100,
            cached_tokens=600,
            reasoning_tokens=70,
            cost_usd=cast("float", pytest.approx(0.002)),
        ),
        model="m-2026",
        finish_reason="length",
        request_id="req-1",
    )


def test_the_cost_that_the_provider_reports_comes_before_any_price() -> None:
    assert usage_of(cost=0.5).cost_usd == 0.5
    assert usage_of(cost=0).cost_usd == 0.0


@pytest.mark.parametrize("nonsense", [None, "0.5", True, -1, float("nan"), float("inf")])
def test_an_invalid_reported_cost_is_ignored(nonsense: object) -> None:
    assert usage_of(cost=nonsense).cost_usd == pytest.approx(0.002)


@pytest.mark.parametrize("counts", [None, {}, [], {"prompt_tokens": 5}, {"prompt_tokens": -1, "completion_tokens": 1}])
def test_a_server_that_does_not_count_gets_an_estimate_and_an_unknown_cost(counts: object) -> None:
    assert read(body("answer", counts)).usage == Usage(calls=1, input_tokens=2 + 3, output_tokens=2, cost_usd=None)


def test_parts_of_the_usage_are_never_more_than_the_whole() -> None:
    odd = usage_of(prompt_tokens_details={"cached_tokens": 5000}, completion_tokens_details={"reasoning_tokens": 5000})
    assert (odd.cached_tokens, odd.reasoning_tokens) == (1000, 100)
    assert usage_of(prompt_tokens_details=None, completion_tokens_details="?").cached_tokens == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>busy</html>", "sent invalid JSON: '<html>busy</html>'"),
        (body("hi")[:-20], "sent invalid JSON: "),
        (b"[" * 100_000, "sent invalid JSON: "),
        (b"\xff\xfe", "sent invalid JSON: "),
        (b"[]", "sent JSON that is not a chat completion: '[]'"),
        (b"{}", "sent no choices"),
        (b'{"choices": []}', "sent no choices"),
        (b'{"choices": [7]}', "sent no choices"),
        (b'{"error": {"message": "no\\nmore credit"}}', "sent an error instead of a reply: no more credit"),
        (b'{"choices": [{"error": "upstream"}]}', "sent an error instead of a reply: upstream"),
        (body("half", reason="content_filter"), "withheld the reply: its content filter blocked it"),
        (body(message={"content": None, "refusal": "I can't."}), "reported the model's refusal: I can't."),
        (
            body("", reason="length"),
            "sent an empty reply: the output token limit was reached first, perhaps by reasoning",
        ),
        (
            body(message={"content": None, "tool_calls": [{}]}, reason="tool_calls"),
            "sent a tool call instead of text, although the request offered no tools",
        ),
        (body(None), "sent an empty reply (finish reason: stop)"),
        (body("  \n"), "sent an empty reply (finish reason: stop)"),
        (body([{"type": "text"}]), "sent a reply with content of type list instead of text"),
    ],
)
def test_a_response_without_an_answer_says_why(data: bytes, words: str) -> None:
    with pytest.raises(UnusableResponse) as caught:
        read(data)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    "unusable",
    [
        {"reason": "content_filter"},
        {"content": ""},
        {"content": None},
        {"message": {"content": None, "refusal": "No."}},
    ],
)
def test_a_response_without_an_answer_reports_its_usage(unusable: dict[str, Any]) -> None:
    with pytest.raises(UnusableResponse) as caught:
        read(body(usage={"prompt_tokens": 1000, "completion_tokens": 100}, **unusable))
    dollars = cast("float", pytest.approx(0.002))
    assert caught.value.usage == Usage(calls=1, input_tokens=1000, output_tokens=100, cost_usd=dollars)
    with pytest.raises(UnusableResponse) as caught:
        read(body(**unusable))
    assert caught.value.usage is None


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"message": "This model's maximum context length is 8192 tokens.", "code": None}, True),
        (400, {"code": "context_length_exceeded", "message": "Too much."}, True),
        (400, {"message": "the request exceeds the available context size, try increasing it"}, True),
        (413, {"message": "Prompt is too long"}, True),
        (400, {"message": "The input token count (5) exceeds the maximum number of tokens allowed (4)."}, True),
        (400, "input exceeds the context window of this model", True),
        (429, {"message": "the context length of your requests this minute"}, False),
        (400, {"message": "no such model"}, False),
        (400, None, False),
    ],
)
def test_a_prompt_refused_as_too_long_is_distinguished_from_other_errors(
    status: int, error: object, expected: bool
) -> None:
    assert is_too_long(status, error) is expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "message", "content", "usage", "prompt_tokens", "completion_tokens", "cost", "error"]
                ),
                inner,
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_json_a_server_sends_is_a_reply_with_text_or_unusable(value: object) -> None:
    try:
        reply = read(json.dumps(value).encode())
    except UnusableResponse:
        return
    assert reply.text.strip()


def test_surrogates_are_replaced_in_requests_and_replies() -> None:
    assert utf8_safe("a\ud83d\ude00b\ud800c é") == "a\N{GRINNING FACE}b\ufffdc é"
    assert read(b'{"choices": [{"message": {"content": "x\\ud800"}}]}').text == "x\ufffd"
    sent = request_body(
        [Message(role="user", content="\udc80")], model="m", sampling={}, max_tokens=None, max_tokens_field="max_tokens"
    )
    assert json.dumps(sent, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("own", "asked", "sent"), [(None, None, None), (None, 7, 7), (5, 7, 5), (9, 7, 7), (9, None, 9)]
)
def test_the_smaller_token_limit_holds(own: int | None, asked: int | None, sent: int | None) -> None:
    request = request_body(
        ASKED,
        model="m",
        sampling={} if own is None else {"limit": own},
        max_tokens=asked,
        max_tokens_field="limit",
    )
    assert request.get("limit") == sent
    assert request["messages"][0] == {"role": "system", "content": "be brief"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"message": "too\n  long"}, "too long"),
        ({"error": {"message": "nested"}}, "nested"),
        ({"error": "plain"}, "plain"),
        ({"detail": "starlette"}, "starlette"),
        ("<html>", "<html>"),
        ({"code": 7}, '{"code": 7}'),
        (None, ""),
    ],
)
def test_the_words_of_an_error_body_are_found(error: object, words: str) -> None:
    assert error_message(error) == words
