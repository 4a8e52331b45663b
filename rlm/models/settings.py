"""Settings from the environment, or else from `.env` in the working directory. Imports errors only."""

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
def translate_dotenv_errors() -> Iterator[None]:
    """Turn errors of the block, which reads `.env`, into ConfigError.

    Raises:
        ConfigError: the file is unreadable or not text, or a line is not NAME=VALUE.
    """
    try:
        _require_valid_lines(Path(DOTENV))
        yield
    except UnicodeDecodeError:
        raise ConfigError(".env is not UTF-8 text: recreate or delete it.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read .env: {error.strerror}.") from error


def _require_valid_lines(file: Path) -> None:
    """Raise ConfigError for an invalid line. The parser would skip it, with a warning that does not name the file."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as stream:
        for binding in parse_stream(stream):
            if binding.error:  # the message omits its text, which may contain a key
                blank, _, _ = binding.original.string.partition(binding.original.string.strip())
                number = binding.original.line + blank.count("\n")
                raise ConfigError(f".env, line {number}: expected NAME=VALUE.")


class Settings(BaseSettings):
    """The settings of this process. An empty variable counts as unset.

    Attributes:
        openai_api_key: `OPENAI_API_KEY`.
        openai_base_url: `OPENAI_BASE_URL`: the URL of an OpenAI-compatible server.
        model: `RLM_MODEL`: the name of the root model.
        sub_model: `RLM_SUB_MODEL`: the name of the model for sub-calls. Default: `RLM_MODEL`, if that is set.
        sub_base_url: `RLM_SUB_BASE_URL`: the URL of a separate server for sub-calls to models given by name.
        sub_api_key: `RLM_SUB_API_KEY`: the key of that server. No other key is ever sent there.

    Raises:
        ConfigError: `.env` is unreadable or invalid.
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
        with translate_dotenv_errors():
            super().__init__(**values)

    @model_validator(mode="after")
    def _default_sub_model(self) -> Self:
        if "model" in self.model_fields_set and "sub_model" not in self.model_fields_set:
            self.sub_model = self.model
        return self
