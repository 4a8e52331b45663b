"""Settings of all families."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The OpenAI client and its transport run on asyncio, so that is what is tested."""
    return "asyncio"
