"""An answer is traced to its cell, to the call it came from, and into the context."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.events import (
    CellFinished,
    CellStarted,
    Event,
    RLMFinished,
    RLMStarted,
    SubCallFinished,
    SubCallStarted,
    TurnStarted,
)
from rlm.trajectory.context_search import ContextSlice, SearchableContext, common_length, common_length_before
from rlm.trajectory.trajectory import build_trajectory
from rlm.trajectory.view.origin import find_origin, pieces_of, slices_for
from rlm.types import CellResult

LINES = [f"line {number} of the context says nothing at all" for number in range(100)]
LINES[70] = "the magic number of this context is 8553239, they say"
TEXT = "\n".join(LINES)


def events_of(prompt: str) -> list[Event]:
    return [
        TurnStarted(turn=1, of=3),
        CellStarted(cell=1, code="llm_query(context[...])"),
        SubCallStarted(node="0.1", prompt="nothing", model="m", recursive=False, batch=0),
        SubCallFinished(node="0.1", ok=True, text="none", seconds=0.0),
        SubCallStarted(node="0.2", prompt=prompt, model="m", recursive=False, batch=0),
        SubCallFinished(node="0.2", ok=True, text="It is 8553239.", seconds=0.0),
        CellFinished(cell=1, result=CellResult(outcome="ok", stdout="8553239")),
        TurnStarted(turn=2, of=3),
        CellStarted(cell=2, code="FINAL(x)"),
        CellFinished(cell=2, result=CellResult(outcome="ok", answer="8553239")),
        RLMFinished(answer="8553239", stop_reason="final", iterations=2),
    ]


def test_an_answer_is_traced_to_its_cell_its_first_call_and_its_place_in_the_context() -> None:
    trajectory = build_trajectory(events_of("Find the magic number in this:\n" + "\n".join(LINES[60:80])))
    origin = find_origin(trajectory, trajectory.root, SearchableContext(TEXT))
    assert origin is not None
    assert (origin.turn, origin.cell) == (2, 2)
    (source,) = origin.sources
    assert (source.piece, source.node, source.offset) == ("8553239", "0.2", 6)
    assert source.context == (TEXT.index("8553239"),)


def test_the_answer_of_a_recursive_call_is_traced_into_the_part_that_was_its_context() -> None:
    events = events_of("Find the magic number.")
    part = "\n".join(LINES[60:80])
    ends: dict[str, Any] = {"context_head": part[:50], "context_tail": part[-50:]}
    started = RLMStarted(
        node="0.2", level=1, depth=1, model="m", sandbox="s", context_type="str", context_size=len(part), **ends
    )
    call = events[4]
    assert isinstance(call, SubCallStarted)
    events[4] = replace(call, recursive=True)
    trajectory = build_trajectory([*events[:5], started, *events[5:]])
    again = SearchableContext(TEXT + "\n" + TEXT)  # the text occurs twice; the first match wins
    assert list(slices_for(trajectory.nodes["0.2"], again)) == [
        ContextSlice(start=TEXT.index(part), end=TEXT.index(part) + len(part), offset=-1)
    ]
    origin = find_origin(trajectory, trajectory.root, again)
    assert origin is not None
    assert origin.sources[0].context == (TEXT.index("8553239"),)


def test_without_the_context_the_trace_ends_at_the_call() -> None:
    trajectory = build_trajectory(events_of("p"))
    origin = find_origin(trajectory, trajectory.root, None)
    assert origin is not None
    assert origin.sources[0].context == ()


def test_without_an_answer_there_is_no_origin() -> None:
    trajectory = build_trajectory(events_of("p")[:-1])
    assert find_origin(trajectory, trajectory.root, None) is None


def test_the_most_distinctive_words_are_searched_for() -> None:
    words = " ".join(f"word{'y' * number}" for number in range(30))
    assert "2024-11-03" in pieces_of(f"{words} on 2024-11-03, and so on")
    assert pieces_of("") == []


ASKED = [
    "What does this say?\n\n{}\n\nReply in one word.",
    "Summarise this part: {}",
    "{}",
    "<doc>{}</doc> Is that so?",
]
TABLE = "\n".join(f"{number},{number * number % 97}" for number in range(2_000))  # lines too short to be distinctive


@given(st.sampled_from(ASKED), st.sampled_from([TEXT, TEXT.replace("\n", " "), TABLE]), st.data())
def test_a_slice_in_a_prompt_is_found_whatever_surrounds_it(asked: str, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 80))
    end = data.draw(st.integers(start + 80, min(len(text), start + 3_000)))
    prompt = asked.format(text[start:end])
    found = SearchableContext(text).slices(prompt)
    assert any(part.start <= start and end <= part.end for part in found), found
    for part in found:
        assert prompt[part.offset : part.offset + part.end - part.start] == text[part.start : part.end]


def test_two_slices_in_one_prompt_are_both_found_in_its_order() -> None:
    first, second = TEXT[3_000:3_400], TEXT[200:700]
    found = SearchableContext(TEXT).slices(f"Compare <{first}> with <{second}>. What differs?")
    assert [(part.start, part.end - part.start) for part in found] == [
        (TEXT.index(first), len(first)),
        (TEXT.index(second), len(second)),
    ]


def test_the_context_of_a_recursive_call_is_found_by_its_head_tail_and_length() -> None:
    context = SearchableContext(TEXT)
    assert context.slice_between(TEXT[500:600], TEXT[900:1000], 500) == ContextSlice(start=500, end=1000, offset=-1)
    assert context.slice_between(TEXT[500:600], TEXT[901:1001], 500) is None
    last = TEXT.index("line 99")
    assert context.slice_between("line ", "99 of the context", 22) == ContextSlice(start=last, end=last + 22, offset=-1)
    assert context.slice_between("", "", 500) is None


@given(st.text("ab"), st.text("ab"))
def test_the_common_length_is_the_length_of_the_common_prefix(left: str, right: str) -> None:
    length = common_length(left, 0, right, 0)
    assert left[:length] == right[:length]
    assert left[length : length + 1] != right[length : length + 1] or length == min(len(left), len(right))
    assert common_length_before(left[::-1], right[::-1], len(right)) == length


def test_a_repeated_line_matches_where_the_most_text_around_it_agrees() -> None:
    again = "this line stands in the context more than once"
    lines = [again, *LINES[:5], again, *LINES[5:10]]
    (found,) = SearchableContext("\n".join(lines)).slices("\n".join(lines[6:]))
    assert found.start == "\n".join(lines).rindex(again)
    assert found.end == len("\n".join(lines))


def test_searching_stops_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlm.trajectory.context_search.MAX_SEARCHED_CHARS", 3 * len(TEXT))
    context = SearchableContext(TEXT)
    assert context.slices("\n".join(f"this line number {number} is not in the context" for number in range(9))) == []
    assert context.exhausted
