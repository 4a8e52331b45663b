"""All methods by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from rlm.errors import ConfigError

from .base import Method
from .keyword import keyword
from .plain import direct, map_reduce
from .rlm import rlm_of_depth

METHODS: Final[Mapping[str, Method]] = {"direct": direct, "map_reduce": map_reduce, "keyword": keyword}


def find_method(name: str) -> Method:
    """The method of a name: `direct`, `map_reduce`, `keyword`, or `rlm:0`, `rlm:1`, ...

    Raises:
        ConfigError: the name is unknown.
    """
    if match := re.fullmatch(r"rlm:(\d)", name):
        return rlm_of_depth(int(match[1]))
    if name not in METHODS:
        raise ConfigError(f"Unknown method {name!r}. Choose from {', '.join(METHODS)}, rlm:0, rlm:1, rlm:2, ...")
    return METHODS[name]


def uses_models(name: str) -> bool:
    """Whether a method calls models."""
    return name != "keyword"
