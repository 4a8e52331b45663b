"""Flags, the environment, `.env` and `rlm.toml`: what wins, what is refused, and how a person is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm.cli.commands.checks import settings_shown
from rlm.cli.commands.runs import run_ids
from rlm.cli.settings import layers, origins, settings, settle
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
    given = settings(**flags)
    assert (given.depth, given.limits.max_tokens) == (strongest + 1, strongest + 1)


def test_each_key_comes_from_the_strongest_that_sets_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rlm.toml").write_text(
        'model = "a"\ndepth = 2\n[limits]\nmax_rlms = 5\nmax_seconds = 7.5\n[sandbox]\ncpus = 2'
    )
    (here / ".env").write_text("OPENAI_BASE_URL=http://127.0.0.1/v1\n")
    monkeypatch.setenv("RLM_LIMITS__MAX_RLMS", "6")
    given = settings(model="b", depth=None, limits={"max_seconds": None, "max_tokens": "9"})
    assert (given.model, given.sub_model, given.depth) == ("b", "b", 2)
    assert given.limits == Limits(max_rlms=6, max_seconds=7.5, max_tokens=9)
    assert (given.sandbox.cpus, given.openai_base_url) == (2.0, "http://127.0.0.1/v1")
    found = origins(layers({"model": "b"}))
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
    assert (settings().depth, settings().runs) == (2, here / "runs")
    (here / "a/rlm.toml").write_text('run_root = "/elsewhere"')
    assert (settings().depth, settings().runs) == (1, Path("/elsewhere"))


def test_runs_are_in_the_users_state_unless_said(tmp_path: Path) -> None:
    assert settings().runs == tmp_path / "state/rlm/runs"
    assert settings(run_root=Path("~/x")).runs == Path.home() / "x"


def test_none_takes_a_limit_away(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rlm.toml").write_text('[limits]\nmax_seconds = "none"\nmax_rlms = 3')
    monkeypatch.setenv("RLM_LIMITS__MAX_LM_CALLS", "none")
    limits = settings(limits={"max_rlms": "none"}).limits
    assert (limits.max_seconds, limits.max_lm_calls, limits.max_rlms) == (None, None, None)


def test_prices_are_tables_by_the_models_name(here: Path) -> None:
    (here / "rlm.toml").write_text('[prices."my.model"]\ninput = 1\noutput = 2.5')
    assert settings().prices == {"my.model": Price(input=1, output=2.5)}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("detph = 2", "detph in rlm.toml is no setting: did you mean depth in rlm.toml?"),
        ("[limits]\nmax_second = 2", "limits.max_second in rlm.toml is no setting: did you mean limits.max_seconds in"),
        ("qqqq = 2", "qqqq in rlm.toml is no setting: docs/command-line.md lists"),
        ("depth = -1", "depth in rlm.toml is -1, which should be greater than or equal to 0."),
        ('depth = "x"', "depth in rlm.toml is 'x', which should be a valid integer"),
        ("limits = 3", "limits in rlm.toml is no setting"),
        (
            "[limits]\nmax_seconds = 0",
            "limits.max_seconds in rlm.toml is 0, which cannot be: use a number above 0, or none",
        ),
        (
            "[limits]\nmax_iterations = 'many'",
            "limits.max_iterations in rlm.toml is 'many', which should be a valid integer",
        ),
        (
            "[limits]\nmax_seconds = inf",
            "limits.max_seconds in rlm.toml is inf, which cannot be: use a number, or none",
        ),
        ("[sandbox]\ncpus = 0", "sandbox.cpus in rlm.toml is 0, which cannot be: use a number above 0."),
        ("[sandbox]\ntransport = 'tcp'", "sandbox.transport in rlm.toml is 'tcp', which should be 'attach' or 'unix'."),
        ("[prices.m]\ninput = 1", "prices.m in rlm.toml is {'input': 1}, which lacks output."),
        (
            "[prices.m]\ninput = -1\noutput = 1",
            "prices.m in rlm.toml is {'input': -1, 'output': 1}, which cannot be: give",
        ),
        ("[prices.m]\ninput = 1\noutput = 1\nimput = 2", "prices.m in rlm.toml has 'imput': a price has input, output"),
        (
            "[sandbox]\nmax_processes = 'none'",
            "sandbox.max_processes in rlm.toml is 'none', which should be a valid integer",
        ),
        ("api_key = 'sk-1'", "api_key in rlm.toml is not read, as such files are shared: set OPENAI_API_KEY in"),
        ("OPENAI_API_KEY = 'sk-1'", "OPENAI_API_KEY in rlm.toml is not read"),
        ("base_url = 'http://x'", "base_url in rlm.toml is not read, as such files are shared: set OPENAI_BASE_URL in"),
        (
            "sub_api_key = 'sk-1'",
            "sub_api_key in rlm.toml is not read, as such files are shared: set RLM_SUB_API_KEY in",
        ),
        ("sub_base_url = 'http://x'", "sub_base_url in rlm.toml is not read"),
        ("depth = ", "rlm.toml is not TOML: "),
        ("run_root = ''", "run_root in rlm.toml is empty: give a folder"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_sentence_that_names_file_and_key(
    here: Path, text: str, sentence: str
) -> None:
    (here / "rlm.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        settings()
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)
    assert "sk-1" not in str(refused.value)


def test_a_file_that_is_no_text_is_one_sentence(here: Path) -> None:
    (here / "rlm.toml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"rlm\.toml is not"):
        settings()


def test_a_wrong_flag_or_variable_is_named_as_it_was_given(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rlm.toml").write_text("[limits]\nmax_tokens = 5")
    with pytest.raises(ConfigError, match="--max-tokens is '0', which cannot be: use a number above 0, or none for no"):
        settings(limits={"max_tokens": "0"})
    monkeypatch.setenv("RLM_LIMITS__MAX_TOKENS", "0")
    with pytest.raises(ConfigError, match="RLM_LIMITS__MAX_TOKENS is '0', which cannot be"):
        settings()
    monkeypatch.setenv("RLM_LIMITS__MAX_TOKENS", "")
    (here / ".env").write_text("RLM_LIMITS__MAX_TOKEN=2")
    with pytest.raises(ConfigError, match=r"RLM_LIMITS__MAX_TOKEN in \.env is no setting: did you mean"):
        settings()
    (here / ".env").write_text("RLM_DETPH=2")
    with pytest.raises(ConfigError, match=r"RLM_DETPH in \.env is no setting: did you mean RLM_DEPTH in \.env\?"):
        settings()
    (here / ".env").write_text("RLM_PRICES=cheap")
    with pytest.raises(ConfigError, match=r"not the JSON that it should be: .*prices"):
        settings()


def test_a_variable_that_is_no_setting_is_told_once_as_it_may_be_another_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLM_DETPH", "2")
    monkeypatch.setenv("RLM_DEPTH", "3")
    monkeypatch.setenv("RLMS", "of others")
    assert settings().depth == 3
    assert capsys.readouterr().err == "rlm: RLM_DETPH is no setting: did you mean RLM_DEPTH?\n"
    assert run_ids("") == []
    assert capsys.readouterr().err == ""


def test_what_is_shown_of_the_settings_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-012345678901234567")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:pass-word@host:8/v1?token=abc")
    monkeypatch.setenv("RLM_SUB_API_KEY", "sk-098765432101234567")
    monkeypatch.setenv("RLM_SUB_BASE_URL", "https://host:9/v1?token=abc")
    found = layers({})
    shown = {each.key: each.value for each in settings_shown(settle(found), origins(found))}
    assert (shown["openai_api_key"], shown["openai_base_url"]) == ("…4567", "https://[key]@host:8/v1")
    assert (shown["sub_api_key"], shown["sub_base_url"]) == ("…4567", "https://host:9/v1")
    assert (shown["limits.max_tokens"], shown["sandbox.transport"]) == ("none", "attach")
    assert not any(secret in str(shown) for secret in ("0123", "pass", "abc"))
