"""Learns from refusals what a server accepts, and adapts requests to it. Pure. Imports refusals only.

Servers differ in the name of the token limit, in roles, and in the sampling parameters that a model takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from .refusals import MAX_DEPTH, output_limit, words_of

MAX_TOKENS_FIELDS: Final = ("max_completion_tokens", "max_tokens")  # names of this limit in OpenAI's API, newest first
MAX_ADAPTIONS: Final = 8  # of one call: a server that refuses everything is given up
_ADAPTABLE: Final = frozenset({400, 404, 405, 415, 422, 500, 501})  # llama.cpp and others answer 500 to an unknown role

_UNSUPPORTED: Final = re.compile(
    r"un-?support\w*|not? (?:be )?support\w*|n[o']t support|unrecogni[sz]ed|unexpected"
    r"|unknown (?:field|param\w*|arg\w*|name|key|propert\w*|option)"
    r"|extra_forbidden|value_error\.extra|extra (?:inputs|fields|field)|additional propert\w*"
    r"|not (?:permitted|allowed|recogni[sz]ed|accepted|available|a valid (?:field|param\w*))"
    r"|cannot find field|no such (?:field|param\w*)|unknown_parameter|deprecated"
    r"|incompatible with|cannot be used (?:with|for|in|by)"
    r"|only (?:the default|\d[\d.]* (?:is|are)|the value)|(?:may|can) only be (?:set to )?\d",
    re.IGNORECASE,
)
# A value that the server would take otherwise: the user has to choose another one.
_OUT_OF_RANGE: Final = re.compile(
    r"(?:less|greater|larger|more|smaller|lower|higher) than|\bbetween\b|at (?:most|least)|out of range"
    r"|must be (?:in|one of|a\b)|above_max|below_min|(?:supported|valid|allowed) values|one of|[<>]=? ?-?\d"
    r"|too (?:large|long|many|small)"
    r"|both|together",
    re.IGNORECASE,
)
_ONLY_DEFAULT: Final = re.compile(
    r"only (?:the default|\d[\d.]* (?:is|are))|(?:may|can) only be (?:set to )?\d", re.IGNORECASE
)
_NO_SYSTEM: Final = re.compile(
    r"(?:system|developer)[ _'\"`]*(?:role|messages?|prompts?|instructions?)?[ '\"`]*.{0,30}?"
    r"(?:not|n't|never|un)[ -]?(?:be )?(?:support|allowed|enabled|accept|permitted|recogni|valid)"
    r"|(?:not|n't)[ -]?(?:support|allow|accept|recogni[sz]e)\w*.{0,40}?['\"`]?(?:system|developer)['\"`]? ?"
    r"(?:role|messages?|prompts?|instructions?|with)"
    r"|(?:unsupported|unexpected|invalid|unknown|unrecogni[sz]ed) (?:message )?role:? ?\W{0,3}(?:system|developer)"
    r"|only (?:support\w* )?(?:the )?['\"`]?(?:user|assistant)['\"`]?(?:,| and| or|/).{0,30}roles?"
    r"|unknown variant\W{0,3}(?:system|developer)|role.{0,30}must be (?:either |one of )?\W{0,3}(?:user|assistant)\W"
    r"|should be 'user' or 'assistant'",
    re.IGNORECASE,
)
_ALTERNATE: Final = re.compile(
    r"alternat\w*|consecutive|two .{0,20}in a row"
    r"|(?:first|after the optional system).{0,30}must be (?:from )?(?:the |a )?.{0,4}user",
    re.IGNORECASE,
)
_STREAM_ONLY: Final = re.compile(
    r"only (?:be )?(?:support\w*|available|accept\w*|works?|used) .{0,20}stream|only stream"
    r"|non-?stream\w* .{0,40}(?:not|n't|un)[ -]?(?:support|allow|avail)|(?:not|n't) support\w* non-?stream"
    r"|stream['\"`]? ?(?:parameter |field )?(?:must|should|has to|needs to) be (?:set to )?['\"`]?true"
    r"|(?:requires?|enable|set|must have|use) (?:the )?['\"`]?stream(?:ing|['\"`]?(?: ?=|:| to)? ?['\"`]?true)?\b"
    r"|stream is required",
    re.IGNORECASE,
)
_BLANK: Final = re.compile(
    r"content.{0,60}(?:non-?empty|not be (?:empty|blank)|is empty|must have content|at least 1 char)"
    r"|content.{0,60}cannot be (?:empty|blank)|non-?empty content|empty (?:content|message|text)"
    r"|either content or tool_calls",
    re.IGNORECASE,
)
_ROLES: Final = re.compile(r"\broles?\b|\bmessages?\b", re.IGNORECASE)
BLANK_TEXT: Final = "(empty)"  # takes the place of a message's blank text where that is refused
_COMMON: Final = frozenset({"user", "store", "metadata"})  # fields whose names are words of other refusals, too
_FIELD_WORDS: Final = re.compile(
    r"param|argument|field|propert|option|['\"`](?:user|store|metadata)['\"`]", re.IGNORECASE
)
_KEPT: Final = frozenset({"model", "messages"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What a server accepts, as far as its refusals have shown.

    Attributes:
        limit_field: its name of the limit on output tokens; None: as configured.
        refused_limit_fields: names that it refused.
        max_limit: the largest limit on output tokens that it takes.
        left_out: fields that it refuses.
        no_system: whether it refuses the role `system`. Its text then begins the first user message.
        alternate: whether roles must alternate. Messages of one role in a row then become one.
        no_blank: whether it refuses blank messages, such as a model's reply without text.
        stream_only: whether it answers by event streams only.
    """

    limit_field: str | None = None
    refused_limit_fields: frozenset[str] = frozenset()
    max_limit: int | None = None
    left_out: frozenset[str] = frozenset()
    no_system: bool = False
    alternate: bool = False
    no_blank: bool = False
    stream_only: bool = False

    def apply(self, body: Mapping[str, Any], *, limit_field: str) -> dict[str, Any]:
        """The body of a request as the server takes it.

        Args:
            body: the request as configured.
            limit_field: its name of the limit on output tokens.
        """
        adapted = {name: value for name, value in body.items() if name not in self.left_out}
        if limit_field in adapted:
            limit = adapted.pop(limit_field)
            if self.max_limit is not None and isinstance(limit, int):
                limit = min(limit, self.max_limit)
            adapted[self.limit_field or limit_field] = limit
        if self.stream_only:
            adapted |= {"stream": True, "stream_options": {"include_usage": True}}
            adapted = {name: value for name, value in adapted.items() if name not in self.left_out}
        if self.no_blank:
            adapted["messages"] = [
                message if message["content"].strip() else {**message, "content": BLANK_TEXT}
                for message in adapted["messages"]
            ]
        if self.no_system:
            adapted["messages"] = _joined(_as_user(adapted["messages"]))
        elif self.alternate:
            adapted["messages"] = _joined(adapted["messages"])
        return adapted

    def learn(self, status: int, error: object, *, sent: Mapping[str, Any]) -> tuple[Accepted, str] | None:
        """What a refusal shows, and a sentence on it. None if it shows nothing that another request could heed.

        Args:
            status: status of the response.
            error: its body.
            sent: body of the request, as adapted.
        """
        if status not in _ADAPTABLE:
            return None
        text = words_of(error)
        limit_field = next((name for name in sent if name in {*MAX_TOKENS_FIELDS, self.limit_field}), None)
        if limit_field is not None and (found := self._limit(error, sent[limit_field], limit_field)):
            return found
        if found := self._roles(text, sent["messages"]):
            return found
        if _STREAM_ONLY.search(text) and sent.get("stream") is False:
            return replace(self, stream_only=True), "it answers by event streams only"
        field = _refused_field(error, text, sent)
        if field is None:
            return None
        if field in MAX_TOKENS_FIELDS:
            return self._other_limit_field(field)
        return replace(self, left_out=self.left_out | {field}), f"it refuses `{field}`, which is left out"

    def _limit(self, error: object, limit: object, field: str) -> tuple[Accepted, str] | None:
        maximum = output_limit(error)
        if maximum is None or not isinstance(limit, int) or limit <= maximum:
            return None
        return replace(self, max_limit=maximum), f"its maximum of `{field}` is {maximum:,}"

    def _other_limit_field(self, field: str) -> tuple[Accepted, str] | None:
        refused = self.refused_limit_fields | {field}
        other = next((name for name in MAX_TOKENS_FIELDS if name not in refused), None)
        if other is None:
            return None
        return replace(self, limit_field=other, refused_limit_fields=refused), f"it takes `{other}`, not `{field}`"

    def _roles(self, text: str, messages: Sequence[Mapping[str, Any]]) -> tuple[Accepted, str] | None:
        roles = [message["role"] for message in messages]
        if _BLANK.search(text) and not all(message["content"].strip() for message in messages):
            return replace(self, no_blank=True), f"it refuses blank messages: they become {BLANK_TEXT!r}"
        if _NO_SYSTEM.search(text) and "system" in roles:
            return replace(self, no_system=True), "it refuses the role `system`: the text begins the first user message"
        if not (_ALTERNATE.search(text) and _ROLES.search(text)):
            return None
        if any(role == following for role, following in pairwise(roles)):
            return replace(self, alternate=True), "roles must alternate: messages of one role in a row become one"
        if "system" in roles:
            return replace(self, no_system=True), "roles must alternate: the system text begins the first user message"
        return None


def _refused_field(error: object, text: str, sent: Mapping[str, Any]) -> str | None:
    """The field of the request that an error names as unsupported."""
    fields = {_plain(name): name for name in sent if name not in _KEPT}
    for entry in _entries(error):
        words = words_of(entry)
        if not _UNSUPPORTED.search(words) or (_OUT_OF_RANGE.search(words) and not _ONLY_DEFAULT.search(words)):
            continue
        loc = entry.get("loc")
        for named in [entry.get("param"), *(reversed(loc) if isinstance(loc, list | tuple) else [])]:
            if isinstance(named, str) and _plain(named) in fields:
                return fields[_plain(named)]
    wants_other_value = bool(_OUT_OF_RANGE.search(text)) and not _ONLY_DEFAULT.search(text)
    for sentence in re.split(r"(?<=[.;|\n])\s", text):
        match = _UNSUPPORTED.search(sentence)
        if match is None or (wants_other_value and not _lists_names(sentence)):
            continue
        named_at = [
            (min(abs(word.start() - match.end()), abs(match.start() - word.end())), fields[_plain(word[0])])
            for word in re.finditer(r"\b[a-z]\w*", sentence)  # a sentence may begin with a word that is a name, too
            if _plain(word[0]) in fields and not (word[0] in _COMMON and not _FIELD_WORDS.search(sentence))
        ]
        if named_at:
            return min(named_at)[1]
    return None


def _lists_names(sentence: str) -> bool:
    """Whether `one of` lists the fields that are known, not values (serde)."""
    return bool(re.search(r"unknown field.*expected one of", sentence, re.IGNORECASE))


def _entries(error: object, depth: int = 0) -> list[Mapping[str, Any]]:
    """The error and those within it that may name a field."""
    if depth > MAX_DEPTH:
        return []
    if isinstance(error, list | tuple):
        return [entry for item in error[:20] for entry in _entries(item, depth + 1)]
    if not isinstance(error, Mapping):
        return []
    names = ("error", "detail", "errors", "message")
    inner = [entry for name in names for entry in _entries(error.get(name), depth + 1)]
    return [*inner, error] if "param" in error or "loc" in error else inner


def _plain(name: str) -> str:
    """A field's name without the marks of its spelling: `reasoningEffort` is `reasoning_effort`."""
    return name.replace("_", "").lower()


def _as_user(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**message, "role": "user" if message["role"] == "system" else message["role"]} for message in messages]


def _joined(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    joined: list[dict[str, Any]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1]["content"] += f"\n\n{message['content']}"
        else:
            joined.append(dict(message))
    return joined
