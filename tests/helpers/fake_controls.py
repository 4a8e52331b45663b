"""A run that records how keys control it. The real `RunControl` checks raised limits."""

from rlm.config import Limits
from rlm.errors import ConfigError
from rlm.loop.control import RunControl


class FakeControls:
    def __init__(self, limits: Limits | None = None, *, seconds: float = 0.0, refusal: str | None = None) -> None:
        self.paused = False
        self.seconds = seconds
        self.asked: list[object] = []
        self._refusal = refusal
        self._control = RunControl(limits or Limits())

    @property
    def limits(self) -> Limits:
        return self._control.limits

    def pause(self) -> None:
        self.paused = True
        self.asked.append("pause")

    def unpause(self) -> None:
        self.paused = False
        self.asked.append("unpause")

    def answer_now(self) -> None:
        self.asked.append("answer now")

    def raise_limit(self, **limits: float | int | None) -> None:
        if self._refusal is not None:
            raise ConfigError(self._refusal)
        self._control.raise_limit(**limits)
        self.asked.append(limits)

    def cancel(self) -> None:
        self.asked.append("cancel")
