"""`rlm clean`."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

import typer

from rlm.cli.options import AsJson, Quiet, Root
from rlm.errors import ConfigError, EngineUnavailable

if TYPE_CHECKING:
    from .leftovers import RemovableItem

UNITS: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def clean(
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE", help="remove runs of this age too, such as 30d, 12h, 2w; images of it, not of a week"
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    root: Root = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove sandboxes whose process is gone, old images and, with --older-than, old runs.

    It says what it would remove and how much room that frees, and asks.
    What is another user's or belongs to a run that is alive stays.

    Exit status: 0 done or nothing to do, 1 something could not be removed
    or the reply was no, 2 the command cannot be.
    """
    import anyio

    from rlm._util.text import printable
    from rlm.cli.output import write_json
    from rlm.cli.settings import settings
    from rlm.sandbox.docker.engine import default_engine

    from .leftovers import engine_leftovers, old_runs, remove

    age = None if older_than is None else _seconds(older_than)
    folder = settings(run_root=root).runs
    engine = default_engine()
    runs, left = ([], []) if age is None else old_runs(folder, older_than=age)
    found: list[RemovableItem] = runs
    try:
        found = anyio.run(lambda: engine_leftovers(engine, older_than=age)) + runs
    except EngineUnavailable as error:
        sys.stderr.write(f"rlm: containers and images are left as they are: {error}\n")
    sys.stderr.writelines([f"rlm: {printable(sentence)}\n" for sentence in left])
    if not quiet:
        for each in found:
            sys.stderr.write(f"{each.kind:9}  {each.text}{f', {_room(each.size)}' if each.size else ''}\n")
    if found and not yes:
        _ask(found)

    async def work() -> dict[str, str]:
        return {each.target: await remove(engine, each) for each in found}

    problems = anyio.run(work)
    removed = [each for each in found if not problems[each.target]]
    if as_json:
        write_json({"removed": list(map(dataclasses.asdict, removed)), "bytes": sum(each.size for each in removed)})
    elif not quiet:
        sys.stderr.write(f"Removed: {_summary(removed)}.\n" if found else "There is nothing to remove.\n")
    for each in found:
        if problems[each.target]:
            sys.stderr.write(f"rlm: the {each.kind} {each.text} is still there: {problems[each.target]}\n")
    if len(removed) < len(found):
        raise typer.Exit(1)


def _ask(found: list[RemovableItem]) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(f"Nothing was removed ({_summary(found)}), as there is nobody to ask: add --yes.")
    if not typer.confirm(f"Remove {_summary(found)}?", err=True):
        raise typer.Exit(1)


def _seconds(age: str) -> float:
    said = re.fullmatch(r"([0-9]+)([mhdw])", age)
    if said is None:
        raise ConfigError(f"--older-than {age} is no age: give a number with m, h, d or w, such as 30d.")
    return int(said[1]) * UNITS[said[2]]


def _summary(found: list[RemovableItem]) -> str:
    from rlm.cli.progress import counted

    counts = Counter(each.kind for each in found)
    things = [counted(count, kind) for kind, count in counts.items()]
    return f"{' and '.join(things) or 'nothing'}, {_room(sum(each.size for each in found))}"


def _room(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
