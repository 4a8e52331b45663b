"""Diagnostics of the package: structlog over the standard library's logger `rlm`.

The package configures nothing: a program that wants to see more configures `logging` (or structlog's stdlib formatter).
"""

from __future__ import annotations

import logging
from typing import cast

import structlog


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of key-value events that obeys the program's `logging` set-up and is silent below WARNING without one."""
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            _render,
        ],
    )
    return cast("structlog.stdlib.BoundLogger", logger)


def _render(logger: object, method: str, event: structlog.typing.EventDict) -> str:
    """The event's name, then its fields."""
    return " ".join([str(event.pop("event")), *(f"{name}={value!r}" for name, value in event.items())])
