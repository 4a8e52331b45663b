"""Conversations alternate roles, and observations say what happened."""

import re

from hypothesis import given
from hypothesis import strategies as st

from rlm._util.text import clip, fenced
from rlm.loop.observation import describe, observation
from rlm.loop.transcript import Transcript
from rlm.types import CellResult


def test_a_transcript_always_alternates_roles() -> None:
    transcript = (
        Transcript.begin("be good", "question").add_message("more").reply("answer").add_message("a").add_message("b")
    )
    assert [message.role for message in transcript.messages] == ["system", "user", "assistant", "user"]
    assert transcript.messages[-1].content == "a\n\nb"


def test_a_long_output_shows_its_head_its_tail_and_how_much_is_missing() -> None:
    shown = clip("a" * 600 + "b" * 600, 300)
    assert shown.startswith("a" * 200 + "\n[... 900 characters left out ...]")
    assert shown.endswith("b" * 100)


def test_the_model_is_told_that_a_rolled_back_cell_is_undone() -> None:
    shown = describe(CellResult(outcome="timeout", error="The cell was stopped after 60 s."), limit=100)
    assert shown == "The cell was stopped after 60 s.\nAll variables are as they were before this cell."


def test_several_cells_are_shown_each_with_its_number() -> None:
    shown = observation([CellResult(outcome="ok", stdout="1"), CellResult(outcome="ok")], limit=100)
    assert shown == "Cell 1 of 2:\nOutput:\n```\n1\n```\n\nCell 2 of 2:\nThe cell ran and printed nothing."


@given(st.text(alphabet="`~x\n ", max_size=60))
def test_no_output_can_close_the_fence_that_marks_it_as_data(text: str) -> None:
    *inside, last = fenced(text).split("\n")[1:]
    fence = fenced(text).split("\n")[0]
    assert last == fence
    assert set(fence) == {"`"}
    assert all(not line.strip().startswith(fence) for line in inside)
    assert "\n".join(inside) == text.removesuffix("\n")


def outside_of_fences(text: str) -> str:
    """The lines of a text outside code blocks (CommonMark)."""
    fence = ""
    lines = []
    for line in text.split("\n"):
        mark = re.match(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$", line)
        if not fence and mark:
            fence = mark[1]
        elif fence and mark and mark[1].startswith(fence) and not mark[2].strip():
            fence = ""
        elif not fence:
            lines.append(line)
    return "\n".join(lines)


OUTPUTS = st.lists(st.lists(st.sampled_from(["DATA", "```", "`````", "~~~", "```python", "   ```"]), max_size=40))


@given(OUTPUTS, st.integers(1, 400))
def test_output_stays_within_its_fence_when_the_conversation_is_made_shorter(
    outputs: list[list[str]], keep_chars: int
) -> None:
    results = [CellResult(outcome="ok", stdout="\n".join(lines), stderr="DATA") for lines in outputs]
    transcript = Transcript.begin("system", "question").reply("reply").add_message(observation(results, limit=None))
    shorter = transcript.compact("note", keep_chars=keep_chars).compact("note", keep_chars=keep_chars // 2)
    last = shorter.add_message("You have to stop.").messages[-1].content
    assert "DATA" not in outside_of_fences(last)
    assert last.endswith("\n\nYou have to stop.")
    assert outside_of_fences(last).endswith("\n\nYou have to stop.")
