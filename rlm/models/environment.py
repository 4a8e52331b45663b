"""What the environment says about HTTP: proxies and certificates. Its mistakes are named by variable, without values.

A value may hold a password, and the libraries' own errors quote it. Imports errors only.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from rlm.errors import ConfigError

CERTIFICATE_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
_bypass: Final = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # unknown to typeshed
_FORM: Final = "use a form like http://host:port, or unset it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """The proxy of a server.

    Attributes:
        variable: where it is set.
        url: its URL.
        password: the password in the URL; empty without one.
    """

    variable: str
    url: str = field(repr=False)
    password: str = field(default="", repr=False)


def proxy_for(url: str) -> Proxy | None:
    """The proxy that the environment sets for a server, or None.

    Raises:
        ConfigError: the variable that sets it is invalid. Variables for other servers do not matter.
    """
    server = urlsplit(url)
    found = urllib.request.getproxies()
    scheme = next((name for name in (server.scheme, "all") if found.get(name, "").strip()), None)
    if scheme is None or _bypasses(server.hostname or "", server.port, found.get("no", "")):
        return None
    variable = f"{scheme}_proxy" if os.environ.get(f"{scheme}_proxy") else f"{scheme.upper()}_PROXY"
    value = found[scheme].strip()
    value = value if "://" in value else f"http://{value}"
    if problem := _proxy_problem(value):
        raise ConfigError(f"{variable} {problem}.")
    proxy = urlsplit(value)
    if not proxy.hostname:
        return None  # as the libraries do
    return Proxy(variable=variable, url=value, password=unquote(proxy.password or ""))


def _proxy_problem(value: str) -> str:
    """What is wrong with a proxy's URL, as a predicate; empty if nothing is."""
    if re.search(r"[\s\x00-\x1f\x7f]", value):
        return f"contains a blank or a line end: {_FORM}"
    if re.search(r"""["'`]""", value.partition("@")[0] if "@" not in value else value[:1]):
        return f"contains quotes: {_FORM}"
    try:
        url = urlsplit(value)
        authority = url.netloc
    except ValueError:
        return f"is not a URL: {_FORM}"
    if url.scheme.startswith("socks"):
        return "names a SOCKS proxy, which rlm does not support: use an HTTP proxy, or add the server to NO_PROXY"
    if url.scheme not in ("http", "https"):
        return f"is not the URL of an HTTP proxy: {_FORM}"
    if "@" not in authority and "@" in f"{url.path}?{url.query}#{url.fragment}":
        return "has a password with `#`, `/` or `?`: write %23, %2F or %3F"
    try:
        return "" if url.port != 0 else f"has an invalid port: {_FORM}"
    except ValueError:
        return f"has an invalid port: {_FORM}"


def _bypasses(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY names a server: by host, domain, address, or network."""
    if _bypass(host if port is None else f"{host}:{port}", {"no": no_proxy}):
        return True
    entries = [entry.strip().strip("[]") for entry in no_proxy.split(",")]
    if "*" in entries or any(entry.startswith("*.") and host.endswith(entry[1:]) for entry in entries):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _networks(entries))


def _networks(entries: list[str]) -> Iterator[Any]:
    for entry in entries:
        try:
            yield ipaddress.ip_network(entry, strict=False)
        except ValueError:
            continue


def tls_context(create: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Create a TLS context, which reads certificates.

    Raises:
        ConfigError: the certificates that the environment names are unusable.
    """
    try:
        return create()
    except OSError as error:  # those of ssl are, too
        raise ConfigError(certificate_problem() or _certificates_unusable(error)) from error


def certificate_problem() -> str:
    """What is wrong with the variables that name certificates, as a sentence; empty if nothing is."""
    # First, because every new context opens this file.
    if (log := os.environ.get("SSLKEYLOGFILE", "")) and (reason := _failure(lambda: open(log, "a").close())):
        return f"SSLKEYLOGFILE is invalid: its file is not writable ({reason}). Set another file, or unset it."
    if file := os.environ.get("SSL_CERT_FILE"):
        reason = _failure(lambda: ssl.create_default_context(cafile=file))
        advice = "name a file of PEM certificates, or unset it"
        return f"SSL_CERT_FILE names an unusable file ({reason}): {advice}." if reason else ""
    folders = [folder for folder in os.environ.get("SSL_CERT_DIR", "").split(os.pathsep) if folder]
    if folders and not any(map(os.path.isdir, folders)):
        return "SSL_CERT_DIR names no folder: name a folder of certificates, or unset it."
    return ""


def _failure(work: Callable[[], object]) -> str:
    """Why `work` failed; empty if it did not."""
    try:
        work()
    except ssl.SSLError as error:
        return (error.reason or "not a certificate").lower().replace("_", " ")
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    return ""


def _certificates_unusable(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"The certificates of this machine are unusable ({reason}): check {', '.join(CERTIFICATE_VARIABLES)}."


@contextmanager
def without_key_log() -> Iterator[None]:
    """Hide an unwritable SSLKEYLOGFILE: some HTTP libraries open it on import."""
    log = os.environ.get("SSLKEYLOGFILE", "")
    if not log or not _failure(lambda: open(log, "a").close()):
        yield
        return
    del os.environ["SSLKEYLOGFILE"]
    try:
        yield
    finally:
        os.environ["SSLKEYLOGFILE"] = log
