"""One run: its id, directory, budget and events around the root RLM."""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Literal, TextIO

import anyio

from .broker import Answered, Task
from .budget import Budget
from .calls import Calls
from .config import Limits, SandboxConfig
from .console import ConsoleView
from .errors import ConfigError, LimitExceeded
from .events import (
    Event,
    EventLog,
    OnEvent,
    RLMStarted,
    RunFinished,
    RunStarted,
    SandboxLost,
    SubCallStarted,
)
from .logs import get_logger
from .loop import Services, rlm_loop
from .models.base import HoldsKeys, Model
from .models.prices import Price
from .prompts import SystemPrompt, default_system_prompt
from .sandbox.base import SandboxFactory
from .sandbox.container import DockerSandboxes
from .sandbox.values import Value
from .slots import LevelSlots
from .types import Completion, StopReason, Usage

_log = get_logger("rlm.run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How runs are made; see `Orchestrator` for the meaning of each."""

    depth: int = 1
    model: str | Model | None = None
    sub_model: str | Model | None = None
    level_models: Mapping[int, str | Model] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    on_limit: Literal["answer", "raise"] = "answer"
    prices: Mapping[str, Price] = field(default_factory=dict)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    sandboxes: SandboxFactory | None = None
    system_prompt: SystemPrompt = default_system_prompt
    run_root: Path | None = None
    verbose: bool = False
    on_event: OnEvent | None = None

    def __post_init__(self) -> None:
        if type(self.depth) is not int or self.depth < 0:
            raise ConfigError(f"depth={self.depth!r} is not a number of levels: give 0, 1, 2, ...")
        if self.limits.max_depth is not None and self.depth > self.limits.max_depth:
            raise ConfigError(
                f"depth={self.depth} is more than Limits(max_depth={self.limits.max_depth}) allows: give a smaller depth."
            )
        if self.on_limit not in ("answer", "raise"):
            raise ConfigError(f"on_limit={self.on_limit!r} cannot be: give 'answer' or 'raise'.")
        for name, price in self.prices.items():
            if not isinstance(price, Price):
                raise ConfigError(f"prices[{name!r}] is a {type(price).__name__}: give Price(input=..., output=...).")


async def run(*, options: Options, models: Mapping[int, Model], context: Value, query: str | None) -> Completion:
    """Answer one question with a tree of RLMs; `models` has one for each level from 0 to max(1, depth).

    Raises what `Orchestrator.completion` says.
    """
    limits = options.limits
    _refuse_unknown_prices(options, models)
    slots = LevelSlots(slots=limits.max_sandboxes, levels=max(1, options.depth))
    tally = _Tally()
    listeners: list[OnEvent] = [tally]
    if options.verbose:
        listeners.append(ConsoleView())
    if options.on_event is not None:
        listeners.append(options.on_event)
    run_id, directory = _run_directory(options.run_root)
    with _new_file(directory / "events.jsonl") as file:
        events = EventLog(run_id, file, listeners, redact=_redaction(models.values()))
        budget = Budget(limits)
        calls = Calls(budget=budget, max_concurrent=limits.max_concurrent_calls, events=events, prices=options.prices)
        services = Services(
            limits=limits,
            calls=calls,
            events=events,
            slots=slots,
            sandboxes=options.sandboxes or DockerSandboxes(options.sandbox),
            run_id=run_id,
            system_prompt=options.system_prompt,
            model_at=lambda level: models[min(level, max(models))],
            by_name={model.name: model for model in models.values()},
            deadline=math.inf if limits.max_seconds is None else anyio.current_time() + limits.max_seconds,
        )
        task = Task(node="0", level=0, depth=options.depth, context=context, query=query, model=models[0])
        names = {level: model.name for level, model in models.items()}
        events.emit(RunStarted(query=query, depth=options.depth, models=names, context_bytes=context.size))
        answered, seconds = await _root(task, services)
        (directory / "answer.txt").write_bytes(answered.answer.encode("utf-8", "surrogatepass"))
    completion = Completion(
        answer=answered.answer,
        stop_reason=answered.stop_reason,
        usage=budget.used,
        by_model=calls.by_model,
        by_node=calls.by_node,
        seconds=seconds,
        iterations=answered.iterations,
        depth_reached=tally.depth_reached,
        sub_calls=tally.sub_calls,
        sandboxes=tally.sandboxes,
        run_id=run_id,
        run_dir=directory,
    )
    if options.on_limit == "raise" and completion.stop_reason != "final":
        raise LimitExceeded(f"The run was stopped by a limit: {completion.stop_reason}.", partial=completion)
    return completion


def _refuse_unknown_prices(options: Options, models: Mapping[int, Model]) -> None:
    """A limit on dollars holds only where every price is known."""
    if options.limits.max_cost_usd is None:
        return
    for model in models.values():
        if model.name not in options.prices and model.cost(Usage()) is None:
            raise ConfigError(
                f"max_cost_usd is set, and the price of {model.name} is not known: give it in dollars per million tokens, "
                f"as in Orchestrator(prices={{{model.name!r}: Price(input=1.25, output=10)}}), or leave max_cost_usd out."
            )


async def _root(task: Task, services: Services) -> tuple[Answered, float]:
    """Run the root RLM; however it ends, the record says so."""
    started = time.perf_counter()
    stop_reason: StopReason | None = "cancelled"
    failure: str | None = "cancelled"
    try:
        answered = await rlm_loop(task, services)
        stop_reason, failure = answered.stop_reason, None
    except Exception as error:
        stop_reason, failure = None, f"{type(error).__name__}: {error}"
        raise
    finally:
        seconds = time.perf_counter() - started
        used = services.calls.budget.used
        services.events.emit(RunFinished(stop_reason=stop_reason, usage=used, seconds=seconds, error=failure))
        _log.info(
            "run_finished", run=services.run_id, stop_reason=stop_reason, seconds=round(seconds, 3), error=failure
        )
    return answered, seconds


def default_run_root() -> Path:
    """Where runs are recorded unless said: in the user's state directory (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "rlm" / "runs"


def _run_directory(root: Path | None) -> tuple[str, Path]:
    """A new directory that only this user can read: it will hold the data and the answers."""
    root = root or default_run_root()
    run_id = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)
    directory = root / run_id
    try:
        root.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"No run directory can be made in {root} ({error.strerror}): choose another with run_root."
        ) from error
    return run_id, directory


def _redaction(models: Iterable[Model]) -> Callable[[str], str]:
    """Takes the keys of all models out of a text."""
    holders = [model for model in models if isinstance(model, HoldsKeys)]
    return lambda text: reduce(lambda clean, holder: holder.redact(clean), holders, text)


def _new_file(path: Path) -> TextIO:
    return path.open("x", encoding="ascii")


class _Tally:
    """Counts what a `Completion` reports."""

    def __init__(self) -> None:
        self.sandboxes = 0
        self.sub_calls = 0
        self.depth_reached = 0

    def __call__(self, event: Event) -> None:
        match event:
            case RLMStarted() | SandboxLost():
                self.sandboxes += 1
            case SubCallStarted():
                self.sub_calls += 1
                self.depth_reached = max(self.depth_reached, event.node.count("."))
