"""Flooding guests are slowed down, honest bursts are not; only the total limit ends a session."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.config import SandboxConfig
from rlm.errors import SandboxMisbehaved
from rlm.sandbox.meter import BURST_SECONDS, Meter

CONFIG = SandboxConfig(max_frames_per_second=10.0, max_bytes_per_second=1000.0, max_received_bytes=1_000_000)


def test_a_burst_costs_no_wait() -> None:
    meter = Meter(CONFIG, now=100.0)
    meter.add_frames(int(10 * BURST_SECONDS), 100.0)
    meter.add_bytes(int(1000 * BURST_SECONDS), 100.0)
    assert meter.delay(100.0) == 0


def test_more_than_a_burst_waits_for_its_rate() -> None:
    meter = Meter(CONFIG, now=0.0)
    meter.add_frames(int(10 * BURST_SECONDS) + 20, 0.0)
    assert meter.delay(0.0) == pytest.approx(2.0)
    assert meter.delay(1.5) == pytest.approx(0.5)
    assert meter.delay(2.0) == 0


def test_silence_earns_no_more_than_one_burst() -> None:
    meter = Meter(CONFIG, now=0.0)
    meter.add_bytes(int(1000 * (BURST_SECONDS + 1)), 1_000_000.0)
    assert meter.delay(1_000_000.0) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 100), st.integers(0, 5000)), max_size=50))
def test_no_pattern_of_input_exceeds_rate_and_burst(
    reads: list[tuple[float, int, int]],
) -> None:
    meter = Meter(CONFIG, now=0.0)
    now = frames = size = 0.0
    for pause, count, length in reads:
        now += pause
        now += meter.delay(now)
        frames_before, size_before = frames, size
        meter.add_frames(count, now)
        meter.add_bytes(length, now)
        frames += count
        size += length
        # Everything before the latest read was within the limits when the host read again.
        assert frames_before <= 10 * (now + BURST_SECONDS) + 1e-6
        assert size_before <= 1000 * (now + BURST_SECONDS) + 1e-6


def test_the_total_ends_a_sandbox() -> None:
    meter = Meter(CONFIG, now=0.0)
    meter.add_bytes(1_000_000, 0.0)
    with pytest.raises(SandboxMisbehaved, match="max_received_bytes"):
        meter.add_bytes(1, 10_000.0)
