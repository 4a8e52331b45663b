"""When a conversation is compacted to fit into the model's window, and how much stays. Pure. Imports calls.budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from rlm.calls.budget import BYTES_PER_TOKEN, estimate_input, estimate_tokens
from rlm.config import Limits
from rlm.types import ModelReply

from .transcript import Transcript

COMPACT_AT: Final = 0.65  # share of the window; the rest covers the reply (gpt-5 reserves 32 %) and estimation errors
MIN_SECTION_CHARS: Final = 200  # kept of a section, however small the window: less says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextWindow:
    """A model's window (None if unknown), and how much of it the conversation fills. All in tokens.

    Attributes:
        window: the configured window, or the one learned from a refusal.
        filled: size of the conversation with its latest reply, by the provider's count.
        estimated: our estimate of the same.
    """

    window: int | None
    filled: int = 0
    estimated: int = 0

    def section_chars(self, transcript: Transcript) -> int:
        """Maximum characters of each kept section: summary, newest exchanges, a cell's output.

        About an eighth of the window, less if system prompt and question leave less.
        """
        window = self.window or self.filled
        return max(MIN_SECTION_CHARS, min(window // 2, self._free_chars(transcript, window) // 3))

    def summary_chars(self, transcript: Transcript, request: str) -> int:
        """Maximum characters of the exchanges in the request for a summary."""
        window = self.window or self.filled
        return max(MIN_SECTION_CHARS, self._free_chars(transcript, window) - len(request))

    def after(self, reply: ModelReply, transcript: Transcript) -> ContextWindow:
        """The window after a reply, from the provider's count, or from an estimate if a cache replied.

        Excludes thinking, which is not sent again.
        """
        usage = reply.usage
        said = usage.output_tokens - usage.reasoning_tokens
        if reply.thinking or not reply.text:  # a server may count it without saying so
            said = min(said, estimate_tokens(reply.text))
        estimated = estimate_input(transcript.messages)
        return replace(self, filled=usage.input_tokens + said or estimated, estimated=estimated)

    def size(self, transcript: Transcript) -> int:
        """The size of the next request, as an upper estimate in tokens."""
        estimated = estimate_input(transcript.messages)
        if estimated >= self.estimated:
            return self.filled + estimated - self.estimated
        return self.filled * estimated // self.estimated

    def nearly_full(self, transcript: Transcript) -> bool:
        """Whether the next request comes close to the window."""
        if self.window is None:
            return False
        return self.size(transcript) > COMPACT_AT * self.window and self.has_grown(transcript)

    def has_grown(self, transcript: Transcript) -> bool:
        """Whether the exchanges fill about a quarter of the window. With fewer, every turn would compact again."""
        return transcript.exchanged_chars > (self.window or self.filled)

    def can_shorten(self, transcript: Transcript) -> bool:
        """Whether compacting would clearly shorten a conversation that was too long."""
        return transcript.exchanged_chars > 2 * self.section_chars(transcript)

    def after_overflow(self, transcript: Transcript, stated: int | None) -> ContextWindow:
        """The window after a request was too long.

        Args:
            transcript: the conversation of that request.
            stated: the window, if the server stated it. It counts, unless it does not explain the refusal of a request
                that is so much smaller.
        """
        size = self.size(transcript)
        if stated is not None and size > COMPACT_AT * stated:
            return replace(self, window=stated)
        between = (self.filled + size) // 2  # the latest accepted request was shorter, the refused one is too long
        known = [window for window in (self.window, stated, between) if window]
        return replace(self, window=min(known, default=None))

    def _free_chars(self, transcript: Transcript, window: int) -> int:
        """Characters that may follow the system prompt and the question."""
        start = estimate_tokens(transcript.messages[0].content) + estimate_tokens(transcript.question)
        if self.estimated:
            start = start * self.filled // self.estimated
        return int(COMPACT_AT * window - start) * BYTES_PER_TOKEN


def limits_for_window(limits: Limits, window: int | None) -> Limits:
    """The limits of an RLM whose model has this window. A small window reduces the output that the model sees."""
    if window is None:
        return limits
    fits = max(1, window // 2)
    return replace(limits, max_output_chars=min(limits.max_output_chars or fits, fits))
