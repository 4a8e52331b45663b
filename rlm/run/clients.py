"""The model of each level, and the connections of models."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

import anyio

from rlm.errors import ConfigError
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.models.settings import Settings
from rlm.store.record import ModelRecord

from .options import Options, slots_of

CLOSE_SECONDS: Final = 5.0  # timeout for closing the connections to a provider


@dataclass(slots=True)
class _Users:
    """The number of users of one event loop's connections, and the models that hold the connections."""

    count: int = 0
    models: set[Model] = field(default_factory=set)


_used: WeakKeyDictionary[asyncio.AbstractEventLoop, Counter[Model]] = WeakKeyDictionary()  # by number of orchestrators
_lock = threading.Lock()


def model_by_name(name: str, *, sub_base_url: str | None = None, max_concurrency: int | None = 64) -> OpenAIModel:
    """A model by its name, at the server of the environment, or at a separate one for sub-calls.

    A separate server gets its own key (`RLM_SUB_API_KEY`) or none, never the root's.

    Raises:
        ConfigError: a key is missing, or an address is invalid.
    """
    if sub_base_url is None:
        return OpenAIModel(name, max_concurrency=max_concurrency)
    key = Settings().sub_api_key
    return OpenAIModel(
        name,
        base_url=sub_base_url,
        api_key="" if key is None else key.get_secret_value(),
        max_concurrency=max_concurrency,
    )


class Clients:
    """The models of one orchestrator. Safe for use from several threads and event loops.

    Args:
        max_concurrent: requests of one named model in flight at once; None is no limit.
    """

    def __init__(self, *, max_concurrent: int | None) -> None:
        self._max_concurrent = max_concurrent
        self._named: dict[tuple[str, str | None], Model] = {}  # by name and separate server
        self._users: WeakKeyDictionary[asyncio.AbstractEventLoop, _Users] = WeakKeyDictionary()

    def models(self, options: Options) -> dict[int, Model]:
        """The model of each level, from the root to the level of plain calls.

        Raises:
            ConfigError: the run has more levels than sandboxes, or a named model is not available.
        """
        slots_of(options)  # fails before any model is made
        model, sub_model = options.model, options.sub_model
        if model is None:
            settings = Settings()
            model, sub_model = settings.model, sub_model or settings.sub_model
        defaults = {0: model} | dict.fromkeys(range(1, max(1, options.depth) + 1), sub_model or model)
        return {
            level: self._resolve(options.level_models.get(level, default), level) for level, default in defaults.items()
        }

    def restore_model(self, level: int, model: ModelRecord, options: Options) -> Model:
        """The recorded model of a level: the caller's object of that name, or a new client for the name.

        Raises:
            ConfigError: the options name another model, or an object is missing.
        """
        requested = options.level_models.get(level, options.sub_model if level else options.model)
        if requested is not None and _name(requested) != model.name:
            raise ConfigError(
                f"The run has the model {model.name} at level {level}, which cannot change to {_name(requested)}."
            )
        for each in (requested, options.model, options.sub_model):
            if each is not None and not isinstance(each, str) and each.name == model.name:
                return each
        if model.server is None:
            raise ConfigError(
                f"The model {model.name} of level {level} was given as an object: pass it again as model, sub_model or in "
                "level_models."
            )
        client = self._resolve(model.name, level)
        if isinstance(client, OpenAIModel) and client.base_url != model.server:
            set_by = "OPENAI_BASE_URL and RLM_SUB_BASE_URL" if level else "OPENAI_BASE_URL"
            raise ConfigError(
                f"The run used {model.name} at {model.server}, not at {client.base_url}: restore {set_by}."
            )
        return client

    @asynccontextmanager
    async def connections(self, models: Collection[Model]) -> AsyncIterator[None]:
        """Keep connections open on this event loop. The last user closes them.

        Several orchestrators may share a model on one loop. Each counts as one user.
        """
        loop = asyncio.get_running_loop()
        with _lock:
            users = self._users.setdefault(loop, _Users())
            users.count += 1
            _used.setdefault(loop, Counter()).update({*models} - users.models)
            users.models.update(models)
        try:
            yield
        finally:
            with _lock:
                users.count -= 1
                unused = users.count == 0
                if unused:
                    del self._users[loop]
            for model in users.models if unused else ():
                if _release(loop, model):  # no await before `aclose`, so that no task starts to use it in between
                    with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                        await model.aclose()

    def _resolve(self, model: str | Model, level: int) -> Model:
        """The model, or the one client that all users of a name and server share."""
        if not isinstance(model, str):
            return model
        server = Settings().sub_base_url if level else None
        with _lock:
            if (model, server) not in self._named:
                self._named[model, server] = model_by_name(
                    model, sub_base_url=server, max_concurrency=self._max_concurrent
                )
            return self._named[model, server]


def _release(loop: asyncio.AbstractEventLoop, model: Model) -> bool:
    """Remove one orchestrator from the users of a model on this loop. Returns whether no user is left."""
    with _lock:
        used = _used[loop]
        used[model] -= 1
        if used[model]:
            return False
        del used[model]
        if not used:
            del _used[loop]
        return True


def _name(model: str | Model) -> str:
    return model if isinstance(model, str) else model.name
