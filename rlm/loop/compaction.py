"""When a conversation is compacted to fit into the model's window, and how much stays. Pure. Imports calls.budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from rlm.calls.budget import estimate_input, estimate_tokens
from rlm.config import Limits
from rlm.types import Usage

from .transcript import Transcript

COMPACT_AT: Final = 0.65  # share of the window; the rest covers the reply (gpt-5 reserves 32 %) and estimation errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextWindow:
    """A model's window (None if unknown), and how much of it the conversation fills. Both in tokens."""

    window: int | None
    filled: int = 0

    @property
    def section_chars(self) -> int:
        """Maximum characters of each kept section: summary, newest exchanges, a cell's output. About an eighth."""
        return max(1, (self.window or self.filled) // 2)

    def after(self, usage: Usage, transcript: Transcript) -> ContextWindow:
        """The window after a reply, from the provider's count, or from an estimate if a cache replied.

        Excludes reasoning, which is not sent again.
        """
        counted = usage.input_tokens + usage.output_tokens - usage.reasoning_tokens
        return replace(self, filled=counted or estimate_input(transcript.messages))

    def nearly_full(self, transcript: Transcript) -> bool:
        """Whether the next request comes close to the window."""
        if self.window is None:
            return False
        expected = self.filled + estimate_tokens(transcript.messages[-1].content)
        return expected > COMPACT_AT * self.window and self.worth_compacting(transcript)

    def worth_compacting(self, transcript: Transcript) -> bool:
        """Whether compacting would clearly shorten the conversation. Otherwise every turn would compact again."""
        return transcript.exchanged_chars > 2 * self.section_chars

    def after_overflow(self) -> ContextWindow:
        """The window after a request was too long: only the size of the latest accepted request is certain."""
        return replace(self, window=self.filled)


def limits_for_window(limits: Limits, window: int | None) -> Limits:
    """The limits of an RLM whose model has this window. A small window reduces the output that the model sees."""
    if window is None:
        return limits
    fits = ContextWindow(window=window).section_chars
    return replace(limits, max_output_chars=min(limits.max_output_chars or fits, fits))
