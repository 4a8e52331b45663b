"""The public entry: one question over one context, however long, answered by a tree of RLMs."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypedDict, Unpack
from weakref import WeakKeyDictionary

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from .config import Limits, SandboxConfig
from .errors import ConfigError
from .events import OnEvent
from .models.base import Model
from .models.openai import OpenAIModel
from .prompts import SystemPrompt, question_from
from .run import Options, run
from .sandbox.base import SandboxFactory
from .sandbox.values import encode
from .settings import Settings
from .types import Completion, Context

STOP_SECONDS: Final = 15.0  # for an interrupted run to remove its containers
CLOSE_SECONDS: Final = 5.0  # for the connections to a provider


class OptionsDict(TypedDict, total=False):
    """The arguments of `Orchestrator`, each of which a single completion may set differently."""

    depth: int
    model: str | Model | None
    sub_model: str | Model | None
    level_models: Mapping[int, str | Model]
    limits: Limits
    sandbox: SandboxConfig
    sandboxes: SandboxFactory | None
    system_prompt: SystemPrompt
    run_root: Path | None
    verbose: bool
    on_event: OnEvent | None


@dataclass(slots=True)
class _Users:
    """Of one event loop: how many use its connections, and the models that hold them."""

    count: int = 0
    models: set[Model] = field(default_factory=set)


class Orchestrator:
    """Runs completions. Safe from many threads and tasks at once.

    It can be used as a context manager, sync or async, which keeps connections open between completions; it does not
    have to be.

    Args:
        depth: levels below the root that may be called. 0: code only; 1: calls are plain model calls; 2: calls are RLMs
            whose calls are plain; and so on (the paper's d0, d1, ...). Default 1.
        model: drives the root RLM: a name at the OpenAI-compatible endpoint of the environment, or a `Model`. None takes
            `RLM_MODEL`, else gpt-5.
        sub_model: serves every level below. None takes `RLM_SUB_MODEL`, else `model` where that was given, else
            gpt-5-mini.
        level_models: models for single levels (0 is the root), over the two above.
        limits: what a run may use, over its whole tree.
        sandbox: the policy of the containers.
        sandboxes: makes the sandboxes, where they are not to be Docker containers (tests).
        system_prompt: makes the system prompt of an RLM from its facts: the hook for wording of one's own, by model.
        run_root: where run directories are made. None is `rlm/runs` in the user's state directory (XDG).
        verbose: show the run on the terminal (standard error).
        on_event: called with every event, in order. What it raises ends the run.

    Raises:
        ConfigError: an argument cannot be.
    """

    def __init__(self, **options: Unpack[OptionsDict]) -> None:
        self._options = _replace(Options(), options)
        self._named: dict[str, Model] = {}
        self._lock = threading.Lock()
        self._users: WeakKeyDictionary[asyncio.AbstractEventLoop, _Users] = WeakKeyDictionary()
        self._portal: BlockingPortal | None = None
        self._entered = ExitStack()

    def completion(self, context: Context, query: str | None = None, **overrides: Unpack[OptionsDict]) -> Completion:
        """Answer `query` from `context`. Blocks; works inside a running event loop too (a notebook).

        Args:
            context: the long prompt: text, bytes, a list or dict of plain data (chat messages too), or a `Path` to a
                file or folder. Tuples arrive as lists.
            query: the question; None when it is part of the context.
            overrides: any argument of `Orchestrator`, for this completion only.

        Raises:
            ConfigError: something asked for cannot be.
            EngineUnavailable: Docker cannot be reached or lacks the image.
            ModelError: the root model gives no usable reply.
            SandboxError: sandboxes cannot be started, or were lost time and again.
        """
        ended = threading.Event()

        async def work() -> Completion:
            try:
                return await self.acompletion(context, query, **overrides)
            finally:
                ended.set()

        with self._borrowed_portal() as portal:
            future: Future[Completion] = portal.start_task_soon(work)
            try:
                return future.result()
            except KeyboardInterrupt:
                future.cancel()
                ended.wait(STOP_SECONDS)  # the run removes its containers
                raise

    async def acompletion(
        self, context: Context, query: str | None = None, **overrides: Unpack[OptionsDict]
    ) -> Completion:
        """As `completion`, on the running asyncio event loop. Cancelling it removes the run's containers."""
        options = _replace(self._options, overrides)
        if query is not None and not isinstance(query, str):
            raise ConfigError(f"The query is a {type(query).__name__}: give a str, or None if the context holds it.")
        value = encode(context, max_bytes=options.limits.max_context_bytes)
        if query is None and isinstance(context, str):
            query = question_from(context)
        models = self._models(options)
        self._use(models.values())
        try:
            source = context if isinstance(context, Path) else None
            return await run(options=options, models=models, context=value, query=query, source=source)
        finally:
            await self._release()

    def __enter__(self) -> Self:
        self._portal = self._entered.enter_context(start_blocking_portal())
        self._entered.callback(self._portal.call, self.__aexit__, None, None, None)
        self._portal.call(self.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal = None
        self._entered.close()

    async def __aenter__(self) -> Self:
        self._use(())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._release()

    @contextmanager
    def _borrowed_portal(self) -> Iterator[BlockingPortal]:
        """The event loop thread of an entered orchestrator, or one for this call alone."""
        if self._portal is not None:
            yield self._portal
        else:
            with start_blocking_portal() as portal:
                yield portal

    def _use(self, models: Collection[Model]) -> None:
        """Connections belong to an event loop, and stay open there while anyone uses them."""
        with self._lock:
            users = self._users.setdefault(asyncio.get_running_loop(), _Users())
            users.count += 1
            users.models.update(models)

    async def _release(self) -> None:
        """The last one to leave an event loop closes the connections that were opened there."""
        loop = asyncio.get_running_loop()
        with self._lock:
            users = self._users[loop]
            users.count -= 1
            if users.count:
                return
            del self._users[loop]
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            for model in users.models:
                await model.aclose()

    def _models(self, options: Options) -> dict[int, Model]:
        """The model of each level, from the root to the level of plain calls."""
        model, sub_model = options.model, options.sub_model
        if model is None:
            settings = Settings()
            model, sub_model = settings.model, sub_model or settings.sub_model
        given = {0: model} | dict.fromkeys(range(1, max(1, options.depth) + 1), sub_model or model)
        return {level: self._resolve(options.level_models.get(level, default)) for level, default in given.items()}

    def _resolve(self, model: str | Model) -> Model:
        """A name stands for one client, shared by all completions of this orchestrator."""
        if not isinstance(model, str):
            return model
        with self._lock:
            if model not in self._named:
                self._named[model] = OpenAIModel(model, max_concurrency=self._options.limits.max_concurrent_calls)
            return self._named[model]


def _replace(options: Options, changes: OptionsDict) -> Options:
    unknown = changes.keys() - OptionsDict.__annotations__.keys()
    if unknown:
        known = ", ".join(OptionsDict.__annotations__)
        raise ConfigError(f"There is no option {', '.join(sorted(unknown))}; the options are: {known}.")
    return dataclasses.replace(options, **changes)
