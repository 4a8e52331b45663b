"""A run on the terminal: what each node said, ran and got, as it happens. What models and sandboxes say is shown as text,
never interpreted.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from rlm._util.text import clip, printable
from rlm.events import (
    AnswerReplayed,
    CellFinished,
    CellStarted,
    Compacted,
    Event,
    LimitsRaised,
    ModelFailed,
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

SHOWN_CHARS: Final = 2_000  # of one output or answer: enough to follow a run; events.jsonl holds all


class ConsoleView:
    """Shows events on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)

    def __call__(self, event: Event) -> None:
        say = self._line
        match event:
            case RunResumed():
                say(event, f"goes on, with {event.recorded:,} recorded calls", "bold")
            case ReplayDiverged():
                say(event, f"call {event.ordinal} is not the recorded one: from here on the network is asked", "yellow")
            case AnswerReplayed():
                say(event, "answered from the journal", "cyan")
            case QuestionAsked():
                say(event, f"further question: {_first_line(event.query)}", "bold")
            case LimitsRaised():
                limits = ", ".join(f"{name}={value}" for name, value in event.limits.items())
                say(event, f"limits raised: {limits}", "yellow")
            case RLMStarted():
                size = f"{event.context_type} of {event.context_size:,}"
                say(event, f"RLM on {event.model}, sandbox {event.sandbox[:12]}, context: {size}", "bold")
            case TurnStarted():
                self._console.print(Rule(Text(f"{event.node}  {event.label}"), style="dim"))
            case CellStarted():
                code = Syntax(
                    printable(clip(event.code, SHOWN_CHARS)), "python", background_color="default", word_wrap=True
                )
                self._console.print(Panel(code, title=Text(f"{event.node}  cell {event.cell}"), title_align="left"))
            case CellFinished():
                shown = printable(describe(event.result, limit=SHOWN_CHARS))
                style = "green" if event.result.outcome == "ok" else "red"
                title = Text(f"{event.node}  {event.result.outcome}, {event.result.seconds:.2f} s")
                self._console.print(Panel(Text(shown), title=title, title_align="left", border_style=style))
            case SubCallStarted():
                kind = "RLM" if event.recursive else "call"
                say(event, f"{kind} to {event.model}: {_first_line(event.prompt)}", "cyan")
            case SubCallFinished():
                say(event, _first_line(event.text), "cyan" if event.ok else "red")
            case ToolUsed():
                say(event, f"tool {event.tool}{_first_line(event.arguments)}", "cyan" if event.ok else "red")
            case ModelFailed():
                say(event, f"{event.model} failed: {_first_line(event.error)}", "red")
            case Compacted():
                say(event, f"{event.messages} messages made shorter: {_first_line(event.summary)}", "dim")
            case SandboxLost():
                kept = "its cells have run again" if event.restored else "only `context` is kept"
                say(event, f"sandbox {event.sandbox[:12]} lost, {kept}: {_first_line(event.reason)}", "red")
            case RLMFinished():
                title = Text(f"{event.node}  answer ({event.stop_reason}, {event.iterations} turns)")
                shown = printable(clip(event.answer, SHOWN_CHARS))
                self._console.print(Panel(Text(shown), title=title, title_align="left", border_style="bold green"))
            case RunFinished():
                cost = "unknown" if event.usage.cost_usd is None else f"${event.usage.cost_usd:.4g}"
                tokens = f"{event.usage.input_tokens:,} + {event.usage.output_tokens:,} tokens"
                say(event, f"{event.seconds:.1f} s, {event.usage.calls} model calls, {tokens}, cost {cost}", "dim")

    def _line(self, event: Event, text: str, style: str) -> None:
        self._console.print(Text(f"{event.node}  {text}", style=style, overflow="ellipsis", no_wrap=True))


def _first_line(text: str) -> str:
    return printable(text.strip().partition("\n")[0][:200])
