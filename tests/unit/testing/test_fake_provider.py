"""FakeProvider's guarantees to tests, as seen by a client of plain sockets."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rlm.testing import FakeProvider, Fault, Reply, in_order

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Wire:
    """One connection to a provider."""

    def __init__(self, provider: FakeProvider) -> None:
        self._port = int(provider.base_url.split(":")[2].removesuffix("/v1"))

    async def __aenter__(self) -> Wire:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    def send(self, prompt: str) -> None:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}]}).encode()
        self.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def ask(self, prompt: str) -> tuple[int, dict[str, Any]]:
        self.send(prompt)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r")[0])
        return int(head.split()[1]), json.loads(await self.reader.readexactly(length))


async def test_replies_are_a_function_of_the_conversation_over_one_kept_connection() -> None:
    async with FakeProvider(lambda messages, model: f"{model} {messages[-1]['content']}") as provider:
        async with Wire(provider) as wire:
            answers = [(await wire.ask(word))[1]["choices"][0]["message"]["content"] for word in ("one", "two")]
        assert answers == ["m one", "m two"]
        assert [request.messages[0]["content"] for request in provider.requests] == ["one", "two"]
        assert (provider.connections, provider.max_concurrent) == (1, 1)
        assert (provider.input_tokens, provider.output_tokens) == (2, 4)


async def test_requests_in_flight_at_once_are_counted() -> None:
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(FakeProvider(in_order(Fault(sent="nothing", then="hang"))))
        for _ in range(5):
            (await stack.enter_async_context(Wire(provider))).send("x")
        while len(provider.requests) < 5:
            await asyncio.sleep(0.01)
        assert (provider.max_concurrent, provider.connections) == (5, 5)


async def test_usage_is_reported_as_the_reply_sets_it() -> None:
    reply = Reply(text="x", input_tokens=9, output_tokens=8, cached_tokens=7, reasoning_tokens=6, cost=0.5)
    async with FakeProvider(in_order(reply, Reply(text="x", usage=False))) as provider, Wire(provider) as wire:
        assert (await wire.ask(""))[1]["usage"] == {
            "prompt_tokens": 9,
            "completion_tokens": 8,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 7},
            "completion_tokens_details": {"reasoning_tokens": 6},
            "cost": 0.5,
        }
        assert "usage" not in (await wire.ask(""))[1]


async def test_faults_are_sent_as_far_as_they_say() -> None:
    faults = in_order(
        Fault(status=429, headers={"Retry-After": "1"}, body={"error": "busy"}),
        Fault(sent="half", body=b"0123456789", then="drop"),
    )
    async with FakeProvider(faults) as provider, Wire(provider) as wire:
        assert await wire.ask("") == (429, {"error": "busy"})
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await wire.ask("")
        assert caught.value.partial == b"01234"


async def test_a_hanging_response_ends_with_the_provider() -> None:
    async with FakeProvider(in_order(Fault(sent="nothing", then="hang"))) as provider, Wire(provider) as wire:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.ask(""), 0.1)
        await provider.__aexit__(None, None, None)
        assert await wire.reader.read() == b""


def test_as_a_plain_context_manager_it_serves_from_a_thread() -> None:
    async def one() -> int:
        async with Wire(provider) as wire:
            return (await wire.ask("x"))[0]

    with FakeProvider() as provider:
        assert asyncio.run(one()) == 200
