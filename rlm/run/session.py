"""A session: several questions in one sandbox and one conversation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio.from_thread import BlockingPortal

from rlm._util.portal import FORKED, NO_ASYNCIO, is_usable, runs_asyncio, wait_for
from rlm.errors import ConfigError
from rlm.sandbox.values import read
from rlm.types import Completion, Context, Usage

from .active import ActiveRun, RunQuestion
from .clients import Clients
from .lifecycle import StoredRun, raise_if_limited, resume_run, start_run
from .options import Options


class Session:
    """A conversation with one RLM; from `Orchestrator.session()`:

        with orchestrator.session() as session:
            session.ask("How many contracts are there?", Path("contracts"))
            session.ask("Which of them end this year?")

    All questions share the sandbox with its variables, and the conversation, which cells can read as `history`.
    A question's context is `context` from then on. All contexts stay available as `context_0`, `context_1`, ...
    All questions share one budget and one run directory. The clock of `max_seconds` runs only during questions.
    After a crash, continue with `Orchestrator.session(resume=...)`.

    A context manager, sync or async. Any error closes it, except a `ConfigError` about a further question.
    """

    def __init__(
        self,
        options: Options,
        clients: Clients,
        *,
        portal: Callable[[], AbstractContextManager[BlockingPortal]],
        stored: StoredRun | None = None,
    ) -> None:
        self._options = options
        self._clients = clients
        self._make_portal = portal
        self._stored = stored
        self._blocking = ExitStack()
        self._portal: BlockingPortal | None = None
        self._resources = AsyncExitStack()
        self._run: ActiveRun | None = None
        self._busy = False
        self._open = False

    @property
    def completions(self) -> list[Completion]:
        """The answers to all questions so far."""
        return [] if self._run is None else list(self._run.completions)

    @property
    def directory(self) -> Path | None:
        """The run directory; None before the first question."""
        return None if self._run is None else self._run.directory

    @property
    def usage(self) -> Usage:
        """The usage of all questions."""
        return Usage() if self._run is None else self._run.usage

    def ask(self, query: str, context: Context | None = None) -> Completion:
        """Ask a question. Blocks.

        Args:
            query: the question.
            context: the long input; the first question requires one. See `Orchestrator.completion`.

        Raises:
            ConfigError: the session is closed or busy, or an argument is invalid.
            RLMError: what `Orchestrator.completion` raises. The session is closed then; resume it to continue.
        """
        if self._portal is None:
            raise ConfigError("The session is not open: use `with orchestrator.session() as session`.")
        if not is_usable(self._portal):
            raise ConfigError(FORKED)
        return wait_for(self._portal, partial(self.aask, query, context))

    async def aask(self, query: str, context: Context | None = None) -> Completion:
        """As `ask`, on the event loop of the session. Cancelling it closes the session."""
        if not isinstance(query, str) or not query.strip():
            raise ConfigError("The question is empty: pass a str.")
        if not self._open:
            resume = "" if self.directory is None else f"resume={self.directory.name!r}"
            raise ConfigError(f"The session is closed: open one with `with orchestrator.session({resume})`.")
        if self._busy:
            raise ConfigError("The session is busy with a question: ask the next one when it is answered.")
        if context is None and self._run is None:
            raise ConfigError("The first question of a session needs a context.")
        self._busy = True
        try:
            value = None if context is None else await read(context, max_bytes=self._options.limits.max_context_bytes)
        except BaseException:
            self._busy = False
            raise
        question = RunQuestion(query=query, context=value, source=None if value is None else value.source)
        try:
            run = await self._ensure_run(question)
            completion = await run.ask(question)
        except BaseException as error:
            if not (isinstance(error, ConfigError) and self.completions):
                await self._close(error)
            raise
        finally:
            self._busy = False
        return raise_if_limited(completion, self._options)

    async def _ensure_run(self, question: RunQuestion) -> ActiveRun:
        if self._run is None:
            starting = start_run(self._options, self._clients, question, numbered=True)
            self._run = await self._resources.enter_async_context(starting)
        return self._run

    async def _close(self, error: BaseException | None) -> None:
        self._open = False
        resources, self._resources = self._resources, AsyncExitStack()
        kind = None if error is None else type(error)
        await resources.__aexit__(kind, error, None if error is None else error.__traceback__)

    async def __aenter__(self) -> Self:
        if not runs_asyncio():
            raise ConfigError(NO_ASYNCIO)
        if self._stored is not None:
            resuming = resume_run(self._stored, self._clients, session=True)
            self._run = await self._resources.enter_async_context(resuming)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(None)

    def __enter__(self) -> Self:
        with ExitStack() as entering:
            self._portal = entering.enter_context(self._make_portal())
            wait_for(self._portal, self.__aenter__)
            self._blocking = entering.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._portal is not None and not is_usable(self._portal):
            self._blocking.pop_all()
            return
        with self._blocking:
            assert self._portal is not None
            portal, self._portal = self._portal, None
            wait_for(portal, partial(self.__aexit__, None, None, None))
