"""Describes the exceptions of cells: a bounded traceback of the cell's own lines, with suggestions for misspelt names."""

from __future__ import annotations

import builtins
import linecache
import os
import sys
import traceback
from types import TracebackType
from typing import Any, Final

MAX_ERROR_CHARS: Final = 30_000  # limit of a traceback, which must fit into a packet in any encoding
MAX_FRAMES: Final = 1000  # of a traceback; a recursion can leave a million, of which each takes 20 µs to describe
# A comparison with more or longer names could take long. Python has similar limits.
MAX_NAMES: Final = 1000
MAX_NAME_CHARS: Final = 60

_GUEST_FOLDER: Final = os.path.dirname(__file__)
_ASYNCIO_FOLDER: Final = os.path.join(os.path.dirname(os.__file__), "asyncio")


def describe(problem: BaseException) -> str:
    """Format the traceback without the frames of this package."""
    note = "".join(f"[... {count:,} frames left out in the middle ...]\n" for count in _shorten(problem) if count)
    if isinstance(problem, SyntaxError) and problem.text is None and problem.filename and problem.lineno:
        problem.text = linecache.getline(problem.filename, problem.lineno) or None
    summary = traceback.TracebackException.from_exception(problem, compact=True)
    _hide_guest_frames(summary)
    lines = [note, *summary.format()]
    if suggestion := safely(_suggestion, problem):
        lines[-1] = lines[-1].rstrip() + suggestion
    return clip(*lines).rstrip()


def clip(*parts: str) -> str:
    """Join the parts of a text, without its middle if it is too long to send. Never copies all of it: it may be huge."""
    length = sum(map(len, parts))
    if length <= MAX_ERROR_CHARS:
        return "".join(parts)
    half = MAX_ERROR_CHARS // 2
    head = "".join(part[:half] for part in parts)[:half]
    tail = "".join(part[-half:] for part in parts)[-half:]
    return f"{head}\n[... {length - 2 * half:,} characters left out ...]\n{tail}"


def safely(show: Any, value: object) -> str:
    """Apply `show` to a value, or describe the exception that the value's own code raises."""
    try:
        text = show(value)
        return text if type(text) is str else str(text)
    except BaseException as problem:
        return f"<{type(problem).__name__} while showing an object of the cell>"


def _shorten(problem: BaseException) -> list[int]:
    """Cut the middle out of long tracebacks, also of causes. Returns how many frames each loses."""
    lost = []
    seen: set[int] = set()
    problems: list[BaseException | None] = [problem]
    while problems:
        current = problems.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        problems += [current.__cause__, current.__context__]
        lost.append(_shorten_one(current))
    return lost


def _shorten_one(problem: BaseException) -> int:
    frames = 0
    lines = problem.__traceback__
    while lines is not None:
        frames += 1
        lines = lines.tb_next
    if frames <= MAX_FRAMES:
        return 0
    half = MAX_FRAMES // 2
    first: list[TracebackType] = []
    rest = problem.__traceback__
    for number in range(frames - half):
        assert rest is not None
        if number < half:
            first.append(rest)
        rest = rest.tb_next
    for one in reversed(first):
        rest = TracebackType(rest, one.tb_frame, one.tb_lasti, one.tb_lineno)
    problem.__traceback__ = rest
    return frames - MAX_FRAMES


def _hide_guest_frames(summary: traceback.TracebackException) -> None:
    """Hide this package's frames, and those of asyncio between it and a cell that awaits at its top level."""
    frames = list(summary.stack or ())
    if frames and frames[0].filename.startswith(_GUEST_FOLDER):
        ours = (_GUEST_FOLDER, _ASYNCIO_FOLDER)
        start = next((i for i, frame in enumerate(frames) if not frame.filename.startswith(ours)), len(frames))
        frames = frames[start:]
    frames = [frame for frame in frames if not frame.filename.startswith(_GUEST_FOLDER)]
    # Without a stack, as for a syntax error of the cell, Python prints no heading.
    summary.stack = traceback.StackSummary.from_list(frames) if frames else None  # type: ignore[assignment]
    for cause in (summary.__cause__, summary.__context__, *(getattr(summary, "exceptions", None) or ())):
        if cause is not None:
            _hide_guest_frames(cause)


def _suggestion(problem: BaseException) -> str:
    """What Python 3.12 and later add to an unknown name by themselves."""
    if sys.version_info >= (3, 12) or not isinstance(problem, NameError | AttributeError) or problem.name is None:
        return ""
    candidates = dir(problem.obj) if isinstance(problem, AttributeError) else _visible_names(problem)
    hints = []
    if len(problem.name) <= MAX_NAME_CHARS and len(candidates) <= MAX_NAMES:
        import difflib

        near = difflib.get_close_matches(problem.name, candidates, n=1, cutoff=0.7)
        hints += [f"Did you mean: '{name}'?" for name in near]
    if isinstance(problem, NameError) and problem.name in sys.stdlib_module_names:
        hints.append(f"{'Or did' if hints else 'Did'} you forget to import '{problem.name}'?")
    return "".join(f"{' ' if number else '. '}{hint}" for number, hint in enumerate(hints))


def _visible_names(problem: NameError) -> list[str]:
    """The names that the failing line could have used."""
    lines = problem.__traceback__
    if lines is None:
        return []
    while lines.tb_next is not None:
        lines = lines.tb_next
    frame = lines.tb_frame
    return [name for name in (*frame.f_locals, *frame.f_globals, *vars(builtins)) if isinstance(name, str)]
