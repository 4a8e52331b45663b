"""The public entry: one question over one context, however long, answered by a tree of RLMs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from rlm.store.contexts import stored_contexts
from rlm.store.directory import default_root, find

from ._util.portal import wait_for
from .errors import ConfigError
from .events import Event
from .loop.control import RunControl
from .models.scripted import ScriptedModel
from .prompts import question_from
from .run.active import RunQuestion
from .run.clients import Clients
from .run.handle import Run
from .run.lifecycle import raise_if_limited, replay_run, resumable_stop, resume_run, start_run
from .run.options import Options, OptionsDict
from .run.session import Session, StoredRun
from .sandbox.values import encode
from .store.lock import ensure_unlocked
from .store.record import RunRecord
from .types import Completion, Context


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
            gpt-5-mini. A name is asked at the server of `RLM_SUB_BASE_URL`, where that is set.
        level_models: models for single levels (0 is the root), over the two above.
        limits: what a run may use, over its whole tree.
        on_limit: what happens when a limit is reached: `answer` with what there is (`Completion.stop_reason` says which),
            or `raise` LimitExceeded, which holds that completion.
        prices: of models, by name. They come before what a provider reports and before the price list.
        sandbox: the policy of the containers.
        sandbox_factory: makes the sandboxes, where they are not to be Docker containers (tests).
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
        self._options = Options().changed(options)
        self._clients = Clients(max_concurrent=self._options.limits.max_concurrent_calls)
        self._portal: BlockingPortal | None = None
        self._entered = ExitStack()
        self._staying = AsyncExitStack()

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

    def start(self, context: Context, query: str | None = None, **overrides: Unpack[OptionsDict]) -> Run:
        """As `completion`, but does not wait: the run goes on in a thread of its own, and can be watched and steered.

        Raises:
            ConfigError: an option cannot be. All else is raised by the run's `result()`.
        """
        return self._start(partial(self._complete, context, query), self._changed(overrides))

    def start_resume(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Run:
        """As `resume`, but does not wait; see `start`.

        Raises:
            ConfigError: there is no such run, or an option cannot be. All else is raised by the run's `result()`.
        """
        options, recorded = self._recorded(run, overrides)
        return self._start(partial(self._go_on, recorded), options)

    def _start(self, make: Callable[[Options, RunControl], Awaitable[Completion]], options: Options) -> Run:
        async def work(control: RunControl, take: Callable[[Event], None]) -> Completion:
            return await make(replace(options, on_event=_both(take, options.on_event)), control)

        return Run(work, RunControl(options.limits), portal=self._borrowed_portal)

    def session(self, *, resume: str | Path | None = None, **overrides: Unpack[OptionsDict]) -> Session:
        """Several questions in one sandbox and one conversation; see `Session`.

        Args:
            resume: the id or directory of a run or session to go on with: its questions are answered again from its
                journal (and the last one is finished, where it was not), then it takes further ones.
            overrides: any argument of `Orchestrator`, for this session only.

        Raises:
            ConfigError: something asked for cannot be.
        """
        if resume is None:
            return Session(self._changed(overrides), self._clients, portal=self._borrowed_portal)
        options, recorded = self._recorded(resume, overrides)
        ensure_unlocked(recorded.directory)
        return Session(options, self._clients, portal=self._borrowed_portal, recorded=recorded)

    def resume(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Completion:
        """Go on with a run that was interrupted, or that a limit ended which is raised now, in its own directory. Blocks.

        Its cells run again in new sandboxes; the calls in its journal are answered from there, and only those that are
        not are made. What it had used counts in its limits, but for the time: `max_seconds` begins anew.

        Args:
            run: its id, or its directory.
            overrides: any argument of `Orchestrator`, in place of what the run was started with. Models that were given
                as objects, and a `system_prompt`, have to be given again, here or to the `Orchestrator`.

        Raises:
            ConfigError: there is no such run, it is running or finished, its context has changed, or a model is missing.
            JournalError: its directory is damaged, or was written by a newer version.
            RLMError: what `completion` raises.
        """
        return self._block(partial(self.aresume, run, **overrides))

    def replay(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Completion:
        """Go through a finished run again with the replies in its journal and no model at all: a test of prompts and code.

        Its answer is to be compared with the run's `answer.txt`. The replay's events are in the run's `replays`.

        Raises:
            ReplayDivergedError: a model would be asked for something else; it says where.
            RLMError: what `resume` raises.
        """
        return self._block(partial(self.areplay, run, **overrides))

    def _block(self, make: Callable[[], Awaitable[Completion]]) -> Completion:
        with self._borrowed_portal() as portal:
            return wait_for(portal, make)

    async def acompletion(
        self, context: Context, query: str | None = None, **overrides: Unpack[OptionsDict]
    ) -> Completion:
        """As `completion`, on the running asyncio event loop. Cancelling it removes the run's containers."""
        return await self._complete(context, query, self._changed(overrides))

    async def _complete(
        self, context: Context, query: str | None, options: Options, control: RunControl | None = None
    ) -> Completion:
        if query is not None and not isinstance(query, str):
            raise ConfigError(f"The query is a {type(query).__name__}: give a str, or None if the context holds it.")
        value = encode(context, max_bytes=options.limits.max_context_bytes)
        if query is None and isinstance(context, str):
            query = question_from(context)
        question = RunQuestion(query=query, context=value, source=context if isinstance(context, Path) else None)
        models = self._clients.models(options)
        async with (
            self._clients.connections(models.values()),
            start_run(options=options, models=models, question=question, control=control) as tree,
        ):
            completion = await tree.ask(question)
        return raise_if_limited(completion, options)

    async def aresume(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Completion:
        """As `resume`, on the running asyncio event loop."""
        options, recorded = self._recorded(run, overrides)
        return await self._go_on(recorded, options)

    async def _go_on(self, recorded: StoredRun, options: Options, control: RunControl | None = None) -> Completion:
        record, directory = recorded.record, recorded.directory
        undo = resumable_stop(record, options.limits, directory)
        ensure_unlocked(directory)
        contexts = await anyio.to_thread.run_sync(stored_contexts, directory, record)
        models = {level: self._clients.restore_model(level, model, options) for level, model in record.models.items()}
        async with (
            self._clients.connections(models.values()),
            resume_run(
                options=options, models=models, record=record, directory=directory, control=control, undo=undo
            ) as tree,
        ):
            completions = await tree.ask_again(contexts)
        return raise_if_limited(completions[-1], options)

    async def areplay(self, run: str | Path, **overrides: Unpack[OptionsDict]) -> Completion:
        """As `replay`, on the running asyncio event loop."""
        options, recorded = self._recorded(run, overrides)
        record, directory = recorded.record, recorded.directory
        if record.state != "finished":
            raise ConfigError(f"The run {record.run_id} is not finished: `rlm resume` goes on with it.")
        contexts = await anyio.to_thread.run_sync(stored_contexts, directory, record)
        models = {
            level: ScriptedModel([], name=model.name, context_window=model.context_window)
            for level, model in record.models.items()
        }
        async with replay_run(options=options, models=models, record=record, directory=directory) as tree:
            completions = await tree.ask_again(contexts)
        return completions[-1]

    def _changed(self, overrides: OptionsDict) -> Options:
        return _with_view(self._options.changed(overrides))

    def _recorded(self, run: str | Path, overrides: OptionsDict) -> tuple[Options, StoredRun]:
        """A run of which the directory is left, and its options, but for what is given now."""
        given: OptionsDict = {**self._given, **overrides}
        directory = find(run, Options().changed(given).run_root or default_root())
        record = RunRecord.load(directory)
        if given.setdefault("depth", record.depth) != record.depth:
            raise ConfigError(f"The run {record.run_id} has depth {record.depth}: it cannot go on with another.")
        limits = given.setdefault("limits", record.limits_now)
        for name in ("max_iterations", "max_output_chars"):  # models are told them, and have been
            if getattr(limits, name) != getattr(record.limits, name):
                raise ConfigError(f"The run {record.run_id} has {name}={getattr(record.limits, name)}: leave it so.")
        given.setdefault("sandbox", record.sandbox)
        given["prices"] = {**record.prices, **given.get("prices", {})}
        return _with_view(Options().changed(given)), StoredRun(directory=directory, record=record)

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
        await self._staying.enter_async_context(self._clients.connections(()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._staying.aclose()

    @contextmanager
    def _borrowed_portal(self) -> Iterator[BlockingPortal]:
        """The event loop thread of an entered orchestrator, or one for this use alone."""
        if self._portal is not None:
            yield self._portal
        else:
            with start_blocking_portal() as portal:
                yield portal


def _with_view(options: Options) -> Options:
    """With a view of the run on the terminal, where `verbose` asks for one."""
    if not options.verbose:
        return options
    from rlm.live.verbose import ConsoleView

    return replace(options, on_event=_both(ConsoleView(), options.on_event))


def _both(first: Callable[[Event], None], second: Callable[[Event], None] | None) -> Callable[[Event], None]:
    if second is None:
        return first

    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell
