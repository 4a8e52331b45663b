"""Limits of a run, and the policy of its sandboxes. Imports errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from .errors import ConfigError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# These limits can be raised during a run.
RAISABLE_LIMITS: Final = ("max_lm_calls", "max_tokens", "max_cost_usd", "max_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a run, for the whole call tree unless documented otherwise. None means no limit.

    Attributes:
        max_lm_calls: model calls.
        max_tokens: input plus output tokens.
        max_cost_usd: cost in dollars. Needs known prices (see `Orchestrator(prices=...)`).
        max_seconds: time spent on the question, without pauses. A session spends it on all questions together.
        max_rlms: RLMs, including the root.
        max_depth: largest valid `depth` of a completion.
        max_sandboxes: sandboxes alive at once.
        max_iterations: turns of each RLM.
        max_consecutive_errors: turns in a row without a successful cell, or with the same cells and output as in the turn
            before, after which an RLM gives up.
        max_concurrent_calls: model requests in flight at once.
        max_context_bytes: size of a context, as encoded for a sandbox.
        cell_seconds: run time of a cell, excluding time spent waiting for model calls.
        max_output_chars: characters of a cell's output shown to the model (head and tail).

    Raises:
        ConfigError: a value is invalid.
    """

    max_lm_calls: int | None = 10_000
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    max_seconds: float | None = 3600.0
    max_rlms: int | None = 1000
    max_depth: int | None = None
    max_sandboxes: int | None = 16
    max_iterations: int | None = 30
    max_consecutive_errors: int | None = 10
    max_concurrent_calls: int | None = 64
    max_context_bytes: int | None = 2 * GIB
    cell_seconds: float | None = 60.0
    max_output_chars: int | None = 20_000

    def __post_init__(self) -> None:
        for name, value, whole in _numbers(self):
            if not _is_number(value, whole=whole):
                number = "a whole number" if whole else "a number"
                raise ConfigError(f"Limits({name}={value!r}) is invalid: use {number}, or None for no limit.")
            if value == 0 and name == "max_depth":
                continue  # depth 0 has code only
            if not value > 0:
                raise ConfigError(f"Limits({name}={value!r}) is invalid: use a number above 0, or None for no limit.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The policy of a sandbox.

    Attributes:
        image: name of an image with the digest of this package's guest sources. None is the image that `rlm image build`
            builds.
        transport: `attach` works with every engine. `unix` is faster, but needs a local Linux engine.
        runtime: container runtime; `runsc` selects gVisor. None is the engine's default.
        memory_bytes: memory of the container, apart from its context.
        memory_per_context_byte: memory added per byte of the context.
        cpus: processors of the container.
        max_processes: processes and threads in the container.
        tmp_bytes: size of each writable tmpfs (`/tmp` and the working directory).
        max_output_bytes: bytes kept of each output stream of a cell.
        max_calls_in_flight: unanswered queries at once.
        max_value_bytes: total size of prompts and answers that a sandbox may send ahead.
        max_frames_per_second: rate at which the host reads messages of a sandbox. Faster ones wait.
        max_bytes_per_second: rate at which the host reads bytes of a sandbox. Faster ones wait.
        max_received_bytes: total bytes that a sandbox may send. Exceeding it ends the sandbox.
        tool_seconds: time limit of a call to a host function.
        start_seconds: time limit for a container's start.
        stop_seconds: time limit for a container's removal.
        lifetime_seconds: age at which a sandbox ends, even if its orchestrator is gone.

    Raises:
        ConfigError: a value is invalid.
    """

    image: str | None = None
    transport: Literal["attach", "unix"] = "attach"
    runtime: str | None = None
    memory_bytes: int = 512 * MIB
    memory_per_context_byte: int = 4
    cpus: float = 1.0
    max_processes: int = 128
    tmp_bytes: int = 64 * MIB
    max_output_bytes: int = 1 * MIB
    max_calls_in_flight: int = 512
    max_value_bytes: int = 256 * MIB
    max_frames_per_second: float = 10_000.0
    max_bytes_per_second: float = 256.0 * MIB
    max_received_bytes: int = 64 * GIB
    tool_seconds: float = 60.0
    start_seconds: float = 30.0
    stop_seconds: float = 10.0
    lifetime_seconds: float = 86_400.0

    def __post_init__(self) -> None:
        if self.transport not in ("attach", "unix"):
            raise ConfigError(f"SandboxConfig(transport={self.transport!r}) is invalid: use 'attach' or 'unix'.")
        for name in ("image", "runtime"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, str)):
                raise ConfigError(f"SandboxConfig({name}={value!r}) is invalid: use a name, or None for the default.")
        for name, value, whole in _numbers(self):
            # An engine reads 0 processors or processes as no limit.
            if not _is_number(value, whole=whole) or not value > (-1 if name == "memory_per_context_byte" else 0):
                number = "a whole number" if whole else "a number"
                raise ConfigError(f"SandboxConfig({name}={value!r}) is invalid: use {number} above 0.")


def _numbers(config: Limits | SandboxConfig) -> Iterable[tuple[str, Any, bool]]:
    """Yield each number that is not None: field name, value, and whether the field is an integer."""
    for field in fields(config):
        value, kind = getattr(config, field.name), str(field.type)
        if kind.startswith(("int", "float")) and not (value is None and kind.endswith("None")):
            yield field.name, value, kind.startswith("int")


def _is_number(value: object, *, whole: bool) -> bool:
    """Whether a value is a finite number. A bool is not one."""
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool) and math.isfinite(value)
