"""A run that notes how it is steered."""

from rlm.errors import ConfigError


class FakeControls:
    def __init__(self, *, refusal: str | None = None) -> None:
        self.paused = False
        self.asked: list[object] = []
        self._refusal = refusal

    def pause(self) -> None:
        self.paused = True
        self.asked.append("pause")

    def go_on(self) -> None:
        self.paused = False
        self.asked.append("go on")

    def answer_now(self) -> None:
        self.asked.append("answer now")

    def raise_limit(self, **limits: float | int | None) -> None:
        if self._refusal is not None:
            raise ConfigError(self._refusal)
        self.asked.append(limits)

    def cancel(self) -> None:
        self.asked.append("cancel")
