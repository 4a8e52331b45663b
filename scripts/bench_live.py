"""Measure what the live view takes of a run's time: 5,000 events a second for some seconds, drawn on a pseudo-terminal.

The goal is at most 2 %, of one core.
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
TICK: Final = 0.01  # events come in bursts, as they do from a batch
SIZE: Final = (140, 45)
GOAL: Final = 0.02


def per_event(listener: Callable[[Event], None], events: list[Event]) -> float:
    """Seconds of this thread that one event takes, the best of some rounds."""
    best = float("inf")
    for _ in range(5):
        began = time.thread_time()
        for event in events:
            listener(event)
        best = min(best, (time.thread_time() - began) / len(events))
    return best


def a_view(console: Console | None = None) -> LiveView:
    console = console or Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    return LiveView(FakeControls(Limits(max_cost_usd=3.0)), console=console)


def costs() -> tuple[float, float, float]:
    """Seconds of an event in the view, of an event in the log that every run has, and of a picture."""
    events = list(synthetic_run())
    view = a_view()
    in_view = per_event(lambda event: view(event), events)
    in_log = per_event(EventLog("run", io.StringIO(), []).emit, events)
    busy = a_view()
    for event in events[: len(events) * 7 // 10]:
        busy(event)
    busy.paint(*SIZE)  # the first one loads the highlighter
    began = time.thread_time()
    for _ in range(20):
        busy.paint(*SIZE)
    return in_view, in_log, (time.thread_time() - began) / 20


def endless() -> Iterator[Event]:
    """A run that goes on with one large batch after the other."""
    clock = Clock()
    yield from ask(clock, ROOT, 1)
    for number in itertools.count(1):
        yield clock.after(0, CellStarted(node=ROOT, cell=number, code=BATCH))
        yield from batch(clock, ROOT, 2_000)
        yield clock.after(0, CellFinished(node=ROOT, cell=number, result=CellResult(outcome="ok")))


def paced(listener: Callable[[Event], None], seconds: float) -> float:
    """Hand events over at their rate; gives the processor time that the listener took in this thread, in seconds."""
    source = endless()
    began = time.perf_counter()
    told, used = 0, 0.0
    while (gone := time.perf_counter() - began) < seconds:
        due = int(gone * EVENTS_PER_SECOND) - told
        burst = [dataclasses.replace(event, ts=time.time()) for event in itertools.islice(source, due)]
        before = time.thread_time()
        for event in burst:
            listener(event)
        used += time.thread_time() - before
        told += due
        time.sleep(TICK)
    return used


@contextmanager
def a_terminal() -> Iterator[tuple[Console, str]]:
    """A pseudo-terminal, and its path; what is drawn is read in another process, as a terminal does."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (SIZE[1], SIZE[0]))
    with subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL) as reader:
        os.close(ours)
        with open(theirs, "w", encoding="utf-8") as file:
            yield Console(file=file, force_terminal=True, color_system="truecolor"), os.ttyname(theirs)
        reader.terminate()


def shares_of_time(seconds: float) -> tuple[float, float]:
    """The processor time of the view, in the thread of the events and in its own, as shares of the time gone by."""
    drawing = 0.0

    def draw() -> None:
        nonlocal drawing
        before = time.thread_time()
        terminal.run(view)
        drawing = time.thread_time() - before

    with a_terminal() as (console, path):
        terminal = Terminal(console, path=path)
        view = a_view(console)
        thread = threading.Thread(target=draw)
        thread.start()
        told = paced(view, seconds)
        terminal.stop()
        thread.join()
        terminal.close()
    return told / seconds, drawing / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    in_view, in_log, picture = costs()
    print(f"an event: {in_view * 1e6:.2f} µs in the view, {in_log * 1e6:.2f} µs in the run's own log")
    print(f"a picture of {SIZE[0]} x {SIZE[1]}: {picture * 1e3:.1f} ms, one every {pause_after(picture):.2f} s")
    told, drawing = shares_of_time(seconds)
    share = told + drawing
    print(f"of the time: {told:.2%} in the thread of the events, {drawing:.2%} in the view's own")
    met = "met" if share <= GOAL else "not met"
    print(f"at {EVENTS_PER_SECOND:,} events a second: {share:.2%} of the time (goal: {GOAL:.0%}, {met})")


if __name__ == "__main__":
    main()
