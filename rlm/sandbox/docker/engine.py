"""The Docker engine: creates, connects and removes containers. Only this module imports `docker`."""

from __future__ import annotations

import atexit
import ipaddress
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import anyio
import docker
import requests
from anyio.abc import ByteStream
from anyio.lowlevel import RunVar
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from rlm._util.logs import get_logger
from rlm.errors import EngineUnavailable, SandboxStartError

from . import settings
from .image import DIGEST_LABEL, IMAGE_LABEL, source_digest
from .owner import LABEL_PREFIX, is_orphan
from .runtimes import GVISOR, is_gvisor, known_vulnerabilities
from .sockets import adopt
from .spec import ContainerSpec

ENGINE_SECONDS: Final = 30.0  # timeout of one request
MAX_CONCURRENT_STARTS: Final = max(4, os.cpu_count() or 1)  # more at once do not start any faster
MAX_CONCURRENT_REMOVALS: Final = 8  # separate from starts, so that removals never wait for them
MAX_CONCURRENT_REQUESTS: Final = 4  # requests of any other kind
GONE_POLL_SECONDS: Final = 0.02
RESTART_SECONDS: Final = 30.0  # how long to wait for a restarting engine
RESTART_POLL_SECONDS: Final = 0.25
HISTORY_SECONDS: Final = 2.0  # the engine learns of a container's end a moment after its streams have ended
GVISOR_HINT: Final = (
    f"install gVisor (Debian: `apt-get install runsc`) and add it to the engine's runtimes as `{GVISOR}` "
    "(docs/engines.md)"
)
SIGKILL_CODE: Final = 137  # 128 + SIGKILL, a container's exit code

_log = get_logger("rlm.engine")

T = TypeVar("T")


class _Limits:
    """Concurrency limits of one event loop, over all engines."""

    def __init__(self) -> None:
        self.starts = anyio.CapacityLimiter(MAX_CONCURRENT_STARTS)
        self.removals = anyio.CapacityLimiter(MAX_CONCURRENT_REMOVALS)
        self.threads = anyio.CapacityLimiter(MAX_CONCURRENT_STARTS + MAX_CONCURRENT_REMOVALS + MAX_CONCURRENT_REQUESTS)


_limits_of_loop: RunVar[_Limits] = RunVar("rlm_engine_limits")


def _limits() -> _Limits:
    try:
        return _limits_of_loop.get()
    except LookupError:
        limits = _Limits()
        _limits_of_loop.set(limits)
        return limits


class Engine:
    """One Docker engine. Its client blocks, so every request runs in a thread. One object serves all event loops.

    Every method raises EngineUnavailable if the engine does not answer. Unless documented otherwise, cancellation waits
    for the engine's answer: then its effect is known, and can be undone.

    Args:
        connect: Creates a client.
        address: Address of the engine, for error messages.
    """

    def __init__(self, connect: Callable[[], docker.APIClient], address: str) -> None:
        self._connect = connect
        self._address = address
        self._client: docker.APIClient | None = None
        self._client_lock = threading.Lock()
        self._checked: set[str] = set()
        self._runtimes: set[str | None] = set()
        self._removed_orphans = False
        self._has_answered = False

    def close(self) -> None:
        """Close the client's connections."""
        if self._client is not None:
            self._client.close()

    @property
    def starts(self) -> anyio.CapacityLimiter:
        """Limits concurrent container starts; acquire it around `create`, `attach` and `start`."""
        return _limits().starts

    async def wait_for_restart(self) -> bool:
        """Wait for an engine that answered before: it may be restarting.

        Returns:
            Whether it answers. False at once if it never did.
        """
        if not self._has_answered:
            return False
        with anyio.move_on_after(RESTART_SECONDS):
            while True:
                try:
                    await self._call(lambda client: client.ping(), abandon=True)
                except (EngineUnavailable, APIError):
                    await anyio.sleep(RESTART_POLL_SECONDS)
                else:
                    return True
        return False

    async def check_image(self, image: str) -> None:
        """Check, once per image, that it was built from this package's sources.

        Raises:
            EngineUnavailable: The image is missing, or was built from other sources.
        """
        if image in self._checked:
            return
        try:
            found = await self._call(lambda client: client.inspect_image(image), abandon=True)
        except NotFound as error:
            raise _missing_image(image) from error
        labels = found["Config"].get("Labels") or {}
        if labels.get(DIGEST_LABEL) != source_digest():
            raise EngineUnavailable(
                f"The sandbox image {image!r} was built from other sources than this version of rlm: "
                "rebuild it with `rlm image build`."
            )
        self._checked.add(image)

    async def check_runtime(self, runtime: str | None) -> None:
        """Check, once per runtime, that the engine offers it, and warn about known vulnerabilities.

        Args:
            runtime: Name of the runtime. None is the engine's default.

        Raises:
            EngineUnavailable: The engine does not offer the runtime.
        """
        if runtime in self._runtimes:
            return
        if runtime is None:
            version = await self._call(lambda client: client.version(), abandon=True)
            if (warning := known_vulnerabilities(version.get("Components") or ())) and None not in self._runtimes:
                _log.warning("runtime_vulnerable", advice=warning)
        else:
            offered = (await self._call(lambda client: client.info(), abandon=True)).get("Runtimes") or {}
            if runtime not in offered:
                hint = f"; {GVISOR_HINT}" if is_gvisor(runtime) else ""
                raise EngineUnavailable(
                    f"The Docker engine at {self._address} has no runtime {runtime!r}, only {', '.join(sorted(offered))}"
                    f"{hint}."
                )
        self._runtimes.add(runtime)

    async def remove_orphans(self, *, seconds: float) -> None:
        """Remove the sandboxes that killed processes of this user left behind. Only the first call does anything.

        Args:
            seconds: Limit for each removal.
        """
        if self._removed_orphans:
            return
        self._removed_orphans = True  # set before the search, because other sandboxes may start during it
        try:
            containers = await self._orphans()
        except APIError as error:
            _log.warning("orphan_search_failed", reason=str(error))
            return
        except BaseException:  # no engine answers yet, or this call was cancelled
            self._removed_orphans = False
            raise
        async with anyio.create_task_group() as removals:
            for container in containers:
                _log.info("orphan_removed", container=container["Id"][:12])
                removals.start_soon(partial(self.remove, container["Id"], seconds=seconds))

    async def orphans(self) -> list[dict[str, Any]]:
        """The sandboxes left by killed processes of this user, as the engine describes them."""
        try:
            return await self._orphans()
        except APIError as error:
            raise self._unavailable(error) from error

    async def _orphans(self) -> list[dict[str, Any]]:
        filters = {"label": f"{LABEL_PREFIX}pid"}
        containers = await self._call(lambda client: client.containers(all=True, filters=filters), abandon=True)
        return [container for container in containers if is_orphan(container.get("Labels") or {})]

    async def unused_images(self) -> list[dict[str, Any]]:
        """Sandbox images of any version that no container uses, as the engine describes them."""
        filters = {"label": IMAGE_LABEL}
        try:
            images, containers = await self._call(
                lambda client: (client.images(filters=filters), client.containers(all=True)), abandon=True
            )
        except APIError as error:
            raise self._unavailable(error) from error
        used = {container["ImageID"] for container in containers}
        return [image for image in images if image["Id"] not in used]

    async def remove_image(self, image: str) -> str:
        """Remove an image, unless a container uses it.

        Returns:
            Why the image still exists; empty on success.
        """
        try:
            await self._call(lambda client: client.remove_image(image))
        except NotFound:
            return ""
        except APIError as error:
            return str(error.explanation or error)
        return ""

    async def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The engine's own description (GET /info and GET /version)."""
        return await self._call(lambda client: (client.info(), client.version()), abandon=True)

    async def create(self, spec: ContainerSpec) -> str:
        """Create a container, and return its id.

        Raises:
            SandboxStartError: The engine rejects it.
        """
        try:
            created = await self._call(lambda client: client.create_container_from_config(spec.arguments, spec.name))
        except ImageNotFound as error:
            image = spec.arguments["Image"]
            self._checked.discard(image)
            raise _missing_image(image) from error
        except APIError as error:
            raise _engine_error(error) from error
        container: str = created["Id"]
        return container

    async def attach(self, container: str, *, stdin: bool) -> ByteStream:
        """Connect to a container's standard streams, multiplexed as one stream.

        Args:
            container: Id or name.
            stdin: Whether to connect standard input too.

        Raises:
            SandboxStartError: The engine rejects it.
        """
        params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
        try:
            raw = await self._call(lambda client: client.attach_socket(container, params=params))
        except APIError as error:
            raise _engine_error(error) from error
        return await adopt(raw)

    async def start(self, container: str) -> None:
        """Start a container. Raises SandboxStartError if the engine fails."""
        try:
            await self._call(lambda client: client.start(container))
        except APIError as error:
            raise _engine_error(error) from error

    async def remove(self, container: str, *, seconds: float) -> str:
        """Kill and remove a container in any state, even if cancelled.

        Args:
            container: Id or name.
            seconds: Limit for the removal.

        Returns:
            Why the container may still exist; empty on success.
        """
        with anyio.CancelScope(shield=True):
            async with _limits().removals:
                with anyio.move_on_after(seconds):
                    return await self._remove(container)
        return f"the engine did not remove it within {seconds:g} s"

    async def _remove(self, container: str) -> str:
        try:
            await self._call(lambda client: client.remove_container(container, force=True, v=True), abandon=True)
        except NotFound:
            return ""
        except EngineUnavailable as error:
            return str(error)
        except APIError as error:
            # 409: the container has ended, and its removal is in progress.
            return await self._wait_until_gone(container) if error.status_code == 409 else str(error)
        return ""

    async def _wait_until_gone(self, container: str) -> str:
        try:
            while True:
                await self._call(lambda client: client.inspect_container(container), abandon=True)
                await anyio.sleep(GONE_POLL_SECONDS)
        except NotFound:
            return ""
        except (EngineUnavailable, APIError) as error:
            return str(error)

    async def exit_reason(self, container: str) -> str:
        """Why a container ended, according to the engine's event history, which outlives the container."""
        try:
            events = await self._call(lambda client: list(_last_events(client, container)), abandon=True)
        except (EngineUnavailable, APIError) as error:
            return f"the engine gave no reason ({error})"
        killed = [event["Actor"]["Attributes"].get("signal") for event in events if event.get("Action") == "kill"]
        codes = [event["Actor"]["Attributes"].get("exitCode") for event in events if event.get("Action") == "die"]
        if killed:
            return f"it was killed from outside (signal {killed[0]})"
        if codes == [str(SIGKILL_CODE)] and any(event.get("Action") == "oom" for event in events):
            return "it ran out of memory"
        if codes:
            return f"its first process ended with exit code {codes[0]}"
        return "the engine gave no reason"

    async def _call(self, request: Callable[[docker.APIClient], T], *, abandon: bool = False) -> T:
        """Run `request` with the client in a thread. With `abandon`, a cancellation does not wait for the answer."""
        return await anyio.to_thread.run_sync(
            lambda: self._request(request), limiter=_limits().threads, abandon_on_cancel=abandon
        )

    def _request(self, request: Callable[[docker.APIClient], T]) -> T:
        try:
            with self._client_lock:
                if self._client is None:
                    self._client = self._connect()
            answer = request(self._client)
            self._has_answered = True
            return answer
        except (APIError, EngineUnavailable):
            raise
        except (DockerException, requests.RequestException, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> EngineUnavailable:
        if "Permission denied" in str(error):
            return EngineUnavailable(
                f"Permission denied by the Docker engine at {self._address}: add yourself to the group `docker` "
                "(`sudo usermod -aG docker $USER`, then log in again), or set DOCKER_HOST to another engine."
            )
        return EngineUnavailable(
            f"The Docker engine at {self._address} does not answer ({_reason(error)}): start it "
            "(`sudo systemctl start docker`, or Docker Desktop), or set DOCKER_HOST to a running engine."
        )


def _reason(error: BaseException) -> str:
    """The operating system's error message, which the client wraps several times; otherwise the client's."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and isinstance(inner.strerror, str):  # errors of requests are OSErrors too
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return str(error)


def _missing_image(image: str) -> EngineUnavailable:
    return EngineUnavailable(f"The sandbox image {image!r} is missing: build it with `rlm image build`.")


def _engine_error(error: APIError) -> SandboxStartError:
    return SandboxStartError(f"The engine could not start a sandbox: {error.explanation or error}.")


def _last_events(client: docker.APIClient, container: str) -> Iterator[dict[str, Any]]:
    """A container's events in the engine's history, up to the container's end."""
    until = f"{time.time() + HISTORY_SECONDS:.3f}"
    filters = {"container": container, "event": ["kill", "oom", "die"]}
    with closing(client.events(since=0, until=until, filters=filters, decode=True)) as events:
        for event in events:
            yield event
            if event.get("Action") == "die":
                return


_engines: dict[tuple[object, ...], Engine] = {}
_engines_lock = threading.Lock()
_config_lock = threading.Lock()


def default_engine() -> Engine:
    """The engine of the `docker` command: DOCKER_HOST, otherwise the current context. One object per process."""
    host, context = (os.environ.get(name, "").strip() for name in ("DOCKER_HOST", "DOCKER_CONTEXT"))
    key = (os.getpid(), host, context)  # a forked process must not share the connections of its parent
    with _engines_lock:
        engine = _engines.get(key)
        if engine is None:
            engine = Engine(_connect, host or f"context {context or 'default'!r}")
            _engines[key] = engine
            atexit.register(engine.close)
        return engine


class _Client(docker.APIClient):  # type: ignore[misc]
    """A client whose requests ignore what only `requests` reads: certificates, and proxies of a local engine.

    The `docker` command does the same.
    """

    def merge_environment_settings(self, url: str, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """The settings of one request."""
        given = dict(proxies or {})  # before the environment's are added to it
        merged = super().merge_environment_settings(url, proxies, stream, verify, cert)
        merged["verify"] = self.verify if verify is None else verify
        if _is_local(url):
            merged["proxies"] = given
        return merged


def _is_local(url: str) -> bool:
    """Whether the engine at a URL runs on this machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return True  # a socket or pipe
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"


def _connect() -> docker.APIClient:
    """Create a client as the environment and the configuration of the `docker` command say.

    Raises:
        EngineUnavailable: a variable or file is invalid. The message names it.
        DockerException: the engine does not answer.
    """
    file = _config_file()
    problem = settings.config_problem(file)
    options = {"version": "auto", "timeout": ENGINE_SECONDS, **_options(settings.current_context(file))}
    if problem:
        _log.warning("docker_config_ignored", advice=problem)
    with _without_config() if problem else nullcontext():
        try:
            return _Client(**options)
        except DockerException:
            raise
        except (AttributeError, ImportError, KeyError, LookupError, TypeError, ValueError) as error:
            raise EngineUnavailable(settings.unusable(f"{type(error).__name__}: {error}")) from error


def config_problem() -> str:
    """What is wrong with the configuration of the `docker` command, as a sentence; empty if nothing is."""
    return settings.config_problem(_config_file())


def _config_file() -> Path:
    return Path(docker.utils.config.find_config_file() or settings.default_file())


@contextmanager
def _without_config() -> Iterator[None]:
    """Let the library read an empty configuration, which cannot be passed to it."""
    with _config_lock:
        load = docker.utils.config.load_general_config
        docker.utils.config.load_general_config = lambda *_: {"auths": {}}  # it reads the file again for {}
        try:
            yield
        finally:
            docker.utils.config.load_general_config = load


def _options(current_context: str) -> dict[str, Any]:
    """The address of the engine, and its certificates."""
    variables = {name: value.strip() for name, value in os.environ.items() if name.startswith("DOCKER_")}
    try:
        options: dict[str, Any] = docker.utils.kwargs_from_env(variables) if variables else {}
    except (DockerException, OSError) as error:
        raise EngineUnavailable(settings.certificates_unusable()) from error
    if "base_url" in options:
        try:
            docker.utils.parse_host(options["base_url"], tls="tls" in options)
        except (DockerException, ValueError) as error:
            raise EngineUnavailable(
                "DOCKER_HOST is not the address of an engine: use a form like unix:///var/run/docker.sock or "
                "tcp://host:2376, or unset it."
            ) from error
        return options
    name = variables.get("DOCKER_CONTEXT") or current_context
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # the library raises a bare Exception for a damaged file
        raise EngineUnavailable(settings.context_unusable(name, "its file is damaged")) from error
    if context is None:
        raise EngineUnavailable(settings.context_unusable(name, "it does not exist"))
    return {"base_url": context.Host, "tls": context.TLSConfig or False}
