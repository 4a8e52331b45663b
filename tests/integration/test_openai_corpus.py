"""What model servers send (tests/corpus/responses), over a real socket: each response has the outcome that its file says."""

import pytest

from helpers.responses import CASES, Case
from rlm import errors
from rlm.errors import ModelError
from rlm.models.openai import OpenAIModel
from rlm.testing import FakeProvider, in_order
from rlm.types import ModelReply

KEY = "sk-proj-0123456789abcdef/+"
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_a_response_of_the_corpus_has_the_expected_outcome(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    options = {name: case.request[name] for name in ("max_retries", "rate_limit_seconds") if name in case.request}
    outcome: ModelReply | ModelError
    async with FakeProvider(in_order(*case.responses)) as provider:
        model = OpenAIModel(
            "m", base_url=case.base_url(provider), api_key=KEY, sampling=case.request.get("sampling"), **options
        )
        parameters = dict(model.parameters)
        for _ in range(case.request.get("calls", 1)):
            try:
                outcome = await model.complete(case.messages, max_tokens=case.request.get("max_tokens"))
            except ModelError as error:
                outcome = error
        await model.aclose()
    expect, last = case.expect, provider.requests[-1]
    if "error" in expect:
        assert type(outcome) is getattr(errors, expect["error"]), repr(outcome)
    else:
        assert isinstance(outcome, ModelReply), repr(outcome)
    for name in ("text", "thinking", "finish_reason", "status", "window"):
        if name in expect:
            assert getattr(outcome, name) == expect[name], name
    for counted, tokens in expect.get("usage", {}).items():
        assert getattr(outcome.usage, counted) == tokens, counted
    for words in _listed(expect.get("words", [])):
        assert words in str(outcome)
    for words in _listed(expect.get("not_words", [])):
        assert words not in str(outcome)
    if "requests" in expect:
        assert len(provider.requests) == expect["requests"]
    assert {name: last.body.get(name) for name in expect.get("sent", {})} == expect.get("sent", {})
    assert not last.body.keys() & expect.get("absent", [])
    if "roles" in expect:
        assert [message["role"] for message in last.messages] == expect["roles"]
    if "path" in expect:
        assert last.path == expect["path"]
    assert caplog.text.count("request_adapted") == expect.get("adaptions", 0)
    for event in expect.get("warnings", []):
        assert caplog.text.count(event) == 1
    assert model.parameters == parameters, "the journal's key of the call has changed"


def _listed(words: str | list[str]) -> list[str]:
    return [words] if isinstance(words, str) else words
