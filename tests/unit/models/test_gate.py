"""A rate limit slows down all requests of a model, and lets all of them through in the end."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.models.gate import MAX_PAUSE_SECONDS, Gate, retry_after
from rlm.testing import run_virtually

SECONDS = 0.1  # that a request takes


def now() -> float:
    return asyncio.get_running_loop().time()


def test_after_a_refusal_all_requests_wait_and_then_half_as_many_run_concurrently() -> None:
    async def main() -> list[float]:
        gate, sent = Gate(8, max_pause_seconds=60), list[float]()

        async def request(number: int) -> None:
            async with gate.slot() as at:
                sent.append(at)
                await asyncio.sleep(SECONDS)
                if number < 8:
                    gate.on_rate_limit(at, 5.0)
                else:
                    gate.on_reply()

        await asyncio.gather(*map(request, range(20)))
        return sent

    sent = run_virtually(main)
    assert sent[:8] == [0.0] * 8
    assert all(at >= 5.0 for at in sent[8:])
    assert sum(at < 5.0 + SECONDS / 2 + SECONDS for at in sent[8:]) == 4  # the 8 concurrent refusals count as one
    assert len(sent) == 20


def test_each_reply_allows_one_more_request_up_to_the_maximum() -> None:
    async def main() -> list[int]:
        gate, together, most = Gate(6, max_pause_seconds=60), 0, list[int]()
        async with gate.slot() as at:
            gate.on_rate_limit(at, 1.0)

        async def request() -> None:
            nonlocal together
            async with gate.slot():
                together += 1
                most.append(together)
                await asyncio.sleep(SECONDS)
                together -= 1
                gate.on_reply()

        await asyncio.gather(*(request() for _ in range(60)))
        return most

    most = run_virtually(main)
    assert most[0] == 1
    assert max(most) == 6


def test_without_a_retry_time_each_refusal_waits_longer_up_to_a_limit() -> None:
    async def main() -> list[float]:
        gate, waits = Gate(1, max_pause_seconds=600), list[float]()
        for _ in range(12):
            async with gate.slot() as at:
                waits.append(gate.on_rate_limit(at, None))
        return waits

    random.seed(3)
    waits = run_virtually(main)
    assert 0.25 <= waits[0] <= 0.5
    assert all(wait <= MAX_PAUSE_SECONDS for wait in waits)
    assert min(waits[-3:]) >= MAX_PAUSE_SECONDS / 2


def test_a_server_that_asks_for_too_long_a_pause_delays_no_other_call() -> None:
    async def main() -> float:
        gate = Gate(2, max_pause_seconds=600)
        async with gate.slot() as at:
            assert gate.on_rate_limit(at, 86_400.0) == 86_400.0
        async with gate.slot() as at:
            return at

    assert run_virtually(main) == 0.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "9", "retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": ""}, None),
    ],
)
def test_the_wait_that_a_response_asks_for_is_read_and_invalid_values_ignored(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers) == seconds


@given(
    value=st.text(max_size=40)
    | st.floats().map(str)
    | st.integers().map(str)
    | st.builds(
        "{}, {} {} {} {}:{}:{} {}{}".format,
        st.sampled_from(["Mon", "Fri", "Nonsday"]),
        st.integers(-1, 10**20),
        st.sampled_from(["Jan", "Feb", "Foo"]),
        st.integers(-(10**20), 10**20) | st.integers(0, 10_000),
        *[st.integers(-1, 100) | st.integers(-(10**20), 10**20)] * 3,
        st.sampled_from(["", "+", "-", "GMT", "EST", "UTC"]),
        st.just("") | st.integers(0, 10**20).map(str) | st.sampled_from(["0000", "2359", "9999"]),
    ),
    name=st.sampled_from(["retry-after", "retry-after-ms"]),
)
def test_whatever_a_response_asks_for_is_a_finite_wait_or_none(value: str, name: str) -> None:
    seconds = retry_after({name: value})
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
