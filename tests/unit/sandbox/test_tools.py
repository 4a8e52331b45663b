"""Calls of host functions: limited, checked, answered; details of failures stay on the host."""

from __future__ import annotations

import asyncio
import logging
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial, update_wrapper
from typing import Annotated, Any, Literal

import anyio
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from rlm.errors import ConfigError, ToolError
from rlm.protocol.plain import pack_plain
from rlm.sandbox.tools import MAX_CONCURRENT_TOOL_CALLS, MAX_SHOWN_CHARS, Tools, ToolUse

pytestmark = pytest.mark.anyio


@dataclass
class Place:
    x: int
    y: int


async def use(function: Callable[..., object], *positional: object, **named: object) -> object:
    """The value of a call, or its error message."""
    used = await Tools({"tool": function}).use("tool", pack_plain([positional, named]))
    return msgpack.unpackb(used.data) if used.ok else used.data.decode()


async def test_plain_data_goes_in_and_comes_out() -> None:
    value = {"a": [1, 2.5, None, True, b"bytes", "ü"], "b": {}}
    assert await use(lambda x: x, value) == value
    assert await use(lambda *a, **k: [list(a), k], 1, 2, three=3) == [[1, 2], {"three": 3}]


async def test_types_are_exact() -> None:
    def typed(number: int, name: str = "", how: Literal["a", "b"] = "a", many: list[float] | None = None) -> bool:
        return True

    assert await use(typed, 1, name="x", how="b", many=[1.5]) is True
    for arguments, place in (
        ({"number": "1"}, "number: "),
        ({"number": True}, "number: "),
        ({"number": 1.0}, "number: "),
        ({"number": 1, "name": b"x"}, "name: "),
        ({"number": 1, "how": "c"}, "how: "),
        ({"number": 1, "many": [1.0, "x"]}, "many"),
        ({}, "missing"),
        ({"number": 1, "other": 2}, "unexpected"),
    ):
        message = await use(typed, **arguments)
        assert isinstance(message, str)
        assert place in message


async def test_every_value_of_a_variable_parameter_is_checked() -> None:
    def typed(*numbers: int, **names: str) -> int:
        return sum(numbers)

    assert await use(typed, 1, 2, a="x") == 3
    assert "numbers" in str(await use(typed, 1, "2"))
    assert "names" in str(await use(typed, a=1))


class Model(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def look_up(cls, value: str) -> str:
        raise SystemExit("the password") if value == "exit" else KeyError("the password")


Small = Annotated[int, Field(lt=3)]


class Keyed:
    """Looks up a key."""

    def __init__(self, secret: str = "") -> None:
        self.secret = secret

    def __call__(self, key: int, *rest: int) -> str:
        return type(key).__name__

    def method(self, key: int) -> str:
        """What a method says."""
        return type(key).__name__

    @classmethod
    def of_class(cls, key: int) -> str:
        return type(key).__name__


class Waiting:
    async def __call__(self, key: int) -> str:
        """What a call says."""
        await anyio.sleep(0)
        return type(key).__name__


def written(key: "int", many: "list[Place] | None" = None) -> str:  # noqa: UP037 - strings as from a future import
    return type(key).__name__


def with_key(key: int, /, many: int = 3, *, api_key: str = "default-secret", **more: int) -> list[object]:
    """Asks with a key.

    Not for all.
    """
    return [key, many, api_key, more]


WAYS: list[Callable[..., object]] = [
    *(Keyed(), Keyed().method, Keyed.of_class, Waiting(), written, lru_cache(written), partial(written), Keyed.method),
    *(partial(Keyed()), partial(partial(written), many=None), update_wrapper(partial(written, many=None), written)),
]


@pytest.mark.parametrize("function", WAYS, ids=map(str, range(len(WAYS))))
async def test_types_are_checked_however_a_function_is_made(function: Callable[..., object]) -> None:
    given: tuple[object, ...] = ({},) if function is Keyed.method else ()
    assert await use(function, *given, 1) == "int"
    for wrong in ("1", 1.0, True, None, [1]):
        assert "key: Input should be a valid integer" in str(await use(function, *given, wrong))


async def test_annotated_constraints_hold_and_names_in_them_are_resolved() -> None:
    def bounded(number: Annotated[int, Field(gt=5, description="sk-note")], small: list["Small"]) -> int:  # noqa: UP037 - a name within a type
        return number

    assert await use(bounded, 6, [1]) == 6
    assert "greater than 5" in str(await use(bounded, 5, []))
    assert "small[0]: Input should be less than 3" in str(await use(bounded, 6, [7]))
    assert "sk-note" not in Tools({"f": bounded}).descriptions["f"]


@pytest.mark.parametrize(
    "wrap", [lambda p: p, lambda p: update_wrapper(p, with_key), partial, lambda p: partial(p, many=1)]
)
async def test_arguments_bound_by_partial_are_neither_shown_nor_accepted(wrap: Callable[[Any], Any]) -> None:
    """A model must not read a bound key, and a cell must not replace it, not even through `**more`."""
    bound = wrap(partial(with_key, api_key="sk-secret", token=5))
    shown = Tools({"ask": bound}).descriptions["ask"]
    assert "secret" not in shown
    assert "api_key" not in shown
    assert shown.endswith("Asks with a key.")
    assert (await use(bound, 1))[2:] == ["sk-secret", {"token": 5}]  # type: ignore[index]
    for name in ("api_key", "token"):
        assert f"unexpected keyword argument '{name}'" in str(await use(bound, 1, **{name: "mine"}))


def test_no_default_is_shown() -> None:
    class Typed:
        def __call__(self, q: str, token: str = "sk-1", how: object = Place(1, 2)) -> None:
            """What it is."""

    shown = Tools({"a": with_key, "b": Typed(), "c": lambda q, token="sk-2": 1}).descriptions
    assert shown["a"].startswith("a(key: int, /, many: int = …, *, api_key: str = …, **more: int) -> list[object]")
    assert shown["b"] == "b(q: str, token: str = …, how: object = …) -> None\n\nWhat it is."
    assert shown["c"] == "c(q, token=…)"


async def test_a_failing_validator_is_a_host_error_and_hidden_from_the_cell() -> None:
    async def exits() -> None:
        raise SystemExit("the password")

    def takes(model: Model) -> None:
        """Takes it."""

    assert await use(takes, {"name": "x"}) == "The tool tool failed."
    assert await use(takes, {"name": "exit"}) == "The tool tool failed."
    assert await use(exits) == "The tool tool failed."


async def test_a_coroutine_returned_by_a_function_is_awaited() -> None:
    async def later(number: int) -> int:
        return number

    assert await use(lambda number: later(number), 3) == 3


@pytest.mark.parametrize(
    "value",
    [
        *(b"\xcb\x7f\xf8" + bytes(6), b"\xcb\x7f\xf0" + bytes(6), b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7)),
        *(
            b"\xa3\xed\xa0\x80",
            b"\xc4\x01x",
            b"\xd6\xff" + bytes(4),
            b"\xc7\x00\x05",
            b"\xc1",
            b"\x81\x90\x01",
            b"\x81\xc0\x01",
        ),
        *(b"\x91" * depth + b"\xc0" for depth in (500, 900, 1000, 1020, 1100)),
        *(b"\x92\x00" * depth + b"\xc0" for depth in (200, 500, 900, 1000, 1020, 1100)),
        *(b"\x93\x01\xa1a" * depth + b"\xc0" for depth in (200, 500, 1000, 1020)),
        *(b"\x93\x01\x91\x00\xc0", b"\x93\x01\xc0\xc0", b"\x92\x01\xc0"),
    ],
    ids=lambda value: f"{value[:4].hex()}-{len(value)}",
)
async def test_no_evil_value_raises_anything(value: bytes) -> None:
    """NaN, infinity, extreme numbers, lone surrogates, values that are not plain data, endless nesting."""

    def typed(
        a: int | str | bytes | float | list[Any] | dict[str, Any] | None = None, *, b: list[Place] | None = None
    ) -> str:
        return repr(a)

    for function in (typed, lambda a=None, b=None: a):
        tools = Tools({"f": function})
        for arguments in (b"\x93\0\x92\0" + value + b"\x91\1", b"\x93\0\x91\0\x93\1\xa1b" + value, value):
            used = await tools.use("f", arguments)
            assert used.ok or used.data


async def test_a_structure_is_built_from_plain_data() -> None:
    def norm(place: Place) -> int:
        return place.x + place.y

    assert await use(norm, {"x": 1, "y": 2}) == 3
    assert "place['y']" in str(await use(norm, {"x": 1, "y": "far"}))
    assert "place" in str(await use(norm, [1, 2]))


async def test_other_exceptions_of_tools_are_logged_and_hidden_from_the_cell(caplog: pytest.LogCaptureFixture) -> None:
    def careless() -> None:
        raise KeyError("the password")

    with caplog.at_level(logging.ERROR):
        assert await use(careless) == "The tool tool failed."
    assert "the password" in caplog.text


async def test_a_function_that_raises_a_foreign_cancellation_has_failed() -> None:
    def plain() -> None:
        raise asyncio.CancelledError

    async def waits() -> None:
        task = asyncio.ensure_future(asyncio.sleep(30))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    for function in (plain, waits, lambda: waits()):
        assert await use(function) == "The tool tool failed."


async def test_a_cancelled_call_ends_even_if_its_function_swallows_the_cancellation() -> None:
    async def raises_anew() -> None:
        try:
            await anyio.sleep(30)
        except asyncio.CancelledError:
            raise asyncio.CancelledError from None

    ended = False
    with anyio.move_on_after(0.05) as scope:
        await use(raises_anew)
        ended = True
    assert (scope.cancelled_caught, ended) == (True, False)
    late = await Tools({"tool": raises_anew}, seconds=0.05).use("tool", pack_plain([[], {}]))
    assert late.data == b"The tool tool did not return within 0.05 seconds."


async def test_a_tool_error_reaches_the_cell() -> None:
    def picky() -> None:
        raise ToolError("not today")

    assert await use(picky) == "not today"


async def test_a_value_that_is_not_plain_is_not_sent() -> None:
    assert await use(lambda: object()) == "The tool tool returned a value that is not plain data."
    assert await use(lambda: 1 << 70) == "The tool tool returned a value that is not plain data."


async def test_a_coroutine_function_runs_on_the_event_loop_and_is_cancelled_at_its_time_limit() -> None:
    async def wait(seconds: float) -> str:
        await anyio.sleep(seconds)
        return "done"

    tools = Tools({"wait": wait}, seconds=0.05)
    assert (await tools.use("wait", pack_plain([[0.0], {}]))).ok
    late = await tools.use("wait", pack_plain([[30.0], {}]))
    assert (late.ok, late.data) == (False, b"The tool wait did not return within 0.05 seconds.")


async def test_no_arguments_take_much_memory_however_hostile() -> None:
    """A call with a megabyte of empty maps would become 64 megabytes of objects, and hundreds of calls can be pending."""
    tools = Tools({"f": lambda *given: len(given)})
    hostile = b"\x92\xdd" + (1 << 20).to_bytes(4, "big") + b"\x80" * (1 << 20) + b"\x80"
    tracemalloc.start()
    try:
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(tools.use, "f", hostile)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (await tools.use("f", hostile)).data == b"The arguments have 1,048,583 bytes; a tool takes at most 262,144."
    assert peak < 5_000_000


async def test_tool_calls_above_the_limit_wait_undecoded() -> None:
    running = most = 0

    async def work(text: str) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0)
        running -= 1
        return len(text)

    tools = Tools({"work": work})
    async with anyio.create_task_group() as group:
        for _ in range(10 * MAX_CONCURRENT_TOOL_CALLS):
            group.start_soon(tools.use, "work", pack_plain([["x"], {}]))
    assert 1 < most <= MAX_CONCURRENT_TOOL_CALLS


async def test_abandoned_plain_functions_occupy_their_threads_until_they_end() -> None:
    release = threading.Event()
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        release.wait(30)
        return number

    tools = Tools({"work": work, "quick": lambda: 1}, seconds=0.1)
    try:
        for cell in range(5):
            with anyio.move_on_after(0.03):  # like the end of a cell
                async with anyio.create_task_group() as group:
                    for number in range(MAX_CONCURRENT_TOOL_CALLS):
                        group.start_soon(
                            tools.use, "work", pack_plain([[cell * MAX_CONCURRENT_TOOL_CALLS + number], {}])
                        )
        refused = await tools.use("quick", pack_plain([[], {}]))
        assert refused.data == b"The tool quick did not start within 0.1 seconds: 16 earlier calls are still running."
        assert len(started) <= MAX_CONCURRENT_TOOL_CALLS
    finally:
        release.set()
    assert (await tools.use("quick", pack_plain([[], {}]))).ok


async def test_every_tool_call_is_reported_with_its_arguments_truncated() -> None:
    reported: list[ToolUse] = []
    tools = Tools({"f": lambda x: x}).with_callback(reported.append)
    await tools.use("f", pack_plain([["x" * 10_000], {}]))
    await tools.use("nobody" * 1000, b"")
    assert [use.ok for use in reported] == [True, False]
    assert all(len(use.arguments) + len(use.name) <= 2 * MAX_SHOWN_CHARS + 2 for use in reported)


def test_functions_are_inspected_once_for_all_sandboxes() -> None:
    tools = Tools({"f": lambda x: x})
    assert tools.with_callback(print).descriptions["f"] is tools.descriptions["f"]


@given(st.binary(max_size=200))
async def test_no_bytes_of_a_sandbox_raise_anything(data: bytes) -> None:
    used = await Tools({"f": lambda: 1}).use("f", data)
    assert used.ok or used.data


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 9) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=9,
    )
)
async def test_no_plain_data_raises_anything(value: Any) -> None:
    def typed(a: int, *, b: list[str] = []) -> int:  # noqa: B006 - never changed
        return a

    used = await Tools({"f": typed}).use("f", pack_plain(value))
    assert used.ok or used.data
    used = await Tools({"f": typed}).use("f", pack_plain([[value], {"b": value}]))
    assert used.ok or used.data


@pytest.mark.parametrize("name", ["", "a b", "class", "_x", "context", "llm_query", "FINAL", "ü-"])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name .* is invalid"):
        Tools({name: lambda: 1})


def test_functions_that_cannot_be_checked_are_refused() -> None:
    def unknown(x: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821, UP037
        """Its type does not exist."""

    class Foreign:
        pass

    def foreign(x: Foreign) -> None:
        """Its type is not plain data."""

    for function in (unknown, foreign, 7):
        with pytest.raises(ConfigError, match=r"[Tt]ool 'f'"):
            Tools({"f": function})  # type: ignore[dict-item]


def test_a_description_is_the_signature_and_the_first_paragraph() -> None:
    def look(name: str, most: int = 3) -> list[str]:
        """Names like this
        one.

        For us only.
        """
        return []

    assert Tools({"find": look}).descriptions == {
        "find": "find(name: str, most: int = …) -> list[str]\n\nNames like this one."
    }
