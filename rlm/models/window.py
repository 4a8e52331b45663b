"""The window of a model, as servers state it in their lists of models. Pure.

No two servers name it alike. What a server was started with counts, not what its model could do: llama.cpp's
`n_ctx_train` and Ollama's `context_length` of a model that is not loaded say nothing about requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

MIN_WINDOW: Final = 256  # tokens: a smaller number is a placeholder, such as 0 or -1
MAX_WINDOW: Final = 1_000_000_000
LISTED: Final = (  # the fields of an entry, the most specific first
    ("meta", "n_ctx"),  # llama.cpp, llama-swap: of one slot
    ("max_model_len",),  # vLLM, SGLang
    ("top_provider", "context_length"),  # OpenRouter: of the provider that serves the request
    ("context_length",),  # Together, OpenRouter, Fireworks, Ollama's list of loaded models
    ("context_window",),  # Groq
    ("max_context_length",),  # Mistral
    ("max_context_window",),
    ("limits", "max_context_window_tokens"),
    ("metadata", "context_length"),
)
# Servers whose OpenAI list has no window: `owned_by` in that list, and the path at their root that has it.
NATIVE_PATHS: Final[Mapping[str, str]] = {
    "llamacpp": "/props",
    "organization_owner": "/api/v0/models",  # LM Studio
    "library": "/api/ps",  # Ollama
}


def find_entry(body: bytes, model: str) -> Mapping[str, Any] | None:
    """The entry of a model in a server's list: that of its name, else the only one. None if there is none.

    Some servers answer to any name with the one model that they have.
    """
    entries = list(_entries(body))
    named = [entry for entry in entries if model in _names(entry)]
    if not named:
        named = [entry for entry in entries if f"{model}:latest" in _names(entry)]  # Ollama's full name
    return next(iter(named), entries[0] if len(entries) == 1 else None)


def listed_names(body: bytes) -> list[str]:
    """The names in a server's list of models, without duplicates."""
    return list(dict.fromkeys(name for entry in _entries(body) for name in _names(entry)[:1]))


def entry_window(entry: Mapping[str, Any]) -> int | None:
    """Tokens of the window in an entry; None if it states none."""
    if "state" in entry:  # LM Studio: only what the model was loaded with counts
        return _value(entry, ("loaded_context_length",))
    values = (_value(entry, path) for path in LISTED)
    return next((value for value in values if value is not None), None)


def native_path(entry: Mapping[str, Any]) -> str | None:
    """The path of a server's own list, which has the window; None for a server that has none."""
    owner = entry.get("owned_by")
    return NATIVE_PATHS.get(owner) if isinstance(owner, str) else None


def native_window(body: bytes, model: str) -> int | None:
    """Tokens of the window in a server's own list, or in llama.cpp's properties."""
    properties = _value(_json(body), ("default_generation_settings", "n_ctx"))
    if properties is not None:
        return properties
    entry = find_entry(body, model)
    return None if entry is None else entry_window(entry)


def _entries(body: bytes) -> Iterator[Mapping[str, Any]]:
    match _json(body):
        case {"data": list(entries)} | {"models": list(entries)} | list(entries):  # Together sends a bare list
            yield from (entry for entry in entries if isinstance(entry, dict))


def _names(entry: Mapping[str, Any]) -> list[str]:
    aliases = entry.get("aliases")
    names = [*(entry.get(key) for key in ("id", "name", "model")), *(aliases if isinstance(aliases, list) else ())]
    return [name for name in names if isinstance(name, str)]


def _value(found: Any, path: Sequence[str]) -> int | None:
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, int):
        return None
    return found if MIN_WINDOW <= found <= MAX_WINDOW else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
