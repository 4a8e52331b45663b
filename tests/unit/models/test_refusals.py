"""Properties of what is read in refusals. Their words are in tests/corpus/responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.models.adapt import Accepted
from rlm.models.refusals import (
    body_of,
    error_message,
    hidden_error,
    is_loading,
    is_too_long,
    output_limit,
    room_for_reply,
    stated_window,
    words_of,
)

PHRASES = (
    "context length",
    "prompt is too long",
    "max_tokens",
    "exceeds",
    "maximum limit",
    "8192",
    "131,072 tokens",
    "[1, 4096]",
    "> 200",
    "reduce the messages",
    "unsupported",
    "unknown parameter",
    "temperature",
    "'stop'",
    "system role not supported",
    "roles must alternate",
    "Loading model",
)
WORDS = st.sampled_from(PHRASES)
SENTENCES = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=40)
ERRORS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SENTENCES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "code", "type", "param", "detail", "loc", "msg", "metadata", "raw", "n_ctx"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)
SENT = {
    "model": "m",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "stream": False,
    "temperature": 0.5,
    "stop": ["x"],
    "max_completion_tokens": 9_000,
}


@given(body=ERRORS, status=st.sampled_from([200, 400, 401, 404, 413, 422, 429, 500, 502, 503]))
def test_whatever_a_server_refuses_with_is_read_without_an_exception(body: Any, status: int) -> None:
    assert isinstance(error_message(body), str)
    assert isinstance(is_too_long(status, body), bool)
    assert isinstance(is_loading(status, body), bool)
    assert "\n" not in words_of(body)
    for tokens in (stated_window(body), output_limit(body)):
        assert tokens is None or tokens > 0
    room_for_reply(body)
    hidden = hidden_error(body)
    assert hidden is None or 400 <= hidden.status < 600
    body_of(json.dumps(body).encode())


@given(bodies=st.lists(ERRORS, max_size=12))
def test_what_is_learnt_grows_and_ends_and_keeps_the_conversation(bodies: list[Any]) -> None:
    accepted, changes = Accepted(), 0
    for body in bodies:
        sent = accepted.apply(SENT, limit_field="max_completion_tokens")
        learnt = accepted.learn(400, body, sent=sent)
        if learnt is None:
            continue
        accepted, change = learnt
        changes += 1
        assert change
        assert accepted.apply(SENT, limit_field="max_completion_tokens") != sent
    body = accepted.apply(SENT, limit_field="max_completion_tokens")
    assert changes <= 8
    assert body["model"] == "m"
    assert "".join(message["content"] for message in body["messages"]).replace("\n", "") == "su"


def test_nothing_is_learnt_of_what_was_not_sent() -> None:
    refusal = {"error": {"message": "Unsupported parameter: 'top_p'"}}
    assert Accepted().learn(400, refusal, sent=SENT) is None


def test_what_an_error_echoes_of_the_request_is_not_read() -> None:
    prompt = "This model's maximum context length is 8192 tokens."
    echo = {"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "Field required", "input": prompt}]}
    assert not is_too_long(422, echo)
    assert is_too_long(422, {"detail": prompt})


@pytest.mark.parametrize(
    "text", ["prompt " * 20_000, "max_tokens " * 20_000, "1 " * 50_000, "[" * 100_000, "context length " * 20_000]
)
def test_a_long_error_is_read_in_a_moment(text: str) -> None:
    for body in (text, {"error": {"message": text}}):
        assert len(words_of(body)) <= 8_000
        is_too_long(400, body)
        stated_window(body)
        output_limit(body)
        Accepted().learn(400, body, sent=SENT)
