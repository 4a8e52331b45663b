"""The formats of `rlm export`, and writing a run in one of them."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path

from rlm.errors import ConfigError
from rlm.trajectory.output import write_private_file
from rlm.trajectory.run_reader import read_run, read_run_events

from .atif import atif_trajectory
from .markdown import markdown
from .rlms import log_lines


class ExportFormat(StrEnum):
    """The formats of exported runs; see docs/events-and-formats.md."""

    atif = "atif"
    rlms = "rlms"
    md = "md"
    otel = "otel"


def export_run(
    directory: Path, to: ExportFormat, *, out: Path | None, endpoint: str | None, content: bool | None
) -> str | None:
    """Export a run to a file, standard output, or an OTLP endpoint.

    Args:
        directory: The run's directory.
        to: The format.
        out: The file; None for standard output.
        endpoint: For `otel`: URL that receives the spans, unless `out` is set.
        content: For `otel`: whether spans hold texts; None to ask the environment.

    Returns:
        A sentence about the spans sent, or None.

    Raises:
        ConfigError: The run is unreadable, the file is not writable, `endpoint` is not an HTTP URL, or OpenTelemetry is
            missing.
        RLMError: The endpoint rejected the spans.
    """
    trajectory, details = read_run(directory, with_context=False)
    match to:
        case ExportFormat.atif:
            text = json.dumps(atif_trajectory(trajectory, details), indent=1, ensure_ascii=False) + "\n"
        case ExportFormat.rlms:
            text = "".join(log_lines(trajectory, details))
        case ExportFormat.md:
            text = markdown(trajectory, details)
        case ExportFormat.otel:
            try:
                from .otlp import otlp_json, send_spans, spans_of
            except ImportError as error:
                raise ConfigError("OpenTelemetry is not installed: pip install 'rlm[otel]'.") from error
            spans = spans_of(read_run_events(directory), details, content=content)
            if endpoint is not None and out is None:
                logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # our own error is one sentence
                send_spans(spans, endpoint)
                return f"Sent {len(spans):,} spans to {endpoint}."
            text = otlp_json(spans)
    if out is not None:
        write_private_file(out, text)
    else:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.flush()
    return None
