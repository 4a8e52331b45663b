"""Logging of the package: named events with fields. Imports structlog only.

Events go to structlog if the program has configured it, else to standard loggers below `rlm`. The package configures
neither: without any setup, warnings and errors go to standard error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import structlog
from structlog.contextvars import get_contextvars

BOUND_FIELDS: Final = ("run", "node")  # fields that the package binds as context variables of structlog


class Logger:
    """Logs events under a name. Looks up the program's logging setup at each event, so a later setup applies."""

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, event: str, **fields: object) -> None:
        """Log at level INFO."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log at level WARNING."""
        self._log(logging.WARNING, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log at level ERROR, with the exception that is being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: Mapping[str, object], *, exc_info: bool = False) -> None:
        context = get_contextvars()
        bound = {name: context[name] for name in BOUND_FIELDS if name in context}
        fields = bound | dict(fields)
        if structlog.is_configured():
            log = getattr(structlog.get_logger(self._name), logging.getLevelName(level).lower())
            log(event, **fields, **({"exc_info": True} if exc_info else {}))
            return
        logger = logging.getLogger(self._name)
        if logger.isEnabledFor(level):
            text = " ".join([event, *(f"{name}={value!r}" for name, value in fields.items())])
            logger.log(level, "%s", text, exc_info=exc_info, stacklevel=3, extra={"fields": fields})


def get_logger(name: str) -> Logger:
    """The logger of a module."""
    return Logger(name)
