"""The arguments of OpenAIModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm.errors import ConfigError
from rlm.models.openai import OpenAIModel
from rlm.models.prices import Price
from rlm.types import Usage

KEY = "sk-0123456789abcdef"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_missing_key_is_one_sentence_that_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"^No API key found: set OPENAI_API_KEY \(.*\), or OPENAI_BASE_URL .*\.$"):
        OpenAIModel("gpt-5")


def test_a_private_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenAIModel("m", base_url="http://127.0.0.1:8080/v1").name == "m"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1")
    assert OpenAIModel("m").name == "m"


def test_a_key_from_the_environment_or_a_file_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\n")
    assert OpenAIModel("gpt-5").name == "gpt-5"
    (tmp_path / ".env").unlink()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert OpenAIModel("gpt-5").name == "gpt-5"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("", {}),
        ("m", {"max_concurrency": 0}),
        ("m", {"timeout": 0}),
        ("m", {"timeout": float("nan")}),
        ("m", {"max_retries": -1}),
        ("m", {"context_window": 0}),
        ("m", {"api_key": f"{KEY}\nX-Injected: 1"}),
        ("m", {"api_key": f"{KEY}é"}),
        ("m", {"base_url": "localhost:8080"}),
        ("m", {"base_url": "http://localhost:123456"}),
        ("m", {"base_url": f"https://user:{KEY}@host/v1"}),
        ("m", {"base_url": f"https://host/v1?key={KEY}"}),
        ("m", {"sampling": {"stream": True}}),
        ("m", {"sampling": {"extra_body": {"messages": []}}}),
        ("m", {"sampling": {"extra_body": 1}}),
        ("m", {"sampling": {"extra_headers": {"x-key": f"{KEY}\n"}}}),
        ("m", {"sampling": {"temperature": float("nan")}}),
        ("m", {"sampling": {"stop": {"a", "set"}}}),
        ("m", {"sampling": {"stop": "\ud800"}}),
    ],
)
def test_an_invalid_argument_is_refused_in_one_sentence_without_the_key(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        OpenAIModel(name, **{"api_key": KEY, **arguments})
    assert str(caught.value).endswith(".")
    assert KEY not in str(caught.value)


def test_neither_repr_nor_str_shows_the_key() -> None:
    assert KEY not in f"{OpenAIModel('m', api_key=KEY)!r}"


def test_the_window_is_that_of_the_list_unless_it_is_given() -> None:
    assert OpenAIModel("gpt-5", api_key=KEY).context_window == 400_000
    assert OpenAIModel("gpt-5", api_key=KEY, context_window=9).context_window == 9
    assert OpenAIModel("nobody-knows-this", api_key=KEY).context_window is None
    assert OpenAIModel("gpt-5", base_url="http://127.0.0.1:8080/v1").context_window is None


def test_a_limit_on_output_tokens_in_the_sampling_is_known() -> None:
    assert OpenAIModel("gpt-5", api_key=KEY).max_tokens is None
    assert OpenAIModel("gpt-5", api_key=KEY, sampling={"max_completion_tokens": 7}).max_tokens == 7
    assert OpenAIModel("m", api_key=KEY, max_tokens_field="max_tokens", sampling={"max_tokens": 8}).max_tokens == 8


def test_the_cost_of_a_call_is_known_before_it_is_made() -> None:
    usage = Usage(calls=1, input_tokens=1000, output_tokens=100)
    assert OpenAIModel("gpt-5", api_key=KEY).cost(usage) == pytest.approx(0.00225)
    assert OpenAIModel("gpt-5", api_key=KEY, sampling={"service_tier": "flex"}).cost(usage) == pytest.approx(0.001125)
    assert OpenAIModel("m", api_key=KEY, price=Price(input=1, output=10)).cost(usage) == pytest.approx(0.002)
    assert OpenAIModel("m", api_key=KEY).cost(usage) is None


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (" http://127.0.0.1:8080/v1\n", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/v1/chat/completions", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/v1/chat/completions/", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/chat/v1", "http://127.0.0.1:8080/chat/v1"),
    ],
)
def test_blanks_and_the_path_of_the_endpoint_are_left_out_of_the_base_url(given: str, used: str) -> None:
    assert OpenAIModel("m", base_url=given).base_url == used


def test_a_blank_base_url_is_no_base_url() -> None:
    with pytest.raises(ConfigError, match="No API key found"):
        OpenAIModel("m", base_url="  ")
