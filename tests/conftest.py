"""Settings of all families."""

from collections.abc import Iterator

import pytest

from fakes import journals


@pytest.fixture
def anyio_backend() -> str:
    """The OpenAI client and its transport run on asyncio, so that is what is tested."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _journals_are_closed() -> Iterator[None]:
    yield
    while journals:
        journals.pop().database.close()
