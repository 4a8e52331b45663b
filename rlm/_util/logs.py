"""Diagnostics of the package: events with fields, told where the program has set up logging.

Where the program has configured structlog, they go there, else to the standard library's loggers below `rlm`. The package
configures neither: without any set-up, warnings go to standard error, and nothing else is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

import structlog

_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_bound: ContextVar[Mapping[str, object]] = ContextVar("rlm._util.logs", default=_NOTHING)


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """What is told meanwhile, in this task and in those it starts, has these fields."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


class Logger:
    """Tells events under a name; the set-up that counts is that of the moment."""

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, event: str, **fields: object) -> None:
        self._tell(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._tell(logging.WARNING, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """With the exception that is being handled."""
        self._tell(logging.ERROR, event, fields, exc_info=True)

    def _tell(self, level: int, event: str, fields: Mapping[str, object], *, exc_info: bool = False) -> None:
        fields = {**_bound.get(), **fields}
        if structlog.is_configured():
            more = {"exc_info": True} if exc_info else {}
            tell = getattr(structlog.get_logger(self._name), logging.getLevelName(level).lower())
            tell(event, **fields, **more)
            return
        logger = logging.getLogger(self._name)
        if logger.isEnabledFor(level):
            text = " ".join([event, *(f"{name}={value!r}" for name, value in fields.items())])
            logger.log(level, "%s", text, exc_info=exc_info, stacklevel=3, extra={"fields": fields})


def get_logger(name: str) -> Logger:
    """The logger of a module."""
    return Logger(name)
