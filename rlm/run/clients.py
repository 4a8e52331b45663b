"""The model of each level, and the connections of models."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from weakref import WeakKeyDictionary

import anyio

from rlm.errors import ConfigError
from rlm.models.base import Model
from rlm.models.openai import OpenAIModel
from rlm.models.options import MAX_TOKENS_FIELD, model_arguments, sub_model_options
from rlm.models.settings import Settings, require_trusted_address
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


def model_by_name(
    name: str,
    *,
    sub_base_url: str | None = None,
    max_concurrency: int | None = 64,
    options: Mapping[str, object] = MappingProxyType({}),
) -> OpenAIModel:
    """A model by its name, at the server of the environment, or at a separate one for sub-calls.

    A separate server gets its own key (`RLM_SUB_API_KEY`) or none, never the root's. `options` are validated ones (see
    `rlm.models.options`).

    Raises:
        ConfigError: a key is missing, or an address is invalid or less trusted than its key.
    """
    if sub_base_url is None:
        return OpenAIModel(name, max_concurrency=max_concurrency, **model_arguments(options))
    settings = Settings()
    key = settings.sub_api_key
    if sub_base_url == settings.sub_base_url:
        require_trusted_address("RLM_SUB_BASE_URL", "RLM_SUB_API_KEY")
    return OpenAIModel(
        name,
        base_url=sub_base_url,
        api_key="" if key is None else key.get_secret_value(),
        max_concurrency=max_concurrency,
        **model_arguments(options),
    )


async def find_windows(models: Collection[Model]) -> None:
    """Ask the servers of these models for unknown windows, all at once. Takes a few seconds at most."""
    async with anyio.create_task_group() as group:
        for model in {*models}:
            group.start_soon(model.find_window)


class Clients:
    """The models of one orchestrator. Safe for use from several threads and event loops.

    Args:
        max_concurrent: requests of one named model in flight at once; None is no limit.
    """

    def __init__(self, *, max_concurrent: int | None) -> None:
        self._max_concurrent = max_concurrent
        self._named: dict[tuple[str, str | None, str], Model] = {}  # by name, separate server and options
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
        wanted = {level: options.level_models.get(level, default) for level, default in defaults.items()}
        return {
            level: self._resolve(model, level, _options_of(model, level, wanted[0], options))
            for level, model in wanted.items()
        }

    def restore_model(
        self, level: int, model: ModelRecord, options: Options, *, root: ModelRecord | None = None
    ) -> Model:
        """The recorded model of a level: the caller's object of that name, or a client with the recorded options.

        Args:
            level: the level.
            model: the record of its model.
            options: the options with which the run is resumed.
            root: the record of the root model; None is `model`.

        Raises:
            ConfigError: the options name another model or have other options for it, or an object is missing.
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
        client = self._resolve(model.name, level, self._recorded_options(level, model, root, options))
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

    def _resolve(self, model: str | Model, level: int, options: Mapping[str, object]) -> Model:
        """The model, or the one client that all users of a name, server and options share."""
        if not isinstance(model, str):
            return model
        server = Settings().sub_base_url if level else None
        key = (model, server, json.dumps(dict(options), sort_keys=True))
        with _lock:
            if key not in self._named:
                self._named[key] = model_by_name(
                    model, sub_base_url=server, max_concurrency=self._max_concurrent, options=options
                )
            return self._named[key]

    def _recorded_options(
        self, level: int, model: ModelRecord, root: ModelRecord | None, options: Options
    ) -> dict[str, object]:
        """The recorded options of a model. Raises ConfigError if the caller passes others."""
        now = model_arguments(_options_of(model.name, level, (root or model).name, options))
        if (options.sub_model_options if level else options.model_options) is not None and (
            now["sampling"] != model.parameters or now["context_window"] not in (None, model.context_window)
        ):
            recorded = {**model.parameters, "context_window": model.context_window}
            name = "sub_model_options" if level else "model_options"
            raise ConfigError(f"The run has {model.name} with {recorded}, which cannot change: leave {name} out.")
        field = {MAX_TOKENS_FIELD: now[MAX_TOKENS_FIELD]} if MAX_TOKENS_FIELD in now else {}
        return {**field, **model.parameters, "context_window": model.context_window}


def _options_of(model: str | Model, level: int, root: str | Model, options: Options) -> Mapping[str, object]:
    """The options of a level's model, if it is given by name: those passed, else those of the environment."""
    if not isinstance(model, str):
        return {}
    settings = Settings()
    root_options = settings.model_options if options.model_options is None else options.model_options
    if level == 0:
        return root_options
    own = settings.sub_model_options if options.sub_model_options is None else options.sub_model_options
    return sub_model_options(root_options, own, same_model=model == root and settings.sub_base_url is None)


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
