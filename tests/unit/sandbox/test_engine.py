"""The engine client: requests, translated errors, clean-up."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import docker
import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from rlm.config import SandboxConfig
from rlm.errors import EngineUnavailable, SandboxStartError
from rlm.sandbox.docker.engine import Engine
from rlm.sandbox.docker.image import source_digest
from rlm.sandbox.docker.owner import owner_labels
from rlm.sandbox.docker.spec import container_spec

pytestmark = pytest.mark.anyio

SPEC = container_spec(SandboxConfig(), name="rlm-x", image="picture", uid=20_000, labels={}, seccomp="{}")


def refusal(status: int, words: str = "no") -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("", response=response, explanation=words)


class Events(list[dict[str, Any]]):
    def close(self) -> None:
        """Mimics the client's stream of events."""


class FakeClient:
    """Answers each request with its next scripted item: returned, raised, or called."""

    def __init__(self, **answers: list[Any]) -> None:
        self._answers = {name: iter(values) for name, values in answers.items()}
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def request(*args: Any, **options: Any) -> Any:
            self.asked.append(name)
            answer = next(self._answers[name])
            if isinstance(answer, Exception):
                raise answer
            return answer() if callable(answer) else answer

        return request


def engine(**answers: list[Any]) -> Engine:
    client = FakeClient(**answers)
    return Engine(lambda: client, "somewhere")


def image(digest: str) -> dict[str, Any]:
    return {"Config": {"Labels": {"rlm.digest": digest}}}


@pytest.mark.parametrize(
    "problem", [requests.ConnectionError("refused"), DockerException("bad address"), OSError("no route")]
)
async def test_an_engine_that_does_not_answer_is_named_with_the_way_to_start_it(problem: Exception) -> None:
    def connect() -> docker.APIClient:
        raise problem

    with pytest.raises(EngineUnavailable, match=r"somewhere.*start it") as caught:
        await Engine(connect, "somewhere").check_image("picture")
    assert caught.value.__cause__ is problem
    with pytest.raises(EngineUnavailable, match="somewhere"):
        await engine(create_container_from_config=[problem]).create(SPEC)


async def test_an_engine_without_permission_is_distinguished() -> None:
    problem = DockerException("('Connection aborted.', PermissionError(13, 'Permission denied'))")
    with pytest.raises(EngineUnavailable, match="group `docker`"):
        await engine(inspect_image=[problem]).check_image("picture")


async def test_an_engine_that_restarts_is_waited_for_and_one_that_never_was_there_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rlm.sandbox.docker.engine.RESTART_POLL_SECONDS", 0.0)
    down = requests.ConnectionError("down")
    restarted = engine(start=[None, down], ping=[down, refusal(503), True])
    assert not await restarted.wait_for_restart()
    await restarted.start("x")
    with pytest.raises(EngineUnavailable):
        await restarted.start("x")
    assert await restarted.wait_for_restart()


async def test_an_engine_that_does_not_return_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlm.sandbox.docker.engine.RESTART_POLL_SECONDS", 0.001)
    monkeypatch.setattr("rlm.sandbox.docker.engine.RESTART_SECONDS", 0.02)
    gone = engine(start=[None], ping=[requests.ConnectionError("down")] * 1000)
    await gone.start("x")
    assert not await gone.wait_for_restart()


async def test_an_unreachable_engine_is_reported_with_the_systems_reason() -> None:
    def refuse() -> None:
        try:
            try:
                raise FileNotFoundError(2, "No such file or directory")
            except OSError as error:
                raise requests.ConnectionError("Connection aborted.", error)  # noqa: B904 - the client does the same
        except requests.RequestException as error:
            raise DockerException(f"Error while fetching server API version: {error}") from error

    with pytest.raises(EngineUnavailable, match=r"somewhere does not answer \(No such file or directory\): start it"):
        await engine(info=[refuse]).facts()


async def test_an_engine_that_starts_later_is_used() -> None:
    client = FakeClient(start=[None])
    tries: Iterator[object] = iter([requests.ConnectionError(), client])

    def connect() -> Any:
        found = next(tries)
        if isinstance(found, Exception):
            raise found
        return found

    engine = Engine(connect, "somewhere")
    with pytest.raises(EngineUnavailable):
        await engine.start("x")
    await engine.start("x")
    assert client.asked == ["start"]


async def test_an_image_is_checked_once() -> None:
    await engine(inspect_image=[image(source_digest())]).check_image("picture")
    checked = engine(inspect_image=[image(source_digest())])
    await checked.check_image("picture")
    await checked.check_image("picture")


async def test_orphans_of_a_killed_process_are_removed_once_and_nothing_else() -> None:
    mine = owner_labels()
    gone = mine | {"rlm.owner.start": "1"}
    strangers = gone | {"rlm.owner.uid": "another"}
    found = [{"Id": name, "Labels": labels} for name, labels in {"a": mine, "b": gone, "c": strangers, "d": {}}.items()]
    removed: list[str] = []
    client: Any = FakeClient(containers=[found])
    client.remove_container = lambda container, **options: removed.append(container)
    engine = Engine(lambda: client, "somewhere")
    await engine.remove_orphans(seconds=1)
    await engine.remove_orphans(seconds=1)
    assert removed == ["b"]


async def test_orphans_are_searched_again_if_the_first_search_found_no_engine() -> None:
    client = FakeClient(containers=[requests.ConnectionError("refused"), []])
    engine = Engine(lambda: client, "somewhere")
    with pytest.raises(EngineUnavailable):
        await engine.remove_orphans(seconds=1)
    for _ in range(2):
        await engine.remove_orphans(seconds=1)
    assert client.asked == ["containers", "containers"]


async def test_an_engine_that_does_not_list_containers_still_serves() -> None:
    await engine(containers=[refusal(500)]).remove_orphans(seconds=1)


async def test_images_that_no_container_uses_are_idle_whatever_their_version() -> None:
    images, containers = [{"Id": "a"}, {"Id": "b"}], [{"ImageID": "b"}, {"ImageID": "c"}]
    assert await engine(images=[images], containers=[containers]).unused_images() == [{"Id": "a"}]


async def test_containers_that_an_engine_does_not_list_cannot_be_cleaned() -> None:
    for look in (engine(containers=[refusal(500)]).orphans, engine(images=[refusal(500)]).unused_images):
        with pytest.raises(EngineUnavailable, match="somewhere"):
            await look()


async def test_an_image_that_is_used_meanwhile_stays_and_one_that_is_gone_is_removed() -> None:
    refusing = engine(remove_image=[refusal(409, "a container uses it"), NotFound("none"), None])
    assert [await refusing.remove_image("a") for _ in range(3)] == ["a container uses it", "", ""]


async def test_a_vulnerable_runtime_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    old = engine(version=[{"Components": [{"Name": "runc", "Version": "1.1.5"}]}])
    await old.check_runtime(None)
    await old.check_runtime(None)
    assert [("runc 1.1.5" in record.getMessage(), record.levelname) for record in caplog.records] == [(True, "WARNING")]


async def test_a_missing_runtime_is_refused_with_a_list_of_the_available_ones() -> None:
    some = engine(info=[{"Runtimes": {"runc": {}, "io.containerd.runc.v2": {}}}] * 2)
    with pytest.raises(
        EngineUnavailable, match=r"no runtime 'runsc', only io.containerd.runc.v2, runc; install gVisor"
    ):
        await some.check_runtime("runsc")
    with pytest.raises(EngineUnavailable, match=r"no runtime 'kata', only io.containerd.runc.v2, runc\."):
        await some.check_runtime("kata")


async def test_a_runtime_that_is_offered_is_asked_for_once() -> None:
    good = engine(info=[{"Runtimes": {"runsc": {}}}])
    await good.check_runtime("runsc")
    await good.check_runtime("runsc")


@pytest.mark.parametrize("found", [image("other"), {"Config": {"Labels": None}}])
async def test_an_image_of_other_sources_is_refused(found: dict[str, Any]) -> None:
    with pytest.raises(EngineUnavailable, match=r"'picture'.*rlm image build"):
        await engine(inspect_image=[found]).check_image("picture")


async def test_a_removed_image_is_looked_up_again() -> None:
    missing = ImageNotFound("", response=refusal(404).response, explanation="No such image")
    known = engine(
        inspect_image=[missing, image(source_digest()), missing], create_container_from_config=[missing, {"Id": "abc"}]
    )
    for check in (known.check_image("picture"), known.create(SPEC)):
        with pytest.raises(EngineUnavailable, match=r"'picture'.*rlm image build"):
            await check
    await known.check_image("picture")
    assert await known.create(SPEC) == "abc"


@pytest.mark.parametrize(
    "ask", [lambda to: to.create(SPEC), lambda to: to.attach("x", stdin=True), lambda to: to.start("x")]
)
async def test_a_refusal_of_the_engine_is_reported_in_its_words(ask: Callable[[Engine], Awaitable[object]]) -> None:
    refused = [refusal(400, "unknown runtime")]
    with pytest.raises(SandboxStartError, match="unknown runtime"):
        await ask(engine(create_container_from_config=refused, attach_socket=refused, start=refused))


GONE = NotFound("", response=refusal(404).response)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"remove_container": [None]}, ""),
        ({"remove_container": [GONE]}, ""),
        ({"remove_container": [refusal(409)], "inspect_container": [{}, {}, GONE]}, ""),
        ({"remove_container": [refusal(409)], "inspect_container": [refusal(500, "sorry")]}, "sorry"),
        ({"remove_container": [refusal(500, "device busy")]}, "device busy"),
        ({"remove_container": [requests.ConnectionError("gone away")]}, "gone away"),
    ],
    ids=["removed", "gone already", "going", "going, unknown", "refused", "no engine"],
)
async def test_removal_never_raises(answers: dict[str, list[Any]], problem: str) -> None:
    message = await engine(**answers).remove("x", seconds=5)
    assert bool(message) == bool(problem)
    assert problem in message


async def test_removal_is_bounded() -> None:
    answered = threading.Event()
    with anyio.fail_after(5):
        assert "0.05 s" in await engine(remove_container=[answered.wait]).remove("x", seconds=0.05)
    answered.set()


async def test_removal_completes_despite_cancellation() -> None:
    client = FakeClient(remove_container=[None])
    with anyio.CancelScope() as scope:
        scope.cancel()
        await Engine(lambda: client, "somewhere").remove("x", seconds=5)
    assert client.asked == ["remove_container"]


def event(action: str, **attributes: str) -> dict[str, Any]:
    return {"Action": action, "Actor": {"Attributes": attributes}}


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        ([event("kill", signal="9"), event("die", exitCode="137")], "killed from outside (signal 9)"),
        ([event("oom"), event("die", exitCode="137")], "out of memory"),
        ([event("oom"), event("die", exitCode="1")], "exit code 1"),
        ([event("die", exitCode="137")], "exit code 137"),
        ([], "gave no reason"),
    ],
)
async def test_the_cause_of_an_exit_comes_from_the_engine(events: list[dict[str, Any]], cause: str) -> None:
    assert cause in await engine(events=[Events(events)]).exit_reason("x")


async def test_without_an_engine_the_cause_of_an_exit_is_unknown() -> None:
    assert "gave no reason" in await engine(events=[requests.ConnectionError("down")]).exit_reason("x")
