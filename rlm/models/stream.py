"""Decodes response bodies: JSON, and the event streams that some servers send unasked. Pure. Imports refusals only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Final

from .refusals import MAX_DEPTH, nests_little

_EVENTS: Final = re.compile(rb"(?:data|event|id|retry)?[ \t]*:|\[DONE\]")  # how the body of an event stream begins
_BETWEEN: Final = re.compile(r"\s*(?:data:\s*)?")
_FIELD: Final = re.compile(r"(data|event|id|retry):? ?(.*)", re.DOTALL)
_DONE: Final = "[DONE]"
BROKEN_OFF: Final = "bad_gateway"  # code of an error without one that ends a reply
_TEXTS: Final = ("content", "reasoning_content", "reasoning", "thinking", "refusal")  # of a delta: pieces to join


class StreamCutOff(Exception):
    """An event stream ends before the reply does."""


def decode(body: bytes) -> object:
    """The value in the body of a response. An event stream becomes the one reply, or the error, that it holds.

    Accepts a byte order mark, blanks around the value, and the end of a stream behind it.

    Raises:
        ValueError: the body is neither JSON nor an event stream of JSON.
        StreamCutOff: a stream has neither a finish reason nor a last event `[DONE]`.
    """
    body = body.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _EVENTS.match(body):
        return _join(list(_payloads(body.decode(errors="replace"))))
    try:
        return _shallow(json.loads(body))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        if not body.startswith(b"{"):
            raise
        first, *rest = _values(body.decode(errors="replace"))
        return _join([first, *rest]) if any(isinstance(value, dict) for value in rest) else first


def _values(text: str) -> Iterator[object]:
    """JSON values one behind the other, perhaps with the end of a stream. Raises ValueError for anything else."""
    decoder, position = json.JSONDecoder(), 0
    while (position := _BETWEEN.match(text, position).end()) < len(text):  # type: ignore[union-attr]
        if text.startswith(_DONE, position):
            yield _DONE
            position += len(_DONE)
            continue
        try:
            value, position = decoder.raw_decode(text, position)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        yield _shallow(value)


def _shallow(value: object) -> object:
    if not nests_little(value):
        raise ValueError("nested too deeply")
    return value


def _payloads(text: str) -> Iterator[object]:
    """The decoded data of each event. The last one may be cut off, and is then left out."""
    lines = [line.rstrip("\r") for line in text.replace("\r\n", "\n").split("\n")]
    events = [list(group) for filled, group in groupby(lines, key=lambda line: bool(line.strip())) if filled]
    for number, event in enumerate(events):
        data = [_data(line) for line in event]
        lines = [line for line in data if line is not None]
        try:
            yield from _event(lines)
        except ValueError:
            if number < len(events) - 1:
                raise


def _data(line: str) -> str | None:
    """The data of a line: none in comments and other fields."""
    if line.lstrip().startswith(("{", _DONE)):  # some proxies leave the field's name out
        return line
    match = _FIELD.fullmatch(line)
    return match[2] if match and match[1] == "data" else None


def _event(lines: list[str]) -> Iterator[object]:
    """The values of one event: one over all its lines, or one on each if the server sends no blank lines between."""
    if not "".join(lines).strip():
        return
    try:
        yield from list(_values("\n".join(lines)))
    except ValueError:
        for line in lines:
            yield from _values(line)


def _join(payloads: list[object]) -> object:
    """One response of the chunks of a stream."""
    chunks = [payload for payload in payloads if isinstance(payload, dict)]
    joined: dict[str, Any] = {}
    message = _Message()
    usage: dict[str, Any] = {}
    ended = _DONE in payloads
    for chunk in chunks:
        joined |= {key: value for key, value in chunk.items() if value is not None and key not in ("choices", "usage")}
        _keep_largest(usage, chunk.get("usage"))
        message.add(chunk)
    if usage:
        joined["usage"] = usage
    if joined.get("type") == "error" and "error" not in joined:
        joined["error"] = joined.get("message") or "an error without a message"
    if joined.get("error") and message.seen and not (isinstance(joined["error"], dict) and joined["error"].get("code")):
        joined["error"] = {"code": BROKEN_OFF, "message": _words(joined["error"])} | _fields(joined["error"])
    if joined.get("error"):
        return joined
    if joined.get("done") is True and not message.seen:
        return joined  # another format: `read_reply` says so
    if not message.finish_reason and not ended and not message.error:
        raise StreamCutOff
    joined["choices"] = [message.choice()] if message.seen else []
    return joined


class _Message:
    """The first choice of a stream, joined from its deltas."""

    def __init__(self) -> None:
        self.seen = False
        self.finish_reason: str | None = None
        self.error: object = None
        self._index: object = None
        self._texts: dict[str, list[str]] = {name: [] for name in _TEXTS}
        self._parts: list[object] = []  # content in parts
        self._details: list[object] = []
        self._calls: dict[object, dict[str, list[str]]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if not isinstance(choice, dict):
                continue
            if not self.seen:
                self.seen, self._index = True, choice.get("index")
            if choice.get("index") == self._index:
                self._add(choice)

    def _add(self, choice: Mapping[str, Any]) -> None:
        self.error = self.error or choice.get("error")
        if isinstance(choice.get("finish_reason"), str) and choice["finish_reason"]:
            self.finish_reason = choice["finish_reason"]
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            return
        if not delta and isinstance(choice.get("text"), str):
            delta = {"content": choice["text"]}
        for name, texts in self._texts.items():
            if isinstance(delta.get(name), str):
                texts.append(delta[name])
        if isinstance(delta.get("content"), list):
            self._parts += delta["content"]
        if isinstance(delta.get("reasoning_details"), list):
            self._details += delta["reasoning_details"]
        calls = delta.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else []):
            if isinstance(call, dict):
                self._add_call(call.get("index", position), call.get("function"))
        self._add_call("function_call", delta.get("function_call"))

    def _add_call(self, index: object, function: object) -> None:
        if not isinstance(function, dict):
            return
        call = self._calls.setdefault(str(index), {"name": [], "arguments": []})
        for name, pieces in call.items():
            value = function.get(name)
            if isinstance(value, dict):
                value = json.dumps(value, ensure_ascii=False)
            if isinstance(value, str) and value and not (name == "name" and pieces):  # some servers repeat the name
                pieces.append(value)

    def choice(self) -> dict[str, object]:
        message: dict[str, object] = {name: "".join(texts) for name, texts in self._texts.items() if texts}
        if self._parts:
            message["content"] = [*self._parts, *self._texts["content"]]
        if self._details:
            message["reasoning_details"] = self._details
        if self._calls:
            message["tool_calls"] = [
                {"function": {name: "".join(pieces) for name, pieces in call.items()}} for call in self._calls.values()
            ]
        choice: dict[str, object] = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return choice | ({"error": self.error} if self.error else {})


def _words(error: object) -> str:
    return error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)


def _fields(error: object) -> dict[str, Any]:
    return {key: value for key, value in error.items() if value is not None} if isinstance(error, dict) else {}


def _keep_largest(usage: dict[str, Any], later: object, depth: int = 0) -> None:
    """Counts of several chunks grow, or come in parts: keep the largest of each, in place."""
    if not isinstance(later, dict) or depth > MAX_DEPTH:
        return
    for name, value in later.items():
        known = usage.get(name)
        if isinstance(value, dict):
            if not isinstance(known, dict):
                usage[name] = known = {}
            _keep_largest(known, value, depth + 1)
        elif not (_is_number(known) and (value is None or (_is_number(value) and value < known))):
            usage[name] = value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
