"""docs/command-line.md matches the commands and settings."""

from __future__ import annotations

import re
from pathlib import Path

import typer
from pydantic import SecretStr

from rlm import cli
from rlm.cli.settings import load_settings
from rlm.models.prices import Price

PAGE = (Path(__file__).parents[3] / "docs/command-line.md").read_text(encoding="utf-8")


def test_every_command_has_a_section_and_an_example() -> None:
    root = typer.main.get_command(cli.app)
    commands = {name for name in root.commands if name not in ("niah", "image")} | {"image build"}  # type: ignore[attr-defined]
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    documented = {
        name: section for section in sections for name in re.findall(r"rlm ([a-z ]+)", section.split("\n")[0])
    }
    assert documented.keys() == commands
    for name, section in documented.items():
        assert re.search(rf"\$ .*rlm {name}\b", section), name
        assert re.search(r"Exit\s+status", section), name


def test_the_documented_settings_file_loads(here: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    (here / "rlm.toml").write_text(text)
    loaded = load_settings()
    assert (loaded.depth, loaded.runs, loaded.limits.max_seconds, loaded.sandbox.runtime) == (
        2,
        here / "runs",
        600,
        "runsc",
    )
    assert loaded.model_options == {"context_window": 32768, "max_output_tokens": 4096, "temperature": 0.2}
    assert loaded.sub_model_options == {"max_output_tokens": 1024}
    assert loaded.prices == {"my-model": Price(input=1.25, output=10, cached=0.125)}


def test_the_documented_variables_load(here: Path) -> None:
    for name in re.findall(r"RLM_[A-Z_]+", PAGE):
        value = {"RLM_SANDBOX__RUNTIME": "runsc", "RLM_MODEL": "m"}.get(name, "3")
        (here / ".env").write_text(f"{name}={value}" * (name != "RLM_"))
        table, _, key = name.removeprefix("RLM_").lower().partition("__")
        loaded = getattr(load_settings(), table)
        shown = loaded.get_secret_value() if isinstance(loaded, SecretStr) else getattr(loaded, key) if key else loaded
        assert str(shown) in (value, f"{value}.0"), name
