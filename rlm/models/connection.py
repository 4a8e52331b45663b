"""Where a model's requests go, and what the user adds to them: checks base URL, key and `sampling`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from rlm._util.urls import http_url
from rlm.errors import ConfigError

from .options import RESERVED_FIELDS
from .settings import Settings, require_trusted_address

OPENAI_URL: Final = "https://api.openai.com/v1"


def server_and_key(base_url: str | None, api_key: str | None) -> tuple[str, str]:
    """The base URL and the key of a server, which the environment completes.

    Raises:
        ConfigError: one of them is missing or invalid, or the address is less trusted than the key.
    """
    settings = Settings()
    if not base_url and api_key != "":
        require_trusted_address("OPENAI_BASE_URL", "OPENAI_API_KEY", key_is_given=api_key is not None)
    base_url = _without_endpoint(base_url or settings.openai_base_url or "")
    if api_key is None and settings.openai_api_key is not None:
        api_key = settings.openai_api_key.get_secret_value()
    key = (api_key or "").strip()  # a key read from a file often ends in a newline
    if not base_url and not key:
        raise ConfigError(
            "No API key found: set OPENAI_API_KEY (in the environment or in .env), or OPENAI_BASE_URL for a server "
            "without keys."
        )
    if not _is_header_value(key):
        raise ConfigError("The API key contains invalid characters: check OPENAI_API_KEY.")
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):  # the openai client sends them as headers
        if not _is_header_value(os.environ.get(name, "")):
            raise ConfigError(f"{name} contains invalid characters: correct or unset it.")
    url = http_url(base_url or OPENAI_URL)
    if url is None:
        raise ConfigError(
            "The base URL is invalid: check OPENAI_BASE_URL and RLM_SUB_BASE_URL. Use a form like https://host/v1."
        )
    if url.username or url.password or url.query or url.fragment:
        raise ConfigError(
            "The base URL must not contain a user, password or query: pass a key as api_key (OPENAI_API_KEY), and a "
            "query as sampling={'extra_query': ...}."
        )
    return url.geturl(), key


def _without_endpoint(url: str) -> str:
    """A base URL without blanks around it, and without the path of an endpoint, which the client adds."""
    return re.sub(r"/(?:chat/)?completions/*$", "", url.strip())


def split_sampling(sampling: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str], dict[str, object]]:
    """Split `sampling` into body, headers and query. Raises ConfigError if it is invalid."""
    extra: dict[str, dict[str, Any]] = {}
    for key in ("extra_body", "extra_headers", "extra_query"):
        value = sampling.get(key) or {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"sampling[{key!r}] is invalid: use a mapping.")
        extra[key] = dict(value)
    if not all(isinstance(value, str) and _is_header_value(value) for value in extra["extra_headers"].values()):
        raise ConfigError("sampling['extra_headers'] is invalid: map names to printable ASCII text.")
    body = {key: value for key, value in sampling.items() if key not in extra} | extra["extra_body"]
    reserved = RESERVED_FIELDS & body.keys()
    if reserved:
        names = ", ".join(f"`{name}`" for name in sorted(reserved))
        raise ConfigError(f"OpenAIModel sets {names}: remove it from `sampling`.")
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`sampling` is not valid JSON data: {error}.") from None
    return body, extra["extra_headers"], extra["extra_query"]


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable()
