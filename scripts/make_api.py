"""Writes docs/api.md: the public names, with signatures and docstrings. `--check` says whether it is current."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import rlm

PAGE = Path(__file__).parents[1] / "docs" / "api.md"

GROUPS = {
    "Asking": ("Orchestrator", "Completion", "Usage", "Session", "Run"),
    "Settings": ("Limits", "SandboxConfig", "Price", "PromptContext"),
    "Models": ("OpenAIModel", "ScriptedModel", "Message", "ModelReply"),
    "Sandboxes": ("Sandbox", "SyncSandbox", "CellResult"),
    "Errors": (
        *("RLMError", "ConfigError", "EngineUnavailable", "ModelError", "SandboxError", "SandboxStartError"),
        *(
            "SandboxDied",
            "SandboxMisbehaved",
            "ToolError",
            "LimitExceeded",
            "RunCancelled",
            "JournalError",
            "ReplayDivergedError",
        ),
    ),
}

MADE_ELSEWHERE = ("Session", "Run")  # by an Orchestrator: how they are made is nobody's business

HEAD = """\
# Python API

Everything that `from rlm import ...` gives; written by `scripts/make_api.py` from the docstrings. The events are in
`rlm.events`, described in [events-and-formats.md](events-and-formats.md).
"""

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")
_ENTRY = re.compile(r"^ {4}(?P<names>[\w, ]+): (?P<text>.*)$")
_LINE = 110


def page() -> str:
    grouped = {name for names in GROUPS.values() for name in names}
    if grouped != set(dir(rlm)):
        sys.exit(f"error: the groups of scripts/make_api.py are not the public names: {grouped ^ set(dir(rlm))}.")
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        for name in names:
            parts += described(name, getattr(rlm, name))
    return "\n".join(parts).rstrip() + "\n"


def described(name: str, thing: type) -> Iterator[str]:
    bases = [base.__name__ for base in thing.__bases__ if base.__module__.startswith("rlm")]
    yield f"### {name}{' (' + ', '.join(bases) + ')' if bases else ''}\n"
    if not issubclass(thing, Exception) and name not in MADE_ELSEWHERE:
        yield f"```text\n{wrapped(name + signature(thing))}\n```\n"
    yield from text(thing)
    for label, member in methods(thing):
        if isinstance(member, property):
            yield f"**`{label}`** (property)\n"
            yield from text(member)
            continue
        prefix = "async " if inspect.iscoroutinefunction(member) else ""
        yield f"**`{prefix}{label}{signature(member)}`**\n"
        yield from text(member)


def methods(thing: type) -> Iterator[tuple[str, object]]:
    """Those that are its own and public, in the order of the source."""
    fields = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
    for label, member in vars(thing).items():
        member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        public = not label.startswith("_") and label not in fields
        if public and (inspect.isfunction(member) or isinstance(member, property)) and member.__doc__:
            yield label, member


def signature(thing: object) -> str:
    found = str(inspect.signature(thing))  # type: ignore[arg-type]
    found = re.sub(r"rlm(\.\w+)+\.(\w+)", r"\2", found.replace("'", ""))
    found = re.sub(r"\bself, |\bself\b|<factory>|typing\.|collections\.abc\.|pathlib\.|functools\.", "", found)
    return re.sub(r"(, )?/(?=[,)])| ?=(?= ?[,)])", "", found).replace(" -> None", "").replace(" ,", ",")


def wrapped(call: str) -> str:
    """One parameter a line, where all of them do not fit on one."""
    if len(call) <= _LINE:
        return call
    head, _, arguments = call.removesuffix(")").partition("(")
    lines = re.sub(r", (?=\w+: )", ",\n    ", arguments.removeprefix("*, "))
    star = "*,\n    " if arguments.startswith("*, ") else ""
    return f"{head}(\n    {star}{lines}\n)"


def text(thing: object) -> Iterator[str]:
    """A docstring as Markdown: the entries of its sections become lists."""
    for line_block in inspect.cleandoc(getattr(thing, "__doc__", None) or "").split("\n\n"):
        lines = line_block.split("\n")
        if _SECTION.match(lines[0]):
            yield f"{lines[0]}\n"
            yield "\n".join(entries(lines[1:])) + "\n"
        elif line_block.startswith("    "):
            yield f"```text\n{textwrap.dedent(line_block)}\n```\n"
        else:
            yield line_block + "\n"


def entries(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if match := _ENTRY.match(line):
            names = ", ".join(f"`{name.strip()}`" for name in match["names"].split(","))
            yield f"- {names}: {match['text']}"
        else:
            yield f"  {line.strip()}" if line.startswith("     ") else f"- {line.strip()}"


def main() -> None:
    wanted = page()
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != wanted:
        sys.exit("error: docs/api.md is not what the docstrings say: run scripts/make_api.py and commit it.")


if __name__ == "__main__":
    main()
