"""Writes a run in a format of others."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path

from rlm.errors import ConfigError
from rlm.store.directory import private
from rlm.trajectory.directory import events_of, read_run

from .atif import trajectory
from .markdown import markdown
from .rlms import log_lines


class Format(StrEnum):
    """What a run can be written as."""

    atif = "atif"
    rlms = "rlms"
    md = "md"
    otel = "otel"


def write_export(
    directory: Path, to: Format, *, out: Path | None, endpoint: str | None, content: bool | None
) -> str | None:
    """Write a run in another format, or send its spans; a sentence on what was sent.

    Raises:
        ConfigError: the run cannot be read, the file cannot be written, there cannot be such a receiver, or OpenTelemetry is
            not installed.
        RLMError: the receiver does not take the spans.
    """
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
                logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what fails is told in our own sentence
                send(spans, endpoint)
                return f"{len(spans):,} spans were sent to {endpoint}."
            text = otlp_json(spans)
    write(text, out)
    return None


def write(text: str, out: Path | None) -> None:
    """To standard output, or to a file that only this user can read, as runs are.

    Lone surrogates, which are no text, become `?`.

    Raises:
        ConfigError: the file cannot be written.
    """
    if out is None:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.flush()
        return
    try:
        with open(out, "w", encoding="utf-8", errors="replace", opener=private) as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}): choose another with --out.") from error
