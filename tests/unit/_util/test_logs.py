"""Log events go to the program's own setup, exactly once, with their run and node."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.contextvars import bound_contextvars
from structlog.testing import CapturingLogger, capture_logs

from helpers.small_tree import asks, small_tree
from rlm._util.logs import get_logger
from rlm.sandbox.base import Answer
from rlm.testing import FakeSandboxes
from rlm.types import CellResult

LOG_THREE = """
from rlm._util.logs import get_logger
log = get_logger("rlm.test")
log.info("begun", a=1)
log.warning("lost", b="x")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broke", c=None)
"""


@pytest.fixture
def configured() -> Iterator[None]:
    """Reset structlog after the test."""
    yield
    structlog.reset_defaults()


def printed(set_up: str) -> tuple[list[str], list[str]]:
    """The lines on standard output and error of a program that sets up logging and logs three events."""
    done = subprocess.run(
        [sys.executable, "-c", set_up + LOG_THREE], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_without_logging_configuration_only_warnings_go_to_standard_error_once() -> None:
    out, err = printed("")
    assert out == []
    assert err[:2] == ["lost b='x'", "broke c=None"]
    assert err[-1] == "ZeroDivisionError: division by zero"
    assert sum(line.startswith("Traceback") for line in err) == 1


def test_a_programs_own_logging_gets_each_event_once_at_its_level_under_its_name() -> None:
    out, err = printed(
        "import logging, sys; logging.basicConfig(stream=sys.stdout, level=logging.INFO,"
        " format='%(levelname)s %(name)s %(funcName)s %(message)s');"
    )
    assert err == []
    assert out[:3] == [
        "INFO rlm.test <module> begun a=1",
        "WARNING rlm.test <module> lost b='x'",
        "ERROR rlm.test <module> broke c=None",
    ]
    assert out[-1] == "ZeroDivisionError: division by zero"


def test_a_programs_own_structlog_gets_each_event_once_with_its_fields() -> None:
    out, err = printed("import structlog; structlog.configure(processors=[structlog.processors.JSONRenderer()]);")
    assert err == []
    assert out == [
        '{"a": 1, "event": "begun"}',
        '{"b": "x", "event": "lost"}',
        '{"c": null, "exc_info": true, "event": "broke"}',
    ]


def test_structlog_over_the_standard_library_gets_each_event_once() -> None:
    out, err = printed(
        "import logging, structlog, sys; logging.basicConfig(stream=sys.stdout, format='%(message)s');"
        "structlog.configure(logger_factory=structlog.stdlib.LoggerFactory(), processors=["
        "structlog.stdlib.filter_by_level, structlog.stdlib.add_logger_name, structlog.processors.KeyValueRenderer()]);"
    )
    assert err == []
    assert out == ["b='x' event='lost' logger='rlm.test'", "c=None exc_info=True event='broke' logger='rlm.test'"]


def test_a_later_logging_configuration_applies(configured: None, caplog: pytest.LogCaptureFixture) -> None:
    log = get_logger("rlm.test")
    log.warning("before")
    caught = CapturingLogger()
    structlog.configure(logger_factory=lambda *names: caught, processors=[])
    log.warning("after", a=1)
    assert [record.getMessage() for record in caplog.records] == ["before"]
    assert [(call.method_name, call.kwargs) for call in caught.calls] == [("warning", {"a": 1, "event": "after"})]


def test_events_within_a_run_have_its_run_and_node(configured: None, tmp_path: Path) -> None:
    log = get_logger("rlm.test")

    async def logs(code: str, answer: Answer | None) -> CellResult:
        log.warning("ran", code=code)
        return await asks(code, answer)

    structlog.configure()
    with capture_logs() as logged:
        done = small_tree(run_root=tmp_path, sandbox_factory=FakeSandboxes(logs)).completion("c", "Is it the root?")
        log.warning("outside")
    ran = [(entry["node"], entry["run"], entry["code"]) for entry in logged if entry["event"] == "ran"]
    assert ran == [
        ("0", done.run_id, "x"),
        ("0", done.run_id, "rlm of the tree"),
        ("0.1", done.run_id, "llm of the tree"),
        ("0", done.run_id, "llm of the root"),
    ]
    assert [entry for entry in logged if entry["event"] == "outside"] == [{"event": "outside", "log_level": "warning"}]


def test_inner_fields_come_before_outer_ones_and_end_with_their_block(caplog: pytest.LogCaptureFixture) -> None:
    log = get_logger("rlm.test")
    with caplog.at_level(logging.WARNING), bound_contextvars(run="r", node="0"):
        with bound_contextvars(node="0.1"):
            log.warning("inner", node="mine")
            log.warning("inner")
        log.warning("outer")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["inner run='r' node='mine'", "inner run='r' node='0.1'", "outer run='r' node='0'"]
