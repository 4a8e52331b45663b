"""OpenAIModel against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import statistics
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import openai
import pytest

from rlm.config import MIB
from rlm.errors import ContextTooLong, EmptyReply, ModelError
from rlm.models.gate import Gate
from rlm.models.openai import OpenAIModel
from rlm.models.prices import Price
from rlm.testing import FakeProvider, Fault, RateLimited, Reply, in_order
from rlm.types import Message, ModelReply, Usage

KEY = "sk-proj-0123456789abcdef/+"
HELLO = [Message(role="user", content="hello")]
pytestmark = [pytest.mark.anyio, pytest.mark.serial]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def echo(messages: Sequence[Mapping[str, Any]], model: str) -> str:
    return f"{model}: {messages[-1]['content']}"


async def ask(model: OpenAIModel, prompt: str = "hello") -> ModelReply:
    try:
        return await model.complete([Message(role="user", content=prompt)])
    finally:
        await model.aclose()


async def failure(model: OpenAIModel) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await ask(model)
    return caught.value


async def test_a_reply_has_the_text_and_the_usage_that_the_server_counted() -> None:
    sent = Reply(text="42", input_tokens=900, output_tokens=80, cached_tokens=500, reasoning_tokens=64, cost=0.25)
    async with FakeProvider(in_order(sent)) as provider:
        reply = await ask(OpenAIModel("m", base_url=provider.base_url))
    assert reply == ModelReply(
        text="42",
        usage=Usage(calls=1, input_tokens=900, output_tokens=80, cached_tokens=500, reasoning_tokens=64, cost_usd=0.25),
        model="m",
        finish_reason="stop",
        request_id="req-1",
    )


async def test_an_unknown_cost_is_none_and_a_users_price_makes_it_known() -> None:
    async with FakeProvider("ok") as provider:
        unknown = await ask(OpenAIModel("gpt-5", base_url=provider.base_url))
        known = await ask(OpenAIModel("m", base_url=provider.base_url, price=Price(input=1e6, output=2e6)))
    assert unknown.usage.cost_usd is None
    assert known.usage.cost_usd == 2 * 1 + 1 * 2


async def test_a_server_that_does_not_count_gets_an_estimate() -> None:
    async with FakeProvider(in_order(Reply(text="answer", usage=False))) as provider:
        reply = await ask(OpenAIModel("m", base_url=provider.base_url, price=Price(input=1, output=1)))
    assert reply.usage == Usage(calls=1, input_tokens=2, output_tokens=2, cost_usd=None)


async def test_sampling_arguments_arrive_as_they_were_given() -> None:
    sampling = {
        "temperature": 0.2,
        "reasoning_effort": "low",
        "extra_body": {"top_k": 5},
        "extra_headers": {"X-Team": "blue"},
        "extra_query": {"api-version": "7"},
    }
    async with FakeProvider("ok") as provider:
        model = OpenAIModel(
            "m", base_url=provider.base_url, api_key=KEY, sampling=sampling, max_tokens_field="max_tokens"
        )
        await model.complete(
            [Message(role="system", content="s"), Message(role="user", content="é\0\r\n")], max_tokens=9
        )
        await model.aclose()
    (request,) = provider.requests
    assert request.path == "/v1/chat/completions?api-version=7"
    assert request.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "é\0\r\n"}],
        "temperature": 0.2,
        "reasoning_effort": "low",
        "top_k": 5,
        "max_tokens": 9,
        "stream": False,
    }
    assert (request.headers["authorization"], request.headers["x-team"]) == (f"Bearer {KEY}", "blue")


async def test_lone_surrogates_arrive_as_replacement_characters() -> None:
    async with FakeProvider(echo) as provider:
        assert (await ask(OpenAIModel("m", base_url=provider.base_url), "a\ud800b")).text == "m: a\ufffdb"


async def test_passing_errors_are_retried_as_the_server_asks() -> None:
    busy = Fault(status=429, headers={"retry-after-ms": "20"}, body={"error": {"message": "slow down"}})
    async with FakeProvider(in_order(busy, Fault(status=500, headers={"retry-after-ms": "20"}), "ok")) as provider:
        reply = await ask(OpenAIModel("m", base_url=provider.base_url))
    assert (reply.text, len(provider.requests)) == ("ok", 3)


@pytest.mark.parametrize("sent", ["nothing", "headers", "half"])
async def test_a_dropped_connection_is_retried(sent: Any) -> None:
    async with FakeProvider(in_order(Fault(sent=sent, body=b"{ }", then="drop"), "ok")) as provider:
        assert (await ask(OpenAIModel("m", base_url=provider.base_url))).text == "ok"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            Fault(status=409, headers={"retry-after-ms": "1"}, body={"error": {"message": "slow\ndown"}}),
            "answered 409 Conflict after 3 attempts: slow down",
        ),
        (
            Fault(status=503, headers={"retry-after-ms": "1"}, body=b"<html>"),
            "answered 503 Service Unavailable after 3 attempts: <html>",
        ),
        (
            Fault(status=400, body={"error": {"message": "prompt too long"}}),
            "answered 400 Bad Request: prompt too long",
        ),
    ],
)
async def test_a_persistent_error_status_is_an_error_of_one_sentence(fault: Fault, sentence: str) -> None:
    async with FakeProvider(in_order(fault)) as provider:
        error = await failure(OpenAIModel("m", base_url=provider.base_url))
        assert str(error).removeprefix(f"The model server {provider.base_url[7:-3]} ") == sentence
    assert error.status == fault.status
    assert error.request_id == f"req-{len(provider.requests)}"
    assert isinstance(error.__cause__, openai.APIStatusError)


@pytest.mark.parametrize("sent", ["nothing", "headers", "half"])
async def test_a_connection_that_is_always_dropped_is_an_error_of_one_sentence(sent: Any) -> None:
    async with FakeProvider(in_order(Fault(sent=sent, body=b"{ }", then="drop"))) as provider:
        error = await failure(OpenAIModel("m", base_url=provider.base_url, max_retries=1))
    assert str(error).endswith("closed the connection before its response was complete after 2 attempts")
    assert (error.status, len(provider.requests)) == (None, 2)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(sent="nothing", then="hang"),
        Fault(sent="headers", body=b"{}", then="hang"),
        Fault(sent="half", body=b"{ }", then="hang"),
        Fault(sent="headers", then="trickle"),
    ],
)
async def test_a_server_that_hangs_or_sends_blanks_for_ever_is_abandoned_at_the_time_limit(fault: Fault) -> None:
    async with FakeProvider(in_order(fault)) as provider:
        started = time.perf_counter()
        error = await failure(OpenAIModel("m", base_url=provider.base_url, timeout=0.3, max_retries=0))
        seconds = time.perf_counter() - started
    assert str(error).endswith("gave no complete response within 0.3 s")
    assert 0.3 <= seconds < 1.5


async def test_a_hang_is_retried() -> None:
    async with FakeProvider(in_order(Fault(sent="nothing", then="hang"), "ok")) as provider:
        assert (await ask(OpenAIModel("m", base_url=provider.base_url, timeout=0.3))).text == "ok"


async def test_an_unreachable_server_is_an_error_of_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for retries in (0, 1):
        error = await failure(OpenAIModel("m", base_url=f"http://127.0.0.1:{port}/v1", max_retries=retries))
        assert str(error).startswith(f"The model server 127.0.0.1:{port} cannot be reached (")
        assert error.usage == Usage()  # known to be free


async def test_a_lost_reply_may_be_billed_even_if_the_retry_reaches_no_server() -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        server.close()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        writer.close()

    server = await asyncio.start_server(dies, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    error = await failure(OpenAIModel("m", base_url=f"http://127.0.0.1:{port}/v1", max_retries=1))
    assert "cannot be reached" in str(error)
    assert error.usage is None


async def test_a_server_that_does_not_speak_http_is_an_error_of_one_sentence() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail ready\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(OpenAIModel("m", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0))
    assert str(error).endswith("closed the connection before its response was complete")


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (Fault(body=b'{"choices": ['), "sent invalid JSON: "),
        (Fault(body={"error": {"message": "upstream died"}}), "sent an error instead of a reply: upstream died"),
        (Reply(text="half", finish_reason="content_filter"), "withheld the reply"),
        (Reply(text=None, refusal="I will not."), "reported the model's refusal: I will not."),
        (Reply(text="", finish_reason="length"), "sent an empty reply: the output token limit was reached first"),
        (Reply(text=None), "sent an empty reply (finish reason: stop)"),
    ],
)
async def test_a_response_without_an_answer_is_an_error_and_never_an_empty_answer(
    response: Reply | Fault, words: str
) -> None:
    async with FakeProvider(in_order(response)) as provider:
        error = await failure(OpenAIModel("m", base_url=provider.base_url))
        assert str(error).startswith(f"The model server {provider.base_url[7:-3]} {words}")
    assert (error.status, error.request_id) == (200, "req-1")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=401, body={"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY}}),
        Fault(status=400, body=f"<p>{'x' * 355}{KEY}</p>".encode()),  # where the message is clipped
        Fault(status=403, body=[f"Bearer {KEY}"]),
        Fault(body=f"your header was: Bearer {KEY}".encode()),
        Fault(body={"error": {"message": KEY}}),
        Fault(sent="nothing", then="drop"),
        Fault(sent="nothing", then="hang"),
    ],
)
async def test_no_key_is_in_the_text_of_an_error_or_in_a_log(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    header_key = "hk-0123456789abcdef"
    if isinstance(fault.body, dict):
        fault.body["header"] = header_key
    async with FakeProvider(in_order(fault)) as provider:
        model = OpenAIModel(
            "m",
            base_url=provider.base_url,
            api_key=KEY,
            timeout=0.3,
            max_retries=1,
            sampling={"extra_headers": {"x-gateway-key": header_key}},
        )
        error = await failure(model)
    assert provider.requests[0].headers["x-gateway-key"] == header_key
    shown = "".join(traceback.format_exception(error)) + repr(error) + caplog.text
    assert KEY[:12] not in shown
    assert header_key not in shown


@pytest.mark.parametrize("then", ["keep", "drop"])
async def test_no_key_in_a_url_or_an_echoed_header_is_in_the_text_of_an_error(then: Any) -> None:
    fault = Fault(
        status=403, headers={"x-echo": KEY}, body={"message": "no: /v1?k=sk-proj-0123456789abcdef%2F%2B"}, then=then
    )
    async with FakeProvider(in_order(fault)) as provider:
        error = await failure(OpenAIModel("m", base_url=provider.base_url, sampling={"extra_query": {"k": KEY}}))
    assert KEY[:12] in provider.requests[0].path
    assert KEY[:12] not in "".join(traceback.format_exception(error)) + repr(error)


async def test_a_cancelled_call_releases_its_slot_and_connection() -> None:
    async with FakeProvider(in_order(Fault(sent="nothing", then="hang"), "ok")) as provider:
        model = OpenAIModel("m", base_url=provider.base_url, max_concurrency=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.complete(HELLO), 0.2)
        assert (await asyncio.wait_for(ask(model), 5)).text == "ok"


async def test_a_queue_longer_than_the_time_limit_costs_no_call() -> None:
    async with FakeProvider("ok", latency=0.15) as provider:
        model = OpenAIModel("m", base_url=provider.base_url, max_concurrency=1, timeout=0.5, max_retries=0)
        replies = await asyncio.gather(*(model.complete(HELLO) for _ in range(6)))
        await model.aclose()
    assert [reply.text for reply in replies] == ["ok"] * 6


async def test_many_calls_share_a_bounded_number_of_connections_and_keep_their_order() -> None:
    async with FakeProvider(echo, latency=0.005) as provider:
        model = OpenAIModel("m", base_url=provider.base_url, max_concurrency=16)
        replies = await asyncio.gather(
            *(model.complete([Message(role="user", content=str(number))]) for number in range(300))
        )
        await model.aclose()
        assert (provider.connections, provider.max_concurrent) == (16, 16)
    assert [reply.text for reply in replies] == [f"m: {number}" for number in range(300)]
    assert sum(reply.usage.input_tokens for reply in replies) == provider.input_tokens
    assert sum(reply.usage.output_tokens for reply in replies) == provider.output_tokens


def test_one_model_serves_several_event_loops_at_once_and_in_turn(recwarn: pytest.WarningsRecorder) -> None:
    with FakeProvider(echo, latency=0.01) as provider:
        model = OpenAIModel("m", base_url=provider.base_url, max_concurrency=4)
        texts: list[str] = []

        async def use(name: str) -> None:
            replies = await asyncio.gather(*(model.complete([Message(role="user", content=name)]) for _ in range(20)))
            await model.aclose()
            await model.aclose()  # nothing is open: no effect
            texts.extend(reply.text for reply in replies)

        threads = [threading.Thread(target=asyncio.run, args=[use(name)]) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(use("d"))
        asyncio.run(use("e"))
    assert sorted(texts) == sorted(f"m: {name}" for name in "abcde" for _ in range(20))
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


async def clocked(call: Callable[[], Awaitable[object]], *, calls: int, clock: Callable[[], float]) -> float:
    started = clock()
    await asyncio.gather(*(call() for _ in range(calls)))
    return clock() - started


def bare_client(provider: FakeProvider, concurrency: int) -> tuple[openai.AsyncOpenAI, Callable[[], Awaitable[object]]]:
    """The bare client as documented, at the same concurrency."""
    client = openai.AsyncOpenAI(base_url=provider.base_url, api_key="unused")
    slots = asyncio.Semaphore(concurrency)

    async def call() -> object:
        async with slots:
            return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])

    return client, call


@pytest.mark.long
@pytest.mark.timeout(240)  # mostly the bare client: 13 s in total with openai 3.x, 40 s with 2.x
async def test_1000_calls_take_at_most_1_3_times_as_long_as_with_the_bare_client() -> None:
    with FakeProvider("ok", latency=0.05) as provider:
        model = OpenAIModel("m", base_url=provider.base_url, max_concurrency=64)
        client, bare = bare_client(provider, 64)
        ours, theirs = [], []
        for _ in range(3):
            theirs.append(await clocked(bare, calls=1000, clock=time.perf_counter))
            ours.append(await clocked(lambda: model.complete(HELLO), calls=1000, clock=time.perf_counter))
        await model.aclose()
        await client.close()
    assert statistics.median(ours) <= 1.3 * statistics.median(theirs), f"seconds: ours {ours}, bare {theirs}"


async def test_a_call_costs_at_most_a_tenth_of_a_millisecond_more_cpu_time_than_with_the_bare_client() -> None:
    with FakeProvider("ok") as provider:  # in another thread, which `thread_time` here does not count
        model = OpenAIModel("m", base_url=provider.base_url, max_concurrency=16)
        client, bare = bare_client(provider, 16)
        ours, theirs = [], []
        for _ in range(5):
            theirs.append(await clocked(bare, calls=100, clock=time.thread_time) / 100)
            ours.append(await clocked(lambda: model.complete(HELLO), calls=100, clock=time.thread_time) / 100)
        await model.aclose()
        await client.close()
    assert statistics.median(ours) <= statistics.median(theirs) + 0.0001, f"seconds: ours {ours}, bare {theirs}"


@pytest.mark.parametrize("tells", [True, False])
async def test_a_batch_is_answered_in_full_by_a_server_that_lets_few_requests_through(tells: bool) -> None:
    """A provider that admits 10 requests per 0.4 seconds, and a batch of 60."""
    behaviour = RateLimited(echo, requests=10, seconds=0.4, send_retry_after=tells)
    async with FakeProvider(behaviour) as provider:
        model = OpenAIModel("m", base_url=provider.base_url)
        asked = [[Message(role="user", content=str(number))] for number in range(60)]
        replies = await asyncio.gather(*(model.complete(messages) for messages in asked))
        await model.aclose()
    assert [reply.text for reply in replies] == [f"m: {number}" for number in range(60)]
    assert len(provider.requests) < 4 * 60, "it was asked too often while it let nobody through"


async def test_a_call_is_retried_as_long_as_others_are_answered() -> None:
    """It takes 6 periods of 0.2 s, longer than `rate_limit_seconds`, which counts from the latest reply."""
    behaviour = RateLimited(echo, requests=2, seconds=0.2)
    async with FakeProvider(behaviour) as provider:
        model = OpenAIModel("m", base_url=provider.base_url, max_concurrency=12, rate_limit_seconds=0.5)
        replies = await asyncio.gather(*(model.complete(HELLO) for _ in range(12)))
        await model.aclose()
    assert len(replies) == 12


async def test_a_server_that_refuses_every_call_is_abandoned_after_the_rate_limit_time() -> None:
    fault = Fault(status=429, headers={"retry-after-ms": "60"}, body={"error": {"message": "slow\ndown"}})
    async with FakeProvider(in_order(fault)) as provider:
        error = await failure(OpenAIModel("m", base_url=provider.base_url, rate_limit_seconds=0.3))
        tried = len(provider.requests)
    assert 3 <= tried <= 6
    assert str(error).endswith(f"answered 429 Too Many Requests after {tried} attempts: slow down")
    assert error.status == 429


async def test_a_wait_longer_than_the_rate_limit_seconds_ends_the_call_at_once() -> None:
    fault = Fault(status=429, headers={"retry-after": "3600"}, body={"error": {"message": "come back tomorrow"}})
    async with FakeProvider(in_order(fault)) as provider:
        error = await failure(OpenAIModel("m", base_url=provider.base_url))
        assert len(provider.requests) == 1
    assert str(error).endswith("answered 429 Too Many Requests: come back tomorrow")


async def test_an_empty_account_is_an_error_at_once_and_delays_no_other_call() -> None:
    words = "You exceeded your current quota, please check your plan and billing details."
    poor = Fault(status=429, body={"error": {"message": words, "code": "insufficient_quota"}})
    async with FakeProvider(in_order(poor, "ok")) as provider:
        model = OpenAIModel("m", base_url=provider.base_url)
        with pytest.raises(ModelError, match="answered 429 Too Many Requests: You exceeded your current quota"):
            await model.complete(HELLO)
        assert len(provider.requests) == 1
        with anyio.fail_after(0.4):
            assert (await ask(model)).text == "ok"


async def test_while_one_request_has_to_wait_no_other_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = anyio.Event()
    on_rate_limit = Gate.on_rate_limit

    def close(self: Gate, sent_at: float, retry_after: float | None) -> float:
        seconds = on_rate_limit(self, sent_at, retry_after)
        closed.set()
        return seconds

    monkeypatch.setattr(Gate, "on_rate_limit", close)
    busy = Fault(status=503, headers={"retry-after-ms": "300"})
    async with FakeProvider(in_order(busy, "ok")) as provider:
        model = OpenAIModel("m", base_url=provider.base_url)
        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            group.start_soon(model.complete, HELLO)
            await closed.wait()
            await model.complete(HELLO)
            assert time.perf_counter() - started > 0.3
        await model.aclose()
    assert len(provider.requests) == 3


async def test_an_endless_response_is_abandoned_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlm.models.openai.MAX_RESPONSE_BYTES", MIB)
    async with FakeProvider(in_order(Fault(body=b" " * (2 * MIB)))) as provider:
        error = await failure(OpenAIModel("m", base_url=provider.base_url, max_retries=0))
    assert str(error).endswith("sent more than 1 MiB in one response")


async def test_a_reply_cut_off_before_its_first_word_is_a_separate_error() -> None:
    async with FakeProvider(in_order(Reply(text="", finish_reason="length", output_tokens=9))) as provider:
        error = await failure(OpenAIModel("m", base_url=provider.base_url))
    assert isinstance(error, EmptyReply)
    assert error.usage is not None
    assert error.usage.output_tokens == 9


async def test_a_limit_on_output_tokens_uses_the_name_in_the_sampling_parameters() -> None:
    async with FakeProvider("ok") as provider:
        model = OpenAIModel("m", base_url=provider.base_url, sampling={"max_tokens": 100})
        await model.complete(HELLO, max_tokens=30)
        await model.complete(HELLO, max_tokens=300)
        await model.aclose()
    sent = [{key: request.body[key] for key in request.body if "tokens" in key} for request in provider.requests]
    assert sent == [{"max_tokens": 30}, {"max_tokens": 100}]


async def test_a_conversation_that_is_too_long_is_a_separate_error() -> None:
    words = "This model's maximum context length is 8192 tokens."
    fault = Fault(status=400, body={"error": {"message": words, "code": "context_length_exceeded"}})
    async with FakeProvider(in_order(fault)) as server:
        model = OpenAIModel("m", base_url=server.base_url)
        with pytest.raises(ContextTooLong, match=words):
            await model.complete(HELLO)
        await model.aclose()


async def test_a_reply_that_was_billed_and_holds_no_text_tells_its_usage() -> None:
    async with FakeProvider(in_order(Reply(text="half", finish_reason="content_filter"))) as server:
        model = OpenAIModel("m", base_url=server.base_url, price=Price(input=1, output=1))
        with pytest.raises(ModelError) as caught:
            await model.complete(HELLO)
        await model.aclose()
        assert caught.value.usage is not None
        assert caught.value.usage.total_tokens == server.input_tokens + server.output_tokens > 0
        assert caught.value.usage.cost_usd == pytest.approx(caught.value.usage.total_tokens / 1e6)
