"""The configuration of the `docker` command: which file it is, and what is wrong with it. Imports the standard library."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_OBJECT: Final = "a JSON object"


def default_file() -> Path:
    """Where the file is expected."""
    folder = os.environ.get("DOCKER_CONFIG", "").strip()
    return (Path(folder) if folder else Path(os.path.expanduser("~"), ".docker")) / "config.json"


def config_problem(file: Path) -> str:
    """What is wrong with the file, as a sentence; empty if nothing is, or it does not exist.

    The `docker` command ignores such a file or entry with a warning. The library that talks to the engine raises errors
    of its own, or fails at every request.
    """
    try:
        config = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return _ignored(file, f"cannot be read ({error.strerror})")
    except (ValueError, RecursionError):
        return _ignored(file, "is not JSON")
    if not isinstance(config, dict):
        return _ignored(file, f"is not {_OBJECT}")
    for name, is_valid, expected in _ENTRIES:
        if config.get(name) is not None and not is_valid(config[name]):
            return _ignored(file, f"has an invalid entry `{name}`, which must be {expected}")
    return ""


def _is_object_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(isinstance(item, kind) for item in value.values())


def _are_headers(value: Any) -> bool:
    return all(text.isascii() and text.isprintable() for text in value.values())


def _are_logins(value: Any) -> bool:
    return all(_is_login(entry["auth"]) for entry in value.values() if entry.get("auth"))


def _is_login(auth: object) -> bool:
    try:
        return isinstance(auth, str) and b":" in base64.b64decode(auth)
    except ValueError:
        return False


_ENTRIES: Final = (
    ("auths", _is_object_of(dict), "a JSON object of objects"),
    ("auths", _are_logins, "logins whose `auth` is base64 of user:password"),
    ("credHelpers", _is_object_of(str), "a JSON object of texts"),
    ("credsStore", lambda value: isinstance(value, str), "a text"),
    ("currentContext", lambda value: isinstance(value, str), "a text"),
    ("HttpHeaders", _is_object_of(str), "a JSON object of texts"),
    ("HttpHeaders", _are_headers, "printable ASCII texts"),
    ("proxies", _is_object_of(dict), "a JSON object of objects"),
)


def _ignored(file: Path, problem: str) -> str:
    return f"{file} {problem}. It is ignored: correct or remove it."


def current_context(file: Path) -> str:
    """The context that the file names; `default` without one."""
    try:
        name = json.loads(file.read_bytes())["currentContext"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return "default"
    return name if isinstance(name, str) and name else "default"


def context_unusable(name: str, reason: str) -> str:
    """The sentence for a context that cannot be used."""
    by_variable = os.environ.get("DOCKER_CONTEXT", "").strip() == name
    place = "DOCKER_CONTEXT" if by_variable else f"`currentContext` in {default_file()}"
    return f"The Docker context {name!r} of {place} cannot be used ({reason}): choose one of `docker context ls`."


def certificates_unusable() -> str:
    """The sentence for certificates that are missing."""
    folder = os.environ.get("DOCKER_CERT_PATH", "").strip()
    place = f"DOCKER_CERT_PATH ({folder})" if folder else f"{default_file().parent}"
    return (
        f"DOCKER_TLS_VERIFY or DOCKER_CERT_PATH asks for TLS, but {place} lacks ca.pem, cert.pem or key.pem: set "
        "DOCKER_CERT_PATH to their folder, or unset both."
    )


def unusable(reason: str) -> str:
    """The sentence for anything else that stops the library."""
    return (
        f"The settings of Docker cannot be used ({reason}): check DOCKER_HOST, DOCKER_CONTEXT, DOCKER_TLS_VERIFY, "
        f"DOCKER_CERT_PATH and {default_file()}."
    )
