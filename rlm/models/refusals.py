"""What a server's refusal means, by its codes and words. Pure. Imports window only.

The words are those of some forty servers: `tests/corpus/responses` has one file for each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .window import MAX_WINDOW, MIN_WINDOW

MAX_CHARS: Final = 8_000  # searched in an error: enough for its message, little work on a page of megabytes
MAX_DEPTH: Final = 8  # of lists and objects in a body: what lies deeper is left unread
MAX_NESTED: Final = 100  # levels of a body: a deeper one is no JSON here
NO_WINDOWS: Final = frozenset({400, 413, 422, 429, 500, 502, 503, 1261, 2013})  # codes that stand in texts
ECHOES: Final = frozenset({"input", "ctx", "url", "messages", "body", "request", "headers"})  # of the request

BAD_REQUEST: Final = 400
TOO_LARGE: Final = 413
RATE_LIMITED: Final = 429
UNAVAILABLE: Final = 503
BAD_GATEWAY: Final = 502
UNAUTHORIZED: Final = frozenset({401, 403})  # the key is rejected
NO_MODEL_LIST: Final = (404, 405)  # from servers without a list of models
_TOO_LONG: Final = frozenset(
    {400, 403, 404, 413, 422, 424, 431, 500, 502, 503}
)  # proxies answer 500 or 502 to a server's 400
_PERHAPS_TOO_LONG: Final = frozenset({400, 413, 422})  # in whatever words
_SERVER_ERROR: Final = 500  # as a rule an outage, but llama.cpp has it for a conversation that is too long, too
_ABOUT_SIZE: Final = re.compile(r"context|token|length|too (long|large|big|many)|exceed|batch size", re.IGNORECASE)

# What is too long, before what says so.
_PROMPT: Final = (
    r"(?:tokens?|prompts?|inputs?|sequence|conversation|messages|requests?|context|query|chat history"
    r"|(?:input|prompt)_(?:tokens|length|len))"
)
_CODES: Final = re.compile(
    r"context_(?:length|window)_exceeded|model_context_window_exceeded|contextwindowexceeded|context_too_long"
    r"|exceed_context_size|max_prompt_tokens_exceeded|tokens_limit_reached|token_limit_exceeded|request_too_large"
    r"|(?:prompt|input)_too_(?:long|large)|input_length_error|context_length_error|\b1261\b",
    re.IGNORECASE,
)
_WORDS: Final = re.compile(
    rf"""
    # a window, and that it is too small
      \b(?:context|n_ctx)[ _-]?(?:length|window|size|limit)\b.{{0,120}}
        (?:exceed|long|larg|great|\bonly\b|overflow|reach|reduc|short|beyond|\bover\b|>|however|not\ (?:fit|enough))
    | (?:exceed\w*|long\w*|larg\w+|great\w+|overflow\w*|reach\w*|more|beyond|fit\w*|max\w*|limited|configured|too\ small)
        .{{0,120}}\bcontext[ _-]?(?:length|window|size|limit)\b
    | \bcontext\ (?:window\ )?(?:is\ )?(?:overflow|exceeded|full)
    | \b(?:prompt|inputs?|context|conversation)\b.{{0,40}}(?:not|n't)\ fit | \bfit\b.{{0,20}}\bcontext\b
    # too long, too large, too many
    | \b(?:prompt|inputs?|messages?|conversation|context|request(?:\ (?:body|entity|payload))?|payload|sequence|question
        |content)(?:\ (?:text|length|size|tokens?|token\ (?:count|length)))?(?:.{{0,24}}\ (?:is|are|was|were))?
        (?:\ (?:far|way|much))?\ too\ (?:long|large|big)\b
    | \btoo\ many\ (?:total\ |input\ |prompt\ |context\ )?tokens\b
    | \btoo\ large\ to\ process\b
    | \btoo\ large\ for\ (?:the\ )?model\b
    # a size that exceeds a maximum
    | \b{_PROMPT}\b.{{0,100}}?
        (?:exceed\w*|(?:longer|greater|larger|more|higher|bigger)\ than|surpass\w*|above|>=?).{{0,100}}?
        (?:\bmax\w*|limit|allowed|context|window|n_ctx|session|capacity|model'?s?\ length|\b(?:of|size|length)\ \d)
    | \b(?:tokens?|prompts?|inputs?)\b.{{0,60}}?
        (?:exceed\w*|above|(?:longer|greater|larger|more)\ than)\ (?:the\ )?\W{{0,2}}\d
    | \b(?:input|prompt)[_ ](?:tokens|length|len)\b.{{0,30}}\b(?:must|should)\ be\ (?:less|smaller|shorter|lower|at\ most|<)
    | \bexceed\w*.{{0,40}}\b(?:max\w*|limit\w*).{{0,20}}\btokens?\b
    | \btokens?\ limit\ (?:of\ [\d,]+\ )?(?:is\ |was\ |has\ been\ )?(?:exceeded|reached)
    | \bmax(?:imum)?\ token\ (?:length|count)\ exceeded
    | \btoo\ long\ (?:an?\ )?(?:prompt|input|request|query|context)\b | \bquery\ too\ long\b
    | \bexceeded\ the\ model'?s\ context\b
    | \b(?:tokens|prompt)\b.{{0,60}}\bover\ the\ limit\b
    | \bprompt\ has\ [\d,]+\ tokens\b | \bhas\ [\d,]+\ tokens\W.{{0,20}}\bat\ most\ [\d,]+
    | \bmax\ input\ characters\b
    | \binput\ token\ count\b.{{0,60}}(?:exceed|only\ supports)
    | \bprompt\ (?:is|has|contains)\b.{{0,40}}\btokens\b.{{0,60}}
        (?:larger|exceed|configured|maximum|limit|\bonly\b|accepts|supports)
    # a maximum
    | \b(?:max(?:imum)?|allowed|supported)\b.{{0,30}}\b(?:input|prompt|sequence)[ _-](?:length|tokens?|size|len)\b
    | \brange\ of\ input\ length\ should\ be\b
    | \binputs`?\ (?:tokens`?\ \+|must\ have\ less\ than)
    | \bexpected\ maxlength\b
    | \b(?:n_ctx|max_model_len|max_seq_len|session_len|max_input_(?:len|length|tokens)|max_req_total_len)\b
    # what to do
    | \b(?:reduce|shorten|shorter|decrease|truncate|trim)\b.{{0,40}}\b(?:messages?|prompt|inputs?|context|conversation)\b
    # nothing left for the reply
    | max_(?:completion_|new_)?tokens\W.{{0,60}}(?:got|:|\()\W{{0,2}}-\d
    # Chinese
    | 超长|过长|超[过出].{{0,24}}(?:长度|限制|上限|最大)|(?:长度|最大).{{0,12}}超[过出]
    """,
    re.IGNORECASE | re.VERBOSE,
)
# The same words for other limits.
_RATE: Final = re.compile(
    r"rate[ _-]?limit|too many requests|throttl|quota|budget|billing|balance|credits?\b|concurren|parallel"
    r"|expired|api key|authenticat"
    r"|per[ _-](?:second|minute|min|hour|day|month)\b|\b[TR]P[MD]\b|time ?limit|timed? ?out|deadline|\bseconds\b",
    re.IGNORECASE,
)
_OTHER_THINGS: Final = re.compile(
    r"\b(?:images?|audio|video|files?|attachments?|pixels?|documents?|tools?|functions?|names?|metadata|stop sequences?"
    r"|schema|descriptions?|headers?|urls?|uri)\b",
    re.IGNORECASE,
)
_NEVER: Final = re.compile(  # limits that no shorter conversation meets
    r"\b(?:risk|safety|score|moderation|policy|queue)\b|number of messages", re.IGNORECASE
)
_SURELY: Final = re.compile(r"token|context|prompt|conversation|messages\b(?![\[.])", re.IGNORECASE)
_ITEM_FIELD: Final = re.compile(r"'?messages?(?:\[\d+\]|\.\d+)\.(?!content)", re.IGNORECASE)  # such as a message's name
_TOO_LARGE_FOR_EVER: Final = re.compile(r"request too large|requested tokens exceed", re.IGNORECASE)
_LIMIT_AND_REQUESTED: Final = re.compile(r"limit:? ([\d,]+)\b.{0,40}?\brequested:? ([\d,]+)", re.IGNORECASE)

_NUMBER: Final = re.compile(r"(?<![\w.-])[1-9](?:[\d,_]*\d(?![\w.]*\d)(?P<kilo>k\b)?|k\b)", re.IGNORECASE)
_BOUND_BEFORE: Final = re.compile(
    r"(?:max\w*|limit\w*|allowed|supports?|up to|at most|only|just|<=?|less than|>=?|than|exceeds?|exceeded|windows?"
    r"|context|n_ctx|accepts?|range|capacity|configured)[^\d]{0,50}$|\[\d+, *$|\d ?/ ?$",
    re.IGNORECASE,
)
_BOUND_AFTER: Final = re.compile(r"\s*(?:tokens? )?(?:max|limit)", re.IGNORECASE)
_REQUEST_BEFORE: Final = re.compile(
    r"(?:requested|contains?|uses?|prompt|resulted in|you passed|given|got|by|has|have|value|actual|prompt is|received|sent"
    r"|too (?:large|long)|current(?:ly)?|n_keep|n_prompt_tokens)\b(?: ?(?:is|at least|about|over|a total of|:|=|\())*\W*$",
    re.IGNORECASE,
)
_REQUEST_AFTER: Final = re.compile(
    r"\s*\+|\s?/\s?\d|[^\d]{0,24}?(?:exceed|longer|greater than|larger|more than|>|is too|cannot)"
    r"|\s*(?:characters|bytes|[KM]i?B)\b",
    re.IGNORECASE,
)
_WINDOW_KEYS: Final = (
    "n_ctx",
    "max_model_len",
    "max_context_length",
    "context_length",
    "context_window",
    "max_tokens_limit",
)

_LIMIT_FIELD: Final = r"(?:max_?(?:completion_?|new_?|output_?)?tokens\b|maximum tokens you requested|max_gen_len)"
_OUTPUT_LIMIT: Final = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"supports? at most ([\d,]+) (?:completion|output) tokens",  # OpenAI, Azure
        r"> ([\d,]+), which is the maximum allowed number of output tokens",  # Anthropic
        rf"range of [`'\"]?{_LIMIT_FIELD}[`'\"]? (?:is|should be) \[\d+, ?([\d,]+)\]",  # DashScope, DeepSeek
        r"model limit of ([\d,]+)\. try again with a maximum tokens",  # Bedrock
        rf"{_LIMIT_FIELD} > ([\d,]+) must have stream",  # Fireworks
        rf"(?<!\+ `)(?<!\+ ){_LIMIT_FIELD}\W{{0,3}}(?:\(?\d+\)?\W{{0,2}})?(?:value )?"
        r"(?:must|should|can(?:not|'t)?|may not|is|exceeds?)\b(?:(?!input|prompt|messages|context).){0,60}?"
        r"(?:<=|at most|than or equal to|than|exceeds?|exceed|maximum|limit|of|between \d+ and)"
        r"\W{0,3}(?:the )?(?:maximum |limit |of |for this model |allowed |value |is |[a-z_]+=|[:(`])*([\d,]+)",  # Groq, TGI
    )
]
_EXCLUSIVE_LIMIT: Final = re.compile(r"maxoutputtokens.{0,120}?to ([\d,]+) \(exclusive\)", re.IGNORECASE)  # Vertex
_INPUT_SIZE: Final = re.compile(
    r"([\d,]+) (?:input tokens|in the messages|in your prompt|tokens from the input|`inputs` tokens|of text input)"
    r"|limit: ([\d,]+) \+ \d+ >",
    re.IGNORECASE,
)

_NO_CREDIT: Final = re.compile(
    rb'"(?:insufficient_quota|billing_not_active|billing_hard_limit_reached|insufficient_balance|1113)"'
)  # in a 429 that no waiting resolves
_LOADING: Final = re.compile(
    r"\b(?:loading|being loaded|downloading|pulling|starting|no healthy upstream|waiting for (?:a )?worker"
    r"|warming|not (?:yet )?(?:ready|loaded)|cold[ -]?start|initiali[sz]ing"
    r"|booting|swapping)\b"
    r"|estimated_time|\bload(?:s|ed)? .{0,20}in progress",
    re.IGNORECASE,
)
_LOADING_MODEL: Final = re.compile(
    r"loading (?:the )?model|model .{0,80}?is (?:still |currently )?loading", re.IGNORECASE
)
_NOT_LOADED: Final = re.compile(r"(?:fail\w*|error|unable|could not|cannot)[^.]{0,20} load", re.IGNORECASE)
_STATUS_OF_WORD: Final[Mapping[str, int]] = {
    word: status
    for status, words in {
        400: "invalid_request_error invalid_argument bad_request badrequesterror context_length_exceeded invalid_request "
        "invalid_prompt 1214 1261",
        401: "authentication_error unauthenticated invalid_api_key unauthorized",
        402: "insufficient_balance insufficient_credits payment_required",
        403: "permission_error permission_denied forbidden",
        404: "not_found_error not_found model_not_found",
        408: "request_timeout",
        409: "aborted conflict",
        429: "resource_exhausted rate_limit_exceeded rate_limit_error rate_limit ratelimiterror rate_limited "
        "too_many_requests throttling throttlingexception insufficient_quota engine_overloaded_error 1302 1303 1305 1113",
        500: "internal server_error internal_error api_error internal_server_error internalservererror internal_failure",
        502: "bad_gateway upstream_error provider_error provider_unavailable network_error abort error 1234",
        503: "unavailable service_unavailable overloaded_error overloaded unavailable_error server_overloaded "
        "server_is_overloaded service_unavailable_error model_overloaded insufficient_system_resource",
        504: "deadline_exceeded timeout timeout_error gateway_timeout",
    }.items()
    for word in words.split()
}
# Finish reasons.
BROKEN_OFF: Final = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})
WINDOW_EXCEEDED: Final = "model_context_window_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenError:
    """An error within a response of status 200.

    Attributes:
        status: the HTTP status that it amounts to.
        body: the body that a response of this status would have.
        predicate: a predicate for the server's name, without the message of the body.
    """

    status: int
    body: object
    predicate: str = "sent an error instead of a reply"


def hidden_error(response: object) -> HiddenError | None:
    """The error in the decoded body of a successful response; None if it is a reply, or an error of unknown kind."""
    if response is None or response == []:
        return HiddenError(status=BAD_GATEWAY, body=None, predicate="sent an empty response")
    if not isinstance(response, dict) or "done" in response:
        return None
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    error = response.get("error") or first.get("error")
    if not error and first.get("message") is None and says_error(response):
        error = {key: value for key, value in response.items() if key != "choices"}
    if error:
        status = _status_of(error) or _status_of({**response, "error": None}) or _status_by_words(error)
        return HiddenError(status=status, body={"error": error}) if status else None
    reason = first.get("finish_reason")
    if isinstance(reason, str) and reason in BROKEN_OFF:
        predicate = f"broke its reply off (finish reason: {reason})"
        return HiddenError(status=_STATUS_OF_WORD[reason], body=None, predicate=predicate)
    if reason == WINDOW_EXCEEDED and not _has_text(first):
        return HiddenError(status=BAD_REQUEST, body={"error": {"code": reason}})
    if not first and not says_error(response):
        return HiddenError(status=BAD_GATEWAY, body=None, predicate="sent no choices")
    return None


def is_too_long(status: int, body: object) -> bool:
    """Whether an error response says that the conversation exceeds the model's window."""
    text = words_of(body)
    if status == RATE_LIMITED:
        requested = _LIMIT_AND_REQUESTED.search(text)
        more = requested is not None and _number(requested[2]) > _number(requested[1])
        return more or bool(_TOO_LARGE_FOR_EVER.search(text))
    if status == TOO_LARGE:
        return True  # requests hold text only
    if status not in _TOO_LONG or output_limit(body) is not None or _ITEM_FIELD.search(text):
        return False
    if _CODES.search(text):
        return True
    if _NEVER.search(text) and "token" not in text.lower():
        return False
    if _RATE.search(text) and not _TOO_LARGE_FOR_EVER.search(text):
        return False
    if "messages" in text and re.search(r"array_above_max_length|string_above_max_length", text):
        return True
    return bool(_WORDS.search(text)) and not (_OTHER_THINGS.search(text) and not _SURELY.search(text))


def may_be_too_long(status: int | None, message: str) -> bool:
    """Whether an error may mean, in unknown words, that the conversation exceeds the model's window."""
    return status in _PERHAPS_TOO_LONG or (status == _SERVER_ERROR and bool(_ABOUT_SIZE.search(message)))


def stated_window(body: object) -> int | None:
    """Tokens of the model's window, if the error states them, and not only the size of the request."""
    for key, value in _leaves(body):
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if key in _WINDOW_KEYS and is_number and MIN_WINDOW <= value <= MAX_WINDOW:
            return int(value)
    text = words_of(body)
    if "string_above_max_length" in text or re.match(r"<[a-z!?]", text, re.IGNORECASE):
        return None  # characters, a page
    for match in _NUMBER.finditer(text):
        number = _number(match[0].rstrip("kK")) * (1024 if match[0][-1] in "kK" or match["kilo"] else 1)
        before, after = text[max(0, match.start() - 70) : match.start()], text[match.end() : match.end() + 40]
        is_request = _REQUEST_AFTER.match(after) or _REQUEST_BEFORE.search(before)
        if not MIN_WINDOW <= number <= MAX_WINDOW or number in NO_WINDOWS or is_request:
            continue
        if _BOUND_BEFORE.search(before) or _BOUND_AFTER.match(after):
            return number
    return None


def output_limit(body: object) -> int | None:
    """The maximum of the limit on output tokens, if the error says that the request asked for more."""
    text = words_of(body)
    if match := _EXCLUSIVE_LIMIT.search(text):
        return _number(match[1]) - 1
    for pattern in _OUTPUT_LIMIT:
        if (match := pattern.search(text)) and (number := _number(match[1])) > 0:
            return number
    return None


def room_for_reply(body: object) -> int | None:
    """Tokens that the window has left for a reply, if the error states window and input."""
    window, text = stated_window(body), words_of(body)
    sizes = [_number(match[1] or match[2]) for match in _INPUT_SIZE.finditer(text)]
    return window - max(sizes) if window and sizes else None


def is_loading(status: int, body: object) -> bool:
    """Whether a server says that it is still loading the model."""
    text = words_of(body)
    if _NOT_LOADED.search(text):
        return False
    return bool(status == UNAVAILABLE and _LOADING.search(text)) or bool(
        status in (425, 500, BAD_GATEWAY, 504) and _LOADING_MODEL.search(text)
    )


def is_out_of_credit(body: bytes) -> bool:
    """Whether a 429 response means that the account has no credit left."""
    return bool(_NO_CREDIT.search(body))


def words_of(body: object) -> str:
    """All texts and numbers of an error on one line, with their names. Not what it echoes of the request."""
    if isinstance(body, str):
        return " ".join(body[:MAX_CHARS].split())
    pieces: list[str] = []
    for key, value in _leaves(body):
        if isinstance(value, str):
            pieces.append(value[:MAX_CHARS] if key in ("message", "") else f"{key}: {value[:MAX_CHARS]}")
        elif value is not None:
            pieces.append(f"{key}: {value}")
    return " ".join(" | ".join(pieces)[:MAX_CHARS].split())


def error_message(body: object, depth: int = 0) -> str:
    """The message in the body of an error response, on one line. Not clipped: see `UnusableResponse`."""
    match body:
        case Mapping() if depth > MAX_DEPTH:
            return "(nested too deeply)"
        case {"error": Mapping() | str() as error} if error:
            message = error_message(error, depth + 1)
            raw = _raw(error, depth + 1)
            return f"{message}: {raw}" if raw else message
        case (
            {"message": str(message)} | {"detail": str(message)} | {"msg": str(message)} | {"status_msg": str(message)}
        ):
            return " ".join(message.split())
        case {"base_resp": Mapping() as inner} | {"detail": Mapping() as inner} | {"message": Mapping() as inner}:
            return error_message(inner, depth + 1)
        case str(message):
            return _without_tags(message)
        case None:
            return ""
    return json.dumps(body, default=str, ensure_ascii=False) if nests_little(body) else "(nested too deeply)"


def body_of(content: bytes) -> object:
    """The body of an error response: decoded JSON, else text."""
    text = content.decode(errors="replace").removeprefix("\ufeff").strip()
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return body if nests_little(body) else text


def nests_little(value: object) -> bool:
    """Whether decoded JSON has few enough levels for functions that recurse, such as `repr` and `json.dumps`."""
    level = [value]
    for _ in range(MAX_NESTED):
        level = [
            inner
            for each in level
            for inner in (
                each.values() if isinstance(each, Mapping) else each if isinstance(each, list | tuple) else ()
            )
            if isinstance(inner, Mapping | list | tuple)
        ]
        if not level:
            return True
    return False


def _raw(error: object, depth: int) -> str:
    """What the server behind a router said (OpenRouter)."""
    match error:
        case {"metadata": {"raw": str(raw)}}:
            return error_message(body_of(raw.encode(errors="replace")), depth)
    return ""


def _without_tags(text: str) -> str:
    """A page's title, or else its text."""
    text = " ".join(text.split())
    if not re.match(r"<(?:!doctype|html|head|body|\?xml)\b", text, re.IGNORECASE):
        return text
    title = re.search(r"<(title|h1)>\s*(.{0,300}?)\s*</\1>", text[:MAX_CHARS], re.IGNORECASE)
    return f"an HTML page, {title[2]!r}" if title and title[2] else text


def _leaves(body: object, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        return
    if isinstance(body, Mapping):
        for name, value in body.items():
            if name == "raw" and isinstance(value, str) and value.lstrip().startswith("{"):
                yield from _leaves(body_of(value.encode(errors="replace")), name, depth + 1)
            elif name not in ECHOES:
                yield from _leaves(value, str(name), depth + 1)
    elif isinstance(body, list | tuple):
        for value in body[:100]:
            yield from _leaves(value, key, depth + 1)
    else:
        yield key, body


def says_error(response: Mapping[str, Any]) -> bool:
    """Whether a response without an `error` is one all the same."""
    base = response.get("base_resp")
    if response.get("object") == "error":
        return True
    says = any(response.get(name) for name in ("message", "detail", "msg", "errors"))
    return response.get("choices") in (None, []) and (says or bool(isinstance(base, dict) and base.get("status_code")))


def _status_of(error: object, depth: int = 0) -> int | None:
    """The HTTP status of an error by its codes, as numbers, texts of numbers, or names."""
    if not isinstance(error, Mapping) or depth > MAX_DEPTH:
        return None
    values = [error.get(name) for name in ("code", "status", "status_code", "http_status", "statusCode", "error_code")]
    numbers = [_whole(value) for value in values]
    for number in numbers:
        if number is not None and 400 <= number < 600:
            return number
    for value in [*values, error.get("type"), error.get("reason")]:
        word = re.sub(r"[\s-]+", "_", str(value).strip()).lower() if isinstance(value, str | int) else ""
        if word in _STATUS_OF_WORD:
            return _STATUS_OF_WORD[word]
    base = error.get("base_resp")
    if isinstance(base, Mapping):  # MiniMax
        return {1001: 504, 1002: 429, 1004: 401, 1008: 402, 1013: 500, 1039: 400, 2013: 400}.get(
            _whole(base.get("status_code")) or 0, BAD_GATEWAY
        )
    inner = error.get("error") or error.get("detail")
    return _status_of(inner, depth + 1)


def _status_by_words(error: object) -> int | None:
    return BAD_REQUEST if is_too_long(BAD_REQUEST, error) else None


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    match = re.fullmatch(r"\D{0,12}(\d{1,6})(?:\.0*)?\D{0,30}", str(value)) if isinstance(value, str | float) else None
    return int(match[1]) if match else None


def _has_text(choice: Mapping[str, Any]) -> bool:
    message = choice.get("message")
    return isinstance(message, dict) and bool(message.get("content"))


def _number(text: str) -> int:
    digits = re.sub(r"\D", "", text)[:12]
    return int(digits) if digits else 0
