"""Flags, the environment, `.env` and `rlm.toml`: precedence, rejected values, and their messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm.cli.commands.checks import visible_settings
from rlm.cli.commands.runs import run_ids
from rlm.cli.settings import load_settings, merge_layers, origins, read_layers
from rlm.config import Limits
from rlm.errors import ConfigError
from rlm.models.prices import Price

FLAG, VARIABLE, DOTENV, FILE, USER = "flag", "variable", "dotenv", "file", "user"


@pytest.mark.parametrize("strongest", range(5))
def test_flags_win_over_the_environment_over_dotenv_over_the_file_over_the_users_file(
    strongest: int, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def number(weakness: int) -> str:
        return str(weakness + 1)

    (tmp_path / "config/rlm").mkdir(parents=True)
    (tmp_path / "config/rlm/rlm.toml").write_text(f"depth = {number(4)}\n[limits]\nmax_tokens = {number(4)}")
    if strongest <= 3:
        (here / "rlm.toml").write_text(f"depth = {number(3)}\n[limits]\nmax_tokens = {number(3)}")
    if strongest <= 2:
        (here / ".env").write_text(f"RLM_DEPTH={number(2)}\nRLM_LIMITS__MAX_TOKENS={number(2)}\nOTHERS=1\n")
    if strongest <= 1:
        monkeypatch.setenv("RLM_DEPTH", number(1))
        monkeypatch.setenv("RLM_LIMITS__MAX_TOKENS", number(1))
    flags: dict[str, Any] = {"depth": number(0), "limits": {"max_tokens": number(0)}} if strongest == 0 else {}
    loaded = load_settings(**flags)
    assert (loaded.depth, loaded.limits.max_tokens) == (strongest + 1, strongest + 1)


def test_each_key_comes_from_the_strongest_that_sets_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rlm.toml").write_text(
        'model = "a"\ndepth = 2\n[limits]\nmax_rlms = 5\nmax_seconds = 7.5\n[sandbox]\ncpus = 2'
    )
    (here / ".env").write_text("OPENAI_BASE_URL=http://127.0.0.1/v1\n")
    monkeypatch.setenv("RLM_LIMITS__MAX_RLMS", "6")
    loaded = load_settings(model="b", depth=None, limits={"max_seconds": None, "max_tokens": "9"})
    assert (loaded.model, loaded.sub_model, loaded.depth) == ("b", "b", 2)
    assert loaded.limits == Limits(max_rlms=6, max_seconds=7.5, max_tokens=9)
    assert (loaded.sandbox.cpus, loaded.openai_base_url) == (2.0, "http://127.0.0.1/v1")
    found = origins(read_layers({"model": "b"}))
    assert [found[key] for key in ("model", "depth", "limits.max_rlms", "openai_base_url", "sub_model")] == [
        "flag",
        "rlm.toml",
        "environment",
        ".env",
        "default",
    ]


def test_the_nearest_file_of_the_folder_and_its_parents_counts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rlm.toml").write_text('depth = 2\nrun_root = "runs"')
    below = here / "a/b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert (load_settings().depth, load_settings().runs) == (2, here / "runs")
    (here / "a/rlm.toml").write_text('run_root = "/elsewhere"')
    assert (load_settings().depth, load_settings().runs) == (1, Path("/elsewhere"))


def test_runs_are_in_the_users_state_directory_by_default(tmp_path: Path) -> None:
    assert load_settings().runs == tmp_path / "state/rlm/runs"
    assert load_settings(run_root=Path("~/x")).runs == Path.home() / "x"


def test_none_takes_a_limit_away(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rlm.toml").write_text('[limits]\nmax_seconds = "none"\nmax_rlms = 3')
    monkeypatch.setenv("RLM_LIMITS__MAX_LM_CALLS", "none")
    limits = load_settings(limits={"max_rlms": "none"}).limits
    assert (limits.max_seconds, limits.max_lm_calls, limits.max_rlms) == (None, None, None)


def test_prices_are_tables_by_the_models_name(here: Path) -> None:
    (here / "rlm.toml").write_text('[prices."my.model"]\ninput = 1\noutput = 2.5')
    assert load_settings().prices == {"my.model": Price(input=1, output=2.5)}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("detph = 2", "Unknown setting detph in rlm.toml (did you mean depth?)."),
        (
            "[limits]\nmax_second = 2",
            "Unknown setting limits.max_second in rlm.toml (did you mean limits.max_seconds?).",
        ),
        ("qqqq = 2", "Unknown setting qqqq in rlm.toml (settings: model, sub_model, model_options, "),
        ("depth = -1", "Invalid depth -1 in rlm.toml: must be greater than or equal to 0."),
        ('depth = "x"', "Invalid depth 'x' in rlm.toml: must be a valid integer"),
        ("limits = 3", "Unknown setting limits in rlm.toml"),
        (
            "[limits]\nmax_seconds = 0",
            "Invalid limits.max_seconds 0 in rlm.toml: use a number above 0, or `none`",
        ),
        (
            "[limits]\nmax_iterations = 'many'",
            "Invalid limits.max_iterations 'many' in rlm.toml: must be a valid integer",
        ),
        (
            "[limits]\nmax_seconds = inf",
            "Invalid limits.max_seconds inf in rlm.toml: use a number, or `none`",
        ),
        ("[sandbox]\ncpus = 0", "Invalid sandbox.cpus 0 in rlm.toml: use a number above 0."),
        ("[sandbox]\ntransport = 'tcp'", "Invalid sandbox.transport 'tcp' in rlm.toml: must be 'attach' or 'unix'."),
        ("[prices.m]\ninput = 1", "Invalid prices.m {'input': 1} in rlm.toml: missing key 'output'."),
        (
            "[prices.m]\ninput = -1\noutput = 1",
            "Invalid prices.m {'input': -1, 'output': 1} in rlm.toml: use",
        ),
        (
            "[prices.m]\ninput = 1\noutput = 1\nimput = 2",
            "Unknown key 'imput' in prices.m in rlm.toml: use input, output and cached.",
        ),
        (
            "[sandbox]\nmax_processes = 'none'",
            "Invalid sandbox.max_processes 'none' in rlm.toml: must be a valid integer",
        ),
        ("api_key = 'sk-1'", "api_key is not allowed in rlm.toml, as such files are shared: set OPENAI_API_KEY in"),
        ("OPENAI_API_KEY = 'sk-1'", "OPENAI_API_KEY is not allowed in rlm.toml"),
        (
            "base_url = 'http://x'",
            "base_url is not allowed in rlm.toml, as such files are shared: set OPENAI_BASE_URL in",
        ),
        (
            "sub_api_key = 'sk-1'",
            "sub_api_key is not allowed in rlm.toml, as such files are shared: set RLM_SUB_API_KEY in",
        ),
        ("sub_base_url = 'http://x'", "sub_base_url is not allowed in rlm.toml"),
        ("depth = ", "rlm.toml is not valid TOML: "),
        ("run_root = ''", "run_root in rlm.toml is empty: set a folder or remove it."),
    ],
)
def test_an_error_in_the_file_is_one_sentence_that_names_file_and_key(here: Path, text: str, sentence: str) -> None:
    (here / "rlm.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)
    assert "sk-1" not in str(refused.value)


def test_a_file_that_is_no_text_is_one_sentence(here: Path) -> None:
    (here / "rlm.toml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"rlm\.toml is not"):
        load_settings()


def test_an_invalid_flag_or_variable_is_named_as_given(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rlm.toml").write_text("[limits]\nmax_tokens = 5")
    with pytest.raises(ConfigError, match="Invalid --max-tokens '0': use a number above 0, or `none` for no limit"):
        load_settings(limits={"max_tokens": "0"})
    monkeypatch.setenv("RLM_LIMITS__MAX_TOKENS", "0")
    with pytest.raises(ConfigError, match="Invalid RLM_LIMITS__MAX_TOKENS '0': use"):
        load_settings()
    monkeypatch.setenv("RLM_LIMITS__MAX_TOKENS", "")
    (here / ".env").write_text("RLM_LIMITS__MAX_TOKEN=2")
    with pytest.raises(ConfigError, match=r"Unknown setting RLM_LIMITS__MAX_TOKEN in \.env \(did you mean"):
        load_settings()
    (here / ".env").write_text("RLM_DETPH=2")
    with pytest.raises(ConfigError, match=r"Unknown setting RLM_DETPH in \.env \(did you mean RLM_DEPTH\?\)"):
        load_settings()
    (here / ".env").write_text("RLM_PRICES=cheap")
    with pytest.raises(ConfigError, match=r"RLM_PRICES in the environment or \.env is invalid: use JSON"):
        load_settings()


def test_an_unknown_variable_is_warned_of_once_because_it_may_be_another_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLM_DETPH", "2")
    monkeypatch.setenv("RLM_DEPTH", "3")
    monkeypatch.setenv("RLMS", "of others")
    assert load_settings().depth == 3
    assert capsys.readouterr().err == "rlm: Unknown setting RLM_DETPH (did you mean RLM_DEPTH?).\n"
    assert run_ids("") == []
    assert capsys.readouterr().err == ""


def test_displayed_settings_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-012345678901234567")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:pass-word@host:8/v1?token=abc")
    monkeypatch.setenv("RLM_SUB_API_KEY", "sk-098765432101234567")
    monkeypatch.setenv("RLM_SUB_BASE_URL", "https://host:9/v1?token=abc")
    layers = read_layers({})
    shown = {each.key: each.value for each in visible_settings(merge_layers(layers), origins(layers))}
    assert (shown["openai_api_key"], shown["openai_base_url"]) == ("…4567", "https://[key]@host:8/v1")
    assert (shown["sub_api_key"], shown["sub_base_url"]) == ("…4567", "https://host:9/v1")
    assert (shown["limits.max_tokens"], shown["sandbox.transport"]) == ("none", "attach")
    assert not any(secret in str(shown) for secret in ("0123", "pass", "abc"))


def test_options_of_models_come_from_every_source_key_by_key(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rlm.toml").write_text(
        '[model_options]\ntemperature = 1\ncontext_window = 8192\nreasoning_effort = "none"\ntop_k = 40\n'
        '[sub_model_options]\nmax_output_tokens = 300\nstop = ["5"]'
    )
    monkeypatch.setenv("RLM_MODEL_OPTIONS", '{"temperature": 0.5, "top_k": null, "logit_bias": {"5": -1}}')
    monkeypatch.setenv("RLM_MODEL_OPTIONS__SEED", "7")
    monkeypatch.setenv("RLM_SUB_MODEL_OPTIONS__STOP", "5")
    loaded = load_settings(model_options={"temperature": "0.2", "context_window": "none"})
    assert loaded.model_options == {
        "temperature": 0.2,
        "context_window": None,
        "reasoning_effort": "none",
        "top_k": None,
        "logit_bias": {"5": -1},
        "seed": 7,
    }
    assert loaded.sub_model_options == {"max_output_tokens": 300, "stop": "5"}
    found = origins(read_layers({"model_options": {"temperature": "0.2"}}))
    assert [
        found[f"model_options.{key}"] for key in ("temperature", "seed", "reasoning_effort", "max_output_tokens")
    ] == [
        "flag",
        "environment",
        "rlm.toml",
        "default",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": "hot"}, "Invalid --temperature 'hot': use a number, 0 or more."),
        ({"temperature": "-1"}, "Invalid --temperature '-1': use a number, 0 or more."),
        ({"max_output_tokens": "0"}, "Invalid --max-output-tokens '0': use a whole number of tokens, 1 or more."),
        ({"context_window": "8k"}, "Invalid --context-window '8k': use a whole number of tokens, 1 or more."),
        ({"max_output_tokens": "1.5"}, "Invalid --max-output-tokens '1.5': use a whole number of tokens, 1 or more."),
    ],
)
def test_an_invalid_option_of_a_model_is_one_sentence_that_names_the_flag(
    options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(model_options=options)
    assert str(refused.value) == sentence
    with pytest.raises(ConfigError) as refused:
        load_settings(sub_model_options=options)
    assert str(refused.value) == sentence.replace("--", "--sub-")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[model_options]\ntemperature = 'hot'", "Invalid model_options.temperature 'hot' in rlm.toml: use a number"),
        ("[model_options]\ntemperature = true", "Invalid model_options.temperature True in rlm.toml: use a number"),
        (
            "[model_options]\ntemprature = 1",
            "Invalid model_options.temprature 1 in rlm.toml: did you mean temperature?",
        ),
        ("[model_options]\nmessages = []", "Invalid model_options.messages [] in rlm.toml: remove it, rlm sets"),
        ("[sub_model_options]\nstream = true", "Invalid sub_model_options.stream True in rlm.toml: remove it"),
        ("[model_options]\ntop_p = 2", "Invalid model_options.top_p 2 in rlm.toml: use a number from 0 to 1."),
        (
            "[model_options]\nnoted = 2020-01-01",
            "Invalid model_options.noted datetime.date(2020, 1, 1) in rlm.toml: use JSON",
        ),
        ("model_options = 3", "model_options in rlm.toml is invalid: use names and values, such as"),
    ],
)
def test_an_invalid_option_of_a_model_in_the_file_is_one_sentence(here: Path, text: str, sentence: str) -> None:
    (here / "rlm.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert str(refused.value).startswith(sentence)


def test_headers_which_may_contain_a_key_are_never_options_of_a_model(here: Path) -> None:
    (here / "rlm.toml").write_text("[model_options.extra_headers]\nx-key = 'sk-1'")
    with pytest.raises(ConfigError, match="pass it in code") as refused:
        load_settings()
    assert "sk-1" not in str(refused.value)
