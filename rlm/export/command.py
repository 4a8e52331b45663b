"""`rlm export`: writes a run in a format of others."""

from __future__ import annotations

import json
import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlm.errors import ConfigError
from rlm.history.directory import events_of, find_run, read_run
from rlm.record import private

from .atif import trajectory
from .markdown import markdown
from .rlms import log_lines


class Format(StrEnum):
    """What a run can be written as."""

    atif = "atif"
    rlms = "rlms"
    md = "md"
    otel = "otel"


def export(
    run: Annotated[str, typer.Argument(help="id of a run, or the path of its directory")],
    to: Annotated[
        Format,
        typer.Option(help="atif: trajectory; rlms: log of the reference implementation; md: Markdown; otel: spans"),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the file; default: standard output")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            help="otel: receiver to send to, where no --out is given",
            show_envvar=True,
        ),
    ] = None,
    content: Annotated[
        bool | None, typer.Option("--content/--no-content", help="otel: with prompts, replies, code and outputs")
    ] = None,
) -> None:
    """Write a run in another format. A run that still goes is written as far as it is."""
    directory = find_run(run)
    record, extras = read_run(directory, with_context=False)
    match to:
        case Format.atif:
            text = json.dumps(trajectory(record, extras), indent=1, ensure_ascii=False) + "\n"
        case Format.rlms:
            text = "".join(log_lines(record, extras))
        case Format.md:
            text = markdown(record, extras)
        case Format.otel:
            try:
                from .otel import otlp_json, send, spans_of
            except ImportError as error:
                raise ConfigError("OpenTelemetry is not installed: pip install 'rlm[otel]'.") from error
            spans = spans_of(events_of(directory), extras, content=content)
            if endpoint is not None and out is None:
                logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # that it tries again is of no use here
                send(spans, endpoint)
                typer.echo(f"{len(spans):,} spans were sent to {endpoint}.", err=True)
                return
            text = otlp_json(spans)
    write(text, out)


def write(text: str, out: Path | None) -> None:
    """To standard output, or to a file that only this user can read, as runs are.

    Lone surrogates, which are no text, become `?`.

    Raises:
        ConfigError: the file cannot be written.
    """
    if out is None:
        typer.echo(text.encode("utf-8", "replace"), nl=False)
        return
    try:
        with open(out, "w", encoding="utf-8", errors="replace", opener=private) as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}): choose another with --out.") from error
