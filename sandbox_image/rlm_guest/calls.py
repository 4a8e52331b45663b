"""The worker's side of `llm_query`, `llm_batch` and tools: concurrent calls from any thread, answered in any order."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from types import MethodType
from typing import Any

from rlm.protocol.messages import ContextKind, Message, Query, Reply, Start, ToolCall

from . import values
from .link import Link, close_all, fd_bundle, read_value

Command = tuple[Message, list[int]]

OTHER_PROCESS = (
    "this call works only in the process of the cell, not in one that the cell started: use threads, such as "
    "concurrent.futures.ThreadPoolExecutor, or llm_batch for many prompts"
)


class LLMError(Exception):
    """A model call failed; the text says why."""


class ToolError(Exception):
    """A call of a host function failed; the text says why."""


class FailedQuery(str):
    """Replaces a missing answer of a batch. It is falsy, and its text says why the call failed."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRequest:
    """One model call, with encoded text."""

    prompt: bytes
    context: bytes | None
    context_kind: ContextKind
    model: str | None
    recurse: bool | None

    @property
    def size(self) -> int:
        return len(self.prompt) + len(self.context or b"")


Outgoing = tuple[int, Callable[[int], None]]  # the size of a call in bytes, and a function that sends it with a number


def callable_as(name: str, method: Any, usage: str) -> Any:
    """A method under the name that cells know, so that errors about its arguments say how to call that name."""
    function = method.__func__

    @wraps(function)
    def call(owner: object, /, *args: object, **kwargs: object) -> object:
        try:
            return function(owner, *args, **kwargs)
        except TypeError as error:
            frames = error.__traceback__
            if frames is None or frames.tb_next is not None:  # the method itself, or the code of a value, raised it
                raise
            problem = str(error).rpartition("() ")[2]
            if "positional argument" in problem and "given" in problem:  # its numbers count `self`
                problem = "got too many arguments"
            raise TypeError(f"{name}() {problem}. Call it as {name}{usage}") from None

    call.__name__ = call.__qualname__ = name
    return MethodType(call, method.__self__)


class Calls:
    """Sends calls, and delivers the supervisor's messages to the threads that wait for them.

    It starts no thread, because a fork would lose it. One of the waiting threads reads for all.
    """

    def __init__(self, link: Link, start: Start) -> None:
        self._start = start
        self._batches = itertools.count(1)
        self._numbers = itertools.count(1)
        self.reset(link)

    def reset(self, link: Link) -> None:
        """Start over with another link: an activated snapshot has no other threads, and their locks are meaningless."""
        self._link = link
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._reading = False
        self._in_flight: dict[int, int] = {}  # size in bytes of each pending call, by number
        self._answers: dict[int, tuple[bool, bytes]] = {}
        self._commands: deque[Command] = deque()

    def next_command(self) -> Command:
        """Wait for the supervisor's next command. Raises EOFError or OSError when it is gone."""
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
                self._dispatch(message, descriptors)

    def _dispatch(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, Reply):
            answer = read_value(message.text, descriptors)
            close_all(descriptors)
            if message.call in self._in_flight:
                del self._in_flight[message.call]
                self._answers[message.call] = message.ok, answer
        else:
            self._commands.append((message, descriptors))

    def _ask(self, calls: Iterable[Outgoing], *, max_pending: int | None = None) -> list[tuple[bool, bytes]]:
        """Send calls, at most `max_pending` at a time, and return the answers in order.

        A call that would exceed the host's limits waits for earlier ones.
        """
        if os.getpid() != self._process:  # two processes would take each other's answers from the link
            raise RuntimeError(OTHER_PROCESS)
        limit = self._start.max_calls_in_flight
        window = min(max_pending or limit, limit)
        sent: list[int] = []
        mine: set[int] = set()

        def claim(number: int, size: int) -> bool:
            mine.intersection_update(self._in_flight)
            free_bytes = self._start.max_value_bytes - sum(self._in_flight.values())
            fits = len(mine) < window and len(self._in_flight) < limit and size <= free_bytes
            if fits:
                mine.add(number)
                self._in_flight[number] = size
            return fits

        for size, send in calls:
            number = next(self._numbers)
            self._wait_until(partial(claim, number, size))
            sent.append(number)
            try:
                send(number)
            except BaseException:  # it was not sent, so no answer will remove it
                with self._changed:
                    self._in_flight.pop(number, None)
                    self._changed.notify_all()
                raise
        self._wait_until(lambda: mine.isdisjoint(self._in_flight))
        return [self._answers.pop(number) for number in sent]

    def _send(self, request: QueryRequest, batch: int, number: int) -> None:
        with fd_bundle() as bundle:
            query = Query(
                cell=0,  # the supervisor fills it in
                call=number,
                batch=batch,
                prompt=bundle.add(request.prompt),
                context=None if request.context is None else bundle.add(request.context),
                context_kind=request.context_kind,
                model=request.model,
                recurse=request.recurse,
            )
            self._link.send(query, bundle.descriptors)

    # Functions that the model's code calls

    def llm_query(
        self, prompt: str, context: object = None, *, model: str | None = None, recurse: bool | None = None
    ) -> str:
        """Ask a model, with `context` as further data. Returns its answer. Raises LLMError if the call failed."""
        request = self._request(prompt, context, model, recurse)
        ok, answer = self._ask([self._outgoing(request, 0)])[0]
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
        """Ask many prompts concurrently. Returns the answers in order; a failed call gives a falsy str with the reason."""
        if isinstance(prompts, str):
            raise TypeError("llm_batch takes a list of prompts; for one prompt there is llm_query")
        prompts = _listed(prompts, "prompts")
        contexts = contexts if contexts is None else _listed(contexts, "contexts")
        if contexts is not None and len(contexts) != len(prompts):
            raise ValueError(f"llm_batch got {len(prompts)} prompts and {len(contexts)} contexts")
        if max_concurrent is not None and not isinstance(max_concurrent, int):
            raise TypeError(f"max_concurrent has to be an int, not {type(max_concurrent).__name__}")
        if max_concurrent is not None and max_concurrent < 1:
            raise ValueError("max_concurrent has to be at least 1")
        pairs = list(zip(prompts, contexts if contexts is not None else itertools.repeat(None), strict=False))
        for prompt, context in pairs:  # report invalid ones before the first is sent
            self._request(prompt, context, model, recurse)
        batch = next(self._batches)
        # Encoded one by one: all together may exceed the memory.
        outgoing = (self._outgoing(self._request(*pair, model, recurse), batch) for pair in pairs)
        answers = self._ask(outgoing, max_pending=max_concurrent)
        return [_text(answer) if ok else FailedQuery(_text(answer)) for ok, answer in answers]

    def use_tool(self, name: str, positional: tuple[object, ...], named: dict[str, object]) -> object:
        """Call a host function with plain data. Raises ToolError if it fails."""
        arguments = values.packed_for_host([positional, named])
        values.check_size(len(arguments), self._start.max_value_bytes)

        def send(number: int) -> None:
            with fd_bundle() as bundle:
                call = ToolCall(cell=0, call=number, name=name, arguments=bundle.add(arguments))
                self._link.send(call, bundle.descriptors)

        ok, answer = self._ask([(len(arguments), send)])[0]
        if not ok:
            raise ToolError(_text(answer))
        return values.unpacked(answer)

    def _outgoing(self, request: QueryRequest, batch: int) -> Outgoing:
        return request.size, partial(self._send, request, batch)

    def _request(self, prompt: str, context: object, model: str | None, recurse: bool | None) -> QueryRequest:
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
        request = QueryRequest(
            prompt=values.encode_text(prompt),
            context=encoded,
            context_kind=kind,
            model=model,
            recurse=recurse,
        )
        values.check_size(request.size, self._start.max_value_bytes)
        return request


def _text(answer: bytes) -> str:
    return answer.decode("utf-8", "surrogatepass")


def _listed(items: Any, name: str) -> list[Any]:
    if not isinstance(items, Iterable) or isinstance(items, str | bytes):
        raise TypeError(f"{name} has to be a list, not {type(items).__name__}")
    return list(items)
