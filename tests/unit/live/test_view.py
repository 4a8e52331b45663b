"""The view accepts events from any thread, shows the result, and hides no log record."""

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from rich.console import Console

from helpers.fake_controls import FakeControls
from helpers.synthetic_run import rlm, synthetic_run
from rlm.config import Limits
from rlm.live.view import EVENT_BATCH, LiveView, deferred_logs


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_view(now: float, controls: FakeControls | None = None, *, has_keys: bool = True) -> LiveView:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    return LiveView(controls or FakeControls(), console=console, has_keys=has_keys, clock=lambda: now)


def text(view: LiveView) -> str:
    return "\n".join("".join(segment.text for segment in line) for line in view.paint(100, 30))


def test_events_of_another_thread_are_in_the_next_picture() -> None:
    view = a_view(1_030.0)
    with ThreadPoolExecutor(1) as thread:
        applied = thread.map(view, synthetic_run())
        while "final after" not in text(view):
            pass  # frames are drawn while events arrive
        assert len(list(applied)) > 3_000
    assert "1,007 of 10,000" in text(view)


def test_events_do_not_pile_up_while_nothing_is_drawn() -> None:
    view = a_view(0.0)
    for _ in range(EVENT_BATCH * 3 + 1):
        view(rlm("0", 0))
    assert len(view._queue) == 1


def test_the_view_shows_raised_limits() -> None:
    controls = FakeControls(Limits(max_lm_calls=7))
    view = a_view(0.0, controls)
    view(rlm("0", 0))
    assert "0 of 7 " in text(view)
    controls.raise_limit(max_lm_calls=77)
    assert "0 of 77" in text(view)


def test_the_seconds_are_those_that_the_run_counts_and_not_those_of_the_wall() -> None:
    view = a_view(1_030.0, FakeControls(seconds=4.2))
    view(next(synthetic_run()))
    assert "running 30" in text(view)
    assert "4 of 3,600" in text(view)


def test_a_key_is_answered_in_the_footer_and_without_a_keyboard_there_is_none() -> None:
    view = a_view(0.0)
    view.press("p")
    assert "PAUSED" not in text(view).splitlines()[-1]
    assert "p continue" in text(view)
    assert "q cancel" not in text(a_view(0.0, has_keys=False))


def test_a_run_that_never_started_leaves_no_summary() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    LiveView(FakeControls(), console=console).print_summary()
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_log_records_are_printed_after_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, file = Tty(), io.StringIO()
    handlers: list[logging.StreamHandler[Any]] = [logging.StreamHandler(terminal), logging.StreamHandler(file)]
    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    with deferred_logs():
        logging.getLogger("rlm.run").warning("a warning")
        assert (terminal.getvalue(), file.getvalue()) == ("", "a warning\n")
    assert terminal.getvalue() == "a warning\n"
    assert handlers[0].stream is terminal
