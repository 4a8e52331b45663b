"""The settings to use with a server, from what the questions have shown. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Final

from .exchange import Known

SMALL_WINDOW: Final = 16_384  # tokens: in such a window one runaway reply leaves no room for further turns
REPLY_SHARE: Final = 4  # the part of a small window that a reply may fill
MIN_REPLY: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Settings to use.

    Attributes:
        base_url, model: the server, and the model.
        options: options of the model.
        max_concurrent: limit on requests at once; None is the default.
        why: the reason of an option, by name.
    """

    base_url: str
    model: str
    options: Mapping[str, object]
    max_concurrent: int | None
    why: Mapping[str, str]

    @property
    def environment(self) -> list[str]:
        """Lines for .env."""
        lines = [f"OPENAI_BASE_URL={quote(self.base_url)}", f"RLM_MODEL={quote(self.model)}"]
        if self.options:
            lines.append(f"RLM_MODEL_OPTIONS={quote(json.dumps(dict(self.options)))}")
        if self.max_concurrent is not None:
            lines.append(f"RLM_LIMITS__MAX_CONCURRENT_CALLS={self.max_concurrent}")
        return lines

    @property
    def toml(self) -> list[str]:
        """Lines for rlm.toml. It never has the server's address."""
        lines = [f"model = {json.dumps(self.model, ensure_ascii=False)}"]
        if self.options:
            lines += ["", "[model_options]", *_aligned(self.options, self.why)]
        if self.max_concurrent is not None:
            limits = {"max_concurrent_calls": self.max_concurrent}
            lines += ["", "[limits]", *_aligned(limits, self.why)]
        return lines

    @property
    def python(self) -> list[str]:
        """The model in Python."""
        given = dict(self.options)
        arguments = [repr(self.model), f"base_url={self.base_url!r}"]
        field = str(given.get("max_tokens_field", "max_completion_tokens"))
        limit = given.pop("max_output_tokens", None)
        arguments += [f"{name}={value!r}" for name, value in given.items()]
        if limit is not None:
            arguments.append(f"sampling={{{field!r}: {limit}}}")
        return ["OpenAIModel(", *(f"    {argument}," for argument in arguments), ")"]


def advise(known: Known, *, base_url: str, model: str) -> Advice:
    """The settings for a server."""
    options: dict[str, object] = {}
    why: dict[str, str] = {}
    window = known.window or known.stated_window
    if known.window is not None and known.window != known.stated_window:
        options["context_window"] = known.window
        why["context_window"] = (
            "the server does not state it" if known.stated_window is None else "the server states more than it reads"
        )
    if window is not None and window <= SMALL_WINDOW and known.limit_field is not None:
        options["max_output_tokens"] = max(MIN_REPLY, window // REPLY_SHARE)
        why["max_output_tokens"] = "a quarter of the window, so that no reply fills it"
    if known.limit_field == "max_tokens":
        options["max_tokens_field"] = "max_tokens"
        why["max_tokens_field"] = "the server does not obey max_completion_tokens"
    if known.max_concurrent is not None:
        why["max_concurrent_calls"] = "it answers in turn" if known.max_concurrent > 1 else "more at once fail"
    return Advice(base_url=base_url, model=model, options=options, max_concurrent=known.max_concurrent, why=why)


def _aligned(values: Mapping[str, object], why: Mapping[str, str]) -> Iterator[str]:
    lines = {name: f"{name} = {json.dumps(value)}" for name, value in values.items()}
    width = max(map(len, lines.values()))
    for name, line in lines.items():
        yield f"{line:{width}}  # {why[name]}"
