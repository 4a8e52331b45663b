"""A thread is in use exactly until its function returns."""

from __future__ import annotations

import threading

import anyio
import pytest

from rlm.sandbox.threads import Threads

pytestmark = pytest.mark.anyio


async def test_a_thread_is_occupied_until_its_function_ends_even_if_its_callers_gave_up() -> None:
    threads = Threads(2)
    release = threading.Event()
    started: list[int] = []

    def work() -> None:
        started.append(1)
        release.wait(30)

    try:
        for _ in range(5):
            with anyio.move_on_after(0.05):
                async with anyio.create_task_group() as group:
                    group.start_soon(threads.run, work)
        assert len(started) == 2
    finally:
        release.set()
    with anyio.fail_after(5):
        assert await threads.run(int) == 0


async def test_a_failed_function_releases_its_thread() -> None:
    threads = Threads(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), anyio.fail_after(5):
            await threads.run(lambda: 1 / 0)


async def test_a_call_that_is_cancelled_before_a_thread_has_it_takes_none() -> None:
    threads = Threads(1)
    for _ in range(3):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await threads.run(int)
    with anyio.fail_after(5):
        assert await threads.run(int) == 0
