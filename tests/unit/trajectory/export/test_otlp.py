"""OTLP JSON holds the same spans as protobuf, for any text."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from typer.testing import CliRunner

from helpers.attack_texts import attacked_run
from rlm import cli
from rlm.errors import ConfigError
from rlm.trajectory.export.formats import ExportFormat, export_run
from rlm.trajectory.export.otlp import otlp_json, spans_of
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.run_reader import read_run, read_run_events


def request_of(text: str) -> ExportTraceServiceRequest:
    """Parse OTLP JSON, whose IDs are hexadecimal, unlike those of protobuf JSON."""

    def in_base64(value: Any) -> Any:
        match value:
            case dict():
                return {
                    name: base64.b64encode(bytes.fromhex(item)).decode()
                    if name in ("traceId", "spanId", "parentSpanId")
                    else in_base64(item)
                    for name, item in value.items()
                }
            case list():
                return [in_base64(item) for item in value]
            case _:
                return value

    request = ExportTraceServiceRequest()
    ParseDict(in_base64(json.loads(text)), request)
    return request


def test_otlp_json_equals_what_is_sent_as_protobuf(run_dir: Path) -> None:
    spans = spans_of(read_run_events(run_dir), RunDetails(), content=True)
    assert request_of(otlp_json(spans)) == encode_spans(spans)


def test_spans_are_written_to_a_file_or_to_standard_output(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "spans.json"
    command = ["export", str(run_dir), "--to", "otel"]
    shown = CliRunner().invoke(cli.app, command).stdout
    CliRunner().invoke(cli.app, [*command, "-o", str(file)], env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    names = [
        sorted(span.name for span in request_of(text).resource_spans[0].scope_spans[0].spans)
        for text in (shown, file.read_text())
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 14


def test_spans_hold_the_prompts_as_sent_if_the_journal_has_them(run_dir: Path) -> None:
    _, details = read_run(run_dir)
    spans = spans_of(read_run_events(run_dir), details, content=True)
    first = next(span for span in spans if span.name == "chat big")
    messages = json.loads(str((first.attributes or {})["gen_ai.input.messages"]))
    assert [message["role"] for message in messages] == ["system", "user"]


def test_invalid_unicode_does_not_stop_an_export(tmp_path: Path) -> None:
    attacked_run(tmp_path)
    spans = spans_of(read_run_events(tmp_path), RunDetails(), content=True)
    encoded = encode_spans(spans).SerializeToString()
    assert len(spans) > 20
    assert len(encoded) < 4 * 1024**2
    assert otlp_json(spans).isascii()


@pytest.mark.parametrize("endpoint", ["nonsense", "", "ftp://host", "http://", "http://host:99999", "http://["])
def test_an_invalid_endpoint_is_an_error(run_dir: Path, endpoint: str) -> None:
    with pytest.raises(ConfigError, match="use an HTTP URL such as http://"):
        export_run(run_dir, ExportFormat.otel, out=None, endpoint=endpoint, content=None)


def test_thinking_is_a_reasoning_part_before_the_text(thinking_run: Path) -> None:
    spans = spans_of(read_run_events(thinking_run), RunDetails(), content=True)
    (chat,) = (span for span in spans if span.name == "chat big")
    (message,) = json.loads(str((chat.attributes or {})["gen_ai.output.messages"]))
    assert message["parts"] == [
        {"type": "reasoning", "content": "Is it 42?\n\nIt is."},
        {"type": "text", "content": "FINAL(42)"},
    ]
