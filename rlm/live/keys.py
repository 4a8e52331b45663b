"""What keys do to a run, and the lines that say so. Pure: keys come as text, and go to the run through `Controls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from rlm.config import RAISABLE, Limits
from rlm.errors import ConfigError

from .meters import Meter

Styled = tuple[str, str]
Mode = Literal["watch", "answer", "limit", "cancel", "help"]

ESCAPE: Final = "\x1b"
INTERRUPT: Final = "\x03"  # Ctrl-C, where the terminal does not make a signal of it
HELP: Final = (
    ("p", "pause: no RLM begins another turn, what was asked is answered; again: go on"),
    ("a", "answer now: the root takes its last turn with what it has"),
    ("l", "raise a limit: choose one, it is doubled"),
    ("q", "cancel the run, as Ctrl-C does; `rlm resume` goes on, no call is paid twice"),
)


class Controls(Protocol):
    """A run that can be steered, from any thread."""

    @property
    def limits(self) -> Limits:
        """As they are now."""
        ...

    @property
    def seconds(self) -> float:
        """What is used of `max_seconds`."""
        ...

    @property
    def paused(self) -> bool:
        """Whether RLMs wait before their next turn."""
        ...

    def pause(self) -> None:
        """No RLM begins another turn until `unpause`."""
        ...

    def unpause(self) -> None:
        """Take back `pause`."""
        ...

    def answer_now(self) -> None:
        """The root takes its last turn with what it has."""
        ...

    def raise_limit(self, **limits: float | int | None) -> None:
        """New limits, by their names in `Limits`. Raises ConfigError."""
        ...

    def cancel(self) -> None:
        """End the run."""
        ...


class Keys:
    """The keyboard of one run: which question is open, and what was last said."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._mode: Mode = "watch"
        self._said = ""

    def press(self, key: str, meters: Sequence[Meter]) -> None:
        """Do what a key means now. `meters` are the totals of the moment."""
        mode, self._mode, self._said = self._mode, "watch", ""
        if key == INTERRUPT:
            self._cancel()
            return
        match mode, key:
            case "answer", "y":
                self._controls.answer_now()
                self._said = "The root takes its last turn with what it has."
            case "cancel", "y":
                self._cancel()
            case "limit", _:
                self._raise(key, meters)
            case (("answer" | "cancel"), _):
                self._said = "Nothing was changed."
            case _, "p":
                self._pause()
            case _, "a":
                self._mode = "answer"
            case _, "l" if limited(meters):
                self._mode = "limit"
            case _, "l":
                self._said = "This run has no limit that can be raised."
            case _, "q":
                self._mode = "cancel"
            case ("watch", "?"):
                self._mode = "help"

    def footer(self, meters: Sequence[Meter]) -> list[list[Styled]]:
        """The lines at the bottom of the screen."""
        match self._mode:
            case "answer":
                return [[*_asks("Answer now, with what there is?"), *_hints(("y", "yes"), ("n", "no"))]]
            case "cancel":
                return [[*_asks("Cancel the run?"), *_hints(("y", "yes"), ("n", "no"))]]
            case "limit":
                question = [*_asks("Double which limit?"), *_hints(("Enter", "the first"), ("Esc", "none"))]
                choices = [(meter.key, f"{meter.name} {meter.told} → {_doubled(meter)}") for meter in limited(meters)]
                return [question, *(_hints(choice) for choice in choices)]
            case "help":
                return [_hints((key, what)) for key, what in HELP]
            case "watch":
                turn = "go on" if self._controls.paused else "pause"
                hints = _hints(("p", turn), ("a", "answer now"), ("l", "raise a limit"), ("q", "cancel"), ("?", "help"))
                return [[(self._said, "yellow")], hints] if self._said else [hints]

    def _pause(self) -> None:
        if self._controls.paused:
            self._controls.unpause()
            self._said = "The run goes on."
        else:
            self._controls.pause()
            self._said = "No RLM begins another turn until p is pressed again."

    def _cancel(self) -> None:
        self._controls.cancel()
        self._said = "The run is being cancelled."

    def _raise(self, key: str, meters: Sequence[Meter]) -> None:
        choices = limited(meters)
        chosen = choices[0] if key in "\r\n" else next((meter for meter in choices if meter.key == key), None)
        if chosen is None:
            self._said = "Nothing was changed."
            return
        try:
            self._controls.raise_limit(**{chosen.field: chosen.doubled})
        except ConfigError as error:
            self._said = str(error)
        else:
            self._said = f"The limit on {chosen.name} is {_doubled(chosen)} now."


def limited(meters: Sequence[Meter]) -> list[Meter]:
    """The totals with a limit that can be raised, the one that will be reached first before all others."""
    choices = (meter for meter in meters if meter.share is not None and meter.field in RAISABLE)
    return sorted(choices, key=lambda meter: -(meter.share or 0.0))


def _doubled(meter: Meter) -> str:
    return "" if meter.doubled is None else meter.words(meter.doubled)


def _asks(question: str) -> list[Styled]:
    return [(f"{question}  ", "bold yellow")]


def _hints(*hints: Styled) -> list[Styled]:
    return [part for key, what in hints for part in ((key, "bold"), (f" {what}  ", "dim"))]


def split(data: bytes) -> list[str]:
    """The keys in what a terminal sent: one a character. Arrows and the like come as sequences, and mean nothing here."""
    text = data.decode("utf-8", "ignore")
    if text.startswith(ESCAPE) and len(text) > 1:
        return []
    return list(text)
