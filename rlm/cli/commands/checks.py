"""The checks of `rlm doctor`: everything a run needs, each with its state or what to do."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from rlm.config import GIB, SandboxConfig
from rlm.errors import ConfigError, EngineUnavailable, ModelError, RLMError
from rlm.models.environment import certificate_problem
from rlm.models.openai import OpenAIModel
from rlm.models.options import WINDOW
from rlm.models.prices import Price
from rlm.models.refusals import NO_MODEL_LIST, UNAUTHORIZED
from rlm.models.settings import Settings, require_trusted_address
from rlm.sandbox.docker.container import Sandbox
from rlm.sandbox.docker.engine import GVISOR_HINT, Engine, config_problem, default_engine
from rlm.sandbox.docker.image import image_name
from rlm.sandbox.docker.runtimes import GVISOR, known_vulnerabilities

LOW_DISK_BYTES: Final = 1 * GIB  # less free space is a problem: contexts and journals can be large
SHOWN_KEY_CHARS: Final = 4  # the end of a key: enough to recognize it
SERVER_SECONDS: Final = 5.0  # timeout for a model server's list of models


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check. A `problem` prevents runs, a `note` does not."""

    part: str
    state: Literal["ok", "note", "problem"]
    text: str


async def run_checks(settings: Settings, root: Path | ConfigError) -> AsyncIterator[Finding]:
    """Run all checks in the order in which a run needs the parts. Without an engine, skip the checks that need it.

    Args:
        settings: the settings to check.
        root: the folder of the runs, or why there is none.
    """
    for problem in filter(None, (config_problem(), certificate_problem())):
        yield Finding(part="settings", state="note", text=problem)
    try:
        async for finding in _engine(default_engine()):
            yield finding
    except EngineUnavailable as error:
        yield Finding(part="engine", state="problem", text=str(error))
    yield await _endpoint(settings)
    if settings.sub_base_url is not None:
        yield await _sub_endpoint(settings, settings.sub_base_url)
    yield _disk(root)


async def _engine(engine: Engine) -> AsyncIterator[Finding]:
    info, version = await engine.facts()
    processors, memory = info.get("NCPU", "?"), info.get("MemTotal", 0) / GIB
    text = f"Docker {version.get('Version')}, {processors} processors, {memory:.0f} GiB"
    yield Finding(part="engine", state="ok", text=text)
    options = " ".join(info.get("SecurityOptions") or ())
    if "name=rootless" in options or "name=userns" in options:
        text = "container users are mapped to unprivileged host users"
        yield Finding(part="users", state="ok", text=text)
    else:
        text = "Containers share the host's user IDs. A rootless or userns-remapped engine isolates them further."
        yield Finding(part="users", state="note", text=text)
    holes = known_vulnerabilities(version.get("Components") or ())
    yield Finding(part="runtime", state="note" if holes else "ok", text=holes or "no known container escapes")
    try:
        await engine.check_image(image_name())
    except EngineUnavailable as error:
        yield Finding(part="image", state="problem", text=str(error))
        return
    yield Finding(part="image", state="ok", text=image_name())
    yield await _sandbox("attach", SandboxConfig(transport="attach"), "problem")
    yield await _sandbox("unix", SandboxConfig(transport="unix"), "note")
    if GVISOR in (info.get("Runtimes") or {}):
        yield await _sandbox("gvisor", SandboxConfig(runtime=GVISOR), "problem")
    else:
        yield Finding(part="gvisor", state="note", text=f"not installed in this engine: {GVISOR_HINT}")


async def _sandbox(part: str, config: SandboxConfig, on_failure: Literal["note", "problem"]) -> Finding:
    """Start a sandbox and run a cell in it."""
    began = time.perf_counter()
    try:
        async with Sandbox(config) as sandbox:
            ran = (await sandbox.run("20 + 22")).stdout.strip() == "42"
    except RLMError as error:
        return Finding(part=part, state=on_failure, text=str(error))
    seconds = time.perf_counter() - began
    if not ran:
        return Finding(part=part, state=on_failure, text="a sandbox started, but its cell did not run")
    return Finding(part=part, state="ok", text=f"a sandbox started, ran a cell and was removed in {seconds:.2f} s")


async def _endpoint(settings: Settings) -> Finding:
    if settings.openai_api_key is None and settings.openai_base_url is None:
        text = "No API key found. Set OPENAI_API_KEY, or OPENAI_BASE_URL for a server without keys."
        return Finding(part="models", state="note", text=text)
    server = _url(settings.openai_base_url) if settings.openai_base_url else "OpenAI's API"
    models = f"root model {settings.model}"
    if settings.sub_base_url is None:
        models += f", sub-model {settings.sub_model}"
    return await _server(
        "models",
        f"{server}, {_with_key(settings.openai_api_key)}, {models}",
        settings.model,
        settings.openai_base_url,
        settings.openai_api_key,
        window=settings.model_options.get(WINDOW),
        variables=("OPENAI_BASE_URL", "OPENAI_API_KEY"),
    )


async def _sub_endpoint(settings: Settings, base_url: str) -> Finding:
    return await _server(
        "calls",
        f"{_url(base_url)}, {_with_key(settings.sub_api_key)}, sub-model {settings.sub_model}",
        settings.sub_model,
        base_url,
        settings.sub_api_key or SecretStr(""),  # never the root's key
        window=settings.sub_model_options.get(WINDOW),
        variables=("RLM_SUB_BASE_URL", "RLM_SUB_API_KEY"),
    )


async def _server(
    part: str,
    text: str,
    name: str,
    base_url: str | None,
    key: SecretStr | None,
    *,
    window: int | None,
    variables: tuple[str, str],
) -> Finding:
    """Ask a model server for its list of models.

    Args:
        part: the name of the finding.
        text: a description of the server.
        name: the model.
        base_url: its server; None is OpenAI's API.
        key: the key of the server.
        window: the setting of the model's window.
        variables: those that set the address and the key.
    """
    address_variable, key_variable = variables
    advice = f"check {key_variable} and {address_variable}"
    try:
        require_trusted_address(address_variable, key_variable)
        model = OpenAIModel(
            name,
            base_url=base_url,
            api_key=None if key is None else key.get_secret_value(),
            timeout=SERVER_SECONDS,
            max_retries=0,
            rate_limit_seconds=0,
            context_window=window,
        )
    except ConfigError as error:
        return Finding(part=part, state="problem", text=str(error))
    origin = "the settings" if window else "the price list" if model.context_window else "the server"
    try:
        await model.check_reachable()
    except ConfigError as error:
        return Finding(part=part, state="problem", text=str(error))
    except ModelError as error:
        if error.status in NO_MODEL_LIST:
            return Finding(part=part, state="note", text=f"{text}; no model list, so the key is unverified")
        if error.status is None or error.status in UNAUTHORIZED or error.status >= 500:
            return Finding(part=part, state="problem", text=f"{error}: {advice}")
        return Finding(part=part, state="note", text=f"{text}; {error}")
    finally:
        await model.aclose()
    known = "unknown" if model.context_window is None else f"{model.context_window:,} tokens by {origin}"
    return Finding(part=part, state="ok", text=f"{text}, window {known}")


def _disk(root: Path | ConfigError) -> Finding:
    if isinstance(root, ConfigError):
        return Finding(part="disk", state="problem", text=str(root))
    existing = next(folder for folder in (root, *root.absolute().parents) if os.path.lexists(folder))
    try:
        with TemporaryDirectory(prefix=".rlm-doctor-", dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        text = f"cannot write runs to {root} ({existing}: {error.strerror}): set RLM_RUN_ROOT to another folder"
        return Finding(part="disk", state="problem", text=text)
    text = f"{free / GIB:.1f} GiB free for runs in {root}"
    if free < LOW_DISK_BYTES:
        return Finding(part="disk", state="problem", text=f"{text}: free space, or set RLM_RUN_ROOT to another folder")
    return Finding(part="disk", state="ok", text=text)


# Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting without secrets, and its origin: `default`, `environment`, `.env` or a file."""

    key: str
    value: str
    origin: str


def visible_settings(settings: Settings, origins: Mapping[str, str]) -> list[Setting]:
    """Every setting that has an origin, with secrets hidden."""
    return [Setting(key=key, value=_visible_value(key, settings), origin=origin) for key, origin in origins.items()]


def _visible_value(key: str, settings: Settings) -> str:
    table, _, name = key.partition(".")
    value = getattr(settings, table)
    if name:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
    match value:
        case None:
            return "none"
        case SecretStr():
            return _key(value)
        case Price():
            cached = "" if value.cached is None else f", {value.cached:g} cached"
            return f"{value.input:g} input, {value.output:g} output{cached} (USD per million tokens)"
        case str() if "://" in value:
            return _url(value)
    return str(value)


def _with_key(secret: SecretStr | None) -> str:
    return "without a key" if secret is None else f"key {_key(secret)}"


def _key(secret: SecretStr) -> str:
    key = secret.get_secret_value()
    return f"…{key[-SHOWN_KEY_CHARS:]}" if len(key) > 4 * SHOWN_KEY_CHARS else "set"


def _url(text: str) -> str:
    """A URL without possible secrets: user, password and query."""
    try:
        url = urlsplit(text)
        host = url.netloc.rpartition("@")[2]
        return urlunsplit((url.scheme, host if host == url.netloc else f"[key]@{host}", url.path, "", ""))
    except ValueError:
        return "set"
