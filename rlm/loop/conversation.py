"""The conversation of one RLM with its model: requests replies, and compacts turns that no longer fit into the window.

Imports calls and what is below.
"""

from __future__ import annotations

from typing import Final

from rlm import prompts
from rlm._util.text import clip, fenced
from rlm.calls.budget import BudgetExceeded
from rlm.calls.gateway import CallAbandoned, may_be_too_long
from rlm.errors import ContextTooLong, ModelError
from rlm.events import Compacted
from rlm.prompts import ReplyKind
from rlm.sandbox.values import encode
from rlm.types import Message, ModelReply

from .compaction import ContextWindow
from .observation import describe
from .repl import Repl
from .reply import Problem, Turn, parse_speech
from .services import Services
from .steps import Steps
from .task import RLMTask
from .transcript import Transcript

LAST_TURN_CHARS: Final = 1_000  # kept of the newest exchange if the conversation exceeds the window or the budget
SPOKEN: Final[frozenset[ReplyKind]] = frozenset(  # kinds of replies that have words of the model
    {"text", "cut_off", "bare_code", "fence", "plan"}
)
MAX_ATTEMPTS: Final = 3  # requests for one turn: each refusal halves the doubt about the size of the window
SUMMARY_SHARES: Final = (1, 2)  # a second request for a summary has half the room: a learned window may be wrong
LAST_TURN_REQUEST: Final = Message(role="user", content=" " * 5_000)  # stands for that exchange and the request


class Conversation:
    """The transcript of one RLM, and the requests that extend it."""

    def __init__(self, task: RLMTask, services: Services, *, steps: Steps, repl: Repl, transcript: Transcript) -> None:
        self._task = task
        self._is_root = task.level == 0
        self._services = services
        self._steps = steps
        self._repl = repl
        self._window = ContextWindow(window=services.window_of(task.model))
        self._transcript = transcript

    @property
    def window(self) -> int | None:
        """The window of the model in tokens, if it is known by now."""
        return self._window.window

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

    async def next_turn(self, *, last: bool = False) -> tuple[Turn, ReplyKind]:
        """The model's next turn, and what kind of reply it is.

        Args:
            last: whether the reserve for the root's last turn pays for the request.

        Raises:
            Stop: a replay stops here.
            BudgetExceeded: a limit of the run refuses the call.
            ModelError: no reply. ContextTooLong if even a compacted conversation is too long.
        """
        if self._is_root:
            last_messages = (*self._transcript.messages, LAST_TURN_REQUEST)
            self._services.calls.accounting.reserve_last_turn(self._task.model, last_messages)
        reply = await self._reply(last=last)
        if reply.text:
            self._transcript = self._transcript.reply(reply.text)
        self._window = self._window.after(reply, self._transcript)
        turn = parse_speech(reply.text, cut_off=reply.finish_reason == "length")
        return turn, kind_of(reply, turn.problem)

    async def _reply(self, *, last: bool) -> ModelReply:
        """A reply to the conversation, which is compacted if the server refuses it. Raises as `next_turn` does."""
        for attempts_left in reversed(range(MAX_ATTEMPTS)):
            try:
                return await self._steps.request(self._transcript.messages, last=last)
            except ContextTooLong as error:
                if last or not attempts_left:
                    raise
                await self._compact_refused(error)
            except ModelError as error:  # in unknown words, so that another attempt would be a guess
                if last or attempts_left < MAX_ATTEMPTS - 1 or not may_be_too_long(error):
                    raise
                await self._compact_refused(error)
        raise AssertionError

    async def last_turn(self, reason: str) -> Turn:
        """Ask the model to answer now. The reserve pays for the root's call. Raises as `next_turn` does.

        A reply without usable text is asked for once more. If the limits or the server refuse that, it stays.
        """
        request = prompts.last_turn_message(reason)
        turn, kind = await self._ask_last(request)
        if turn.cells or turn.final is not None or kind in SPOKEN:
            return turn
        try:
            again, second = await self._ask_last(f"{prompts.unread(kind)} {request}")
        except CallAbandoned:  # time ran out for this turn in the recorded run
            raise
        except (BudgetExceeded, ModelError):
            return turn
        return again if again.cells or again.final is not None or second in SPOKEN else turn

    async def _ask_last(self, request: str) -> tuple[Turn, ReplyKind]:
        """Ask for a last reply, with less of the conversation if all of it is too long."""
        whole = self._transcript.add_message(request)
        shortened = self._transcript.compact(prompts.LEFT_OUT, keep_chars=LAST_TURN_CHARS).add_message(request)
        try:
            self._transcript = whole
            return await self.next_turn(last=self._is_root)
        except (BudgetExceeded, ModelError) as error:
            if isinstance(error, ModelError) and not may_be_too_long(error):
                raise
        self._transcript = shortened
        return await self.next_turn(last=self._is_root)

    async def load_history(self) -> bool:
        """Bind the whole conversation to `history` in the REPL. False if the sandbox has no memory for it."""
        messages = [{"role": message.role, "content": message.content} for message in self._transcript.history]
        return await self._repl.load("history", encode(messages)) is not None

    async def _compact_refused(self, error: ModelError) -> None:
        """Compact a conversation that a server refused. Raises that error if it has not grown enough to explain it."""
        stated = error.window if isinstance(error, ContextTooLong) else None
        window = self._window.after_overflow(self._transcript, stated)
        shortens = window.can_shorten(self._transcript)
        if isinstance(error, ContextTooLong):
            self._window = window
            if stated is not None and window.window is not None:
                self._services.windows[self._task.model.name] = window.window
        else:  # the refusal may have another reason
            shortens = shortens and window.has_grown(self._transcript)
        if not shortens:
            raise error
        try:
            await self._compact(window)
        except ModelError:
            if isinstance(error, ContextTooLong):
                raise
            raise error from None  # the server refuses whatever is sent

    async def _compact(self, window: ContextWindow) -> None:
        """Replace the older turns with the model's own summary. The REPL keeps all turns as `history`."""
        chars = window.section_chars(self._transcript)
        summary = await self._summary(self._transcript.older(chars), window)
        kept = await self.load_history()
        variables = await self._steps.run_cell("SHOW_VARS()", calls=False)
        messages = len(self._transcript.history)
        summary = prompts.NO_SUMMARY if summary is None else fenced(clip(summary, chars))
        note = prompts.compaction_message(
            summary=summary, variables=describe(variables, limit=chars // 2), messages=messages, kept=kept
        )
        self._transcript = self._transcript.compact(note, keep_chars=chars)
        self._services.events.emit(Compacted(node=self._task.node, messages=messages, summary=summary))

    async def _summary(self, older: Transcript, window: ContextWindow) -> str | None:
        """The model's summary of the older turns. None if it gives none, or even a shortened request is too long."""
        chars = window.summary_chars(older, prompts.SUMMARIZE)
        for share in SUMMARY_SHARES:
            request = older.clipped(chars // share).add_message(prompts.SUMMARIZE)
            try:
                reply = await self._steps.request(request.messages)
            except ContextTooLong:
                continue
            problem = parse_speech(reply.text).problem
            return reply.text if kind_of(reply, problem) in SPOKEN else None
        return None


def kind_of(reply: ModelReply, problem: Problem | None) -> ReplyKind:
    """What kind of reply this is. `problem` is that of its turn."""
    match reply.finish_reason:
        case "refusal" if reply.text:
            return "refusal"
        case "tool_calls" if not reply.text:
            return "tool_call"
        case "content_filter":
            return "filtered"
        case "length":
            return "cut_off" if reply.text else "unsaid"
    if reply.text:
        return problem or "text"
    return "thinking" if reply.thinking else "empty"
