"""Events are numbered in order, written as emitted, and shown without interpretation."""

import io
import json

import pytest
from rich.console import Console

from rlm._util.text import printable
from rlm.events import CellFinished, CellOutput, CellStarted, Event, RLMFinished, RunStarted, SubCallStarted
from rlm.live.verbose import VerboseView
from rlm.store.event_log import EventLog
from rlm.types import CellResult


def test_events_are_numbered_without_gaps_and_written_one_a_line() -> None:
    file, seen = io.StringIO(), list[Event]()
    log = EventLog("the-run", file, [seen.append])
    log.emit(CellStarted(node="0.3.1", cell=1, code="print('\ud800')"))
    log.emit(RLMFinished(node="0", answer="42", stop_reason="final", iterations=2))
    first, second = (json.loads(line) for line in file.getvalue().splitlines())
    assert (first["v"], first["type"], first["run_id"], first["node"]) == (1, "CellStarted", "the-run", "0.3.1")
    assert (first["parent"], second["parent"]) == ("0.3", None)
    assert (first["seq"], second["seq"]) == (1, 2)
    assert first["code"] == "print('\ud800')"
    assert [event.seq for event in seen] == [1, 2]


def test_streaming_output_reaches_listeners_but_is_recorded_once_with_its_cell() -> None:
    file, seen = io.StringIO(), list[Event]()
    log = EventLog("run", file, [seen.append])
    log.emit(CellOutput(cell=1, stream="stdout", text="hi"))
    log.emit(CellFinished(cell=1, result=CellResult(outcome="ok", stdout="hi")))
    assert len(seen) == 2
    assert [json.loads(line)["type"] for line in file.getvalue().splitlines()] == ["CellFinished"]


def test_a_listener_that_fails_is_not_hidden() -> None:
    def listener(event: Event) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        EventLog("run", io.StringIO(), [listener]).emit(CellStarted(cell=1, code=""))


def test_control_characters_are_shown_not_sent_to_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\u202e\ud800\n\tc") == "a\\x1b[2Jb\\x07\\u202e\\ud800\n\tc"


def test_markup_and_escapes_of_a_sandbox_are_shown_as_text() -> None:
    out = io.StringIO()
    view = VerboseView(Console(file=out, width=100, force_terminal=False))
    view(SubCallStarted(node="0.1", prompt="[red]x[/red]\x1b[31m", model="m", recursive=False, batch=0))
    view(CellFinished(node="0", cell=1, result=CellResult(outcome="ok", stdout="[bold]y[/bold]\x1b]0;title\x07")))
    assert "[red]x[/red]\\x1b[31m" in out.getvalue()
    assert "[bold]y[/bold]\\x1b]0;title\\x07" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_every_event_is_redacted_before_it_is_emitted_or_written() -> None:
    file, seen = io.StringIO(), list[Event]()
    log = EventLog("run", file, [seen.append], redact=lambda text: text.replace("secret", "[key]"))
    log.emit(RunStarted(query="secret", depth=1, models={0: "secret"}, context_bytes=1))
    log.emit(CellOutput(cell=1, stream="stdout", text="a secret"))
    log.emit(CellFinished(cell=1, result=CellResult(outcome="ok", stdout="the secret")))
    assert "secret" not in file.getvalue() + repr(seen)
    assert repr(seen).count("[key]") == 4
