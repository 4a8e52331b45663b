"""Settings from the environment and .env."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlm.errors import ConfigError
from rlm.models.connection import server_and_key
from rlm.models.settings import Settings
from rlm.run.clients import model_by_name

NAMES = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "RLM_MODEL",
    "RLM_SUB_API_KEY",
    "RLM_SUB_BASE_URL",
    "RLM_SUB_MODEL",
)
FOREIGN = "http://127.0.0.1:9/v1"
OWN = "http://127.0.0.1:8/v1"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_an_unreadable_dotenv_is_the_callers_to_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("# all good\nexport A='b\nc'\nD\n\nno line\n")
    with pytest.raises(ConfigError, match=r"^\.env, line 6: expected NAME=VALUE"):
        Settings()
    Path(".env").write_bytes(b"\xff\xfeA=b")
    with pytest.raises(ConfigError, match=r"^\.env is not UTF-8 text"):
        Settings()
    Path(".env").write_text("A=b")
    monkeypatch.setattr("pydantic_settings.sources.providers.dotenv.dotenv_values", _deny)
    with pytest.raises(ConfigError, match=r"^Cannot read \.env: Permission denied\.$"):
        Settings()


def _deny(*arguments: object, **options: object) -> None:
    raise PermissionError(13, "Permission denied", ".env")


def test_without_an_environment_the_defaults_hold() -> None:
    settings = Settings()
    assert (settings.openai_api_key, settings.openai_base_url) == (None, None)
    assert (settings.model, settings.sub_model) == ("gpt-5", "gpt-5-mini")


@pytest.mark.parametrize(
    ("given", "models"),
    [
        ({"RLM_MODEL": "root"}, ("root", "root")),
        ({"RLM_SUB_MODEL": "sub"}, ("gpt-5", "sub")),
        ({"RLM_MODEL": "root", "RLM_SUB_MODEL": "sub"}, ("root", "sub")),
        ({"RLM_MODEL": "root", "RLM_SUB_MODEL": ""}, ("root", "root")),
    ],
)
def test_one_model_serves_both_unless_the_sub_model_is_set(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], models: tuple[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.model, settings.sub_model) == models


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RLM_MODEL=from-file\nOPENAI_BASE_URL=http://127.0.0.1/v1\nUNRELATED=1\n")
    monkeypatch.setenv("RLM_MODEL", "from-environment")
    settings = Settings()
    assert (settings.model, settings.openai_base_url) == ("from-environment", "http://127.0.0.1/v1")


def test_the_key_is_masked_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    settings = Settings()
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-0123456789"
    assert "sk-0123456789" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_importing_rlm_loads_neither_settings_nor_a_client() -> None:
    heavy = "{'pydantic', 'pydantic_settings', 'openai', 'aiohttp', 'genai_prices'}"
    code = f"import rlm, sys; print(sorted({heavy} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        (
            {"RLM_MODEL_OPTIONS": '{"temperature": 0.2, "reasoning_effort": "low"}'},
            {"temperature": 0.2, "reasoning_effort": "low"},
        ),
        ({"RLM_MODEL_OPTIONS__TEMPERATURE": "0.2"}, {"temperature": 0.2}),
        ({"RLM_MODEL_OPTIONS": '{"seed": 1}', "RLM_MODEL_OPTIONS__SEED": "2"}, {"seed": 2}),
        ({"RLM_MODEL_OPTIONS": '{"seed": null}'}, {"seed": None}),
        ({"RLM_MODEL_OPTIONS": ""}, {}),
    ],
)
def test_options_of_models_are_json_or_one_variable_each(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, object]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.replace("RLM_", "RLM_SUB_"), value)
    assert Settings().model_options == Settings().sub_model_options == options


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            "temperature=0.2",
            "RLM_MODEL_OPTIONS or RLM_SUB_MODEL_OPTIONS is not valid JSON: use names and values, such as",
        ),
        ("[1]", 'RLM_MODEL_OPTIONS is invalid: use names and values, such as {"temperature":0.2}.'),
        ('{"temperature": "hot"}', "temperature='hot' in RLM_MODEL_OPTIONS is invalid: use a number, 0 or more."),
    ],
)
def test_invalid_options_of_a_model_are_the_callers_to_fix(
    monkeypatch: pytest.MonkeyPatch, value: str, sentence: str
) -> None:
    monkeypatch.setenv("RLM_MODEL_OPTIONS", value)
    with pytest.raises(ConfigError) as refused:
        Settings()
    assert str(refused.value).startswith(sentence)


ADDRESS, SUB_ADDRESS = f"OPENAI_BASE_URL={FOREIGN}\n", f"RLM_SUB_BASE_URL={FOREIGN}\n"


@pytest.mark.parametrize(
    ("file", "environment", "given"),
    [
        pytest.param(ADDRESS, {"OPENAI_API_KEY": "sk-own"}, {}, id="key-of-the-environment"),
        pytest.param(ADDRESS.lower(), {"OPENAI_API_KEY": "sk-own"}, {}, id="lower-case"),
        pytest.param(f"export {ADDRESS}", {"OPENAI_API_KEY": "sk-own"}, {}, id="export"),
        pytest.param(ADDRESS, {"openai_api_key": "sk-own"}, {}, id="lower-case-key"),
        pytest.param(ADDRESS + "OPENAI_API_KEY=sk-bait\n", {"OPENAI_API_KEY": "sk-own"}, {}, id="bait-key-in-file"),
        pytest.param(ADDRESS, {"OPENAI_API_KEY": "sk-own", "OPENAI_BASE_URL": ""}, {}, id="empty-address"),
        pytest.param(ADDRESS, {}, {"api_key": "sk-own"}, id="key-of-the-program"),
        pytest.param(ADDRESS + "OPENAI_API_KEY=sk-bait\n", {}, {"api_key": "sk-own"}, id="bait-and-program"),
        pytest.param(ADDRESS, {"OPENAI_API_KEY": "sk-own"}, {"base_url": ""}, id="empty-argument"),
    ],
)
def test_an_address_of_a_folder_never_receives_a_key_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch, file: str, environment: dict[str, str], given: dict[str, str]
) -> None:
    Path(".env").write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^OPENAI_BASE_URL in \.env is not trusted with the key from ") as refused:
        server_and_key(given.get("base_url"), given.get("api_key"))
    assert "sk-own" not in str(refused.value)
    assert FOREIGN not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "environment", "given", "expected"),
    [
        pytest.param(ADDRESS, {}, {}, (FOREIGN, ""), id="no-key"),
        pytest.param(ADDRESS + "OPENAI_API_KEY=sk-file\n", {}, {}, (FOREIGN, "sk-file"), id="both-in-the-file"),
        pytest.param(
            ADDRESS, {"OPENAI_BASE_URL": OWN, "OPENAI_API_KEY": "sk-own"}, {}, (OWN, "sk-own"), id="both-in-environment"
        ),
        pytest.param(ADDRESS, {"OPENAI_API_KEY": "sk-own"}, {"base_url": OWN}, (OWN, "sk-own"), id="own-address"),
        pytest.param(ADDRESS, {"OPENAI_API_KEY": "sk-own"}, {"api_key": ""}, (FOREIGN, ""), id="explicitly-no-key"),
        pytest.param("OPENAI_API_KEY=sk-file\n", {"OPENAI_BASE_URL": OWN}, {}, (OWN, "sk-file"), id="key-in-the-file"),
    ],
)
def test_a_key_is_used_with_an_address_that_is_at_least_as_trusted(
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    environment: dict[str, str],
    given: dict[str, str],
    expected: tuple[str, str],
) -> None:
    Path(".env").write_text(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert server_and_key(given.get("base_url"), given.get("api_key")) == expected


def test_the_sub_server_of_a_folder_never_receives_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(SUB_ADDRESS)
    assert model_by_name("m", sub_base_url=Settings().sub_base_url).base_url == FOREIGN  # no key: nothing to send
    monkeypatch.setenv("RLM_SUB_API_KEY", "sk-own")
    with pytest.raises(ConfigError, match=r"^RLM_SUB_BASE_URL in \.env is not trusted"):
        model_by_name("m", sub_base_url=Settings().sub_base_url)
    assert model_by_name("m", sub_base_url=OWN).base_url == OWN
