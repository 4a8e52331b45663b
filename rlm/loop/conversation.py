"""The conversation of one RLM with its model: requests replies, and compacts turns that no longer fit into the window.

Imports calls and what is below.
"""

from __future__ import annotations

from typing import Final

from rlm import prompts
from rlm._util.text import clip, fenced
from rlm.calls.budget import BudgetExceeded
from rlm.errors import ContextTooLong
from rlm.events import Compacted
from rlm.sandbox.values import encode
from rlm.types import Message

from .compaction import ContextWindow
from .observation import describe
from .repl import Repl
from .reply import Turn, parse_speech
from .services import Services
from .steps import Steps
from .task import RLMTask
from .transcript import Transcript

LAST_TURN_CHARS: Final = 1_000  # kept of the newest exchange if the conversation exceeds the window or the budget
LAST_TURN_REQUEST: Final = Message(role="user", content=" " * 5_000)  # stands for that exchange and the request


class Conversation:
    """The transcript of one RLM, and the requests that extend it."""

    def __init__(self, task: RLMTask, services: Services, *, steps: Steps, repl: Repl, transcript: Transcript) -> None:
        self._task = task
        self._is_root = task.level == 0
        self._services = services
        self._steps = steps
        self._repl = repl
        self._window = ContextWindow(window=task.model.context_window)
        self._transcript = transcript

    def add_message(self, text: str) -> None:
        """Add a message to the next request."""
        self._transcript = self._transcript.add_message(text)

    def ask(self, unseen: str, question: str) -> None:
        """Put a further question, after the output that the model has not seen yet."""
        self._transcript = self._transcript.ask(unseen, question)

    async def fit(self) -> None:
        """Compact the conversation if it nearly fills the window. Raises as `next_turn` does."""
        if self._window.nearly_full(self._transcript):
            await self._compact(self._window)

    async def next_turn(self, *, last: bool = False) -> tuple[Turn, bool]:
        """The model's next turn, and whether its reply was cut off.

        Args:
            last: whether the reserve for the root's last turn pays for the request.

        Raises:
            Stop: a replay stops here.
            BudgetExceeded: a limit of the run refuses the call.
            ModelError: no usable reply. ContextTooLong if even a compacted conversation is too long.
        """
        if self._is_root:
            last_messages = (*self._transcript.messages, LAST_TURN_REQUEST)
            self._services.calls.accounting.reserve_last_turn(self._task.model, last_messages)
        try:
            reply = await self._steps.request(self._transcript.messages, last=last)
        except ContextTooLong:
            window = self._window.after_overflow()
            if last or not window.worth_compacting(self._transcript):
                raise
            await self._compact(window)
            reply = await self._steps.request(self._transcript.messages)
        if reply.text:  # empty if the reply was cut off before its first word
            self._transcript = self._transcript.reply(reply.text)
        self._window = self._window.after(reply.usage, self._transcript)
        cut_off = reply.finish_reason == "length"
        return parse_speech(reply.text, cut_off=cut_off), cut_off

    async def last_turn(self, reason: str) -> Turn:
        """Ask the model to answer now. The reserve pays for the root's call. Raises as `next_turn` does."""
        request = prompts.last_turn_message(reason)
        whole = self._transcript.add_message(request)
        shortened = self._transcript.compact(prompts.LEFT_OUT, keep_chars=LAST_TURN_CHARS).add_message(request)
        try:
            self._transcript = whole
            turn, _ = await self.next_turn(last=self._is_root)
        except (BudgetExceeded, ContextTooLong):
            self._transcript = shortened
            turn, _ = await self.next_turn(last=self._is_root)
        return turn

    async def load_history(self) -> bool:
        """Bind the whole conversation to `history` in the REPL. False if the sandbox has no memory for it."""
        messages = [{"role": message.role, "content": message.content} for message in self._transcript.history]
        return await self._repl.load("history", encode(messages)) is not None

    async def _compact(self, window: ContextWindow) -> None:
        """Replace the older turns with the model's own summary. The REPL keeps all turns as `history`."""
        chars = window.section_chars
        try:
            reply = await self._steps.request(self._transcript.older(chars).add_message(prompts.SUMMARIZE).messages)
            summary = fenced(clip(reply.text, chars)) if reply.text else prompts.NO_SUMMARY
        except ContextTooLong:
            summary = prompts.NO_SUMMARY
        kept = await self.load_history()
        variables = await self._steps.run_cell("SHOW_VARS()", calls=False)
        messages = len(self._transcript.history)
        note = prompts.compaction_message(
            summary=summary, variables=describe(variables, limit=chars // 2), messages=messages, kept=kept
        )
        self._transcript = self._transcript.compact(note, keep_chars=chars)
        self._services.events.emit(Compacted(node=self._task.node, messages=messages, summary=summary))
