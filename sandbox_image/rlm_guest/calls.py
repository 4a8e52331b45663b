"""The worker's side of `llm_query`, `llm_batch` and tools: many calls in flight, answers in any order, from any thread."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from rlm.protocol.messages import ContextKind, Message, Query, Reply, Start, ToolCall

from . import values
from .link import Link, close_all, parcel, read_value

Command = tuple[Message, list[int]]


class LLMError(Exception):
    """A model call gave no answer; the text says why."""


class ToolError(Exception):
    """A call of a host function gave no value; the text says why."""


class FailedQuery(str):
    """Stands in the place of an answer that a batch did not get: says what happened, and is false."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRequest:
    """One call, as the model's code asked for it."""

    prompt: bytes
    context: bytes | None
    context_kind: ContextKind
    model: str | None
    recurse: bool | None

    @property
    def size(self) -> int:
        return len(self.prompt) + len(self.context or b"")


Outgoing = tuple[int, Callable[[int], None]]  # the bytes of a call, and what sends it under a number


class Calls:
    """Sends queries and hands out what the supervisor says, to the thread that waits for it.

    No thread of its own (it would not live through a fork): of the threads that wait, one reads for all.
    """

    def __init__(self, link: Link, start: Start) -> None:
        self._start = start
        self._batches = itertools.count(1)
        self._numbers = itertools.count(1)
        self.restart(link)

    def restart(self, link: Link) -> None:
        """Begin anew on another line: in a woken snapshot no other thread lives, and their locks mean nothing."""
        self._link = link
        self._changed = threading.Condition()
        self._reading = False
        self._in_flight: dict[int, int] = {}  # the number of each call without an answer, and its bytes
        self._answers: dict[int, tuple[bool, bytes]] = {}
        self._commands: deque[Command] = deque()

    def next_command(self) -> Command:
        """Wait for what the supervisor wants next. Raises EOFError or OSError when it is gone."""
        self._wait_until(lambda: bool(self._commands))
        return self._commands.popleft()

    def _wait_until(self, done: Callable[[], bool]) -> None:
        with self._changed:
            while not done():
                if self._reading:
                    self._changed.wait()
                    continue
                self._reading = True
                self._changed.release()
                try:
                    message, descriptors = self._link.receive()
                finally:
                    self._changed.acquire()
                    self._reading = False
                    self._changed.notify_all()
                self._hand_out(message, descriptors)

    def _hand_out(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, Reply):
            answer = read_value(message.text, descriptors)
            close_all(descriptors)
            if message.call in self._in_flight:
                del self._in_flight[message.call]
                self._answers[message.call] = message.ok, answer
        else:
            self._commands.append((message, descriptors))

    def _ask(self, calls: Iterable[Outgoing], *, at_once: int | None = None) -> list[tuple[bool, bytes]]:
        """Send calls under numbers of their own, at most `at_once` waiting for an answer; returns the answers in order.

        A call for which the host has no room now waits for those before it.
        """
        most = self._start.max_calls_in_flight
        window = min(at_once or most, most)
        sent: list[int] = []
        mine: set[int] = set()

        def claimed(number: int, size: int) -> bool:
            mine.intersection_update(self._in_flight)
            room = self._start.max_value_bytes - sum(self._in_flight.values())
            free = len(mine) < window and len(self._in_flight) < most and size <= room
            if free:
                mine.add(number)
                self._in_flight[number] = size
            return free

        for size, send in calls:
            number = next(self._numbers)
            self._wait_until(partial(claimed, number, size))
            sent.append(number)
            try:
                send(number)
            except BaseException:  # it is not on its way, so that no answer would ever free its place
                with self._changed:
                    self._in_flight.pop(number, None)
                    self._changed.notify_all()
                raise
        self._wait_until(lambda: mine.isdisjoint(self._in_flight))
        return [self._answers.pop(number) for number in sent]

    def _send(self, question: QueryRequest, batch: int, number: int) -> None:
        with parcel() as packed:
            query = Query(
                cell=0,  # the supervisor knows which one runs
                call=number,
                batch=batch,
                prompt=packed.add(question.prompt),
                context=None if question.context is None else packed.add(question.context),
                context_kind=question.context_kind,
                model=question.model,
                recurse=question.recurse,
            )
            self._link.send(query, packed.descriptors)

    # What the model's code calls

    def llm_query(
        self, prompt: str, context: object = None, *, model: str | None = None, recurse: bool | None = None
    ) -> str:
        """Ask a model, with `context` as further data; returns its answer. Raises LLMError when there is none."""
        question = self._question(prompt, context, model, recurse)
        ok, answer = self._ask([self._outgoing(question, 0)])[0]
        if not ok:
            raise LLMError(_text(answer))
        return _text(answer)

    def llm_batch(
        self,
        prompts: Sequence[str],
        *,
        contexts: Sequence[object] | None = None,
        model: str | None = None,
        recurse: bool | None = None,
        max_concurrent: int | None = None,
    ) -> list[str]:
        """Ask many at once; returns the answers in order. A call that failed gives a false str that says why."""
        if isinstance(prompts, str):
            raise TypeError("llm_batch takes a list of prompts; for one prompt there is llm_query")
        prompts = list(prompts)
        if contexts is not None and len(contexts) != len(prompts):
            raise ValueError(f"llm_batch got {len(prompts)} prompts and {len(contexts)} contexts")
        if max_concurrent is not None and max_concurrent < 1:
            raise ValueError("max_concurrent has to be at least 1")
        pairs = list(zip(prompts, contexts if contexts is not None else itertools.repeat(None), strict=False))
        for prompt, context in pairs:  # what is wrong with any of them is told before the first is sent
            self._question(prompt, context, model, recurse)
        batch = next(self._batches)
        # Encoded one by one: together they may be too much for the memory.
        outgoing = (self._outgoing(self._question(*pair, model, recurse), batch) for pair in pairs)
        answers = self._ask(outgoing, at_once=max_concurrent)
        return [_text(answer) if ok else FailedQuery(_text(answer)) for ok, answer in answers]

    def use_tool(self, name: str, positional: tuple[object, ...], named: dict[str, object]) -> object:
        """Call a function of the host with plain data. Raises ToolError when it gives no value."""
        arguments = values.packed_for_host([positional, named])
        values.check_size(len(arguments), self._start.max_value_bytes)

        def send(number: int) -> None:
            with parcel() as packed:
                call = ToolCall(cell=0, call=number, name=name, arguments=packed.add(arguments))
                self._link.send(call, packed.descriptors)

        ok, answer = self._ask([(len(arguments), send)])[0]
        if not ok:
            raise ToolError(_text(answer))
        return values.unpacked(answer)

    def _outgoing(self, question: QueryRequest, batch: int) -> Outgoing:
        return question.size, partial(self._send, question, batch)

    def _question(self, prompt: str, context: object, model: str | None, recurse: bool | None) -> QueryRequest:
        if not isinstance(prompt, str):
            raise TypeError(f"a prompt has to be a str, not {type(prompt).__name__}; put data into context=")
        if not (model is None or isinstance(model, str)) or not (recurse is None or isinstance(recurse, bool)):
            raise TypeError("model= takes a name, recurse= takes True or False")
        kind: ContextKind = "text"
        encoded = None
        if context is not None and (self._start.depth < 2 or recurse is False):
            prompt = f"{prompt}\n\n{values.as_text(context)}"
        elif context is not None:
            kind, encoded = values.encode(context)
        question = QueryRequest(
            prompt=values.encode_text(prompt),
            context=encoded,
            context_kind=kind,
            model=model,
            recurse=recurse,
        )
        values.check_size(question.size, self._start.max_value_bytes)
        return question


def _text(answer: bytes) -> str:
    return answer.decode("utf-8", "surrogatepass")
