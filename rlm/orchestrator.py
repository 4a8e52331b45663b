"""The public entry point: a tree of RLMs answers a question about a context of any length. Imports run and below."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from anyio.from_thread import BlockingPortal

from ._util.portal import FORKED, NO_ASYNCIO, is_usable, open_portal, runs_asyncio, wait_for
from .config import Limits, SandboxConfig
from .errors import ConfigError
from .events import Event, OnEvent
from .loop.control import RunControl
from .models.base import Model
from .models.prices import Price
from .prompts import SystemPrompt, question_from
from .run.active import RunQuestion
from .run.clients import Clients
from .run.handle import Run
from .run.lifecycle import StoredRun, raise_if_limited, replay_run, resume_run, start_run
from .run.options import UNSET, Options, OptionsDict, explicit_options
from .run.session import Session
from .sandbox.base import SandboxFactory
from .sandbox.values import Value, read
from .store.lock import ensure_unlocked
from .types import Completion, Context

# Each method lists all options, so that editors, help() and type checkers know them. A unit test keeps the lists equal.


class Orchestrator:
    """Runs completions. Safe for use from several threads and tasks at once.

    As a context manager (sync or async) it keeps connections open between completions. That is optional.

    Args:
        depth: call levels below the root. 0: code only. 1: sub-calls are plain model calls. 2: sub-calls
            are RLMs, whose sub-calls are plain calls. And so on (the paper's d0, d1, ...). Default 1.
        model: drives the root RLM: a name at the OpenAI-compatible endpoint of the environment, or a `Model`. None uses
            `RLM_MODEL`, else gpt-5.
        sub_model: serves every level below. None uses `RLM_SUB_MODEL`, else `model` if given, else gpt-5-mini. A name is
            sent to the server of `RLM_SUB_BASE_URL`, if set.
        level_models: models by level (0 is the root). They take precedence over `model` and `sub_model`.
        model_options: options of a root model given by name: `context_window`, `max_output_tokens`, `max_tokens_field`,
            and fields of its requests, such as `temperature`. None uses `RLM_MODEL_OPTIONS`. A `Model` has its own.
        sub_model_options: the same for the levels below; None uses `RLM_SUB_MODEL_OPTIONS`. A sub-model that is the same
            model at the same server also has the root's options.
        limits: on usage, time and size, over the whole tree of a run.
        on_limit: what to do when a limit ends a run: `answer` returns the best answer (`Completion.stop_reason` names the
            limit); `raise` raises LimitExceeded, which carries that completion.
        prices: prices by model name, in dollars per million tokens. They override the provider's and the built-in
            ones.
        sandbox: policy of the containers.
        sandbox_factory: makes the sandboxes. None makes Docker containers.
        system_prompt: makes an RLM's system prompt from a `PromptContext`.
        tools: host functions that cells may call, by name. The model sees their signatures and docstrings. Arguments
            are plain data, validated against the type hints. Coroutine functions run on the event loop, others in a
            thread. Exceptions are logged on the host and hidden from the sandbox, except `ToolError`.
        tools_for_children: also give the tools to recursive calls.
        run_root: directory for run directories. None is `rlm/runs` in the user's state directory (XDG).
        cache: file of replies, shared by all runs that name it. A request found there is not sent again.
        verbose: show the run on the terminal (standard error).
        on_event: called with every event, in order. An exception it raises ends the run.

    Raises:
        ConfigError: an option is invalid.
    """

    def __init__(
        self, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> None:  # fmt: skip
        self._explicit = explicit_options(locals())
        self._options = Options().changed(self._explicit)
        self._clients = Clients(max_concurrent=self._options.limits.max_concurrent_calls)
        self._portal: BlockingPortal | None = None
        self._entered = ExitStack()
        self._connections = AsyncExitStack()

    def completion(
        self, context: Context, query: str | None = None, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Completion:  # fmt: skip
        """Answer `query` from `context`. Blocks; also works inside a running event loop (a notebook).

        The options are those of `Orchestrator`, for this completion only.

        Args:
            context: the long input: text, bytes, a list or dict of plain data (such as chat messages), or a `Path` to a
                file or folder. Tuples arrive as lists.
            query: the question. None if the context contains it.

        Raises:
            ConfigError: an argument is invalid.
            EngineUnavailable: Docker is unreachable, or the image is missing.
            ModelError: the root model gave no usable reply.
            SandboxError: sandboxes failed to start, or were lost repeatedly.
            LimitExceeded: a limit ended the run, and `on_limit` is `raise`.
        """
        return self._block(partial(self._complete, context, query, self._options_with(explicit_options(locals()))))

    async def acompletion(
        self, context: Context, query: str | None = None, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Completion:  # fmt: skip
        """As `completion`, on the running asyncio event loop. Cancelling it removes the run's containers."""
        return await self._complete(context, query, self._options_with(explicit_options(locals())))

    def start(
        self, context: Context | Value, query: str | None = None, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Run:  # fmt: skip
        """Start a `completion` in a new thread, and return a handle to watch and control it.

        Raises:
            ConfigError: an option is invalid. The handle's `result()` raises everything else.
        """
        return self._start(partial(self._complete, context, query), self._options_with(explicit_options(locals())))

    def session(
        self, *, resume: str | Path | None = None,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Session:  # fmt: skip
        """Open a session: several questions in one sandbox and one conversation. See `Session`.

        The options are those of `Orchestrator`, for this session only.

        Args:
            resume: ID or directory of a run or session to continue. Its questions are answered again from its journal,
                and an interrupted one is finished; then the session takes further questions.

        Raises:
            ConfigError: an argument is invalid.
        """
        overrides = explicit_options(locals())
        if resume is None:
            return Session(self._options_with(overrides), self._clients, portal=self._borrowed_portal)
        stored = self._stored(resume, overrides)
        ensure_unlocked(stored.directory)
        return Session(stored.options, self._clients, portal=self._borrowed_portal, stored=stored)

    def resume(
        self, run: str | Path, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Completion:  # fmt: skip
        """Resume a run that was interrupted, or stopped by a limit that you now raise, in its own directory. Blocks.

        Cells run again in new sandboxes. Recorded calls are served from the journal and not billed again. Earlier usage
        counts against the limits, except the time: `max_seconds` starts from zero.

        Options that you do not pass keep the values of the run. Pass models that were objects, and a `system_prompt`,
        again, here or to the `Orchestrator`.

        Args:
            run: its ID or directory.

        Raises:
            ConfigError: the run does not exist, is running or has finished; its context has changed; or a model is
                missing.
            JournalError: the run directory is damaged, or a newer version wrote it.
            RLMError: what `completion` raises.
        """
        return self._block(partial(self._resume, self._stored(run, explicit_options(locals()))))

    async def aresume(
        self, run: str | Path, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Completion:  # fmt: skip
        """As `resume`, on the running asyncio event loop."""
        return await self._resume(self._stored(run, explicit_options(locals())))

    def start_resume(
        self, run: str | Path, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Run:  # fmt: skip
        """Start a `resume` in a new thread; see `start`.

        Raises:
            ConfigError: the run does not exist, or an option is invalid. The handle's `result()` raises everything else.
        """
        stored = self._stored(run, explicit_options(locals()))
        return self._start(
            lambda options, control: self._resume(replace(stored, options=options), control), stored.options
        )

    def replay(
        self, run: str | Path, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Completion:  # fmt: skip
        """Replay a finished run without a model: the journal supplies the replies. Blocks.

        A replay tests prompts and code: compare its answer with the run's `answer.txt`. Its events are in the run's
        `replays` directory.

        Args:
            run: its ID or directory.

        Raises:
            ReplayDivergedError: a request differs from the recorded one. The error names its node and number.
            RLMError: what `resume` raises.
        """
        return self._block(partial(self._replay, self._stored(run, explicit_options(locals()))))

    async def areplay(
        self, run: str | Path, *,
        depth: int = UNSET, model: str | Model | None = UNSET, sub_model: str | Model | None = UNSET,
        level_models: Mapping[int, str | Model] = UNSET, model_options: Mapping[str, object] | None = UNSET,
        sub_model_options: Mapping[str, object] | None = UNSET, limits: Limits = UNSET,
        on_limit: Literal["answer", "raise"] = UNSET, prices: Mapping[str, Price] = UNSET,
        sandbox: SandboxConfig = UNSET, sandbox_factory: SandboxFactory | None = UNSET,
        system_prompt: SystemPrompt = UNSET, tools: Mapping[str, Callable[..., object]] = UNSET,
        tools_for_children: bool = UNSET, run_root: str | Path | None = UNSET, cache: str | Path | None = UNSET,
        verbose: bool = UNSET, on_event: OnEvent | None = UNSET,
    ) -> Completion:  # fmt: skip
        """As `replay`, on the running asyncio event loop."""
        return await self._replay(self._stored(run, explicit_options(locals())))

    # Shared implementation

    async def _complete(
        self, context: Context | Value, query: str | None, options: Options, control: RunControl | None = None
    ) -> Completion:
        if not runs_asyncio():
            raise ConfigError(NO_ASYNCIO)
        if query is not None and not isinstance(query, str):
            raise ConfigError(f"query is a {type(query).__name__}: pass a str, or None if the context contains it.")
        value = await read(context, max_bytes=options.limits.max_context_bytes)
        if query is None and isinstance(context, str):
            query = question_from(context)
        question = RunQuestion(query=query, context=value, source=value.source)
        async with start_run(options, self._clients, question, control=control) as run:
            completion = await run.ask(question)
        return raise_if_limited(completion, options)

    async def _resume(self, stored: StoredRun, control: RunControl | None = None) -> Completion:
        if not runs_asyncio():
            raise ConfigError(NO_ASYNCIO)
        async with resume_run(stored, self._clients, control=control) as run:
            completion = run.completions[-1]
        return raise_if_limited(completion, stored.options)

    async def _replay(self, stored: StoredRun) -> Completion:
        if not runs_asyncio():
            raise ConfigError(NO_ASYNCIO)
        async with replay_run(stored) as run:
            return run.completions[-1]

    def _block(self, make: Callable[[], Awaitable[Completion]]) -> Completion:
        with self._borrowed_portal() as portal:
            return wait_for(portal, make)

    def _start(self, make: Callable[[Options, RunControl], Awaitable[Completion]], options: Options) -> Run:
        async def work(control: RunControl, on_event: Callable[[Event], None]) -> Completion:
            return await make(replace(options, on_event=_chained(on_event, options.on_event)), control)

        return Run(work, RunControl(options.limits), portal=self._borrowed_portal)

    def _options_with(self, overrides: OptionsDict) -> Options:
        return _with_view(self._options.changed(overrides))

    def _stored(self, run: str | Path, overrides: OptionsDict) -> StoredRun:
        stored = StoredRun.load(run, {**self._explicit, **overrides})
        return replace(stored, options=_with_view(stored.options))

    def __enter__(self) -> Self:
        self._portal = self._entered.enter_context(open_portal())
        self._entered.callback(self._portal.call, self.__aexit__, None, None, None)
        self._portal.call(self.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        portal, self._portal = self._portal, None
        if portal is None or is_usable(portal):
            self._entered.close()
        else:
            self._entered.pop_all()

    async def __aenter__(self) -> Self:
        if not runs_asyncio():
            raise ConfigError(NO_ASYNCIO)
        await self._connections.enter_async_context(self._clients.connections(()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.aclose()

    @contextmanager
    def _borrowed_portal(self) -> Iterator[BlockingPortal]:
        """The event loop thread of an entered orchestrator, or one for this use only."""
        if self._portal is not None:
            if not is_usable(self._portal):
                raise ConfigError(FORKED)
            yield self._portal
        else:
            with open_portal() as portal:
                yield portal


def _with_view(options: Options) -> Options:
    """The options with a view of the run on the terminal, if `verbose` is set."""
    if not options.verbose:
        return options
    from rlm.live.verbose import VerboseView

    return replace(options, on_event=_chained(VerboseView(), options.on_event))


def _chained(first: Callable[[Event], None], second: Callable[[Event], None] | None) -> Callable[[Event], None]:
    """One listener that passes each event to both."""
    if second is None:
        return first

    def emit(event: Event) -> None:
        first(event)
        second(event)

    return emit
