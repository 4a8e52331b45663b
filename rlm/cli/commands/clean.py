"""`rlm clean`: removes leftovers."""

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

UNIT_SECONDS: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def clean(
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Also remove runs older than this (30d, 12h, 2w); applies to images instead of one week",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation")] = False,
    root: Root = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove orphaned sandboxes, old images and, with --older-than, old runs.

    Lists what it would remove and the space that frees, then asks.
    Keeps what belongs to another user or to a run in progress.

    Exit status: 0 done or nothing to do, 1 a removal failed or was declined,
    2 invalid usage.
    """
    import anyio

    from rlm._util.text import printable
    from rlm.cli.output import write_json
    from rlm.cli.settings import load_settings
    from rlm.sandbox.docker.engine import default_engine

    from .leftovers import engine_leftovers, old_runs, remove

    age = None if older_than is None else _seconds(older_than)
    folder = load_settings(run_root=root).runs
    engine = default_engine()
    runs, kept = ([], []) if age is None else old_runs(folder, older_than=age)
    items: list[RemovableItem] = runs
    try:
        items = anyio.run(lambda: engine_leftovers(engine, older_than=age)) + runs
    except EngineUnavailable as error:
        sys.stderr.write(f"rlm: Skipped containers and images: {error}\n")
    sys.stderr.writelines([f"rlm: {printable(sentence)}\n" for sentence in kept])
    if not quiet:
        for item in items:
            sys.stderr.write(f"{item.kind:9}  {item.text}{f', {_size(item.size)}' if item.size else ''}\n")
    if items and not yes:
        _confirm(items)

    async def work() -> dict[str, str]:
        return {item.target: await remove(engine, item) for item in items}

    problems = anyio.run(work)
    removed = [item for item in items if not problems[item.target]]
    if as_json:
        write_json({"removed": list(map(dataclasses.asdict, removed)), "bytes": sum(item.size for item in removed)})
    elif not quiet:
        sys.stderr.write(f"Removed: {_summary(removed)}.\n" if items else "Nothing to remove.\n")
    for item in items:
        if problems[item.target]:
            sys.stderr.write(f"rlm: Cannot remove {item.kind} {item.text}: {problems[item.target]}\n")
    if len(removed) < len(items):
        raise typer.Exit(1)


def _confirm(items: list[RemovableItem]) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(f"Nothing was removed: no terminal to confirm on ({_summary(items)}). Use --yes.")
    if not typer.confirm(f"Remove {_summary(items)}?", err=True):
        raise typer.Exit(1)


def _seconds(age: str) -> float:
    match = re.fullmatch(r"([0-9]+)([mhdw])", age)
    if match is None:
        raise ConfigError(f"Invalid age {age!r} for --older-than. Use a number and m, h, d or w, such as 30d.")
    return int(match[1]) * UNIT_SECONDS[match[2]]


def _summary(items: list[RemovableItem]) -> str:
    from rlm._util.text import quantity

    counts = Counter(item.kind for item in items)
    parts = [quantity(count, kind) for kind, count in counts.items()]
    return f"{' and '.join(parts) or 'nothing'}, {_size(sum(item.size for item in items))}"


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
