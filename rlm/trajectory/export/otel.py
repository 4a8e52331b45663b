"""The spans of a recorded run, with its real times: as OTLP JSON, or sent to a receiver. Needs the extra `rlm[otel]`."""

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
from rlm.trajectory.extras import Extras

BATCH_SPANS: Final = 512  # in one request, as the SDK has it
PATH: Final = "/v1/traces"


def spans_of(events: Iterable[Event], extras: Extras, *, content: bool | None = None) -> Sequence[ReadableSpan]:
    """The spans of a run. Those of a run that has not ended end with its latest event."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(
        sampler=ALWAYS_ON, resource=Resource.create({"service.name": "rlm"}), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracing = Tracing(provider, content, sent=extras.sent_for)
    for event in events:
        tracing(event)
    tracing.close()
    return kept.get_finished_spans()


def otlp_json(spans: Sequence[ReadableSpan]) -> str:
    """One request in the JSON encoding of OTLP: that of protobuf, but for ids in hexadecimal."""
    data = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in data.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                span.update({name: _hex(span[name]) for name in ("traceId", "spanId", "parentSpanId") if name in span})
    return json.dumps(data) + "\n"


def send(spans: Sequence[ReadableSpan], endpoint: str) -> None:
    """Send spans to a receiver of OTLP over HTTP. OpenTelemetry's environment variables give headers and certificates.

    Raises:
        ConfigError: there cannot be such a receiver.
        RLMError: it does not take them.
    """
    exporter = OTLPSpanExporter(endpoint=_with_path(endpoint))
    try:
        for at in range(0, len(spans), BATCH_SPANS):
            if exporter.export(spans[at : at + BATCH_SPANS]) is not SpanExportResult.SUCCESS:
                raise RLMError(
                    f"The receiver at {endpoint} did not take the spans: is it there, and does it speak OTLP/HTTP?"
                )
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _with_path(endpoint: str) -> str:
    """A base address, as OTEL_EXPORTER_OTLP_ENDPOINT has it, gets the path of traces. Raises ConfigError."""
    parts = http_url(endpoint)
    if parts is None:
        raise ConfigError(f"The receiver {endpoint!r} cannot be: give an address such as http://127.0.0.1:4318.")
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith(PATH) else path + PATH))


def _hex(encoded: Any) -> str:
    return base64.b64decode(encoded).hex()
