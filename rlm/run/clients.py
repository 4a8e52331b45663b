"""Which model serves which level, and the connections of those that were given by name."""

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

CLOSE_SECONDS: Final = 5.0  # for the connections to a provider


@dataclass(slots=True)
class _Users:
    """Of one event loop: how many use its connections, and the models that hold them."""

    count: int = 0
    models: set[Model] = field(default_factory=set)


_used: WeakKeyDictionary[asyncio.AbstractEventLoop, Counter[Model]] = WeakKeyDictionary()  # by so many orchestrators
_lock = threading.Lock()


def named(name: str, *, sub_base_url: str | None = None, max_concurrency: int | None = 64) -> OpenAIModel:
    """A model by its name, at the server of the environment, or at one that calls have of their own.

    The latter gets the key that is meant for it (`RLM_SUB_API_KEY`), or none: never the root's.

    Raises:
        ConfigError: there is no key, or an address cannot be.
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
    """The models of one orchestrator. Safe from many threads and event loops.

    Args:
        max_concurrent: requests of one named model in flight at once; None is any number.
    """

    def __init__(self, *, max_concurrent: int | None) -> None:
        self._max_concurrent = max_concurrent
        self._named: dict[tuple[str, str | None], Model] = {}  # by name, and the server where it is the calls' own
        self._users: WeakKeyDictionary[asyncio.AbstractEventLoop, _Users] = WeakKeyDictionary()

    def models(self, options: Options) -> dict[int, Model]:
        """The model of each level, from the root to the level of plain calls.

        Raises:
            ConfigError: there are more levels than sandboxes, or a named model cannot be.
        """
        slots_of(options)  # before anything is made for levels that cannot be
        model, sub_model = options.model, options.sub_model
        if model is None:
            settings = Settings()
            model, sub_model = settings.model, sub_model or settings.sub_model
        given = {0: model} | dict.fromkeys(range(1, max(1, options.depth) + 1), sub_model or model)
        return {
            level: self._resolve(options.level_models.get(level, default), level) for level, default in given.items()
        }

    def restore_model(self, level: int, model: ModelRecord, options: Options) -> Model:
        """The model that a level of a run had: the caller's object of that name, or made again from its name.

        Raises:
            ConfigError: it is another one now, or cannot be made again.
        """
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
        client = self._resolve(model.name, level)
        if isinstance(client, OpenAIModel) and client.base_url != model.server:
            set_by = "OPENAI_BASE_URL and RLM_SUB_BASE_URL" if level else "OPENAI_BASE_URL"
            raise ConfigError(
                f"The run asked {model.name} at {model.server}, and would ask it at {client.base_url} now: set {set_by} "
                "back."
            )
        return client

    @asynccontextmanager
    async def connections(self, models: Collection[Model]) -> AsyncIterator[None]:
        """Connections belong to an event loop, and stay open there while anyone uses them: the last to leave closes them.

        A model may be used by several orchestrators on one loop; each of them counts as one user of it.
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
                left = users.count == 0
                if left:
                    del self._users[loop]
            for model in users.models if left else ():
                if _leave(loop, model):  # and nobody comes in between: there is no await
                    with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                        await model.aclose()

    def _resolve(self, model: str | Model, level: int) -> Model:
        """A name stands for one client at one server, shared by all that use it."""
        if not isinstance(model, str):
            return model
        server = Settings().sub_base_url if level else None
        with _lock:
            if (model, server) not in self._named:
                self._named[model, server] = named(model, sub_base_url=server, max_concurrency=self._max_concurrent)
            return self._named[model, server]


def _leave(loop: asyncio.AbstractEventLoop, model: Model) -> bool:
    """An orchestrator no longer uses a model on this loop; whether none does."""
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
