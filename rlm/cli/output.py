"""How a run's answer leaves: the answer, or one object with it, on standard output; what it took on standard error."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Container, Iterator, Sequence

import typer
from rich.cells import cell_len, set_cell_size

from rlm._util.text import printable
from rlm.errors import RLMError
from rlm.types import Completion

from .progress import counted, used
from .streams import silence

LIMITED = 3  # exit status: there is an answer, and a limit stopped the run before the model gave it as its last word


def show(done: Completion, *, as_json: bool, quiet: bool) -> None:
    """Write it, and end with the exit status that it has. Text for a terminal holds no control characters.

    Raises:
        RLMError: standard output does not take it.
    """
    try:
        if as_json:
            write_json(described(done))
        elif sys.stdout.isatty():
            typer.echo(printable(done.answer))
        else:
            typer.echo(done.answer.encode("utf-8", "surrogatepass"))
    except BrokenPipeError:  # who read it has had enough
        raise
    except OSError as error:
        silence(sys.stdout)
        raise RLMError(
            f"The answer cannot be written: {error.strerror}; it is in {done.run_dir / 'answer.txt'}."
        ) from error
    if not quiet:
        turns = counted(done.iterations, "turn")
        sys.stderr.write(
            f"{done.stop_reason} after {turns}: {done.seconds:.1f} s, {used(done.usage)}; {done.run_dir}\n"
        )
    if done.stop_reason != "final":
        what = "the answer is the best that it had" if done.answer.strip() else "it had no answer yet"
        sys.stderr.write(f"rlm: the run was stopped ({done.stop_reason}): {what}.\n")
        raise typer.Exit(LIMITED)


def described(done: Completion) -> dict[str, object]:
    """A completion as plain data: its fields, with the cost beside them."""
    plain = dataclasses.asdict(done) | {"run_dir": str(done.run_dir), "cost_usd": done.cost}
    del plain["by_node"]  # as many as there were calls; events.jsonl has each
    return plain


def write_json(data: object) -> None:
    """Plain data on standard output, in ASCII, so that every text survives."""
    typer.echo(json.dumps(data, indent=1))


def aligned(rows: Sequence[Sequence[str]], *, to_the_right: Container[int], width: int | None) -> Iterator[str]:
    """Rows as lines. What is in the last column is cut where a line would be wider than `width`; None cuts nothing."""
    sizes = [max(map(cell_len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, last in rows:
        start = ""
        for number, (cell, size) in enumerate(zip(cells, sizes, strict=True)):
            space = " " * (size - cell_len(cell))
            start += (space + cell if number in to_the_right else cell + space) + "  "
        yield (start + (last if width is None else _cut(last, max(0, width - cell_len(start))))).rstrip()


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)).rstrip() + "…" * (width > 0)
