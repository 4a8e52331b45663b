"""The ways in which an instance is answered, side by side: plain calls, map and reduce, RLMs of any depth, and no model.

A method gets an instance and gives an `Outcome`. What all of them need is in `MethodContext`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rlm.errors import ConfigError

from .base import Method
from .keyword import keyword
from .plain import direct, map_reduce
from .rlm import _rlm_of


def method(name: str) -> Method:
    """The method of that name: `direct`, `map_reduce`, `keyword`, or `rlm:0`, `rlm:1`, ...

    Raises:
        ConfigError: there is none.
    """
    if match := re.fullmatch(r"rlm:(\d)", name):
        return _rlm_of(int(match[1]))
    plain: Mapping[str, Method] = {"direct": direct, "map_reduce": map_reduce, "keyword": keyword}
    if name not in plain:
        raise ConfigError(f"There is no method {name!r}; there are {', '.join(plain)}, and rlm:0, rlm:1, rlm:2, ...")
    return plain[name]


def asks_models(name: str) -> bool:
    """Whether the method of that name needs any."""
    return name != "keyword"
