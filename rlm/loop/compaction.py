"""When a conversation is made shorter to stay within the model's window, and how much of it is left. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from rlm.calls.budget import estimate_input, estimate_tokens
from rlm.config import Limits
from rlm.types import Usage

from .transcript import Transcript

COMPACT_AT: Final = 0.65  # of the window; the rest is for the reply (gpt-5 keeps 32 % for it) and what estimates miss


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextWindow:
    """A model's window and what of it was filled at its latest reply, in tokens. The window may be unknown."""

    window: int | None
    filled: int = 0

    @property
    def section_chars(self) -> int:
        """The most of each part that stays: the summary, the newest exchanges, a cell's output. About an eighth."""
        return max(1, (self.window or self.filled) // 2)

    def after(self, usage: Usage, transcript: Transcript) -> ContextWindow:
        """After a reply, by the provider's count; by an estimate where it is a cache's. Reasoning is not sent again."""
        counted = usage.input_tokens + usage.output_tokens - usage.reasoning_tokens
        return replace(self, filled=counted or estimate_input(transcript.messages))

    def nearly_full(self, transcript: Transcript) -> bool:
        """Whether the next request nears the window."""
        if self.window is None:
            return False
        expected = self.filled + estimate_tokens(transcript.messages[-1].content)
        return expected > COMPACT_AT * self.window and self.worth_compacting(transcript)

    def worth_compacting(self, transcript: Transcript) -> bool:
        """Whether what would be left is clearly less than what there is; otherwise every turn would be shortened anew."""
        return transcript.exchanged_chars > 2 * self.section_chars

    def after_overflow(self) -> ContextWindow:
        """After the model has refused a request as too long: what it took the last time is all that is sure."""
        return replace(self, window=self.filled)


def limits_for_window(limits: Limits, window: int | None) -> Limits:
    """The limits of an RLM whose model has this window: a small one is shown less of a cell's output."""
    if window is None:
        return limits
    fits = ContextWindow(window=window).section_chars
    return replace(limits, max_output_chars=min(limits.max_output_chars or fits, fits))
