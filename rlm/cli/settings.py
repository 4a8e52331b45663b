"""What the command line is set to: by flags, else the environment, else `.env`, else `rlm.toml`; and where each came from.

The library reads the environment and `.env` alone (`rlm.models.settings`): a program says itself what it wants.
"""

from __future__ import annotations

import os
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
from rlm.models.prices import Price
from rlm.models.settings import Settings, reading_dotenv
from rlm.store.directory import default_root

FILE: Final = "rlm.toml"
TABLES: Final = ("limits", "sandbox", "prices")
NO_LIMIT: Final = "none"  # TOML, flags and variables have no None
PRIVATE: Final = {
    "openai_api_key": "OPENAI_API_KEY",
    "openai_base_url": "OPENAI_BASE_URL",
    "sub_api_key": "RLM_SUB_API_KEY",
    "sub_base_url": "RLM_SUB_BASE_URL",
}  # not in a file that is shared
FLAGS: Final = {"run_root": "--runs"}  # where a flag is not called as its setting


class CommandSettings(Settings):
    """The settings of a command, from the values that it is made of and nothing else.

    Attributes:
        depth: levels that may be called below the root.
        run_root: folder of the runs; None is the user's state directory.
        limits: of a run.
        sandbox: policy of the containers.
        prices: of models, by name.
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
        return (init_settings,)  # `layers` asks the others, one by one

    @field_validator("run_root")
    @classmethod
    def _in_a_home(cls, run_root: Path | None) -> Path | None:
        if run_root is None:
            return None
        try:
            return run_root.expanduser()
        except RuntimeError:
            raise ValueError(f"a folder: there is no user whose home is {run_root.parts[0]}") from None

    @property
    def runs(self) -> Path:
        return (self.run_root or default_root()).expanduser()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one source sets, by key (`depth`, `limits.max_seconds`). `origin`: `flag`, `environment`, `.env` or a file."""

    origin: str
    values: Mapping[str, Any]

    def name(self, key: str) -> str:
        """How a person finds the setting there."""
        match self.origin:
            case "flag":
                return FLAGS.get(key) or "--" + key.rpartition(".")[2].replace("_", "-")
            case "environment" | ".env":
                name = PRIVATE.get(key) or "RLM_" + key.replace(".", "__").upper()
                return name if self.origin == "environment" else f"{name} in .env"
        return f"{key} in {self.origin}"


def settings(**flags: Any) -> CommandSettings:
    """The settings with these flags over them; a flag that is None was not given.

    Raises:
        ConfigError: a key or a value cannot be; it says where it was set.
    """
    return settle(layers(flags))


def layers(flags: Mapping[str, Any]) -> list[Layer]:
    """What each source sets, the strongest first.

    Raises:
        ConfigError: a source cannot be read, or sets what there is not.
    """
    try:
        with reading_dotenv():
            dotenv = DotEnvSettingsSource(CommandSettings)
        environment = EnvSettingsSource(CommandSettings)
        found = [
            Layer(origin="flag", values=_flat({name: value for name, value in flags.items() if value is not None})),
            Layer(origin="environment", values=_flat(_known(environment()))),
            Layer(origin=".env", values=_flat(_known(dotenv())) | _unknown(dotenv)),
            *(Layer(origin=_shown(file), values=_of_file(file)) for file in _files()),
        ]
    except SettingsError as error:
        raise ConfigError(
            f"A variable of the environment or of .env is not the JSON that it should be: {error}."
        ) from None
    for layer in found:
        _refuse_unknown(layer)
    for key in _unknown(environment):  # it is shared with other programs, so it may be none of ours
        sys.stderr.write(f"rlm: {_no_setting(found[1], key)}\n")
    return found


def settle(found: Sequence[Layer]) -> CommandSettings:
    """The settings that these layers come to.

    Raises:
        ConfigError: a value cannot be; it says where it was set.
    """
    values = {key: value for layer in reversed(found) for key, value in layer.values.items()}
    try:
        return CommandSettings(**_nested(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"][:2])).lower()
        if first["type"] == "missing":
            raise ConfigError(f"{_named(found, key)} lacks {first['loc'][-1]}.") from None
        reason = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise ConfigError(f"{_named(found, key)} should be {reason}.") from None
    except ConfigError as error:
        for key, value in values.items():
            if _is_refused(key, value):
                reason = str(error).partition(": ")[2].replace("None", NO_LIMIT)
                raise ConfigError(f"{_named(found, key)} cannot be: {reason}") from error
        raise


def origins(found: Sequence[Layer]) -> dict[str, str]:
    """Where each setting comes from, by key; `default` where nothing sets it."""
    said = {key: layer.origin for layer in reversed(found) for key in layer.values}
    return dict.fromkeys([*PRIVATE, *_keys()], "default") | said


def _named(found: Sequence[Layer], key: str) -> str:
    """A setting that cannot be, where it was set, and its value."""
    for layer in found:
        for candidate in (key, key.partition(".")[0]):
            if candidate in layer.values:
                value = layer.values[candidate]
                shown = NO_LIMIT if value is None else str(value) if isinstance(value, Path) else value
                return f"{layer.name(candidate)} is {shown!r}, which"
    return f"{key}, which"


def _is_refused(key: str, value: object) -> bool:
    try:
        CommandSettings(**_nested({key: value}))
    except ConfigError:
        return True
    except ValidationError:
        return False
    return False


# Keys


def _keys() -> list[str]:
    """All that can be set, but for prices and what is private."""
    limits = [f"limits.{field.name}" for field in fields(Limits)]
    sandbox = [f"sandbox.{field.name}" for field in fields(SandboxConfig)]
    return [*(name for name in CommandSettings.model_fields if name not in (*TABLES, *PRIVATE)), *limits, *sandbox]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """By key. Prices are one value a model."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in TABLES and isinstance(value, Mapping):
            flat |= {
                f"{name}.{key}": None if item == NO_LIMIT else item for key, item in value.items() if item is not None
            }
        else:
            flat[name.lower()] = value
    return flat


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
    """Without the variables of others that begin as ours do."""
    return {
        name: value for name, value in values.items() if name in CommandSettings.model_fields or name.lower() in PRIVATE
    }


def _unknown(source: EnvSettingsSource) -> dict[str, str | None]:
    """The variables that begin as ours do and are none, by the key that they would be of."""
    keys = {name.removeprefix("rlm_"): value for name, value in source.env_vars.items() if name.startswith("rlm_")}
    return {
        key.replace("__", "."): value
        for key, value in keys.items()
        if key.partition("__")[0] not in CommandSettings.model_fields
    }


def _no_setting(layer: Layer, key: str) -> str:
    near = get_close_matches(key, _keys(), n=1)
    advice = f"did you mean {layer.name(near[0])}?" if near else "docs/command-line.md lists those there are."
    return f"{layer.name(key)} is no setting: {advice}"


def _refuse_unknown(layer: Layer) -> None:
    for key, value in layer.values.items():
        table, _, name = key.partition(".")
        if table == "prices" and name:
            odd = (
                [each for each in value if each not in ("input", "output", "cached")]
                if isinstance(value, Mapping)
                else ()
            )
            if odd:
                raise ConfigError(f"{layer.name(key)} has {odd[0]!r}: a price has input, output and cached.")
        elif key not in _keys() and key not in PRIVATE:
            raise ConfigError(_no_setting(layer, key))


# rlm.toml


def _files() -> Iterable[Path]:
    """The nearest file of the working directory and its parents, and below it the user's own."""
    here = Path.cwd()
    nearest = [folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file()][:1]
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "rlm" / FILE
    return nearest + [user] * (user.is_file() and user not in nearest)


def _of_file(file: Path) -> dict[str, Any]:
    try:
        data = TomlConfigSettingsSource(CommandSettings, file).toml_data
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{_shown(file)} is not TOML: {error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{_shown(file)} is not UTF-8 text.") from None
    except OSError as error:
        raise ConfigError(f"{_shown(file)} cannot be read: {error.strerror}.") from None
    for key in data:
        name = key.lower()
        if variable := PRIVATE.get(name) or PRIVATE.get(f"openai_{name}"):
            raise ConfigError(
                f"{key} in {_shown(file)} is not read, as such files are shared: set {variable} in the environment or "
                "in .env."
            )
    if isinstance(root := data.get("run_root"), str):
        if not root:
            raise ConfigError(f"run_root in {_shown(file)} is empty: give a folder, or leave it out.")
        data["run_root"] = root if root.startswith("~") else str(file.parent / root)
    return _flat(data)


def _shown(file: Path) -> str:
    """A file, as it is named to a person."""
    return file.name if file.parent == Path.cwd() else str(file)
