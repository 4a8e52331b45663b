"""The live view on a real pseudo-terminal: keys reach the run, and every end restores the terminal.

No container is used. Each program runs in its own session, with the pseudo-terminal as its controlling terminal.
"""

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from helpers.fake_controls import FakeControls
from helpers.synthetic_run import synthetic_run
from rlm.config import Limits
from rlm.events import Event
from rlm.live.terminal import FRAME_SHARE, MAX_FRAME_SECONDS, Terminal, pause_after
from rlm.live.view import LiveView
from rlm.store.event_log import EventLog

TESTS = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, signal, sys, threading, time
import anyio
from itertools import islice
from helpers.fake_controls import FakeControls
from rlm.config import Limits
from rlm.errors import RLMError
from rlm.live import live_view
from helpers.synthetic_run import synthetic_run

controls = FakeControls(Limits(max_cost_usd=3.0))

async def main():
    async with live_view(controls) as view:
        for event in islice(synthetic_run(start=time.time() - 24), 2050):
            view(event)
        while "cancel" not in controls.asked:
            await anyio.sleep(0.02)
            if os.path.exists(sys.argv[1]):
                raise RLMError("as asked")

try:
    {start}
except (KeyboardInterrupt, RLMError) as error:
    open(sys.argv[1] + ".error", "w").write(type(error).__name__)
print("asked:", controls.asked)
"""
MAIN = "anyio.run(main)"
WITHOUT_HANGUP = "signal.signal(signal.SIGHUP, signal.SIG_IGN); anyio.run(main)"
IN_A_THREAD = "thread = threading.Thread(target=anyio.run, args=[main]); thread.start(); thread.join()"


SHELL = """
import os, signal, sys

signal.signal(signal.SIGTTOU, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(1, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
while os.WIFSTOPPED(os.waitpid(job, os.WUNTRACED)[1]):
    os.tcsetpgrp(1, os.getpgrp())
    print("the job has stopped", flush=True)
    signal.sigwait([signal.SIGUSR1])
    os.tcsetpgrp(1, job)
    os.kill(job, signal.SIGCONT)
"""  # Ctrl-Z needs a parent: a program that nothing could continue is not suspended


class Screen:
    """A program on a pseudo-terminal. `modes` are the terminal's, `seen` is everything drawn."""

    def __init__(self, start: str, stop_file: Path, *, stdin: int | None, shell: bool) -> None:
        self._ours, self._theirs = pty.openpty()
        termios.tcsetwinsize(self._theirs, (30, 100))
        self.before = self.modes
        self.seen = ""
        self._open = True
        theirs = self._theirs

        def control() -> None:
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [
                sys.executable,
                *(["-c", SHELL] if shell else []),
                "-c",
                PROGRAM.replace("{start}", start),
                str(stop_file),
            ],
            stdin=theirs if stdin is None else stdin,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=control,
            env={**os.environ, "PYTHONPATH": str(TESTS), "TERM": "xterm-256color"},
        )

    @property
    def modes(self) -> list[object]:
        return termios.tcgetattr(self._theirs)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, condition: Callable[[], bool]) -> None:
        """Read the drawn output until a condition holds."""
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.seen[-3_000:]
            if select.select([self._ours], [], [], 0.02)[0]:
                self.seen += os.read(self._ours, 65_536).decode("utf-8", "replace")

    def shows(self, text: str) -> Callable[[], bool]:
        """A condition: the text is drawn from now on."""
        start = len(self.seen)
        return lambda: text in re.sub(r"\x1b\[[0-9;]*m", "", self.seen[start:])

    def end(self) -> None:
        """Wait for the program's end, and read the rest."""
        self.until(self.ended)
        while select.select([self._ours], [], [], 0.05)[0]:
            self.seen += os.read(self._ours, 65_536).decode("utf-8", "replace")

    def ended(self) -> bool:
        return self.process.poll() is not None

    def resize(self, width: int, height: int) -> None:
        termios.tcsetwinsize(self._theirs, (height, width))

    def hang_up(self) -> None:
        """As when a terminal's window is closed."""
        os.close(self._ours)
        os.close(self._theirs)
        self._open = False

    def close(self) -> None:
        if not self.ended():
            self.process.kill()
            self.process.wait()
        if self._open:
            self.hang_up()


@pytest.fixture
def stop_file(tmp_path: Path) -> Path:
    return tmp_path / "stop"


@contextlib.contextmanager
def screen(stop_file: Path, *, start: str = MAIN, stdin: int | None = None, shell: bool = False) -> Iterator[Screen]:
    """A program whose first frame is drawn."""
    opened = Screen(start, stop_file, stdin=stdin, shell=shell)
    try:
        opened.until(opened.shows("? help"))
        assert not _echoes(opened)
        yield opened
    finally:
        opened.close()


def _echoes(opened: Screen) -> bool:
    local = opened.modes[3]
    assert isinstance(local, int)
    return bool(local & (termios.ECHO | termios.ICANON))


def error_of(stop_file: Path) -> str:
    """The error that ended the program."""
    return stop_file.with_name(f"{stop_file.name}.error").read_text()


def left_as_it_was(opened: Screen) -> bool:
    """Whether modes, screen and cursor are restored."""
    return (
        opened.modes == opened.before
        and opened.seen.rfind("\x1b[?1049l") > opened.seen.rfind("\x1b[?1049h")
        and opened.seen.rfind("\x1b[?25h") > opened.seen.rfind("\x1b[?25l")
    )


@pytest.mark.parametrize("start", [MAIN, IN_A_THREAD])
def test_keys_steer_a_run_and_the_terminal_is_restored(start: str, stop_file: Path) -> None:
    with screen(stop_file, start=start) as opened:
        for key, answer in (("p", "PAUSED"), ("l", "Double which limit?"), ("\r", "limit on dollars is now $6.00")):
            seen = opened.shows(answer)
            opened.press(key)
            opened.until(seen)
        opened.press("a")
        opened.press("y")
        opened.press("q")
        opened.press("y")
        opened.end()
        opened.until(lambda: "asked:" in opened.seen)
        assert "asked: ['pause', {'max_cost_usd': 6.0}, 'answer now', 'cancel']" in opened.seen
        assert left_as_it_was(opened)
        assert "714 calls: 641 done" in opened.seen[opened.seen.rfind("\x1b[?1049l") :]  # the tree stays


def test_keys_are_read_from_the_terminal_where_standard_input_is_a_pipe(stop_file: Path) -> None:
    read, write = os.pipe()
    with screen(stop_file, stdin=read) as opened:
        os.close(read)
        os.close(write)
        opened.press("q")
        opened.press("y")
        opened.until(lambda: "asked: ['cancel']" in opened.seen)
        opened.end()
        assert left_as_it_was(opened)


def test_ctrl_c_is_left_to_the_program_and_the_terminal_is_restored(stop_file: Path) -> None:
    with screen(stop_file) as opened:
        opened.press("\x03")
        opened.end()
        assert error_of(stop_file) == "KeyboardInterrupt"
        assert left_as_it_was(opened)


def test_an_error_of_the_run_is_raised_unchanged_and_the_terminal_restored(stop_file: Path) -> None:
    with screen(stop_file) as opened:
        stop_file.touch()
        opened.end()
        assert error_of(stop_file) == "RLMError"
        assert left_as_it_was(opened)


def test_sigterm_ends_the_program_and_restores_the_terminal(stop_file: Path) -> None:
    with screen(stop_file) as opened:
        opened.process.terminate()
        opened.end()
        opened.until(lambda: left_as_it_was(opened))
        assert opened.process.returncode == -signal.SIGTERM


def test_a_suspended_program_restores_the_terminal_and_takes_it_again(stop_file: Path) -> None:
    with screen(stop_file, shell=True) as opened:
        for _ in range(2):
            opened.press("\x1a")
            opened.until(opened.shows("the job has stopped"))
            assert left_as_it_was(opened)
            again = opened.shows("? help")
            opened.process.send_signal(signal.SIGUSR1)
            opened.until(again)
            assert not _echoes(opened)
        opened.press("q")
        opened.press("y")
        opened.end()
        assert left_as_it_was(opened)


def test_a_program_that_ends_just_after_it_was_continued_restores_the_terminal() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    console = Console(file=io.StringIO(), force_terminal=True)
    terminal = Terminal(console, path=os.ttyname(theirs))
    view = LiveView(FakeControls(), console=console)
    terminal._step(view)
    assert termios.tcgetattr(theirs) != before
    terminal._on_continue(signal.SIGCONT, None)
    terminal._wait(20, view)
    terminal.stop()
    terminal.run(view)
    assert termios.tcgetattr(theirs) == before
    terminal.close()
    os.close(ours)
    os.close(theirs)


def test_a_program_that_nothing_could_continue_is_not_suspended(stop_file: Path) -> None:
    with screen(stop_file) as opened:
        again = opened.shows("? help")
        opened.press("\x1a")
        opened.until(again)
        assert not _echoes(opened)
        opened.press("q")
        opened.press("y")
        opened.end()


def test_a_terminal_of_another_size_is_filled_again(stop_file: Path) -> None:
    with screen(stop_file) as opened:
        opened.resize(70, 20)
        opened.until(opened.shows("\x1b[20;1H"))
        opened.press("q")
        opened.press("y")
        opened.end()


def test_a_terminal_that_is_closed_does_not_end_the_run(stop_file: Path) -> None:
    with screen(stop_file, start=WITHOUT_HANGUP) as opened:
        opened.hang_up()
        with pytest.raises(subprocess.TimeoutExpired):
            opened.process.wait(0.5)
        stop_file.touch()
        opened.process.wait(20)
        assert error_of(stop_file) == "RLMError"


def test_an_event_costs_a_fraction_of_its_record_and_a_frame_costs_little() -> None:
    """Guards scripts/bench_live.py: the view took 1/15 of the log's time, and a frame as long as 40 events of the log."""
    events = list(synthetic_run())
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")

    def a_view() -> LiveView:
        return LiveView(FakeControls(Limits(max_cost_usd=3.0)), console=console)

    view = a_view()
    in_log = min(_seconds(EventLog("run", io.StringIO(), []).emit, events) for _ in range(3))
    in_view = min(_seconds(a_view(), events) for _ in range(3))
    for event in events[:2050]:
        view(event)
    view.paint(140, 45)
    pictures = []
    for _ in range(20):
        began = time.thread_time()
        view.paint(140, 45)
        pictures.append(time.thread_time() - began)
    assert in_view < 0.4 * in_log
    assert min(pictures) < 400 * in_log / len(events)


def _seconds(listener: Callable[[Event], None], events: list[Event]) -> float:
    began = time.thread_time()
    for event in events:
        listener(event)
    return time.thread_time() - began


def test_slow_pictures_become_rare() -> None:
    assert pause_after(0.0001) == pause_after(0.0)
    assert pause_after(0.005) * FRAME_SHARE == pytest.approx(0.005)
    assert pause_after(60.0) == MAX_FRAME_SECONDS
