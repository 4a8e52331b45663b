"""The description of a cell's exception is bounded, and helps with misspelt names."""

from __future__ import annotations

import re
from types import TracebackType

import pytest

from rlm_guest.tracebacks import MAX_ERROR_CHARS, MAX_FRAMES, describe


def failed(code: str, **names: object) -> BaseException:
    """The exception of a cell with these variables."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any exception of a cell
        exec(compile(code, "<cell 1>", "exec"), names)
    caught.value.__traceback__ = caught.tb.tb_next
    return caught.value


def with_frames(problem: BaseException, count: int) -> BaseException:
    """The exception with its innermost frame repeated."""
    lines = problem.__traceback__
    assert lines is not None
    for _ in range(count - 1):
        lines = TracebackType(lines, lines.tb_frame, lines.tb_lasti, lines.tb_lineno)
    return problem.with_traceback(lines)


def length(lines: TracebackType | None) -> int:
    count = 0
    while lines is not None:
        count, lines = count + 1, lines.tb_next
    return count


@pytest.mark.parametrize("frames", [1, MAX_FRAMES, MAX_FRAMES + 1, 50 * MAX_FRAMES])
def test_a_long_traceback_loses_frames_in_its_middle_alone(frames: int) -> None:
    problem = with_frames(failed("1 / 0"), frames)
    text = describe(problem)
    left_out = frames - MAX_FRAMES
    assert text.startswith(f"[... {left_out:,} frames left out" if left_out > 0 else "Traceback")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert length(problem.__traceback__) == min(frames, MAX_FRAMES)


def test_the_cause_of_an_exception_is_shortened_too_and_a_circle_of_causes_ends() -> None:
    cause, problem = with_frames(failed("{}['key']"), 5 * MAX_FRAMES), failed("1 / 0")
    problem.__cause__, cause.__context__ = cause, problem
    text = describe(problem)
    assert "KeyError: 'key'" in text
    assert length(cause.__traceback__) == MAX_FRAMES


def test_a_description_of_any_exception_is_bounded() -> None:
    name = "x" * 10_000_000
    for problem in (failed("raise ValueError(name)", name=name), failed("raise NameError(name=name)", name=name)):
        assert len(describe(problem)) < MAX_ERROR_CHARS + 200


def test_the_description_of_a_huge_exception_says_how_much_is_left_out() -> None:
    text = describe(failed("raise ValueError(value)", value="x" * 1_000_000))
    head, notice, tail = re.split(r"\n\[\.\.\. ([\d,]+) characters left out \.\.\.\]\n", text)
    heading = head.partition("ValueError: ")[0]
    assert len(head) + len(tail) + int(notice.replace(",", "")) == len(heading) + len("ValueError: ") + 1_000_000


def test_a_syntax_error_that_only_the_compiler_sees_shows_its_line() -> None:
    problem = SyntaxError("'return' outside function")
    problem.filename, problem.lineno, problem.offset = __file__, 1, 1
    assert '"""The description of' in describe(problem)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("valu", "Did you mean: 'value'?"),
        ("json", "Did you forget to import 'json'?"),
        ("nothing_alike", ""),
        ("raise NameError('without a name')", ""),
        ("raise NameError('x', name=5)", None),
        ("raise AttributeError('x', name='valu', obj=Odd())", None),
    ],
)
def test_an_unknown_name_gets_a_suggestion(code: str, hint: str | None) -> None:
    class Odd:
        def __dir__(self):
            raise ValueError

    text = describe(failed(code, value=1, Odd=Odd))
    assert "Error" in text
    if hint is not None:
        assert text.count("Did you") == (1 if hint else 0)
        assert hint in text


def test_both_suggestions_follow_each_other() -> None:
    text = describe(failed("json", jsons=1))
    assert text.endswith(". Did you mean: 'jsons'? Or did you forget to import 'json'?")
