"""Every error can be pickled and copied, so that it passes through process pools."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import rlm
from rlm.errors import LimitExceeded, ModelError, ReplayDivergedError, RLMError, RunCancelled
from rlm.types import Completion, Usage

VALUES: dict[str, Any] = {
    "message": "What happened, and what to do.",
    "usage": Usage(calls=1, output_tokens=3),
    "window": 4096,
    "status": 503,
    "request_id": "req-1",
    "finish_reason": "length",
    "text": "half",
    "thinking": "why",
    "node": "0.1",
    "ordinal": 2,
    "reason": "max_tokens",
    "may_succeed_later": True,
    "partial": Completion(
        answer="best",
        stop_reason="max_tokens",
        usage=Usage(calls=1),
        by_model={"m": Usage()},
        by_node={},
        seconds=1.0,
        iterations=2,
        depth_reached=1,
        sub_calls=0,
        sandboxes=1,
        run_id="r",
        run_dir=Path("run"),
    ),
}


def errors(kind: type[RLMError] = RLMError) -> Iterator[type[RLMError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from errors(inner)


def every_error() -> list[type[RLMError]]:
    for module in pkgutil.walk_packages(rlm.__path__, "rlm."):
        if module.name.split(".")[1] in ("calls", "errors", "loop", "models", "run", "sandbox", "store"):
            importlib.import_module(module.name)
    return [kind for kind in errors() if kind.__module__.startswith("rlm.")]


def made(kind: type[RLMError]) -> RLMError:
    """An error with a value for each argument that it takes."""
    if kind.__init__ is Exception.__init__:
        return kind(VALUES["message"])
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    positional = [VALUES[each.name] for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    named = {each.name: VALUES[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    return kind(*positional, **named)


def same(found: BaseException, error: BaseException) -> bool:
    return (type(found), str(found), found.args, found.__dict__) == (
        type(error),
        str(error),
        error.args,
        error.__dict__,
    )


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_can_be_pickled_and_copied_with_its_attributes_and_notes(kind: type[RLMError]) -> None:
    error = made(kind)
    error.add_note("To continue this run: rlm resume x")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert same(pickle.loads(pickle.dumps(error, protocol)), error)
    assert same(copy.copy(error), error)
    assert same(copy.deepcopy(error), error)


class OwnError(ModelError):
    """An error of a program, whose arguments are its own."""

    def __init__(self, *, place: str) -> None:
        super().__init__(f"No reply at {place}", status=500)
        self.place = place


def fails(name: str) -> None:
    raise {
        "cancelled": RunCancelled(),
        "diverged": ReplayDivergedError(node="0.2", ordinal=3),
        "own": OwnError(place="here"),
        "limit": LimitExceeded("Stopped.", partial=VALUES["partial"]),
    }[name]


def test_errors_pass_through_a_process_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        found = {name: pool.submit(fails, name).exception() for name in ("cancelled", "diverged", "own", "limit")}
    assert isinstance(found["cancelled"], RunCancelled)
    assert isinstance(found["diverged"], ReplayDivergedError)
    assert (found["diverged"].node, found["diverged"].ordinal) == ("0.2", 3)
    assert isinstance(found["own"], OwnError)
    assert (found["own"].place, found["own"].status) == ("here", 500)
    assert isinstance(found["limit"], LimitExceeded)
    assert found["limit"].partial == VALUES["partial"]
