"""A run as OpenTelemetry spans with its original times: OTLP JSON, or sent to a receiver. Needs `rlm[otel]`."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlunsplit

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from rlm._util.urls import http_url
from rlm.errors import ConfigError, RLMError
from rlm.events import Event
from rlm.otel import Tracing
from rlm.trajectory.run_details import RunDetails

MAX_SPANS_PER_REQUEST: Final = 512  # the default of the SDK
TRACES_PATH: Final = "/v1/traces"


def spans_of(events: Iterable[Event], details: RunDetails, *, content: bool | None = None) -> Sequence[ReadableSpan]:
    """The spans of a run. Open spans of an unfinished run end with its last event.

    Args:
        events: All events of the run.
        details: Supplies the prompts as sent.
        content: Whether spans hold texts; None to ask the environment, as OpenTelemetry does.
    """
    exporter = InMemorySpanExporter()
    provider = TracerProvider(
        sampler=ALWAYS_ON, resource=Resource.create({"service.name": "rlm"}), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider, content, sent=details.sent_for)
    for event in events:
        tracing(event)
    tracing.close()
    return exporter.get_finished_spans()


def otlp_json(spans: Sequence[ReadableSpan]) -> str:
    """One export request in OTLP JSON, which is protobuf JSON with hexadecimal IDs."""
    data = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in data.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                span.update({name: _hex(span[name]) for name in ("traceId", "spanId", "parentSpanId") if name in span})
    return json.dumps(data) + "\n"


def send_spans(spans: Sequence[ReadableSpan], endpoint: str) -> None:
    """Send spans over OTLP/HTTP. OpenTelemetry's environment variables set headers and certificates.

    Args:
        spans: The spans.
        endpoint: Base URL of the receiver, with or without the path of traces.

    Raises:
        ConfigError: `endpoint` is not an HTTP URL.
        RLMError: The receiver is unreachable or rejected the spans.
    """
    exporter = OTLPSpanExporter(endpoint=_with_path(endpoint))
    try:
        for start in range(0, len(spans), MAX_SPANS_PER_REQUEST):
            if exporter.export(spans[start : start + MAX_SPANS_PER_REQUEST]) is not SpanExportResult.SUCCESS:
                raise RLMError(
                    f"The receiver at {endpoint} did not accept the spans: check that it runs and speaks OTLP/HTTP."
                )
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _with_path(endpoint: str) -> str:
    """Append the path of traces to a base URL, such as OTEL_EXPORTER_OTLP_ENDPOINT. Raises ConfigError."""
    parts = http_url(endpoint)
    if parts is None:
        raise ConfigError(f"Invalid endpoint {endpoint!r}: use an HTTP URL such as http://127.0.0.1:4318.")
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith(TRACES_PATH) else path + TRACES_PATH))


def _hex(encoded: Any) -> str:
    return base64.b64decode(encoded).hex()
