"""Spans arrive at an OTLP receiver over HTTP, with the record's times; an unreachable one is an error of one sentence."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from typer.testing import CliRunner

from helpers.small_tree import small_tree
from rlm import RLMError, cli
from rlm.otel import Tracing
from rlm.trajectory.export.otlp import send_spans, spans_of
from rlm.trajectory.run_details import RunDetails
from rlm.trajectory.run_reader import read_run_events


class Receiver:
    """The posted bodies and their paths."""

    def __init__(self, status: int) -> None:
        self.paths: list[str] = []
        self.spans: list[Span] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.paths.append(self.path)
                for scope in request.resource_spans[0].scope_spans:
                    receiver.spans += scope.spans
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def receiving(status: int = 200) -> Iterator[Receiver]:
    receiver = Receiver(status)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return small_tree(run_root=tmp_path / "runs").completion("the context", "Is it the root?").run_dir


@pytest.mark.parametrize("path", ["", "/", "/v1/traces", "/tenant"])
def test_a_record_is_sent_to_the_path_of_traces(path: str, run_dir: Path) -> None:
    with receiving() as receiver:
        done = CliRunner().invoke(
            cli.app, ["export", str(run_dir), "--to", "otel", "--endpoint", receiver.address + path]
        )
    assert done.exit_code == 0
    assert receiver.paths == ["/tenant/v1/traces" if path == "/tenant" else "/v1/traces"]
    sent = spans_of(read_run_events(run_dir), RunDetails())
    assert [(span.name, span.start_time_unix_nano, span.end_time_unix_nano) for span in receiver.spans] == [
        (span.name, span.start_time, span.end_time) for span in sent
    ]


def test_a_live_run_is_sent_by_the_programs_own_provider(tmp_path: Path) -> None:
    with receiving() as receiver:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{receiver.address}/v1/traces")))
        small_tree(run_root=tmp_path, on_event=Tracing(provider)).completion("the context", "Is it the root?")
        provider.shutdown()
    assert len(receiver.spans) == 14
    assert sum(not span.parent_span_id for span in receiver.spans) == 1


def test_a_receiver_that_rejects_spans_is_one_sentence(run_dir: Path) -> None:
    with receiving(status=403) as receiver, pytest.raises(RLMError, match="did not accept the spans"):
        send_spans(spans_of(read_run_events(run_dir), RunDetails()), receiver.address)


def test_an_unreachable_receiver_is_one_sentence_and_a_failure(run_dir: Path) -> None:
    rlm = str(Path(sys.executable).with_name("rlm"))
    command = [rlm, "export", str(run_dir), "--to", "otel", "--endpoint", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "The receiver at http://127.0.0.1:9 did not accept the spans" in done.stderr
