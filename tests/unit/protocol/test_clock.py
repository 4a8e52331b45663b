"""A cell's clock pauses only while the cell waits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.protocol.clock import CALL_SECONDS, CHECK_SECONDS, Clock


class World:
    """A clock with controllable wall time and processor time."""

    def __init__(self, seconds: float = 2.0) -> None:
        self.time = 100.0
        self.processor = 5.0
        self.clock = Clock(seconds, now=lambda: self.time, processor=lambda: self.processor)

    def waits(self, seconds: float, *, processor: float = 0.0) -> None:
        self.time += seconds
        self.processor += processor


def test_without_calls_all_time_counts() -> None:
    world = World()
    world.waits(1.5, processor=9.0)
    assert world.clock.used == 1.5
    assert not world.clock.expired()
    world.waits(0.5)
    assert world.clock.expired()


def test_waiting_for_minutes_uses_almost_no_cell_time() -> None:
    world = World()
    world.waits(1.0)
    world.clock.call_started()
    world.waits(600.0)
    assert not world.clock.expired()
    world.clock.call_answered()
    world.waits(0.5)
    assert world.clock.used == pytest.approx(1.5 + CALL_SECONDS)


def test_a_thousand_slow_calls_at_once_take_a_second() -> None:
    world = World()
    for _ in range(1000):
        world.clock.call_started()
    for _ in range(1000):
        world.waits(0.1)
        world.clock.call_answered()
    assert world.clock.used == pytest.approx(1000 * CALL_SECONDS)


def test_processor_time_that_is_used_while_a_call_waits_counts() -> None:
    world = World()
    world.waits(1.0, processor=7.0)  # before the call: time counts
    world.clock.call_started()
    world.waits(10.0, processor=0.9)
    assert world.clock.used == pytest.approx(1.9 + CALL_SECONDS)
    assert not world.clock.expired()
    world.waits(10.0, processor=0.1)
    assert world.clock.expired()


def test_processor_time_of_ended_processes_is_never_credited() -> None:
    world = World()
    world.clock.call_started()
    world.waits(10.0, processor=-3.0)
    assert world.clock.used == pytest.approx(CALL_SECONDS)


def test_endless_overlapping_calls_use_up_the_time() -> None:
    world = World()
    for number in range(10_000):
        world.clock.call_started()
        if number:
            world.clock.call_answered()  # so one always waits
        world.waits(0.01)
        if world.clock.expired():
            break
    assert world.clock.used == pytest.approx(2.0, rel=0.01)
    assert number * CALL_SECONDS == pytest.approx(2.0, rel=0.01)


STEPS = st.lists(st.tuples(st.sampled_from("+-."), st.floats(0, 10), st.floats(0, 40)), max_size=30)


@given(STEPS)
def test_the_clock_is_never_ahead_of_time_and_never_goes_back(steps: list[tuple[str, float, float]]) -> None:
    world = World()
    waiting = 0
    used = 0.0
    for step, seconds, processor in steps:
        if step == "+":
            world.clock.call_started()
            waiting += 1
        elif step == "-" and waiting:
            world.clock.call_answered()
            waiting -= 1
        world.waits(seconds, processor=processor)
        assert used - 1e-9 <= world.clock.used <= world.time - 100.0 + 1e-9
        used = world.clock.used


@given(STEPS)
def test_a_check_at_the_announced_time_finds_an_expired_clock(steps: list[tuple[str, float, float]]) -> None:
    world = World()
    waiting = 0
    for step, _, processor in steps:
        if step == "+":
            world.clock.call_started()
            waiting += 1
        elif step == "-" and waiting:
            world.clock.call_answered()
            waiting -= 1
        until = world.clock.until_check
        world.waits(until, processor=min(processor, until))
        up = world.clock.expired()
        assert world.clock.used <= world.clock.seconds + CHECK_SECONDS + CALL_SECONDS
        assert up == (world.clock.used >= world.clock.seconds)
        if up:
            return


def test_the_hosts_deadline_is_known_in_advance() -> None:
    world = World()
    assert world.clock.end == 102.0
    world.waits(0.5)
    world.clock.call_started()
    assert world.clock.end == math.inf
    world.waits(10.0)
    world.clock.call_answered()
    assert world.clock.end == pytest.approx(112.0 - CALL_SECONDS)
    for _ in range(1499):
        world.clock.call_started()
    assert world.clock.end == pytest.approx(112.0 - CALL_SECONDS)
