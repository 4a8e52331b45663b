"""The REPL: runs cells in one module namespace, as Python's own would."""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
import types
from dataclasses import dataclass
from typing import Any

from rlm.protocol.messages import Start

from . import values
from .calls import Calls, LLMError, ToolError, callable_as
from .streams import Streams
from .tracebacks import clip, describe, safely

SHOWN_CHARS = 80  # characters of a variable's value in SHOW_VARS
LISTED_NAMES = 30  # variables that an error lists

# inspect.CO_COROUTINE. Rarely used modules are imported only when needed: each page costs time at every fork.
CO_COROUTINE = 0x80


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
        self._streams = Streams()
        self._final: str | None = None
        self._answer: dict[str, Any] = {"content": "", "ready": False}
        self._calls = calls
        self._max_answer_bytes = start.max_value_bytes
        functions = {
            "llm_query": (calls.llm_query, "(prompt, context=None, *, model=None, recurse=None)"),
            "llm_batch": (
                calls.llm_batch,
                "(prompts, *, contexts=None, model=None, recurse=None, max_concurrent=None)",
            ),
            "FINAL": (self._set_final, "(value), with the answer as its value"),
            "FINAL_VAR": (self._set_final_var, "('name'), with the name of the variable that holds the answer"),
            "SHOW_VARS": (self._show_vars, "()"),
        }
        functions["rlm_query"] = functions["llm_query"]
        functions["llm_query_batched"] = functions["rlm_query_batched"] = functions["llm_batch"]
        self._provided: dict[str, Any] = {
            name: callable_as(name, method, usage) for name, (method, usage) in functions.items()
        }
        self._provided |= {"LLMError": LLMError, "ToolError": ToolError}
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
        self._streams.begin_cell()
        linecache.cache[filename] = len(code), None, code.splitlines(keepends=True), filename
        error = ""
        try:
            self._execute(code, filename)
        except SystemExit as ended:
            if ended.code not in (None, 0):
                error = clip(f"SystemExit: {safely(str, ended.code)}")
        except BaseException as problem:  # whatever the model's code raises is a result
            error = safely(describe, problem)
        self._streams.end_cell()
        answer = None
        if not error:
            try:
                answer = self._final_answer()
            except BaseException as problem:  # `answer` may be an instance of a class that the cell defined
                error = safely(describe, problem)
        return CellEnd(error=error, answer=answer)

    def _execute(self, code: str, filename: str) -> None:
        # Not by ast.parse, which would appear in the traceback of a syntax error.
        tree = compile(code, filename, "exec", flags=ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, ast.Module)
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

            # With a factory, the runner leaves the thread's own loop alone: asyncio.get_event_loop() works as in a script.
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                return runner.run(value)
        return value

    def _final_answer(self) -> bytes | None:
        """The encoded final answer, if any. Raises ValueError or MemoryError if it is too large."""
        final = self._final
        if final is None:
            answer = self.namespace.get("answer")
            if not isinstance(answer, dict) or not dict.get(answer, "ready"):
                return None
            final = safely(str, dict.get(answer, "content", ""))
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
        text, name = name, name.strip().strip("\"'")
        if name not in self.namespace:
            raise NameError(self._unknown_variable(name, text))
        self._final = str(self.namespace[name])

    def _unknown_variable(self, name: str, text: str) -> str:
        """An error that names what FINAL_VAR could have meant: a variable, or the text itself."""
        import difflib

        variables = self._variables()
        near = difflib.get_close_matches(name, variables, n=3)
        holders = [variable for variable, value in variables.items() if isinstance(value, str) and value is text]
        names = list(variables)[:LISTED_NAMES]
        hint = f"; did you mean {', '.join(near)}?" if near else "."
        if holders:
            hint += f" It is the value of {holders[0]}: use FINAL_VAR({holders[0]!r})."
        if names:
            more = ", ..." if len(variables) > len(names) else ""
            hint += f" The variables are: {', '.join(names)}{more}."
        if not name.isidentifier():  # a name alone may be copied from here as the answer
            hint += f" To give this text itself: FINAL({_shown(text)})"
        return f"FINAL_VAR: there is no variable {_shown(name)}{hint}"

    def _show_vars(self) -> None:
        """Print the variables, one per line: name, type, size, beginning of the value."""
        lines = []
        for name, value in self._variables().items():
            size = f" ({len(value):,})" if isinstance(value, str | bytes | list | dict | tuple | set) else ""
            shown = value[:SHOWN_CHARS] if isinstance(value, str | bytes) else value
            lines.append(f"{name}: {type(value).__name__}{size} = {safely(repr, shown)[:SHOWN_CHARS]}")
        text = "\n".join(lines) or "There are no variables yet."
        sys.stdout.write(text + "\n")

    def _variables(self) -> dict[str, Any]:
        hidden = {"answer", "_", *self._provided}
        return {
            name: value
            for name, value in self.namespace.items()
            if name not in hidden and not name.startswith("__") and not isinstance(value, types.ModuleType)
        }


def _shown(text: str) -> str:
    """A text as a literal of limited length."""
    return repr(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "...")
