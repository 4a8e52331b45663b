"""An answer is traced to the cell and the call that it came from, and into the context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.events import CellFinished, CellStarted, Event, RLMFinished, SubCallFinished, SubCallStarted, TurnStarted
from rlm.history.context import Context, common_length
from rlm.history.record import record_of
from rlm.types import CellResult
from rlm.view.origin import origin_of, pieces_of

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


def test_an_answer_leads_to_its_cell_the_call_that_said_it_first_and_the_place_in_the_context() -> None:
    record = record_of(events_of("Find the magic number in this:\n" + "\n".join(LINES[60:80])))
    origin = origin_of(record, record.root, Context(TEXT))
    assert origin is not None
    assert (origin.turn, origin.cell) == (2, 2)
    (find,) = origin.finds
    assert (find.piece, find.node, find.offset) == ("8553239", "0.2", 6)
    assert find.context == (TEXT.index("8553239"),)


def test_without_the_context_the_way_ends_at_the_call() -> None:
    record = record_of(events_of("p"))
    origin = origin_of(record, record.root, None)
    assert origin is not None
    assert origin.finds[0].context == ()


def test_while_there_is_no_answer_there_is_no_origin() -> None:
    record = record_of(events_of("p")[:-1])
    assert origin_of(record, record.root, None) is None


def test_the_words_that_tell_most_are_looked_for() -> None:
    words = " ".join(f"word{'y' * number}" for number in range(30))
    assert "2024-11-03" in pieces_of(f"{words} on 2024-11-03, and so on")
    assert pieces_of("") == []


@given(st.integers(0, 90), st.integers(2, 10))
def test_the_slice_that_a_prompt_holds_is_found_whole(first: int, count: int) -> None:
    part = "\n".join(LINES[first : first + count])
    (found,) = Context(TEXT).slices(f"What does this say?\n\n{part}\n\nReply in one word.")
    assert TEXT[found.start : found.end].strip("\n") == part
    assert found.offset == len("What does this say?\n\n")


@given(st.text("ab"), st.text("ab"))
def test_the_common_length_is_that_of_the_common_beginning(left: str, right: str) -> None:
    length = common_length(left, 0, right, 0)
    assert left[:length] == right[:length]
    assert left[length : length + 1] != right[length : length + 1] or length == min(len(left), len(right))


def test_a_line_that_stands_in_many_places_is_taken_where_the_most_around_it_agrees() -> None:
    again = "this line stands in the context more than once"
    lines = [again, *LINES[:5], again, *LINES[5:10]]
    (found,) = Context("\n".join(lines)).slices("\n".join(lines[6:]))
    assert found.start == "\n".join(lines).rindex(again)
    assert found.end == len("\n".join(lines))


def test_searching_ends_where_it_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlm.history.context.MAX_SEARCHED_CHARS", 3 * len(TEXT))
    context = Context(TEXT)
    assert context.slices("\n".join(f"this line number {number} is not in the context" for number in range(9))) == []
    assert context.exhausted
