"""The output of a run: its answer or a JSON object on standard output, notices on standard error."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Container, Iterator, Sequence
from typing import Final

import typer
from rich.cells import cell_len, set_cell_size

from rlm._util.text import dollars, printable, quantity
from rlm.config import RAISABLE_LIMITS, Limits
from rlm.errors import RLMError
from rlm.store.record import RunRecord
from rlm.types import Completion

from .streams import silence

LIMITED_STATUS: Final = 3  # exit status of a run that stopped early: its answer may be incomplete
LIMIT_NOUNS: Final = {
    "max_lm_calls": "model call",
    "max_tokens": "token",
    "max_seconds": "second",
    "max_rlms": "RLM",
    "max_iterations": "turn",
}


def print_completion(done: Completion, *, run: str, as_json: bool, quiet: bool) -> None:
    """Print the answer of a run and exit with its status. On a terminal, control characters are escaped.

    Args:
        done: the completion.
        run: the ID or directory for `rlm resume`.
        as_json: print one JSON object in place of the answer.
        quiet: print no notices except that of a stopped run.

    Raises:
        RLMError: writing to standard output failed.
        typer.Exit: the run stopped early; status 3.
    """
    try:
        if as_json:
            write_json(completion_json(done))
        elif sys.stdout.isatty():
            typer.echo(printable(done.answer))
        else:
            typer.echo(done.answer.encode("utf-8", "surrogatepass"))
    except BrokenPipeError:  # the reader has stopped reading
        raise
    except OSError as error:
        silence(sys.stdout)
        raise RLMError(
            f"Cannot write the answer to standard output: {error.strerror}. It is in {done.run_dir / 'answer.txt'}."
        ) from error
    if not quiet:
        if done.cost is None:
            sys.stderr.write("Cost: no price known for a model of this run; set [prices] in rlm.toml.\n")
        sys.stderr.write(f"Run directory: {done.run_dir}\n")
    if done.stop_reason != "final":
        limits = RunRecord.load(done.run_dir).limits_now
        sys.stderr.write(f"{stop_message(done, limits, run=run)}\n")
        raise typer.Exit(LIMITED_STATUS)


def stop_message(done: Completion, limits: Limits, *, run: str) -> str:
    """Why a run was stopped and how to continue it; `limits` are its limits at the end."""
    reason = done.stop_reason
    answer = "The answer may be incomplete." if done.answer.strip() else "It has no answer yet."
    if reason == "stopped":
        return f"Stopped early at your request. {answer}"
    limit = getattr(limits, reason)
    if reason == "max_consecutive_errors":
        answer = "The answer is the model's last reply." if done.answer.strip() else answer
        return f"Stopped after {quantity(limit, 'turn')} without working code. {answer}"
    shown = dollars(limit) if reason == "max_cost_usd" else quantity(limit, LIMIT_NOUNS[reason])
    message = f"Stopped at the limit of {shown}. {answer}"
    if reason not in RAISABLE_LIMITS:
        return message
    return f"{message}\nTo continue: rlm resume {shlex.quote(run)} --{reason.replace('_', '-')} {2 * limit:.15g}"


def completion_json(done: Completion) -> dict[str, object]:
    """A completion as plain data: its fields and its cost."""
    plain = dataclasses.asdict(done) | {"run_dir": str(done.run_dir), "cost_usd": done.cost}
    del plain["by_node"]  # one entry per call; events.jsonl has each
    return plain


def write_json(data: object) -> None:
    """Print plain data as JSON, in ASCII so that every text survives."""
    typer.echo(json.dumps(data, indent=1))


def aligned(rows: Sequence[Sequence[str]], *, right: Container[int], width: int | None) -> Iterator[str]:
    """Rows as lines with aligned columns.

    Args:
        rows: cells of equal number per row.
        right: the columns that are right-aligned.
        width: cut the last column so that no line is wider; None cuts nothing.
    """
    sizes = [max(map(cell_len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, last in rows:
        start = ""
        for number, (cell, size) in enumerate(zip(cells, sizes, strict=True)):
            space = " " * (size - cell_len(cell))
            start += (space + cell if number in right else cell + space) + "  "
        yield (start + (last if width is None else _cut(last, max(0, width - cell_len(start))))).rstrip()


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)).rstrip() + "…" * (width > 0)
