"""What the environment says, or a `.env` file in the working directory. The environment wins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rlm.errors import ConfigError

DOTENV: Final = ".env"


@contextmanager
def dotenv_is_read() -> Iterator[None]:
    """Around what reads `.env`.

    Raises:
        ConfigError: it cannot be read, is no text, or holds a line that sets nothing.
    """
    try:
        _refuse_broken_lines(Path(DOTENV))
        yield
    except UnicodeDecodeError:
        raise ConfigError(".env is not UTF-8 text: recreate or delete it.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read .env: {error.strerror}.") from error


def _refuse_broken_lines(file: Path) -> None:
    """What reads the file would leave them out, with a warning that does not name it."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as stream:
        for binding in parse_stream(stream):
            if binding.error:  # its text is not shown: it may hold a key
                blank, _, _ = binding.original.string.partition(binding.original.string.strip())
                number = binding.original.line + blank.count("\n")
                raise ConfigError(f".env, line {number}: expected NAME=VALUE.")


class Settings(BaseSettings):
    """The settings of this process. An empty variable counts as one that is not set. Raises ConfigError for a `.env` that
    cannot be read.

    Attributes:
        openai_api_key: `OPENAI_API_KEY`.
        openai_base_url: `OPENAI_BASE_URL`: an OpenAI-compatible server.
        model: `RLM_MODEL`: the root model.
        sub_model: `RLM_SUB_MODEL`; where only `RLM_MODEL` is set, the same model.
        sub_base_url: `RLM_SUB_BASE_URL`: another server, for the models of calls that are given by name.
        sub_api_key: `RLM_SUB_API_KEY`: the key of that server; none is sent there unless this one is set.
    """

    model_config = SettingsConfigDict(
        env_file=DOTENV, env_prefix="RLM_", env_nested_delimiter="__", env_ignore_empty=True, extra="ignore"
    )

    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    model: str = "gpt-5"
    sub_model: str = "gpt-5-mini"
    sub_base_url: str | None = None
    sub_api_key: SecretStr | None = None

    def __init__(self, **values: Any) -> None:
        with dotenv_is_read():
            super().__init__(**values)

    @model_validator(mode="after")
    def _one_model_serves_both(self) -> Self:
        if "model" in self.model_fields_set and "sub_model" not in self.model_fields_set:
            self.sub_model = self.model
        return self
