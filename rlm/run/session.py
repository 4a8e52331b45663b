"""Several questions in one sandbox and one conversation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.from_thread import BlockingPortal

from rlm._util.portal import wait_for
from rlm.errors import ConfigError
from rlm.sandbox.values import encode
from rlm.store.contexts import stored_contexts
from rlm.store.record import RunRecord
from rlm.types import Completion, Context, Usage

from .active import ActiveRun, RunQuestion
from .clients import Clients
from .lifecycle import raise_if_limited, resume_run, start_run
from .options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run on the disk that is to go on."""

    directory: Path
    record: RunRecord


class Session:
    """A conversation with one RLM; from `Orchestrator.session()`:

        with orchestrator.session() as session:
            session.ask("How many contracts are there?", Path("contracts"))
            session.ask("Which of them end this year?")

    Its sandbox and all variables stay from question to question, and so does the conversation, which cells find as
    `history`. Each context that comes with a question is `context` from then on, and `context_0`, `context_1`, ... for good.
    All questions count in one budget; the clock of `max_seconds` runs while one is answered. It has one run directory, and
    goes on after a crash with `Orchestrator.session(resume=...)`.

    It is a context manager, sync or async. An error ends it, but for a `ConfigError` about a further question.

    Attributes:
        completions: of the questions up to now.
    """

    def __init__(
        self,
        options: Options,
        clients: Clients,
        *,
        portal: Callable[[], AbstractContextManager[BlockingPortal]],
        recorded: StoredRun | None = None,
    ) -> None:
        self._options = options
        self._clients = clients
        self._make_portal = portal
        self._recorded = recorded
        self._blocking = ExitStack()
        self._portal: BlockingPortal | None = None
        self._resources = AsyncExitStack()
        self._tree: ActiveRun | None = None
        self._busy = False
        self._open = False
        self.completions: list[Completion] = []

    @property
    def directory(self) -> Path | None:
        """Of the run; None before the first question."""
        return None if self._tree is None else self._tree.directory

    @property
    def usage(self) -> Usage:
        """Of all questions."""
        return Usage() if self._tree is None else self._tree.usage

    def ask(self, query: str, context: Context | None = None) -> Completion:
        """Ask a question. Blocks.

        Args:
            query: the question.
            context: the long text or data that comes with it; the first question needs one. See `Orchestrator.completion`.

        Raises:
            ConfigError: the session is not open, is busy, or the context cannot be.
            and what `Orchestrator.completion` raises: the session is closed then, and can be resumed.
        """
        if self._portal is None:
            raise ConfigError("The session is not open: use `with orchestrator.session() as session`.")
        return wait_for(self._portal, partial(self.aask, query, context))

    async def aask(self, query: str, context: Context | None = None) -> Completion:
        """As `ask`, on the event loop of the session. Cancelling it closes the session."""
        if not isinstance(query, str) or not query.strip():
            raise ConfigError("The question is empty: give a str.")
        if not self._open:
            where = "" if self.directory is None else f" with orchestrator.session(resume={self.directory.name!r})"
            raise ConfigError(f"The session is closed: open one with `with orchestrator.session()`, or go on{where}.")
        if self._busy:
            raise ConfigError("The session is answering a question: ask the next one after that.")
        if context is None and self._tree is None:
            raise ConfigError("The first question of a session needs a context.")
        value = None if context is None else encode(context, max_bytes=self._options.limits.max_context_bytes)
        question = RunQuestion(query=query, context=value, source=context if isinstance(context, Path) else None)
        self._busy = True
        try:
            completion = await (await self._tree_for(question)).ask(question)
        except BaseException as error:
            if not (isinstance(error, ConfigError) and self.completions):
                await self._close(error)
            raise
        finally:
            self._busy = False
        self.completions.append(completion)
        return raise_if_limited(completion, self._options)

    async def _tree_for(self, question: RunQuestion) -> ActiveRun:
        if self._tree is None:
            models = self._clients.models(self._options)
            await self._resources.enter_async_context(self._clients.connections(models.values()))
            opening = start_run(options=self._options, models=models, question=question, numbered=True)
            self._tree = await self._resources.enter_async_context(opening)
        return self._tree

    async def _go_on(self, recorded: StoredRun) -> None:
        """Open the run again, with all its questions answered."""
        record, directory = recorded.record, recorded.directory
        contexts = await anyio.to_thread.run_sync(stored_contexts, directory, record)
        models = {
            level: self._clients.restore_model(level, model, self._options) for level, model in record.models.items()
        }
        await self._resources.enter_async_context(self._clients.connections(models.values()))
        opening = resume_run(options=self._options, models=models, record=record, directory=directory, numbered=True)
        self._tree = await self._resources.enter_async_context(opening)
        self.completions += await self._tree.ask_again(contexts)

    async def _close(self, error: BaseException | None) -> None:
        self._open = False
        resources, self._resources = self._resources, AsyncExitStack()
        kind = None if error is None else type(error)
        await resources.__aexit__(kind, error, None if error is None else error.__traceback__)

    async def __aenter__(self) -> Self:
        self._open = True
        if self._recorded is not None:
            try:
                await self._go_on(self._recorded)
            except BaseException as error:
                await self._close(error)
                raise
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
        with self._blocking:
            assert self._portal is not None
            portal, self._portal = self._portal, None
            wait_for(portal, partial(self.__aexit__, None, None, None))
