"""Every event of a run as it happens: lines of `format_event`, and panels of code, output and answers.

Texts of models and sandboxes are shown as text, never interpreted.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from rlm._util.text import clip, duration, printable, quantity
from rlm.events import (
    AnswerReplayed,
    CellFinished,
    CellStarted,
    Compacted,
    Event,
    LimitsRaised,
    ModelFailed,
    ModelReplied,
    QuestionAsked,
    ReplayDiverged,
    RLMFinished,
    RLMStarted,
    RunFinished,
    RunResumed,
    SandboxLost,
    SubCallFinished,
    SubCallStarted,
    ToolUsed,
    TurnStarted,
)
from rlm.loop.observation import describe

from .lines import format_event

MAX_PANEL_CHARS: Final = 2_000  # limit of code, output and answers: enough to follow a run; events.jsonl holds all


class VerboseView:
    """Shows every event; a listener of events.

    Args:
        console: the console to print on; None is standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)

    def __call__(self, event: Event) -> None:
        match event:
            case TurnStarted():
                self._console.print(Rule(Text(f"{event.node}  {format_event(event)}"), style="dim"))
            case CellStarted():
                code = printable(clip(event.code, MAX_PANEL_CHARS))
                syntax = Syntax(code, "python", background_color="default", word_wrap=True)
                self._console.print(Panel(syntax, title=Text(f"{event.node}  cell {event.cell}"), title_align="left"))
            case CellFinished(result=result):
                title = f"cell {event.cell}: {result.outcome}, {duration(result.seconds)}"
                style = "green" if result.outcome == "ok" else "red"
                self._panel(event, title, describe(result, limit=MAX_PANEL_CHARS), style)
            case RLMFinished():
                title = f"answer ({event.stop_reason}, {quantity(event.iterations, 'turn')})"
                self._panel(event, title, clip(event.answer, MAX_PANEL_CHARS), "bold green")
            case _:
                if line := format_event(event):
                    text = Text(f"{event.node}  {line}", style=_style(event))
                    self._console.print(text, soft_wrap=True)

    def _panel(self, event: Event, title: str, text: str, style: str) -> None:
        panel = Panel(
            Text(printable(text)), title=Text(f"{event.node}  {title}"), title_align="left", border_style=style
        )
        self._console.print(panel)


def _style(event: Event) -> str:
    match event:
        case SandboxLost() | ModelFailed() | SubCallFinished(ok=False) | ToolUsed(ok=False):
            return "red"
        case SubCallStarted() | SubCallFinished() | ToolUsed() | AnswerReplayed():
            return "cyan"
        case RunResumed() | QuestionAsked() | RLMStarted():
            return "bold"
        case ReplayDiverged() | LimitsRaised():
            return "yellow"
        case Compacted() | RunFinished() | ModelReplied():
            return "dim"
    return ""
