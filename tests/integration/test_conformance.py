"""`rlm doctor --server` finds what a server does differently, and says which settings to use. Over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers.odd_server import Asked, OddServer, Said, serving
from helpers.played_server import Played, completion, refusal
from rlm import cli
from rlm.cli.conformance.advice import Advice, advise
from rlm.cli.conformance.exchange import MAX_QUOTE, Verdict
from rlm.cli.conformance.suite import MAX_REQUESTS, Suite
from rlm.models.openai import OpenAIModel

pytestmark = pytest.mark.anyio
KEY = "sk-of-the-server-0000"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("rlm.cli.conformance.suite.DEFAULT_WAIT_SECONDS", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RLM_MODEL", "RLM_MODEL_OPTIONS", "RLM_SUB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


async def verdicts_of(
    played: Callable[[Asked], Said], *, long: bool = True
) -> tuple[dict[str, Verdict], Advice, OddServer]:
    async with serving(played) as server:
        model = OpenAIModel("m", base_url=server.base_url, api_key=KEY, max_retries=0, rate_limit_seconds=0)
        suite = Suite(model, long=long)
        try:
            verdicts = {part: verdict async for part, verdict in suite.run()}
        finally:
            await model.aclose()
    return verdicts, advise(suite.known, base_url="http://127.0.0.1/v1", model="m"), server


def chat(asked: Asked, containing: str) -> bool:
    return asked.body is not None and containing in asked.body["messages"][-1]["content"]


async def test_a_good_server_needs_no_settings_but_a_limit_for_its_small_window() -> None:
    verdicts, advice, server = await verdicts_of(Played())
    assert {part: verdict.state for part, verdict in verdicts.items()} == dict.fromkeys(
        [
            "models", "reply", "system", "roles", "limit", "fields", "usage", "stream", "text", "code", "at once", "long",
        ],
        "ok",
    )  # fmt: skip
    assert (advice.options, advice.max_concurrent) == ({"max_output_tokens": 2048}, None)
    assert len(server.asked) <= MAX_REQUESTS
    assert all(asked.body["stream"] is False or "stream_options" in asked.body for asked in server.asked if asked.body)


async def test_the_questions_cost_what_was_announced() -> None:
    _, _, server = await verdicts_of(Played(window=128_000))
    sizes = [sum(len(each["content"]) for each in asked.body["messages"]) // 4 for asked in server.asked if asked.body]
    assert (sum(sizes) < 46_000, max(sizes) < 13_000) == (True, True)
    _, _, server = await verdicts_of(Played(window=128_000, states_window=False))
    sizes = [sum(len(each["content"]) for each in asked.body["messages"]) // 4 for asked in server.asked if asked.body]
    assert sum(sizes) < 46_000
    _, _, server = await verdicts_of(Played(), long=False)
    sizes = [sum(len(each["content"]) for each in asked.body["messages"]) // 4 for asked in server.asked if asked.body]
    assert sum(sizes) < 6_000


def only_max_tokens(asked: Asked, said: Said) -> Said | None:
    return refusal("extra_forbidden: max_completion_tokens") if "max_completion_tokens" in (asked.body or {}) else None


def truncating(tokens: int) -> Callable[[Asked, Said], Said | None]:
    """A server that cuts the beginning off, as Ollama does."""

    def odd(asked: Asked, said: Said) -> Said | None:
        size = 0 if asked.body is None else sum(len(each["content"]) for each in asked.body["messages"]) // 4
        return completion("I see no code.", tokens) if size > tokens else None

    return odd


def on_chat(make: Callable[[Asked], Said | None], containing: str = "") -> Callable[[Asked, Said], Said | None]:
    return lambda asked, said: make(asked) if chat(asked, containing) else None


def without_usage(asked: Asked, said: Said) -> Said | None:
    body = said.body if isinstance(said.body, dict) and "usage" in said.body else None
    return None if body is None else Said(body={**body, "usage": None})


def streamed(asked: Asked, said: Said) -> Said | None:
    if asked.body is None:
        return None
    chunk = {"choices": [{"index": 0, "delta": {"content": "ready"}, "finish_reason": "stop"}]}
    data = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    return Said(body=data, headers={"content-type": "text/event-stream"})


def thinking_in_text(asked: Asked, said: Said) -> Said | None:
    if asked.body is None or said.status != 200:
        return None
    assert isinstance(said.body, dict)
    return completion(f"<think>FINAL(1)?</think>{said.body['choices'][0]['message']['content']}")


def once(said: Said) -> Callable[[Asked, Said], Said | None]:
    left = [said]
    return lambda asked, good: left.pop() if asked.body is not None and left else None


CASES: Mapping[str, tuple[Played, str, str, str, dict[str, object]]] = {
    "refuses max_completion_tokens": (
        Played(odd=only_max_tokens), "limit", "note", "obeys max_tokens", {"max_tokens_field": "max_tokens"},
    ),
    "ignores max_completion_tokens": (
        Played(limit_fields=["max_tokens"]), "limit", "note", "ignores max_completion_tokens; obeys max_tokens",
        {"max_tokens_field": "max_tokens"},
    ),
    "ignores both limits": (Played(limit_fields=[]), "limit", "note", "the length of replies is not limited", {}),
    "refuses the system role": (Played(refuses=["system"]), "system", "note", "refuses a system message", {}),
    "refuses temperature and stop": (
        Played(refuses=["temperature", "stop"]), "fields", "note", "refuses temperature, stop", {},
    ),
    "states no window, refuses": (
        Played(states_window=False), "long", "ok", "tokens as too long; the error states 8,192", {"context_window": 8192},
    ),
    "cuts silently": (
        Played(states_window=False, odd=truncating(4096)), "long", "note", "tokens to 4,096 without an error",
        {"context_window": 4096},
    ),
    "cuts below the stated window": (
        Played(odd=truncating(2048)), "long", "note", "tokens to 2,048 without an error, although the window is 8,192",
        {"context_window": 2048},
    ),
    "refuses in unknown words": (
        Played(window=4096, odd=on_chat(
            lambda asked: refusal("zu viel") if len(asked.body["messages"][-1]["content"]) > 16_384 else None
        )), "long", "note", "with a message that rlm does not recognize (400 zu viel)", {},
    ),
    "counts nothing": (Played(odd=without_usage), "usage", "note", "sends no counts", {}),
    "counts nonsense": (
        Played(odd=on_chat(lambda asked: completion("done", 0), "Entry 1:")), "usage", "note", "counts 0 tokens", {},
    ),
    "calls tools unasked": (
        Played(odd=on_chat(lambda asked: completion("", tool_calls=[{"function": {}}]), "lines does")), "code", "note",
        "answers with a tool call", {},
    ),
    "writes no code": (
        Played(odd=on_chat(lambda asked: completion("17"), "lines does")), "code", "note", "too weak", {},
    ),
    "garbles other scripts": (
        Played(odd=on_chat(lambda asked: completion("ZaÅ¼Ã³"), "Repeat exactly")), "text", "note", "garbles", {},
    ),
    "thinks in the text": (Played(odd=thinking_in_text), "thinks", "note", "in the text", {}),
    "thinks apart": (
        Played(odd=on_chat(lambda asked: completion("ready", reasoning_content="hm"), "ready")), "thinks", "ok",
        "apart from the text, in reasoning_content", {},
    ),
    "sends empty replies": (
        Played(odd=on_chat(lambda asked: completion(""), "Which fruit")), "empty", "note", "1 of", {},
    ),
    "limits the rate once": (
        Played(odd=once(refusal("slow down", 429, **{"retry-after": "0"}))), "rate", "note",
        "answered 429 1 times, Retry-After: 0", {},
    ),
    "refuses two user messages in a row": (
        Played(odd=lambda asked, said: refusal("roles must alternate") if asked.body and [
            each["role"] for each in asked.body["messages"]] == ["user", "user"] else None),
        "roles", "note", "refuses two user messages in a row (400 roles must alternate)", {},
    ),
    "has no list of models": (
        Played(states_window=False, odd=lambda asked, said: None if asked.body else refusal("no", 404)), "models", "note",
        "has no list of models", {"context_window": 8192},
    ),
    "lists other models": (
        Played(odd=lambda asked, said: None if asked.body else Said(body={"data": [{"id": "a"}, {"id": "b"}]})), "models",
        "note", "lists a, b, but not m", {"context_window": 8192},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_an_oddity_is_found_and_answered_with_a_setting(case: str) -> None:
    played, part, state, text, options = CASES[case]
    verdicts, advice, _ = await verdicts_of(played)
    assert (verdicts[part].state, text in verdicts[part].text) == (state, True), verdicts[part]
    assert {name: value for name, value in advice.options.items() if name != "max_output_tokens"} == options
    assert not any(verdict.state == "problem" for verdict in verdicts.values())


async def test_a_server_that_answers_in_turn_gets_fewer_requests_at_once() -> None:
    waiting = 0

    def odd(asked: Asked, said: Said) -> Said | None:
        nonlocal waiting
        if not chat(asked, "Count from 1 to 40 in digits."):
            return None
        waiting += 1
        return Said(body=said.body, seconds=0.4 * max(1, waiting - 1))

    verdicts, advice, _ = await verdicts_of(Played(odd=odd))
    assert (verdicts["at once"].state, "answered in turn" in verdicts["at once"].text) == ("note", True)
    assert advice.max_concurrent == 4


@pytest.mark.parametrize(
    ("odd", "part", "text"),
    [
        (lambda asked, said: refusal("bad key", 401), "models", "refuses the key (401 bad key): check OPENAI_API_KEY"),
        (
            lambda asked, said: refusal("no such model", 404) if asked.body else None,
            "reply",
            "404 no such model: check the",
        ),
        (lambda asked, said: Said(body=b"<html>", status=200) if asked.body else None, "reply", "invalid JSON"),
        (lambda asked, said: refusal(f"bad {KEY}", 500) if asked.body else None, "reply", "500 bad [key]"),
        (on_chat(lambda asked: completion("")), "reply", "empty reply"),
    ],
    ids=["401", "404", "html", "500", "always empty"],
)
async def test_a_server_that_cannot_be_used_is_a_problem_and_asked_no_more(odd: Any, part: str, text: str) -> None:
    verdicts, _, server = await verdicts_of(Played(odd=odd))
    assert list(verdicts)[-1] == part or part in verdicts
    assert (verdicts[part].state, text in verdicts[part].text) == ("problem", True), verdicts[part]
    assert len(server.asked) <= 7  # an outage is asked twice more


@pytest.mark.parametrize("before", range(MAX_QUOTE - 40, MAX_QUOTE, 3))
@pytest.mark.parametrize("quote", [str, lambda key: key.replace("-", "\\u002d")], ids=["plain", "escaped"])
async def test_a_key_that_a_server_echoes_is_not_cut_in_half(quote: Callable[[str], str], before: int) -> None:
    echo = f'{{"error": {{"message": "{"x" * before}{quote(KEY)} is no key"}}}}'.encode()
    verdicts, _, _ = await verdicts_of(Played(odd=lambda asked, said: Said(body=echo, status=401)))
    assert KEY[:4] not in verdicts["models"].text


async def test_a_server_that_streams_unasked_is_found_whether_or_not_its_stream_can_be_read() -> None:
    verdicts, _, _ = await verdicts_of(Played(odd=streamed))
    assert verdicts["reply"].state != "ok"
    assert "streams, although the request says `stream: false`" in verdicts["reply"].text


async def test_an_unreachable_server_is_a_problem() -> None:
    suite = Suite(OpenAIModel("m", base_url="http://127.0.0.1:9/v1", max_retries=0))
    verdicts = {part: verdict async for part, verdict in suite.run()}
    await suite.model.aclose()
    assert [(part, verdict.state) for part, verdict in verdicts.items()] == [("models", "problem")]
    assert "cannot be reached" in verdicts["models"].text


async def doctor(base_url: str, *arguments: str) -> Any:
    """Run the command in a thread, which has no event loop."""
    call = partial(CliRunner().invoke, cli.app, ["doctor", "--server", base_url, *arguments])
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def test_the_command_prints_verdicts_and_the_settings_to_use() -> None:
    async with serving(Played(states_window=False, limit_fields=["max_tokens"])) as server:
        done = await doctor(server.base_url)
    assert done.exit_code == 0, done.output
    shown = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8080", re.sub(r"\d+\.\d s", "0.0 s", done.output))
    assert shown == GOLDEN


async def test_the_command_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    async with serving(Played()) as server:
        done = await doctor(server.base_url, "--json", "--key-from", "MY_KEY", "--skip-long-prompt")
        assert all(asked.headers["authorization"] == f"Bearer {KEY}" for asked in server.asked)
    found = json.loads(done.output)
    assert (done.exit_code, found["model"], found["server"]) == (0, "m", server.base_url)
    assert {each["state"] for each in found["findings"]} == {"ok"}
    assert found["settings"]["model_options"] == {"max_output_tokens": 2048}
    assert found["usage"]["requests"] == len(server.asked) - 1  # the first asked for the name of the only model


async def test_a_useless_server_exits_1_without_settings() -> None:
    async with serving(lambda asked: refusal("bad key", 401)) as server:
        done = await doctor(server.base_url, "--model", "m")
    assert (done.exit_code, "Settings to use" in done.output) == (1, False)
    assert "cannot run with this server" in done.output


async def test_the_name_of_the_model_is_asked_for_if_it_is_not_evident() -> None:
    listing = Said(body={"data": [{"id": "a"}, {"id": "b"}]})
    async with serving(lambda asked: listing) as server:
        done = await doctor(server.base_url)
    assert str(done.exception) == "Missing model: name it with --model. The server lists: a, b."


GOLDEN = """\
Model m at http://127.0.0.1:8080/v1
At most 25 requests and 46,000 input tokens (6,000 with --skip-long-prompt).
Usually a few hundred output tokens; 25,600 at most, if the model thinks.

✓ models  lists m, states no window
✓ reply   'ready' in 0.0 s
✓ system  takes a system message, and the model obeys it
✓ roles   takes two user messages in a row, and takes one of the model at the end
! limit   ignores max_completion_tokens; obeys max_tokens
✓ fields  takes temperature, top_p, seed, stop, reasoning_effort
✓ usage   counts tokens, 4.0 characters each
✓ stream  sends no stream; rlm asks for none
✓ text    other scripts and a long line return unchanged
✓ code    writes a code block when told how
✓ at once 4 at once took 0.0 s, one alone 0.0 s
✓ long    refuses one of 24,000 tokens as too long; the error states 8,192

Settings to use, in .env (in a shell, with `export`):

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1
    RLM_MODEL=m
    RLM_MODEL_OPTIONS='{"context_window": 8192, "max_output_tokens": 2048, "max_tokens_field": "max_tokens"}'

or in rlm.toml, with OPENAI_BASE_URL as above:

    model = "m"

    [model_options]
    context_window = 8192            # the server does not state it
    max_output_tokens = 2048         # a quarter of the window, so that no reply fills it
    max_tokens_field = "max_tokens"  # the server does not obey max_completion_tokens

or in Python:

    OpenAIModel(
        'm',
        base_url='http://127.0.0.1:8080/v1',
        context_window=8192,
        max_tokens_field='max_tokens',
        sampling={'max_tokens': 2048},
    )

24 requests, 11,947 input and 231 output tokens.
"""
