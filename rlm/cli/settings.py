"""The settings of the command line, from flags, the environment, `.env` and `rlm.toml` (strongest first), with origins.

The library reads only the environment and `.env` (`rlm.models.settings`): a program passes its options in code.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)

from rlm.config import Limits, SandboxConfig
from rlm.errors import ConfigError
from rlm.models.options import EXAMPLE, FLAG_OPTIONS, IN_CODE_ONLY, NAMED_OPTIONS, SECRET_FIELDS
from rlm.models.prices import Price
from rlm.models.settings import OPTION_TABLES, Settings, translate_dotenv_errors
from rlm.store.directory import default_root

FILE: Final = "rlm.toml"
TABLES: Final = (*OPTION_TABLES, "limits", "sandbox", "prices")
NO_LIMIT: Final = "none"  # the spelling of None in TOML, flags and variables
PRIVATE: Final = {  # never read from rlm.toml, because such files are shared
    "openai_api_key": "OPENAI_API_KEY",
    "openai_base_url": "OPENAI_BASE_URL",
    "sub_api_key": "RLM_SUB_API_KEY",
    "sub_base_url": "RLM_SUB_BASE_URL",
}
FLAGS: Final = {"run_root": "--runs"}  # flags that are not named after their setting


class CommandSettings(Settings):
    """The merged settings of a command.

    Attributes:
        depth: call levels below the root.
        run_root: folder of the runs; None is the user's state directory.
        limits: limits of a run.
        sandbox: policy of the containers.
        prices: prices by model name.
    """

    depth: int = Field(default=1, ge=0)
    run_root: Path | None = None
    limits: Limits = Field(default_factory=Limits)
    sandbox: SandboxConfig = Field(default_factory=SandboxConfig)
    prices: dict[str, Price] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `read_layers` reads the other sources

    @field_validator("run_root")
    @classmethod
    def _expand_home(cls, run_root: Path | None) -> Path | None:
        if run_root is None:
            return None
        try:
            return run_root.expanduser()
        except RuntimeError:
            raise ValueError(f"a folder; {run_root.parts[0]} is not the home of a user") from None

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return (self.run_root or default_root()).expanduser()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The values of one source by key (`depth`, `limits.max_seconds`). `origin`: `flag`, `environment`, `.env` or a file."""

    origin: str
    values: Mapping[str, Any]

    def name(self, key: str) -> str:
        """The setting's name in this source."""
        match self.origin:
            case "flag":
                table, _, name = key.rpartition(".")
                prefix = "--sub-" if table == "sub_model_options" else "--"
                return FLAGS.get(key) or prefix + name.replace("_", "-")
            case "environment" | ".env":
                name = PRIVATE.get(key) or "RLM_" + key.replace(".", "__").upper()
                return name if self.origin == "environment" else f"{name} in .env"
        return f"{key} in {self.origin}"


def load_settings(**flags: Any) -> CommandSettings:
    """The settings, with flags as the strongest source; None means that a flag is not set.

    Raises:
        ConfigError: a source is unreadable, or a key or value is invalid; names the source.
    """
    return merge_layers(read_layers(flags))


def read_layers(flags: Mapping[str, Any]) -> list[Layer]:
    """The values of every source, the strongest first.

    Raises:
        ConfigError: a source is unreadable or has an unknown key.
    """
    try:
        with translate_dotenv_errors():
            dotenv = DotEnvSettingsSource(CommandSettings)
        environment = EnvSettingsSource(CommandSettings)
        layers = [
            Layer(origin="flag", values=_flat({name: value for name, value in flags.items() if value is not None})),
            Layer(origin="environment", values=_flat(_known(environment()))),
            Layer(origin=".env", values=_flat(_known(dotenv())) | _unknown(dotenv)),
            *(Layer(origin=_file_name(file), values=_read_file(file)) for file in _files()),
        ]
    except SettingsError as error:
        field = re.search(r'"(\w+)"', str(error))
        name = f"RLM_{field[1].upper()}" if field else "A variable"
        raise ConfigError(f"{name} in the environment or .env is invalid: use JSON.") from None
    for layer in layers:
        _check_keys(layer)
    for key in _unknown(environment):  # a warning only: another program's variable may share the prefix
        sys.stderr.write(f"rlm: {_unknown_setting(layers[1], key)}\n")
    return layers


def merge_layers(layers: Sequence[Layer]) -> CommandSettings:
    """The settings that result from these layers.

    Raises:
        ConfigError: a value is invalid; names the source.
    """
    values = {key: value for layer in reversed(layers) for key, value in layer.values.items()}
    try:
        return CommandSettings(**_nested(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"][:2])).lower()
        if first["type"] == "missing":
            raise ConfigError(f"{_invalid(layers, key)}: missing key {first['loc'][-1]!r}.") from None
        reason = (
            first["msg"].removeprefix("Input should be ").removeprefix("Value error, ").partition(", unable to ")[0]
        )
        raise ConfigError(f"{_invalid(layers, key)}: must be {reason}.") from None
    except ConfigError as error:
        for key, value in values.items():
            if _is_invalid(key, value):
                advice = str(error).rpartition(": ")[2].replace("None", f"`{NO_LIMIT}`")
                raise ConfigError(f"{_invalid(layers, key)}: {advice}") from error
        raise


def origins(layers: Sequence[Layer]) -> dict[str, str]:
    """The origin of each setting by key; `default` if no source sets it."""
    set_by = {key: layer.origin for layer in reversed(layers) for key in layer.values}
    return dict.fromkeys([*PRIVATE, *_keys()], "default") | set_by


def _invalid(layers: Sequence[Layer], key: str) -> str:
    """The start of an error: the name of a setting in its source, and its value."""
    for layer in layers:
        for candidate in (key, key.partition(".")[0]):
            if candidate in layer.values:
                value = layer.values[candidate]
                shown = NO_LIMIT if value is None else str(value) if isinstance(value, Path) else value
                name, _, file = layer.name(candidate).partition(" in ")
                return f"Invalid {name} {shown!r}{f' in {file}' if file else ''}"
    return f"Invalid {key}"


def _is_invalid(key: str, value: object) -> bool:
    try:
        CommandSettings(**_nested({key: value}))
    except ConfigError:
        return True
    except ValidationError:
        return False
    return False


# Keys


def _keys() -> list[str]:
    """All keys except those of prices and private settings, and unnamed options of models."""
    options = [f"{table}.{name}" for table in OPTION_TABLES for name in NAMED_OPTIONS]
    limits = [f"limits.{field.name}" for field in fields(Limits)]
    sandbox = [f"sandbox.{field.name}" for field in fields(SandboxConfig)]
    return [
        *(name for name in CommandSettings.model_fields if name not in (*TABLES, *PRIVATE)),
        *options,
        *limits,
        *sandbox,
    ]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key. The prices of a model are one value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in TABLES and isinstance(value, Mapping):
            flat |= {
                f"{name}.{key}": None if item == NO_LIMIT and _can_be_none(name, key) else item
                for key, item in value.items()
                if item is not None or name in OPTION_TABLES
            }
        else:
            flat[name.lower()] = value
    return flat


def _can_be_none(table: str, key: str) -> bool:
    """Whether `none` means no value. As a field of a request, such as `reasoning_effort`, it is a word."""
    return table not in OPTION_TABLES or key in FLAG_OPTIONS


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        table, dot, name = key.partition(".")
        if dot:
            nested.setdefault(table, {})[name] = value
        else:
            alias = CommandSettings.model_fields[key].validation_alias
            nested[alias if isinstance(alias, str) else key] = value
    return nested


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of our settings only: other programs may use variables with our prefix."""
    return {
        name: value for name, value in values.items() if name in CommandSettings.model_fields or name.lower() in PRIVATE
    }


def _unknown(source: EnvSettingsSource) -> dict[str, str | None]:
    """Variables with our prefix that match no setting, by key."""
    keys = {name.removeprefix("rlm_"): value for name, value in source.env_vars.items() if name.startswith("rlm_")}
    return {
        key.replace("__", "."): value
        for key, value in keys.items()
        if key.partition("__")[0] not in CommandSettings.model_fields
    }


def _unknown_setting(layer: Layer, key: str) -> str:
    near = get_close_matches(key, _keys(), n=1)
    top = (name for name in CommandSettings.model_fields if name not in PRIVATE)
    advice = f"did you mean {layer.name(near[0]).partition(' in ')[0]}?" if near else f"settings: {', '.join(top)}"
    return f"Unknown setting {layer.name(key)} ({advice})."


def _check_keys(layer: Layer) -> None:
    for key, value in layer.values.items():
        table, _, name = key.partition(".")
        if table == "prices" and name:
            keys = value if isinstance(value, Mapping) else ()
            for unknown in (each for each in keys if each not in ("input", "output", "cached")):
                raise ConfigError(f"Unknown key {unknown!r} in {layer.name(key)}: use input, output and cached.")
        elif key in OPTION_TABLES:
            raise ConfigError(f"{layer.name(key)} is invalid: {EXAMPLE}.")
        elif table in OPTION_TABLES and name in SECRET_FIELDS:
            raise ConfigError(f"{layer.name(key)} may contain a key: {IN_CODE_ONLY}.")
        elif not (table in OPTION_TABLES and name) and key not in _keys() and key not in PRIVATE:
            raise ConfigError(_unknown_setting(layer, key))


# rlm.toml


def _files() -> Iterable[Path]:
    """The nearest file in the working directory and its parents, then the user's own."""
    folder = Path.cwd()
    nearest = [parent / FILE for parent in (folder, *folder.parents) if (parent / FILE).is_file()][:1]
    user = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "rlm" / FILE  # ~ without a home
    return nearest + [user] * (user.is_file() and user not in nearest)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        data = TomlConfigSettingsSource(CommandSettings, file).toml_data
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{_file_name(file)} is not valid TOML: {error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{_file_name(file)} is not UTF-8 text.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {_file_name(file)}: {error.strerror}.") from None
    for key in data:
        name = key.lower()
        if variable := PRIVATE.get(name) or PRIVATE.get(f"openai_{name}"):
            raise ConfigError(
                f"{key} is not allowed in {_file_name(file)}, as such files are shared: set {variable} in the environment "
                "or .env."
            )
    if isinstance(root := data.get("run_root"), str):
        if not root:
            raise ConfigError(f"run_root in {_file_name(file)} is empty: set a folder or remove it.")
        data["run_root"] = root if root.startswith("~") else str(file.parent / root)
    return _flat(data)


def _file_name(file: Path) -> str:
    """The name of a file in messages."""
    return file.name if file.parent == Path.cwd() else str(file)
