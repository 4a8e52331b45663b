"""Measures the processor time of the live view at 5,000 events per second, drawn on a pseudo-terminal.

The goal is at most 2 % of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from rlm.config import Limits
from rlm.events import CellFinished, CellStarted, Event
from rlm.live.terminal import Terminal, pause_after
from rlm.live.tree import ROOT
from rlm.live.view import LiveView
from rlm.store.event_log import EventLog
from rlm.types import CellResult

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from helpers.fake_controls import FakeControls
from helpers.synthetic_run import BATCH, Clock, ask, batch, synthetic_run

EVENTS_PER_SECOND: Final = 5_000
BURST_SECONDS: Final = 0.01  # time between bursts of events, which a batch causes
SIZE: Final = (140, 45)  # columns and lines of the terminal
MAX_SHARE: Final = 0.02  # the goal, as a share of one core


def seconds_per_event(listener: Callable[[Event], None], events: list[Event]) -> float:
    """Processor seconds of this thread per event, the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        began = time.thread_time()
        for event in events:
            listener(event)
        best = min(best, (time.thread_time() - began) / len(events))
    return best


def new_view(console: Console | None = None) -> LiveView:
    console = console or Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    return LiveView(FakeControls(Limits(max_cost_usd=3.0)), console=console)


def costs() -> tuple[float, float, float]:
    """Processor seconds per event in the view, per event in the run's log, and per frame."""
    events = list(synthetic_run())
    view = new_view()
    in_view = seconds_per_event(lambda event: view(event), events)
    in_log = seconds_per_event(EventLog("run", io.StringIO(), []).emit, events)
    busy = new_view()
    for event in events[: len(events) * 7 // 10]:
        busy(event)
    busy.paint(*SIZE)  # the first one loads the highlighter
    began = time.thread_time()
    for _ in range(20):
        busy.paint(*SIZE)
    return in_view, in_log, (time.thread_time() - began) / 20


def endless_events() -> Iterator[Event]:
    """The events of a run that makes one large batch after another, without end."""
    clock = Clock()
    yield from ask(clock, ROOT, 1)
    for number in itertools.count(1):
        yield clock.after(0, CellStarted(node=ROOT, cell=number, code=BATCH))
        yield from batch(clock, ROOT, 2_000)
        yield clock.after(0, CellFinished(node=ROOT, cell=number, result=CellResult(outcome="ok")))


def feed(listener: Callable[[Event], None], seconds: float) -> float:
    """Pass events to the listener at their rate. Returns the listener's processor seconds in this thread."""
    source = endless_events()
    began = time.perf_counter()
    sent, used = 0, 0.0
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed * EVENTS_PER_SECOND) - sent
        burst = [dataclasses.replace(event, ts=time.time()) for event in itertools.islice(source, due)]
        before = time.thread_time()
        for event in burst:
            listener(event)
        used += time.thread_time() - before
        sent += due
        time.sleep(BURST_SECONDS)
    return used


@contextmanager
def pseudo_terminal() -> Iterator[tuple[Console, str]]:
    """A console on a pseudo-terminal, and the terminal's path. Another process reads the output, as a terminal does."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (SIZE[1], SIZE[0]))
    with subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL) as reader:
        os.close(ours)
        with open(theirs, "w", encoding="utf-8") as file:
            yield Console(file=file, force_terminal=True, color_system="truecolor"), os.ttyname(theirs)
        reader.terminate()


def shares_of_time(seconds: float) -> tuple[float, float]:
    """The view's processor time, as shares of the elapsed time: in the thread of the events, and in the drawing thread."""
    drawing = 0.0

    def draw() -> None:
        nonlocal drawing
        before = time.thread_time()
        terminal.run(view)
        drawing = time.thread_time() - before

    with pseudo_terminal() as (console, path):
        terminal = Terminal(console, path=path)
        view = new_view(console)
        thread = threading.Thread(target=draw)
        thread.start()
        listening = feed(view, seconds)
        terminal.stop()
        thread.join()
        terminal.close()
    return listening / seconds, drawing / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    in_view, in_log, frame = costs()
    print(f"per event: {in_view * 1e6:.2f} µs in the view, {in_log * 1e6:.2f} µs in the run's log")
    print(f"per frame of {SIZE[0]} x {SIZE[1]}: {frame * 1e3:.1f} ms, one every {pause_after(frame):.2f} s")
    listening, drawing = shares_of_time(seconds)
    share = listening + drawing
    print(f"share of one core: {listening:.2%} in the thread of the events, {drawing:.2%} in the drawing thread")
    met = "met" if share <= MAX_SHARE else "not met"
    print(f"at {EVENTS_PER_SECOND:,} events per second: {share:.2%} of one core (goal: {MAX_SHARE:.0%}, {met})")


if __name__ == "__main__":
    main()
