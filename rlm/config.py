"""What a caller can set: limits, the sandbox's policy, and settings from the environment."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from .errors import ConfigError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

RAISABLE: Final = (
    "max_lm_calls",
    "max_tokens",
    "max_cost_usd",
    "max_seconds",
)  # limits a running run can be given more of


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may use, over its whole tree. None means no limit.

    Attributes:
        max_lm_calls: model calls.
        max_tokens: input plus output tokens.
        max_cost_usd: dollars; needs known prices (see `Orchestrator(prices=...)`).
        max_seconds: time in which the run works on its question (of a session: on all questions together).
        max_rlms: RLMs, the root included.
        max_depth: the largest `depth` that a completion may ask for; a larger one is refused before anything is started.
        max_sandboxes: sandboxes alive at once.
        max_iterations: turns of each RLM.
        max_consecutive_errors: turns in a row without a cell that succeeded, after which an RLM gives up.
        max_concurrent_calls: model requests in flight at once.
        max_context_bytes: size of a context as it is sent to a sandbox.
        cell_seconds: a cell's own time; it stands still while the cell waits for a model.
        max_output_chars: of a cell's output that the model is shown (head and tail).
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
                raise ConfigError(f"Limits({name}={value!r}) cannot be: give {number}, or None for no limit.")
            if value == 0 and name == "max_depth":
                continue  # code only
            if not value > 0:
                raise ConfigError(
                    f"Limits({name}={value!r}) allows nothing: give a number above 0, or None for no limit."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The policy of a sandbox.

    Attributes:
        image: name of the image, which must carry the digest of this package's guest sources; None is the one that
            `make image` built.
        transport: `attach` (works with every engine) or `unix` (local Linux engines; faster).
        runtime: the engine's runtime; None is the engine's default, `runsc` is gVisor.
        memory_bytes: memory without the context; `memory_per_context_byte` x the context's size is added.
        cpus: of the container.
        max_processes: processes and threads in the container.
        tmp_bytes: size of each writable tmpfs (`/tmp` and the working directory).
        max_output_bytes: kept of each output stream of a cell.
        max_calls_in_flight: unanswered queries at once.
        max_value_bytes: prompts and answers that a sandbox may send ahead, together.
        max_frames_per_second: messages that the host reads of a sandbox; what comes faster waits.
        max_bytes_per_second: bytes, likewise.
        max_received_bytes: of all that a sandbox may ever send; more ends it.
        tool_seconds: for one call of a host function.
        start_seconds: until a container must have come up.
        stop_seconds: for the removal of a container.
        lifetime_seconds: after which a sandbox ends whatever it does, also when nobody is left to remove it.
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
            raise ConfigError(f"SandboxConfig(transport={self.transport!r}) cannot be: give 'attach' or 'unix'.")
        for name in ("image", "runtime"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, str)):
                raise ConfigError(f"SandboxConfig({name}={value!r}) cannot be: give a name, or None for the default.")
        for name, value, whole in _numbers(self):
            # To an engine, 0 processors or processes are as many as it has.
            if not _is_number(value, whole=whole) or not value > (-1 if name == "memory_per_context_byte" else 0):
                number = "a whole number" if whole else "a number"
                raise ConfigError(f"SandboxConfig({name}={value!r}) cannot be: give {number} above 0.")


def _numbers(config: Limits | SandboxConfig) -> Iterable[tuple[str, Any, bool]]:
    """Its numbers that are set: name, value, and whether it has to be a whole one, as its annotation says."""
    for field in fields(config):
        value, kind = getattr(config, field.name), str(field.type)
        if kind.startswith(("int", "float")) and not (value is None and kind.endswith("None")):
            yield field.name, value, kind.startswith("int")


def _is_number(value: object, *, whole: bool) -> bool:
    """Whether it is a finite one; True and False are none."""
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool) and math.isfinite(value)
