"""The Docker engine: containers, their connections, their end. The only importer of `docker`, and of what it raises."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import docker
import requests
from anyio.abc import ByteStream
from anyio.lowlevel import RunVar
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from rlm._util.logs import get_logger
from rlm.errors import EngineUnavailable, SandboxStartError

from .image import DIGEST_LABEL, IMAGE_LABEL, source_digest
from .owner import PREFIX, is_orphan
from .runtimes import GVISOR, is_gvisor, known_holes
from .sockets import adopt
from .spec import ContainerSpec

ENGINE_SECONDS: Final = 30.0  # for the engine to answer one request
STARTS: Final = max(4, os.cpu_count() or 1)  # containers in the making at once; more at once take as long
REMOVALS: Final = 8  # containers being removed at once; they never wait for starts
LOOKS: Final = 4  # other requests at once
GONE_POLL_SECONDS: Final = 0.02
RETURN_SECONDS: Final = 30.0  # for an engine that is being restarted to answer again
RETURN_POLL_SECONDS: Final = 0.25
HISTORY_SECONDS: Final = 2.0  # for the engine to know of a container's end, after its streams have ended
HOW_TO_ADD_GVISOR: Final = (
    f"install gVisor (on Debian: `apt-get install runsc`) and add it to the engine's runtimes as `{GVISOR}` "
    "(docs/engines.md)"
)
SIGKILL_CODE: Final = 137  # 128 + SIGKILL, a container's exit code

_log = get_logger("rlm.engine")

T = TypeVar("T")


class _Limits:
    """How much one event loop asks of engines at once."""

    def __init__(self) -> None:
        self.starts = anyio.CapacityLimiter(STARTS)
        self.removals = anyio.CapacityLimiter(REMOVALS)
        self.threads = anyio.CapacityLimiter(STARTS + REMOVALS + LOOKS)


_limits_of_loop: RunVar[_Limits] = RunVar("rlm_engine_limits")


def _limits() -> _Limits:
    try:
        return _limits_of_loop.get()
    except LookupError:
        limits = _Limits()
        _limits_of_loop.set(limits)
        return limits


class Engine:
    """One Docker engine. Its client blocks, so every request runs in a thread; one object serves all event loops.

    All methods raise EngineUnavailable when the engine does not answer. Where one says nothing about cancellation, it is
    deferred until the engine has answered: then what the engine did is known, and can be undone.

    Args:
        connect: makes a client.
        address: of the engine, for error messages.
    """

    def __init__(self, connect: Callable[[], docker.APIClient], address: str) -> None:
        self._connect = connect
        self._address = address
        self._client: docker.APIClient | None = None
        self._client_lock = threading.Lock()
        self._checked: set[str] = set()
        self._runtimes: set[str | None] = set()
        self._looked_for_orphans = False
        self._has_answered = False

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def starts(self) -> anyio.CapacityLimiter:
        """To be held while a container starts."""
        return _limits().starts

    async def has_come_back(self) -> bool:
        """Wait, a bounded time, for an engine that has answered before: it may be restarting. False where it never had."""
        if not self._has_answered:
            return False
        with anyio.move_on_after(RETURN_SECONDS):
            while True:
                try:
                    await self._call(lambda client: client.ping(), abandon=True)
                except (EngineUnavailable, APIError):
                    await anyio.sleep(RETURN_POLL_SECONDS)
                else:
                    return True
        return False

    async def check_image(self, image: str) -> None:
        """Raises EngineUnavailable when the image is missing or was built from other sources. Checked once."""
        if image in self._checked:
            return
        try:
            found = await self._call(lambda client: client.inspect_image(image), abandon=True)
        except NotFound as error:
            raise _no_image(image) from error
        labels = found["Config"].get("Labels") or {}
        if labels.get(DIGEST_LABEL) != source_digest():
            raise EngineUnavailable(
                f"The sandbox image {image!r} was built from other sources than this version of rlm: "
                "build it again with `rlm image build` (or `make image`)."
            )
        self._checked.add(image)

    async def check_runtime(self, runtime: str | None) -> None:
        """Warns of a runtime with known holes, once. None is the engine's default.

        Raises:
            EngineUnavailable: the engine does not offer it.
        """
        if runtime in self._runtimes:
            return
        if runtime is None:
            version = await self._call(lambda client: client.version(), abandon=True)
            if (warning := known_holes(version.get("Components") or ())) and None not in self._runtimes:
                _log.warning("runtime_has_known_holes", advice=warning)
        else:
            offered = (await self._call(lambda client: client.info(), abandon=True)).get("Runtimes") or {}
            if runtime not in offered:
                how = f"; {HOW_TO_ADD_GVISOR}" if is_gvisor(runtime) else ""
                raise EngineUnavailable(
                    f"The Docker engine at {self._address} offers no runtime {runtime!r}, only {', '.join(sorted(offered))}"
                    f"{how}."
                )
        self._runtimes.add(runtime)

    async def remove_orphans(self, *, seconds: float) -> None:
        """Remove what processes of this user left when they were killed. Once; a container gets so many seconds."""
        if self._looked_for_orphans:
            return
        self._looked_for_orphans = True  # by now: others may start while it looks
        try:
            found = await self._orphans()
        except APIError as error:
            _log.warning("orphans_not_looked_for", reason=str(error))
            return
        except BaseException:  # there is no engine yet, or this was cancelled
            self._looked_for_orphans = False
            raise
        async with anyio.create_task_group() as removals:
            for container in found:
                _log.info("orphan_removed", container=container["Id"][:12])
                removals.start_soon(partial(self.remove, container["Id"], seconds=seconds))

    async def orphans(self) -> list[dict[str, Any]]:
        """The sandboxes that processes of this user left when they were killed, as the engine describes them."""
        try:
            return await self._orphans()
        except APIError as error:
            raise self._unavailable(error) from error

    async def _orphans(self) -> list[dict[str, Any]]:
        filters = {"label": f"{PREFIX}pid"}
        found = await self._call(lambda client: client.containers(all=True, filters=filters), abandon=True)
        return [container for container in found if is_orphan(container.get("Labels") or {})]

    async def idle_images(self) -> list[dict[str, Any]]:
        """The sandbox images, of whatever version, that no container uses, as the engine describes them."""
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
        """Remove an image, unless a container uses it by now.

        Returns:
            Nothing, or why it is still there.
        """
        try:
            await self._call(lambda client: client.remove_image(image))
        except NotFound:
            return ""
        except APIError as error:
            return str(error.explanation or error)
        return ""

    async def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the engine says of itself (GET /info and GET /version)."""
        return await self._call(lambda client: (client.info(), client.version()), abandon=True)

    async def create(self, spec: ContainerSpec) -> str:
        """The id of a new container.

        Raises:
            SandboxStartError: the engine refuses it.
        """
        try:
            created = await self._call(lambda client: client.create_container_from_config(spec.arguments, spec.name))
        except ImageNotFound as error:
            image = spec.arguments["Image"]
            self._checked.discard(image)
            raise _no_image(image) from error
        except APIError as error:
            raise _refused(error) from error
        container: str = created["Id"]
        return container

    async def attach(self, container: str, *, stdin: bool) -> ByteStream:
        """The container's standard streams, multiplexed, as one connection; without stdin those that it writes."""
        params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
        try:
            raw = await self._call(lambda client: client.attach_socket(container, params=params))
        except APIError as error:
            raise _refused(error) from error
        return await adopt(raw)

    async def start(self, container: str) -> None:
        """Raises SandboxStartError when the engine cannot."""
        try:
            await self._call(lambda client: client.start(container))
        except APIError as error:
            raise _refused(error) from error

    async def remove(self, container: str, *, seconds: float) -> str:
        """Kill and remove, whatever its state; being cancelled changes nothing.

        Returns:
            Nothing, or why the container may still be there.
        """
        with anyio.CancelScope(shield=True):
            async with _limits().removals:
                with anyio.move_on_after(seconds):
                    return await self._remove(container)
        return f"the engine did not do it in {seconds:g} s"

    async def _remove(self, container: str) -> str:
        try:
            await self._call(lambda client: client.remove_container(container, force=True, v=True), abandon=True)
        except NotFound:
            return ""
        except EngineUnavailable as error:
            return str(error)
        except APIError as error:
            # 409: it has ended, and is being removed already.
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

    async def cause_of_end(self, container: str) -> str:
        """Why a container has ended, as far as the engine remembers; it does so after the container is gone."""
        try:
            events = await self._call(lambda client: list(_last_events(client, container)), abandon=True)
        except (EngineUnavailable, APIError) as error:
            return f"the engine does not say why ({error})"
        killed = [event["Actor"]["Attributes"].get("signal") for event in events if event.get("Action") == "kill"]
        codes = [event["Actor"]["Attributes"].get("exitCode") for event in events if event.get("Action") == "die"]
        if killed:
            return f"it was killed from outside (signal {killed[0]})"
        if codes == [str(SIGKILL_CODE)] and any(event.get("Action") == "oom" for event in events):
            return "all its memory was used up"
        if codes:
            return f"its first process ended with exit code {codes[0]}"
        return "the engine does not say why"

    async def _call(self, request: Callable[[docker.APIClient], T], *, abandon: bool = False) -> T:
        """Run `request` with the client in a thread; with `abandon` a cancellation ends the wait for it."""
        return await anyio.to_thread.run_sync(
            lambda: self._guarded(request), limiter=_limits().threads, abandon_on_cancel=abandon
        )

    def _guarded(self, request: Callable[[docker.APIClient], T]) -> T:
        try:
            with self._client_lock:
                if self._client is None:
                    self._client = self._connect()
            answer = request(self._client)
            self._has_answered = True
            return answer
        except APIError:
            raise
        except (DockerException, requests.RequestException, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> EngineUnavailable:
        if "Permission denied" in str(error):
            return EngineUnavailable(
                f"The Docker engine at {self._address} may not be used by this user: add it to the group `docker` "
                "(`sudo usermod -aG docker $USER`, then log in again), or set DOCKER_HOST to another engine."
            )
        return EngineUnavailable(
            f"The Docker engine at {self._address} does not answer ({_reason(error)}): start it "
            "(`sudo systemctl start docker`, Docker Desktop, or `make setup`), or set DOCKER_HOST to one that runs."
        )


def _reason(error: BaseException) -> str:
    """The system's words for what went wrong, which the client wraps several times; else the client's."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and isinstance(inner.strerror, str):  # requests' are OSErrors too
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return str(error)


def _no_image(image: str) -> EngineUnavailable:
    return EngineUnavailable(f"There is no sandbox image {image!r}: build it with `rlm image build` (or `make image`).")


def _refused(error: APIError) -> SandboxStartError:
    return SandboxStartError(f"The engine did not start a sandbox: {error.explanation or error}.")


def _last_events(client: docker.APIClient, container: str) -> Iterator[dict[str, Any]]:
    """What the engine still knows of a container's history, up to its end."""
    until = f"{time.time() + HISTORY_SECONDS:.3f}"
    filters = {"container": container, "event": ["kill", "oom", "die"]}
    with closing(client.events(since=0, until=until, filters=filters, decode=True)) as events:
        for event in events:
            yield event
            if event.get("Action") == "die":
                return


_engines: dict[tuple[str | None, str | None], Engine] = {}
_engines_lock = threading.Lock()


def default_engine() -> Engine:
    """The engine that the `docker` command would use: DOCKER_HOST, else the current context. One for the process."""
    host, context = os.environ.get("DOCKER_HOST"), os.environ.get("DOCKER_CONTEXT")
    with _engines_lock:
        engine = _engines.get((host, context))
        if engine is None:
            engine = Engine(_connect, host or f"context {context or 'default'!r}")
            _engines[host, context] = engine
            atexit.register(engine.close)
        return engine


def _connect() -> docker.APIClient:
    options: dict[str, Any] = docker.utils.kwargs_from_env()
    if "base_url" not in options and (context := ContextAPI.get_current_context()) is not None:
        options = {"base_url": context.Host, "tls": context.TLSConfig or False}
    return docker.APIClient(version="auto", timeout=ENGINE_SECONDS, **options)
