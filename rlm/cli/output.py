"""How a run's answer leaves: the answer, or one object with it, on standard output; what it took on standard error."""

from __future__ import annotations

import dataclasses
import json
import sys

import typer

from rlm.console import printable
from rlm.types import Completion

from .progress import counted, used

LIMITED = 3  # exit status: there is an answer, and a limit stopped the run before the model gave it as its last word


def show(done: Completion, *, as_json: bool, quiet: bool) -> None:
    """Write it, and end with the exit status that it has. Text for a terminal holds no control characters."""
    if as_json:
        write_json(described(done))
    elif sys.stdout.isatty():
        typer.echo(printable(done.answer))
    else:
        typer.echo(done.answer.encode("utf-8", "surrogatepass"))
    if not quiet:
        turns = counted(done.iterations, "turn")
        sys.stderr.write(
            f"{done.stop_reason} after {turns}: {done.seconds:.1f} s, {used(done.usage)}; {done.run_dir}\n"
        )
    if done.stop_reason != "final":
        sys.stderr.write(f"rlm: the run was stopped ({done.stop_reason}): the answer is the best that it had.\n")
        raise typer.Exit(LIMITED)


def described(done: Completion) -> dict[str, object]:
    """A completion as plain data: its fields, with the cost beside them."""
    plain = dataclasses.asdict(done) | {"run_dir": str(done.run_dir), "cost_usd": done.cost}
    del plain["by_node"]  # as many as there were calls; events.jsonl has each
    return plain


def write_json(data: object) -> None:
    """Plain data on standard output, in ASCII, so that every text survives."""
    typer.echo(json.dumps(data, indent=1))
