"""The keys of the live view and its footer. Pure: keys arrive as text and act on the run through `Controls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from rlm.config import RAISABLE_LIMITS, Limits
from rlm.errors import ConfigError

from .meters import Meter

Styled = tuple[str, str]
Mode = Literal["watch", "answer", "limit", "cancel", "help"]

ESCAPE: Final = "\x1b"
INTERRUPT: Final = "\x03"  # Ctrl-C on a terminal that sends no signal for it
HELP: Final = (
    ("p", "pause: pending calls finish, no RLM starts another turn; p again: continue"),
    ("a", "answer now: the root model takes its last turn with what it has"),
    ("l", "raise a limit: double the one you choose"),
    ("q", "cancel the run (like Ctrl-C); continue it later with `rlm resume`"),
)


class Controls(Protocol):
    """A run in progress. All methods may be called from any thread."""

    @property
    def limits(self) -> Limits:
        """The current limits."""
        ...

    @property
    def seconds(self) -> float:
        """The run's clock: the used part of `max_seconds`."""
        ...

    @property
    def paused(self) -> bool:
        """Whether RLMs wait before their next turn."""
        ...

    def pause(self) -> None:
        """Keep RLMs from beginning another turn until `unpause`."""
        ...

    def unpause(self) -> None:
        """Continue after `pause`."""
        ...

    def answer_now(self) -> None:
        """Let the root model answer now, in one last turn."""
        ...

    def raise_limit(self, **limits: float | int | None) -> None:
        """Set higher limits, by their names in `Limits`. Raises ConfigError if a value is invalid."""
        ...

    def cancel(self) -> None:
        """End the run without an answer."""
        ...


class Keys:
    """The keyboard of one run: the open question and the latest message."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._mode: Mode = "watch"
        self._message = ""

    def press(self, key: str, meters: Sequence[Meter]) -> None:
        """Act on a key. `meters` are the current totals."""
        mode, self._mode, self._message = self._mode, "watch", ""
        if key == INTERRUPT:
            self._cancel()
            return
        match mode, key:
            case "answer", "y":
                self._controls.answer_now()
                self._message = "Asking the root model for its answer now."
            case "cancel", "y":
                self._cancel()
            case "limit", _:
                self._raise(key, meters)
            case (("answer" | "cancel"), _):
                self._message = "Nothing changed."
            case _, "p":
                self._pause()
            case _, "a":
                self._mode = "answer"
            case _, "l" if limited(meters):
                self._mode = "limit"
            case _, "l":
                self._message = "This run has no limit that can be raised."
            case _, "q":
                self._mode = "cancel"
            case ("watch", "?"):
                self._mode = "help"

    def footer(self, meters: Sequence[Meter]) -> list[list[Styled]]:
        """The lines at the bottom of the screen."""
        match self._mode:
            case "answer":
                return [[*_question("Answer now with what the run has so far?"), *_hints(("y", "yes"), ("n", "no"))]]
            case "cancel":
                return [[*_question("Cancel the run?"), *_hints(("y", "yes"), ("n", "no"))]]
            case "limit":
                question = [
                    *_question("Double which limit?"),
                    *_hints(("Enter", "the closest to its end"), ("Esc", "cancel")),
                ]
                choices = [(meter.key, f"{meter.name} {meter.text} → {_doubled(meter)}") for meter in limited(meters)]
                return [question, *(_hints(choice) for choice in choices)]
            case "help":
                return [_hints((key, what)) for key, what in HELP]
            case "watch":
                toggle = "continue" if self._controls.paused else "pause"
                hints = _hints(
                    ("p", toggle), ("a", "answer now"), ("l", "raise a limit"), ("q", "cancel"), ("?", "help")
                )
                return [[(self._message, "yellow")], hints] if self._message else [hints]

    def _pause(self) -> None:
        if self._controls.paused:
            self._controls.unpause()
            self._message = "The run continues."
        else:
            self._controls.pause()
            self._message = "Paused. Press p to continue."

    def _cancel(self) -> None:
        self._controls.cancel()
        self._message = "Cancelling the run."

    def _raise(self, key: str, meters: Sequence[Meter]) -> None:
        choices = limited(meters)
        chosen = choices[0] if key in "\r\n" else next((meter for meter in choices if meter.key == key), None)
        if chosen is None:
            self._message = "Nothing changed."
            return
        try:
            self._controls.raise_limit(**{chosen.field: chosen.doubled})
        except ConfigError as error:
            self._message = str(error)
        else:
            self._message = f"The limit on {chosen.name} is now {_doubled(chosen)}."


def limited(meters: Sequence[Meter]) -> list[Meter]:
    """The totals whose limit can be raised, the closest to its limit first."""
    choices = (meter for meter in meters if meter.share is not None and meter.field in RAISABLE_LIMITS)
    return sorted(choices, key=lambda meter: -(meter.share or 0.0))


def _doubled(meter: Meter) -> str:
    return "" if meter.doubled is None else meter.amount_text(meter.doubled)


def _question(question: str) -> list[Styled]:
    return [(f"{question}  ", "bold yellow")]


def _hints(*hints: Styled) -> list[Styled]:
    return [part for key, what in hints for part in ((key, "bold"), (f" {what}  ", "dim"))]


def split(data: bytes) -> list[str]:
    """The keys in a terminal's input, one per character. Ignores escape sequences, such as those of arrow keys."""
    text = data.decode("utf-8", "ignore")
    if text.startswith(ESCAPE) and len(text) > 1:
        return []
    return list(text)
