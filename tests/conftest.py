"""Settings of all families."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from helpers.fakes import journals

# A busy machine is no failure; every test has a timeout. In CI (by its environment) hypothesis draws the same every time.
settings.register_profile("rlm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rlm")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job; who is interrupted must notice
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """The OpenAI client and its transport run on asyncio, so that is what is tested."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _journals_are_closed() -> Iterator[None]:
    yield
    while journals:
        journals.pop().database.close()
