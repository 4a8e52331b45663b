"""The public entry: one question over one context, however long, answered by a tree of RLMs."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypedDict, Unpack
from weakref import WeakKeyDictionary

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from .config import Limits, SandboxConfig
from .errors import ConfigError
from .events import OnEvent
from .models.base import Model
from .models.openai import OpenAIModel
from .models.prices import Price
from .models.scripted import ScriptedModel
from .prompts import SystemPrompt, question_from
from .record import ModelRecord, RunRecord, default_root, find, stored_context
from .run import Options, replay, resume, run
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
    on_limit: Literal["answer", "raise"]
    prices: Mapping[str, Price]
    sandbox: SandboxConfig
    sandboxes: SandboxFactory | None
    system_prompt: SystemPrompt
    tools: Mapping[str, Callable[..., object]]
    tools_for_children: bool
    run_root: Path | None
    cache: Path | None
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
        on_limit: what happens when a limit is reached: `answer` with what there is (`Completion.stop_reason` says which),
            or `raise` LimitExceeded, which holds that completion.
        prices: of models, by name. They come before what a provider reports and before the price list.
        sandbox: the policy of the containers.
        sandboxes: makes the sandboxes, where they are not to be Docker containers (tests).
        system_prompt: makes the system prompt of an RLM from its facts: the hook for wording of one's own, by model.
        tools: functions of the host that cells may call by name. They are described to the model by signature and docstring,
            and get plain data, checked strictly against their types. Coroutine functions run on the event loop, others in a
            thread. What they raise is logged on the host and not told, unless it is a `ToolError`.
        tools_for_children: whether recursive calls get them too.
        run_root: where run directories are made. None is `rlm/runs` in the user's state directory (XDG).
        cache: a file of replies that all runs share which name it: a request that was made before is not paid again.
        verbose: show the run on the terminal (standard error).
        on_event: called with every event, in order. What it raises ends the run.

    Raises:
        ConfigError: an argument cannot be.
    """

    def __init__(self, **options: Unpack[OptionsDict]) -> None:
        self._given = options
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
            LimitExceeded: a limit was reached, and `on_limit` is `raise`.
        """
        return self._block(partial(self.acompletion, context, query, **overrides))

    def resume(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Completion:
        """Go on with a run that was interrupted, in its own directory. Blocks.

        Its cells run again in new sandboxes; the calls in its journal are answered from there, and only those that are
        not are made. What it had used counts in its limits, but for the time: `max_seconds` begins anew.

        Args:
            run: its id, or its directory.
            overrides: any argument of `Orchestrator`, in place of what the run was started with. Models that were given
                as objects, and a `system_prompt`, have to be given again, here or to the `Orchestrator`.

        Raises:
            ConfigError: there is no such run, it is running or finished, its context has changed, or a model is missing.
            JournalError: its directory is damaged, or was written by a newer version.
            and what `completion` raises.
        """
        return self._block(partial(self.aresume, run, **overrides))

    def replay(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Completion:
        """Go through a finished run again with the replies in its journal and no model at all: a test of prompts and code.

        Its answer is to be compared with the run's `answer.txt`. The replay's events are in the run's `replays`.

        Raises:
            ReplayDiffers: a model would be asked for something else; it says where.
            and what `resume` raises.
        """
        return self._block(partial(self.areplay, run, **overrides))

    def _block(self, make: Callable[[], Awaitable[Completion]]) -> Completion:
        """Run it on an event loop of another thread."""
        ended = threading.Event()

        async def work() -> Completion:
            try:
                return await make()
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

    async def aresume(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Completion:
        """As `resume`, on the running asyncio event loop."""
        options, directory, record = self._recorded(run, overrides)
        if record.state == "finished":
            raise ConfigError(
                f"The run {record.run_id} is finished: its answer is in {directory / 'answer.txt'}, and `rlm replay` goes "
                "through it again."
            )
        record.refuse_if_alive()
        context = await anyio.to_thread.run_sync(stored_context, directory, record)
        models = {level: self._again(level, model, options) for level, model in record.models.items()}
        self._use(models.values())
        try:
            return await resume(options=options, models=models, context=context, record=record, directory=directory)
        finally:
            await self._release()

    async def areplay(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Completion:
        """As `replay`, on the running asyncio event loop."""
        options, directory, record = self._recorded(run, overrides)
        if record.state != "finished":
            raise ConfigError(f"The run {record.run_id} is not finished: `rlm resume` goes on with it.")
        if record.stop_reason == "deadline":
            raise ConfigError(f"The run {record.run_id} was ended by the clock, which no replay repeats.")
        context = await anyio.to_thread.run_sync(stored_context, directory, record)
        models = {level: ScriptedModel([], name=model.name) for level, model in record.models.items()}
        return await replay(options=options, models=models, context=context, record=record, directory=directory)

    def _recorded(self, run: str | Path, overrides: OptionsDict) -> tuple[Options, Path, RunRecord]:
        """A run of which the directory is left: its options, but for what is given now."""
        given: OptionsDict = {**self._given, **overrides}
        directory = find(run, _replace(Options(), given).run_root or default_root())
        record = RunRecord.load(directory)
        if given.setdefault("depth", record.depth) != record.depth:
            raise ConfigError(f"The run {record.run_id} has depth {record.depth}: it cannot go on with another.")
        limits = given.setdefault("limits", record.limits)
        for name in ("max_iterations", "max_output_chars"):  # models are told them, and have been
            if getattr(limits, name) != getattr(record.limits, name):
                raise ConfigError(f"The run {record.run_id} has {name}={getattr(record.limits, name)}: leave it so.")
        given.setdefault("sandbox", record.sandbox)
        return _replace(Options(), given), directory, record

    def _again(self, level: int, model: ModelRecord, options: Options) -> Model:
        """The model that a level of a run had: the caller's object of that name, or made again from its name."""
        wanted = options.level_models.get(level, options.sub_model if level else options.model)
        if wanted is not None and _name(wanted) != model.name:
            raise ConfigError(
                f"The run's model of level {level} is {model.name}: it cannot go on with {_name(wanted)}."
            )
        for each in (wanted, options.model, options.sub_model):
            if each is not None and not isinstance(each, str) and each.name == model.name:
                return each
        if model.server is None:
            raise ConfigError(
                f"The model {model.name} of level {level} was given as an object: give it again, as model, sub_model or "
                "in level_models."
            )
        named = self._resolve(model.name)
        if isinstance(named, OpenAIModel) and named.base_url != model.server:
            raise ConfigError(
                f"The run asked {model.name} at {model.server}, and OPENAI_BASE_URL is {named.base_url} now: set it back."
            )
        return named

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


def _name(model: str | Model) -> str:
    return model if isinstance(model, str) else model.name


def _replace(options: Options, changes: OptionsDict) -> Options:
    unknown = changes.keys() - OptionsDict.__annotations__.keys()
    if unknown:
        known = ", ".join(OptionsDict.__annotations__)
        raise ConfigError(f"There is no option {', '.join(sorted(unknown))}; the options are: {known}.")
    return dataclasses.replace(options, **changes)
