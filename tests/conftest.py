"""Settings for all tests."""

import logging
import os
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from helpers.fakes import journals

# No deadline: a busy machine must not fail tests, and every test has a timeout. If CI is set, examples are fixed.
# `make test-long` selects the profile `long` with --hypothesis-profile.
settings.register_profile("daily", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.register_profile("long", settings.get_profile("daily"), max_examples=200)
settings.load_profile("daily")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job ignores it, but tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio alone: the OpenAI client and its transport run on nothing else."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _journals_are_closed() -> Iterator[None]:
    yield
    while journals:
        journals.pop().database.close()


@pytest.fixture(autouse=True)
def _log_level_is_restored() -> Iterator[None]:
    """A command sets the log level of its whole process; tests that run one here must not silence later tests."""
    yield
    logging.getLogger("rlm").setLevel(logging.NOTSET)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With FORBID_SKIPS, a skipped test fails: `.ci/run` sets it once everything is installed."""
    report = yield
    if report.skipped and "FORBID_SKIPS" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped although every part is installed: {report.longrepr}"
    return report
