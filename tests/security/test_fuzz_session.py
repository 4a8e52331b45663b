"""The host's end of a channel against a guest that sends any message in any order.

A model of the legal messages runs beside the real session. A legal message has exactly its result. An illegal one ends
the operation with a declared error, and the session is unusable. Time is virtual, so endless operations are detected.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import tracemalloc
from collections import Counter
from collections.abc import Coroutine, Iterator
from itertools import count
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helpers.scripted_guest import DIGEST, MemoryStream, query, result
from rlm.config import SandboxConfig
from rlm.errors import ConfigError, SandboxDied, SandboxError, SandboxMisbehaved
from rlm.protocol.messages import (
    VERSION,
    Blob,
    Chunk,
    Execute,
    Load,
    Loaded,
    Message,
    Output,
    Ready,
    Reply,
    Start,
    pack,
    unpack,
)
from rlm.sandbox.base import QueryReply, SandboxQuery
from rlm.sandbox.cell import OUTPUT_SLACK_BYTES
from rlm.sandbox.channel import MAX_STREAMS
from rlm.sandbox.session import MAX_CELL_SECONDS, Session
from rlm.sandbox.values import encode
from rlm.testing import VirtualLoop

FRAMES = int(os.environ.get("RLM_FUZZ_FRAMES", "100000"))
STEPS = 50
CONFIG = SandboxConfig(max_output_bytes=200, max_calls_in_flight=3, max_value_bytes=5000)
MOST_OUTPUT = CONFIG.max_output_bytes + OUTPUT_SLACK_BYTES
ALL_DEADLINES = 10 * MAX_CELL_SECONDS

small = st.integers(0, 6)
data = st.binary(max_size=40) | st.sampled_from([bytes(1500), bytes(3000), "ä€😀".encode(), b"\xed\xa0\x80"])
odd = st.sampled_from([0, 1, 2, 2**32, 2**63, 2**64 - 1])
payloads = data | st.builds(Blob, stream=small, size=small | odd)


def frame(message: Message) -> bytes:
    body = pack(message)
    return len(body).to_bytes(4, "big") + body


LOADED = frame(Loaded(name="x", ok=True, type="str", size=1, error=""))


def is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


class Conversation(RuleBasedStateMachine):
    """`phase` is what the model expects: idle, loading, executing, poisoned (the stream contains something illegal),
    unknown (the model cannot interpret the sent bytes), over.
    """

    frames = 0
    phase: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.task: asyncio.Task[Any] | None = None

    # Machinery

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def settle(self) -> None:
        """The clock advances only when every task waits."""
        self.do(anyio.sleep(0.01))

    def send(self, *messages: Message) -> None:
        type(self).frames += len(messages)
        self.send_raw(b"".join(map(frame, messages)))

    def send_raw(self, raw: bytes) -> None:
        self.do(self.guest.send(raw))
        self.settle()

    def begin(self, work: Coroutine[Any, Any, Any], phase: str) -> None:
        """Start an operation. It fails immediately if an illegal message is waiting."""

        async def create() -> asyncio.Task[Any]:
            return asyncio.ensure_future(work)

        self.task = self.do(create())
        self.settle()
        if self.phase == "poisoned":
            self.expect_misbehaved()
        else:
            self.phase = phase

    def done(self) -> asyncio.Task[Any]:
        assert self.task is not None
        assert self.task.done()
        return self.task

    def expect_misbehaved(self) -> None:
        assert isinstance(self.done().exception(), SandboxMisbehaved)
        self.phase = "over"

    def expect_still_running(self) -> None:
        assert self.task is not None
        assert not self.task.done(), self.task

    def heard(self) -> list[Message]:
        """The host's messages since the last call."""
        messages = []
        while self.guest._receive.statistics().current_buffer_used:
            raw = self.do(self.guest.receive())
            assert int.from_bytes(raw[:4], "big") == len(raw) - 4
            messages.append(unpack(raw[4:]))
        return messages

    @initialize()
    def greet(self) -> None:
        self.phase = "idle"
        self.task = None
        self.cell = 0
        self.open: dict[int, tuple[int, asyncio.Future[str]]] = {}

        async def create() -> None:
            self.host, self.guest = MemoryStream.pair(buffered=float("inf"))
            self.session = Session(self.host, CONFIG)

        self.do(create())
        self.do(self.guest.send(frame(Ready(version=VERSION, digest=DIGEST, python="3"))))
        self.do(self.session.handshake(digest=DIGEST, depth=1, worker_memory_bytes=1))
        assert [type(message) for message in self.heard()] == [Start]

    # Actions of the host

    @precondition(lambda self: self.phase in ("idle", "poisoned"))
    @rule(value=data)
    def host_loads(self, value: bytes) -> None:
        self.size = len(value)
        self.begin(self.session.load("x", encode(value)), "loading")
        assert [message.value for message in self.heard() if isinstance(message, Load)] == [value]

    @precondition(lambda self: self.phase in ("idle", "poisoned"))
    @rule()
    def host_runs_a_cell(self) -> None:
        self.cell += 1
        self.output = {1: b"", 2: b""}
        self.ahead: dict[int, bytes] = {}
        self.open = {}
        self.asked: list[int] = []
        self.latest = 0
        self.begin(self.session.run("pass", seconds=MAX_CELL_SECONDS, answer=self.answer), "executing")
        assert [message.cell for message in self.heard() if isinstance(message, Execute)] == [self.cell]

    async def answer(self, query: SandboxQuery) -> QueryReply:
        self.asked.append(query.call)
        if query.call not in self.open:  # from a message that the model does not know
            self.open[query.call] = 0, asyncio.get_running_loop().create_future()
        return QueryReply(ok=True, text=await self.open[query.call][1])

    @precondition(lambda self: self.phase == "executing" and self.open)
    @rule(choice=st.randoms(use_true_random=False), text=st.text(max_size=20))
    def host_answers(self, choice: random.Random, text: str) -> None:
        call = choice.choice(sorted(self.open))
        self.open.pop(call)[1].set_result(text)
        self.settle()
        replies = [(m.call, m.ok, m.text) for m in self.heard() if isinstance(m, Reply)]
        assert replies == [(call, True, text.encode("utf-8", "surrogatepass"))]

    @precondition(lambda self: self.phase in ("loading", "executing", "unknown") and not self.task.done())
    @rule()
    def host_cancels(self) -> None:
        assert self.task is not None
        self.task.cancel()
        self.settle()
        assert self.task.cancelled()
        self.phase = "over"

    # Guest messages whose legality the model knows

    @precondition(lambda self: self.phase == "loading")
    @rule(ok=st.booleans(), size=odd)
    def guest_has_loaded(self, ok: bool, size: int) -> None:
        self.send(Loaded(name="x", ok=ok, type="bytes", size=size, error="no"))
        if size > self.size:
            return self.expect_misbehaved()
        if ok:
            assert (self.done().result().type, self.done().result().size) == ("bytes", size)
        else:
            assert isinstance(self.done().exception(), ConfigError)
        self.phase = "idle"
        return None

    @precondition(lambda self: self.phase == "executing")
    @rule(number=st.sampled_from([0, 0, 0, 0, 0, 1, -1]), stream=st.sampled_from([1, 1, 1, 2, 2, 0, 3]), payload=data)
    def guest_prints(self, number: int, stream: int, payload: bytes) -> None:
        self.send(Output(cell=self.cell + number, stream=stream, data=payload))
        if number or stream not in (1, 2) or len(self.output[stream]) + len(payload) > MOST_OUTPUT:
            return self.expect_misbehaved()
        self.output[stream] += payload
        return self.expect_still_running()

    @precondition(lambda self: self.phase == "executing")
    @rule(stream=small, payload=data)
    def guest_sends_ahead(self, stream: int, payload: bytes) -> None:
        self.send(Chunk(stream=stream, data=payload))
        self.ahead[stream] = self.ahead.get(stream, b"") + payload
        too_much = sum(map(len, self.ahead.values())) > CONFIG.max_value_bytes or len(self.ahead) > MAX_STREAMS
        if not payload or too_much:
            return self.expect_misbehaved()
        return self.expect_still_running()

    def payload(self, lie: int) -> bytes | Blob:
        """The first value sent ahead, with its true size or another; otherwise a few bytes."""
        if not self.ahead:
            return b"inline"
        stream = next(iter(self.ahead))
        return Blob(stream=stream, size=len(self.ahead[stream]) + lie)

    def taken(self, payload: bytes | Blob) -> bytes | None:
        """The value of a payload, or None if its announced size is wrong."""
        if isinstance(payload, bytes):
            return payload
        value = self.ahead.pop(payload.stream, b"")
        return value if len(value) == payload.size else None

    @precondition(lambda self: self.phase == "executing")
    @rule(
        step=st.sampled_from([1, 1, 1, 1, 5, 2**40, 0]),
        lie=st.sampled_from([0, 0, 0, 0, 1]),
        context=st.none() | payloads,
        number=st.sampled_from([0, 0, 0, 0, 1]),
    )
    def guest_asks(self, step: int, lie: int, context: bytes | Blob | None, number: int) -> None:
        call = self.latest + step
        others = len(self.open)
        payload = self.payload(lie)
        self.send(query(call, payload, cell=self.cell + number, context=context))
        prompt = self.taken(payload)
        beside = b"" if context is None or prompt is None else self.taken(context)
        if number or step == 0 or prompt is None or beside is None or not is_text(prompt):
            return self.expect_misbehaved()
        size = len(prompt) + len(beside)
        if others >= CONFIG.max_calls_in_flight:
            return self.expect_misbehaved()
        if sum(size for size, _ in self.open.values()) + size > CONFIG.max_value_bytes:
            return self.expect_misbehaved()
        assert self.asked[-1] == self.latest + step
        self.open[call] = size, self.open[call][1]
        self.latest = call
        return self.expect_still_running()

    @precondition(lambda self: self.phase == "executing")
    @rule(times=st.integers(1, CONFIG.max_calls_in_flight + 1))
    def guest_asks_as_it_should(self, times: int) -> None:
        """Often reaches the limit on pending calls."""
        for _ in range(times):
            if self.phase == "executing":
                self.guest_asks(step=1, lie=0, context=None, number=0)

    @precondition(lambda self: self.phase == "executing")
    @rule(
        lies=st.tuples(*[st.sampled_from([0, 0, 0, 0, 1, -1, 1000])] * 2),
        answer=st.none() | st.just("ahead") | data,
        number=st.sampled_from([0, 0, 0, 0, -1, 1]),
        outcome=st.sampled_from(["ok", "error", "timeout", "died"]),
    )
    def guest_ends_the_cell(self, lies: tuple[int, int], answer: Any, number: int, outcome: str) -> None:
        payload = self.payload(0) if answer == "ahead" else answer
        counts = [max(0, len(self.output[stream]) + lie) for stream, lie in zip((1, 2), lies, strict=True)]
        self.send(
            result(
                cell=self.cell + number,
                outcome=outcome,
                answer=payload,
                stdout_bytes=counts[0],
                stderr_bytes=counts[1],
            )
        )
        final = None if payload is None else self.taken(payload)
        lied = any(count < len(self.output[stream]) for stream, count in zip((1, 2), counts, strict=True))
        if number or lied or (final is not None and not is_text(final)):
            return self.expect_misbehaved()
        done = self.done().result()
        assert done.outcome == outcome
        assert done.answer == (None if final is None else final.decode("utf-8", "surrogatepass"))
        for payload, total, got, cut in (
            (self.output[1], counts[0], done.stdout, done.stdout_cut),
            (self.output[2], counts[1], done.stderr, done.stderr_cut),
        ):
            if total == len(payload):
                assert (got, cut) == (payload.decode("utf-8", "backslashreplace"), 0)
            else:
                assert total - len(payload) <= cut <= total
                assert f"[... {cut:,} bytes left out ...]" in got
        self.phase = "idle"
        return None

    @precondition(lambda self: self.phase == "loading")
    @rule(
        message=st.sampled_from([result(), query(1), Output(cell=1, stream=1, data=b"x"), Chunk(stream=1, data=b"x")])
    )
    def guest_says_what_belongs_to_a_cell(self, message: Message) -> None:
        self.send(message)
        self.expect_misbehaved()

    NEVER = (
        Ready(version=VERSION, digest=DIGEST, python="3"),
        Start(
            version=VERSION,
            depth=9,
            max_output_bytes=9,
            worker_memory_bytes=9,
            max_calls_in_flight=9,
            max_value_bytes=9,
        ),
        Load(name="x", kind="text", value=b"x"),
        Execute(cell=1, code=b"x", seconds=1.0, calls=True),
        Reply(call=1, ok=True, text=b"x"),
    )

    @precondition(lambda self: self.phase in ("loading", "executing"))
    @rule(message=st.sampled_from(NEVER))
    def guest_says_what_is_never_its_turn(self, message: Message) -> None:
        self.send(message)
        self.expect_misbehaved()

    @precondition(lambda self: self.phase == "executing")
    @rule(name=st.text(max_size=3))
    def guest_answers_what_was_not_asked(self, name: str) -> None:
        self.send(Loaded(name=name, ok=True, type="str", size=1, error=""))
        self.expect_misbehaved()

    @precondition(lambda self: self.phase == "idle")
    @rule(message=st.sampled_from([*NEVER, result(cell=99), query(1, cell=99)]))
    def guest_speaks_unasked(self, message: Message) -> None:
        """Messages that the next operation allows are legal (the host cannot know when they were sent); this one is not."""
        self.send(message)
        self.phase = "poisoned"

    @precondition(lambda self: self.phase in ("loading", "executing"))
    @rule(length=st.integers((1 << 20) + 1, 2**32 - 1))
    def guest_announces_too_much(self, length: int) -> None:
        self.send_raw(length.to_bytes(4, "big"))
        self.expect_misbehaved()

    @precondition(lambda self: self.phase in ("loading", "executing"))
    @rule()
    def guest_hangs_up(self) -> None:
        self.guest.close()
        self.settle()
        assert isinstance(self.done().exception(), SandboxDied)
        self.phase = "over"

    @precondition(lambda self: self.phase == "executing")
    @rule(payload=st.binary(max_size=10), at=st.floats(0, 1))
    def guest_prints_in_two_parts(self, payload: bytes, at: float) -> None:
        type(self).frames += 1
        raw = frame(Output(cell=self.cell, stream=2, data=payload))
        cut = int(at * len(raw))
        self.send_raw(raw[:cut])
        self.expect_still_running()
        self.send_raw(raw[cut:])
        if len(self.output[2]) + len(payload) > MOST_OUTPUT:
            return self.expect_misbehaved()
        self.output[2] += payload
        return self.expect_still_running()

    @precondition(lambda self: self.phase in ("loading", "executing"))
    @rule(part=st.integers(1, len(LOADED) - 1))
    def guest_stops_in_the_middle(self, part: int) -> None:
        self.send_raw(LOADED[:part])
        self.expect_still_running()
        self.do(anyio.sleep(ALL_DEADLINES))
        self.expect_misbehaved()

    @precondition(lambda self: self.phase in ("loading", "executing"))
    @rule()
    def guest_says_no_more(self) -> None:
        """It times out, but never while the host itself owes an answer."""
        self.do(anyio.sleep(ALL_DEADLINES))
        if self.phase == "executing" and self.open:
            return self.expect_still_running()
        return self.expect_misbehaved()

    # Guest messages that the model does not understand

    @precondition(lambda self: self.phase in ("loading", "executing", "unknown"))
    @rule(
        message=st.sampled_from(
            [result(), query(1, b"p"), Output(cell=1, stream=1, data=b"x"), Chunk(stream=1, data=b"x"), NEVER[0]]
        ),
        places=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
        more=st.binary(max_size=5),
    )
    def guest_sends_changed_bytes(self, message: Message, places: list[tuple[int, int]], more: bytes) -> None:
        raw = bytearray(frame(message))
        for place, byte in places:
            raw[place % len(raw)] = byte
        type(self).frames += 1
        self.send_raw(bytes(raw) + more)
        self.phase = "unknown"

    # At all times

    @precondition(lambda self: self.phase == "over" or (self.phase == "unknown" and self.task.done()))
    @rule()
    def another_sandbox_takes_its_place(self) -> None:
        self.finish()
        self.greet()

    @invariant()
    def only_declared_errors(self) -> None:
        if self.task is not None and self.task.done() and not self.task.cancelled():
            error = self.task.exception()
            assert error is None or isinstance(error, SandboxError | ConfigError), error

    @invariant()
    def after_the_end_nothing_works(self) -> None:
        if self.phase == "over":
            with pytest.raises(SandboxDied, match="no longer usable"):
                self.do(self.session.run("pass", seconds=1))
            with pytest.raises(SandboxDied, match="no longer usable"):
                self.do(self.session.load("x", encode(b"x")))

    def finish(self) -> None:
        """Deadlines alone end every operation, once the host owes no answer."""
        for _, answer in self.open.values():
            if not answer.done():
                answer.set_result("late")
        self.do(anyio.sleep(ALL_DEADLINES))
        assert self.task is None or self.task.done()
        self.only_declared_errors()
        self.host.close()
        self.guest.close()

    def teardown(self) -> None:
        self.finish()
        self.runner.close()


def machine_settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def test_a_guest_that_sends_anything_in_any_order_causes_only_declared_effects() -> None:
    run_state_machine_as_test(Conversation, settings=machine_settings(40))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_guest_that_sends_anything_for_a_minute_causes_only_declared_effects() -> None:
    Conversation.frames = 0
    run_state_machine_as_test(Conversation, settings=machine_settings(600))
    print(f"{Conversation.frames} frames, each with what it has to bring about")


# In number


def said_at_random(choose: random.Random, calls: Iterator[int]) -> bytes:
    """A frame of the first cell: most are legal, some have a changed byte, some are random."""
    data = choose.randbytes(choose.choice([0, 1, 3, 1000]))
    match choose.randrange(40):
        case 0:
            message: Message = Chunk(stream=choose.randrange(20), data=data)
        case 1:
            message = query(choose.randrange(2**16), b"?", cell=choose.randrange(3))
        case 2:
            message = result(stdout_bytes=choose.choice([0, 10**6]), stderr_bytes=10**6)
        case 3:
            message = choose.choice(Conversation.NEVER)
        case roll if roll < 10:
            message = Chunk(stream=1, data=b"x")
        case roll if roll < 20:
            message = query(next(calls), b"p" * len(data), context=choose.choice([None, data]))
        case _:
            message = Output(cell=1, stream=choose.choice([1, 2]), data=data[:3])
    raw = bytearray(frame(message))
    if choose.random() < 0.01:
        raw[choose.randrange(len(raw))] = choose.randrange(256)
    return bytes(raw) if choose.random() < 0.999 else choose.randbytes(20)


async def answer_late(asked: SandboxQuery) -> QueryReply:
    await anyio.sleep(asked.call % 7)
    return QueryReply(ok=True, text=asked.prompt)


async def talked_at(choose: random.Random, frames: int) -> str:
    """Run one session with this many frames, which arrive in pieces."""
    host, guest = MemoryStream.pair(buffered=float("inf"))
    session = Session(host, SandboxConfig(max_value_bytes=20_000, max_output_bytes=20_000))
    try:
        await guest.send(frame(Ready(version=VERSION, digest=DIGEST, python="3")))
        await session.handshake(digest=DIGEST, depth=1, worker_memory_bytes=1)
        calls = count(1)
        payload = b"".join(said_at_random(choose, calls) for _ in range(frames))
        while payload:
            size = choose.choice([1, 5, 100, 10_000])
            await guest.send(payload[:size])
            payload = payload[size:]
        try:
            return (await session.run("pass", seconds=5, answer=answer_late)).outcome
        except SandboxError as error:
            with pytest.raises(SandboxDied, match="no longer usable"):
                await session.run("pass", seconds=5)
            return re.sub("[0-9]+", "#", str(error))
    finally:
        host.close()
        guest.close()


@pytest.mark.parametrize(
    "frames", [pytest.param(5000, id="5000"), pytest.param(FRAMES, id="all", marks=pytest.mark.long)]
)
@pytest.mark.timeout(300)
def test_many_frames_end_every_session_and_leave_nothing(frames: int) -> None:
    seed = int(os.environ.get("RLM_FUZZ_SEED", "1"))
    choose = random.Random(seed)
    ends: Counter[str] = Counter()
    sent = 0
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(talked_at(choose, 100))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        while sent < frames:
            number = choose.choice([1, 20, 100, 300])
            ends[runner.run(talked_at(choose, number))] += 1
            sent += number
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    print(f"RLM_FUZZ_SEED={seed}: {sent} frames, {ends.total()} sessions, {after - before} bytes more held")
    for end, number in ends.most_common():
        print(f"{number:6} {end}")
    assert ends["ok"]
    assert len(ends) >= 8
    assert after - before < 1_000_000


def test_a_flood_of_the_smallest_frames_costs_no_memory_and_ends_with_the_cell() -> None:
    """A hundred thousand legal frames in one session, including empty prints, which no output limit counts."""
    number = 100_000

    async def flood() -> int:
        host, guest = MemoryStream.pair(buffered=float("inf"))
        session = Session(host, CONFIG)
        await guest.send(frame(Ready(version=VERSION, digest=DIGEST, python="3")))
        await session.handshake(digest=DIGEST, depth=1, worker_memory_bytes=1)
        piece = frame(Output(cell=1, stream=1, data=b"")) * 1000
        for _ in range(number // 1000):
            await guest.send(piece)  # the same object, held in memory once
        await guest.send(frame(result()))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        assert (await session.run("pass", seconds=5)).outcome == "ok"
        most = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        host.close()
        guest.close()
        return most

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(flood()) < 1_000_000
