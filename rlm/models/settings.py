"""Settings from the environment, or else from `.env` in the working directory. Imports errors and options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict, SettingsError

from rlm.errors import ConfigError

from .options import EXAMPLE, checked_options, from_text

DOTENV: Final = ".env"
OPTION_TABLES: Final = ("model_options", "sub_model_options")


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
        model_options: `RLM_MODEL_OPTIONS`: a JSON object of the root model's options, such as `{"temperature": 0.2}`; or
            one variable an option, as `RLM_MODEL_OPTIONS__TEMPERATURE=0.2`. See `rlm.models.options`.
        sub_model_options: `RLM_SUB_MODEL_OPTIONS`: the same for the sub-model. The root's options apply to it as well if
            both are the same model at the same server.

    Raises:
        ConfigError: `.env` is unreadable or invalid, or an option of a model is.
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
    model_options: dict[str, Any] = Field(default_factory=dict)
    sub_model_options: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        with translate_dotenv_errors():
            try:
                super().__init__(**values)
            except SettingsError:
                names = " or ".join(f"RLM_{name.upper()}" for name in OPTION_TABLES)
                raise ConfigError(f"{names} is not valid JSON: {EXAMPLE}.") from None

    @field_validator(*OPTION_TABLES, mode="before")
    @classmethod
    def _check_options(cls, options: Any, info: ValidationInfo) -> dict[str, Any]:
        values = from_text(options) if isinstance(options, Mapping) else options
        return checked_options(values, name=f"RLM_{info.field_name}".upper())

    @model_validator(mode="after")
    def _default_sub_model(self) -> Self:
        if "model" in self.model_fields_set and "sub_model" not in self.model_fields_set:
            self.sub_model = self.model
        return self


def require_trusted_address(address: str, key: str, *, key_is_given: bool = False) -> None:
    """Refuse to send a key to an address from a less trusted source than its own.

    Anyone can put a `.env` into a folder that is shared. Without this check, its address would receive the key of whoever
    runs a command there.

    Args:
        address: the variable of the address, such as `OPENAI_BASE_URL`.
        key: the variable of the key.
        key_is_given: the key comes from the program, not from a variable.

    Raises:
        ConfigError: `.env` sets the address, but not the key; or `.env` is unreadable or invalid.
    """
    with translate_dotenv_errors():
        in_file = DotEnvSettingsSource(Settings).env_vars
    in_environment = EnvSettingsSource(Settings).env_vars
    if address.lower() not in in_file or address.lower() in in_environment:
        return
    if key_is_given or key.lower() in in_environment:
        source = "the program" if key_is_given else f"{key} in the environment"
        raise ConfigError(
            f"{address} in .env is not trusted with the key from {source}: set {address} in the environment, or set the "
            "key in .env as well."
        )
