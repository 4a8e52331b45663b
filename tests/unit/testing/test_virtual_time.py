"""Virtual time: hours pass immediately, timers keep their order, and a deadlock is an error."""

import time

import anyio
import pytest

from rlm.testing import Deadlock, run_virtually


def test_a_day_takes_no_time_and_timers_fire_in_order() -> None:
    async def note_after(seconds: float) -> None:
        await anyio.sleep(seconds)
        order.append(seconds)

    async def main() -> float:
        async with anyio.create_task_group() as tasks:
            for seconds in (86_400, 1, 3_600):
                tasks.start_soon(note_after, seconds)
        return anyio.current_time()

    order: list[float] = []
    begin = time.monotonic()
    assert run_virtually(main) == pytest.approx(86_400)
    assert order == [1, 3_600, 86_400]
    assert time.monotonic() - begin < 10


def test_a_task_that_nothing_can_wake_is_a_deadlock() -> None:
    with pytest.raises(Deadlock):
        run_virtually(anyio.Event().wait)


def test_an_error_of_the_program_reaches_the_caller() -> None:
    async def main() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        run_virtually(main)
