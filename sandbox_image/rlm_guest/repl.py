"""The REPL: runs cells in one module namespace, as Python's own would."""

from __future__ import annotations

import ast
import builtins
import io
import linecache
import os
import sys
import traceback
import types
from dataclasses import dataclass
from typing import Any

from rlm.protocol.messages import Start

from . import values
from .calls import Calls, LLMError, ToolError

MAX_ERROR_CHARS = 30_000  # limit of a traceback, which must fit into a packet in any encoding
SHOWN_CHARS = 80  # characters of a variable's value in SHOW_VARS

# inspect.CO_COROUTINE. Rarely used modules are imported only when needed: each page costs time at every fork.
CO_COROUTINE = 0x80

_GUEST_FOLDER = os.path.dirname(__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEnd:
    """How a cell ended: its traceback (empty on success), and its final answer, if any (UTF-8, surrogatepass)."""

    error: str
    answer: bytes | None


class Repl:
    """Runs cells. Assignments persist, including those before an exception."""

    def __init__(self, calls: Calls, start: Start) -> None:
        self._main = types.ModuleType("__main__")
        self._main.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = self._main
        self.namespace = self._main.__dict__
        self._builtins = dict(vars(builtins))
        self._restore_builtins = vars(builtins).update  # bound early: cells could replace any name used later
        self._raw: list[io.FileIO] = []
        self._streams: list[io.TextIOWrapper] = []
        self._final: str | None = None
        self._answer: dict[str, Any] = {"content": "", "ready": False}
        self._calls = calls
        self._max_answer_bytes = start.max_value_bytes
        self._provided: dict[str, Any] = {
            "llm_query": calls.llm_query,
            "llm_batch": calls.llm_batch,
            "rlm_query": calls.llm_query,
            "llm_query_batched": calls.llm_batch,
            "rlm_query_batched": calls.llm_batch,
            "LLMError": LLMError,
            "ToolError": ToolError,
            "FINAL": self._set_final,
            "FINAL_VAR": self._set_final_var,
            "SHOW_VARS": self._show_vars,
        }
        self.namespace |= {"answer": self._answer, "context": None}

    def bind_tools(self, descriptions: dict[str, str]) -> None:
        """Add host functions to the namespace, by name and docstring."""
        for name, description in descriptions.items():
            self._provided[name] = self._tool(name, description)

    def _tool(self, name: str, description: str) -> Any:
        def tool(*positional: object, **named: object) -> object:
            return self._calls.use_tool(name, positional, named)

        tool.__name__ = tool.__qualname__ = name
        tool.__doc__ = description
        return tool

    def run(self, code: str, filename: str) -> CellEnd:
        """Run one cell. A final answer counts only if the cell ended without an error."""
        self._restore_builtins(self._builtins)
        self._final = None
        self.namespace.update(self._provided)
        sys.modules["__main__"] = self._main
        self._open_streams()
        linecache.cache[filename] = len(code), None, code.splitlines(keepends=True), filename
        error = ""
        try:
            self._execute(code, filename)
        except SystemExit as ended:
            if ended.code not in (None, 0):
                error = _clip(f"SystemExit: {_safely(str, ended.code)}")
        except BaseException as problem:  # whatever the model's code raises is a result
            error = _safely(_describe, problem)
        self.flush()
        answer = None
        if not error:
            try:
                answer = self._final_answer()
            except BaseException as problem:  # `answer` may be an instance of a class that the cell defined
                error = _safely(_describe, problem)
        return CellEnd(error=error, answer=answer)

    def _open_streams(self) -> None:
        """Open new standard streams for each cell. They escape characters that cannot be encoded."""
        self._raw = [io.FileIO(1, "w", closefd=False), io.FileIO(2, "w", closefd=False)]
        options: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), **options)
        self._streams = [io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True, **options) for raw in self._raw]
        sys.stdout, sys.stderr = self._streams

    def flush(self) -> None:
        """Flush the standard streams, so that a fork does not write the same text again.

        Text that cannot be written, because the cell closed a descriptor, is discarded: it must not reach another cell.
        """
        for stream, raw in zip(self._streams, self._raw, strict=True):
            try:
                stream.flush()
            except (OSError, ValueError):
                raw.close()

    def _execute(self, code: str, filename: str) -> None:
        tree = ast.parse(code, filename)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        self._evaluate(tree, filename, "exec")
        if isinstance(last, ast.Expr):
            value = self._evaluate(ast.Expression(last.value), filename, "eval")
            if value is not None:
                self.namespace["_"] = value
                sys.stdout.write(repr(value) + "\n")

    def _evaluate(self, tree: ast.Module | ast.Expression, filename: str, mode: str) -> Any:
        compiled = compile(tree, filename, mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        value = eval(compiled, self.namespace)  # noqa: S307 - running code is what a REPL is for
        if compiled.co_flags & CO_COROUTINE:  # the cell awaits at its top level
            import asyncio

            return asyncio.run(value)
        return value

    def _final_answer(self) -> bytes | None:
        """The encoded final answer, if any. Raises ValueError or MemoryError if it is too large."""
        final = self._final
        if final is None:
            answer = self.namespace.get("answer")
            if not isinstance(answer, dict) or not dict.get(answer, "ready"):
                return None
            final = _safely(str, dict.get(answer, "content", ""))
        try:
            encoded = values.encode_text(final)
        except MemoryError:
            raise MemoryError("the memory cannot hold a second copy of the final answer, to send it") from None
        values.check_size(len(encoded), self._max_answer_bytes)
        return encoded

    # Functions that the model's code calls

    def _set_final(self, value: object) -> None:
        """Give the final answer. The cell continues, and the last call counts."""
        self._final = str(value)

    def _set_final_var(self, name: object) -> None:
        """Give a variable, by its name, as the final answer."""
        if not isinstance(name, str):
            self._final = str(name)
            return
        name = name.strip().strip("\"'")
        if name not in self.namespace:
            import difflib

            near = difflib.get_close_matches(name, self._variables(), n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else "; SHOW_VARS() lists the variables"
            raise NameError(f"FINAL_VAR: there is no variable {name!r}{hint}")
        self._final = str(self.namespace[name])

    def _show_vars(self) -> None:
        """Print the variables, one per line: name, type, size, beginning of the value."""
        lines = []
        for name, value in self._variables().items():
            size = f" ({len(value):,})" if isinstance(value, str | bytes | list | dict | tuple | set) else ""
            shown = value[:SHOWN_CHARS] if isinstance(value, str | bytes) else value
            lines.append(f"{name}: {type(value).__name__}{size} = {_safely(repr, shown)[:SHOWN_CHARS]}")
        text = "\n".join(lines) or "There are no variables yet."
        sys.stdout.write(text + "\n")

    def _variables(self) -> dict[str, Any]:
        hidden = {"answer", "_", *self._provided}
        return {
            name: value
            for name, value in self.namespace.items()
            if name not in hidden and not name.startswith("__") and not isinstance(value, types.ModuleType)
        }


def _describe(problem: BaseException) -> str:
    """Format the traceback without the frames of this package."""
    summary = traceback.TracebackException.from_exception(problem, compact=True)
    _hide_guest_frames(summary)
    return _clip("".join(summary.format()).rstrip())


def _clip(text: str) -> str:
    if len(text) <= MAX_ERROR_CHARS:
        return text
    half = MAX_ERROR_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"


def _hide_guest_frames(summary: traceback.TracebackException) -> None:
    frames = [frame for frame in summary.stack if not frame.filename.startswith(_GUEST_FOLDER)]
    summary.stack = traceback.StackSummary.from_list(frames)
    for cause in (summary.__cause__, summary.__context__, *(getattr(summary, "exceptions", None) or ())):
        if cause is not None:
            _hide_guest_frames(cause)


def _safely(show: Any, value: object) -> str:
    """Apply `show` to a value, or describe the exception that the value's own code raises."""
    try:
        text = show(value)
        return text if type(text) is str else str(text)
    except BaseException as problem:
        return f"<{type(problem).__name__} while showing an object of the cell>"
