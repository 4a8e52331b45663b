"""The questions to a server. Pure: see `Question`. Each one is small: a few tens of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from rlm.loop.reply import parse
from rlm.models.refusals import NO_MODEL_LIST, UNAUTHORIZED
from rlm.models.thinking import split_thinking
from rlm.models.window import entry_window, find_entry, listed_names

from .exchange import MODELS, Answer, Ask, Known, Question, Verdict, ask, count, quoted

MAX_NAMES: Final = 5  # shown of a server's models
COUNTED: Final = 40  # the numbers to count up to: several times more than the limit on output
OUTPUT_LIMIT: Final = 16  # tokens that a reply may have in the question about that limit
AT_ONCE: Final = 4
SERIAL_RATIO: Final = 2.5  # 4 requests at once that take so many times as long as one are answered in turn
MEASURABLE_SECONDS: Final = 0.3  # of one request; below, the ratio is noise
LINE: Final = "Zażółć gęślą jaźń — 東京 “quote” 🎉 naïve ± ≠ ½"
MOJIBAKE: Final = ("Ã", "Å¼", "â€", "\ufffd", "\\u")
ROOT_PROMPT: Final = (
    "You work in a Python REPL. The variable `context` is a str. You cannot see it. To run code, write a block:\n"
    "```repl\nprint(len(context))\n```\nYou get its output, and go on. First look at the data with code."
)
FILLER: Final = "Entry {}: the grey heron counts {} wet stones by the mill and flies on.\n"


def models(model: str, known: Known) -> Question:
    """Is the server there, and does it list the model?"""
    (answer,) = yield [Ask(path=MODELS)]
    if answer.status is None:
        return Verdict(state="problem", text=answer.failure)
    if answer.status in UNAUTHORIZED:
        return Verdict(state="problem", text=f"refuses the key ({answer.error}): check OPENAI_API_KEY")
    if not answer.ok:
        note = (
            "has no list of models" if answer.status in NO_MODEL_LIST else f"gives no list of models ({answer.error})"
        )
        return Verdict(state="note", text=f"{note}: set context_window yourself")
    names = listed_names(answer.body)
    entry = find_entry(answer.body, model)
    window = None if entry is None else entry_window(entry)
    said = "states no window" if window is None else f"states a window of {window:,} tokens"
    learned = {"stated_window": window}
    if model in names:
        return Verdict(state="ok", text=f"lists {model}, {said}", learned=learned)
    shown = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
    return Verdict(state="note", text=f"lists {shown or 'no model'}, but not {model}; {said}", learned=learned)


def reply(known: Known) -> Question:
    """Does it answer one message with text?"""
    (answer,) = yield [ask("Reply with the one word: ready")]
    if not answer.ok:  # perhaps it does not know the field of the limit
        (answer,) = yield [ask("Reply with the one word: ready", limit=False)]
    if answer.status == 404:
        return Verdict(state="problem", text=f"{answer.error}: check the model's name, and that the URL ends in /v1")
    if not answer.ok:
        return Verdict(state="problem", text=answer.error)
    learned = {"thinks": _thinks(answer)}
    text, why = answer.read
    form = _content_form(answer.message)
    if answer.streamed:
        said = f"streams, although the request says `stream: false` ({quoted(why or text.strip())})"
        return Verdict(state="problem" if why else "note", text=said, learned=learned)
    if why:
        return Verdict(state="problem", text=quoted(why), learned=learned)
    return Verdict(state="ok", text=f"{quoted(text.strip())!r} in {answer.seconds:.1f} s{form}", learned=learned)


def system(known: Known) -> Question:
    """Does it take a system message?"""
    (answer,) = yield [ask("Which fruit?", system="Whatever you are asked, reply with the one word PEAR.")]
    if not answer.ok:
        text = f"refuses a system message ({answer.error}): rlm puts it before the first user message"
        return Verdict(state="note", text=text, learned={"system_role": False})
    if "pear" in answer.text.lower():
        return Verdict(state="ok", text="takes a system message, and the model obeys it")
    return Verdict(
        state="note",
        text=f"takes a system message, but the model does not obey it: {quoted(answer.text.strip() or answer.read[1])!r}",
    )


def roles(known: Known) -> Question:
    """Does it take two messages of the user in a row, and a conversation that ends with the model's own words?"""
    twice, last = yield [
        Ask(messages=[("user", "Remember the word plum."), ("user", "Which word?")]),
        Ask(messages=[("user", "Say hello."), ("assistant", "Hel")]),
    ]
    end = "takes" if last.ok else "refuses (but rlm sends none)"
    if not twice.ok:
        return Verdict(state="note", text=f"refuses two user messages in a row ({twice.error}): rlm joins them")
    return Verdict(state="ok", text=f"takes two user messages in a row, and {end} one of the model at the end")


def limit(known: Known) -> Question:
    """Which field limits the output, and is it obeyed?"""
    question = f"Count from 1 to {COUNTED} in digits, one number a line. Reply with the numbers only."
    refusals: list[str] = []
    for name in ("max_completion_tokens", "max_tokens"):
        (answer,) = yield [ask(question, {name: OUTPUT_LIMIT}, limit=False)]
        verdict = _limit_obeyed(answer)
        if verdict is None:
            return Verdict(
                state="note" if refusals else "ok",
                text="; ".join([*refusals, f"obeys {name}"]),
                learned={"limit_field": name},
            )
        refusals.append(verdict.format(name))
    return Verdict(
        state="note", text=f"{'; '.join(refusals)}: the length of replies is not limited", learned={"limit_field": None}
    )


def _limit_obeyed(answer: Answer) -> str | None:
    """What is wrong with a reply to a request with a limit on output; None if it was obeyed."""
    if not answer.ok:
        return f"refuses {{}} ({answer.error})"
    long = f"\n{COUNTED}" in answer.text or (answer.output_tokens or 0) > 2 * OUTPUT_LIMIT
    if long:
        return "ignores {}"
    return (
        None
        if answer.finish_reason == "length"
        else f"obeys {{}} with finish reason {answer.finish_reason}, not length"
    )


def parameters(known: Known) -> Question:
    """Which parameters are taken, and is `stop` obeyed?"""
    tried: Mapping[str, object] = {
        "temperature": 0, "top_p": 0.9, "seed": 1, "stop": ["7"], "reasoning_effort": "low"
    }  # fmt: skip
    taken, ignored, refused = [], [], []
    for name, value in tried.items():
        (answer,) = yield [ask("Count from 1 to 9 in digits, in one line.", {name: value})]
        if not answer.ok:
            refused.append(name)
        elif name == "stop" and "8" in answer.text:
            ignored.append(name)
        else:
            taken.append(name)
    learned = {"refused": tuple(refused)}
    groups = {"takes": taken, "ignores": ignored, "refuses": refused}
    text = "; ".join(f"{verb} {', '.join(names)}" for verb, names in groups.items() if names)
    return Verdict(state="note" if refused else "ok", text=text, learned=learned)


def usage(known: Known) -> Question:
    """Does it count tokens, and are the counts plausible?"""
    text = filler(40)
    (answer,) = yield [ask(f"{text}\nReply with the one word: done")]
    if not answer.ok:
        return Verdict(state="note", text=f"refuses a prompt of {len(text):,} characters ({answer.error})")
    tokens = answer.input_tokens
    if tokens is None or answer.output_tokens is None:
        return Verdict(state="note", text="sends no counts: rlm estimates tokens, and the cost is unknown")
    if not len(text) / 12 <= tokens <= len(text):
        return Verdict(
            state="note",
            text=f"counts {tokens:,} tokens for {len(text):,} characters: limits on tokens and cost do not hold",
        )
    learned = {"chars_per_token": len(text) / tokens}
    return Verdict(state="ok", text=f"counts tokens, {len(text) / tokens:.1f} characters each", learned=learned)


def stream(known: Known) -> Question:
    """Does it stream, with counts? rlm asks for no streams."""
    (answer,) = yield [
        ask("Reply with the one word: ready", {"stream": True, "stream_options": {"include_usage": True}})
    ]
    if not answer.ok:
        return Verdict(state="ok", text="refuses streams; rlm asks for none")
    counts = " with counts" if b'"prompt_tokens"' in answer.body else " without counts"
    form = f"streams{counts}" if answer.streamed else "sends no stream"
    return Verdict(state="ok", text=f"{form}; rlm asks for none")


def text(known: Known) -> Question:
    """Do other scripts and a long line survive the way there and back?"""
    long = "x" * 3_000
    (answer,) = yield [ask(f"Ignore this line: {long}\nRepeat exactly the next line, and nothing else:\n{LINE}")]
    if not answer.ok:
        return Verdict(state="note", text=f"refuses a line of 3,000 characters or other scripts ({answer.error})")
    if LINE in answer.text:
        return Verdict(state="ok", text="other scripts and a long line return unchanged")
    if any(broken in answer.text for broken in MOJIBAKE):
        return Verdict(state="note", text=f"garbles other scripts: {quoted(answer.text.strip())!r}")
    return Verdict(state="ok", text="no sign of a wrong encoding; the model did not repeat the line exactly")


def code(known: Known) -> Question:
    """Does the model write code as a root model must?"""
    (answer,) = yield [ask("How many lines does `context` have?", system=ROOT_PROMPT)]
    if answer.message.get("tool_calls"):
        return Verdict(
            state="note", text="answers with a tool call, although none was offered: as a root model it loses turns"
        )
    if answer.ok and parse(answer.text).cells:
        return Verdict(state="ok", text="writes a code block when told how")
    said = quoted(answer.text.strip()) or answer.read[1]
    return Verdict(state="note", text=f"wrote no code block ({said!r}): as a root model it may be too weak")


def parallel(known: Known) -> Question:
    """Are requests answered side by side?"""
    question = f"Count from 1 to {COUNTED} in digits."
    (one,) = yield [ask(question)]
    many = yield [ask(question)] * AT_ONCE
    failed = [answer for answer in many if not answer.ok]
    if failed:
        text = f"{len(failed)} of {AT_ONCE} at once failed ({failed[0].error})"
        return Verdict(state="note", text=text, learned={"max_concurrent": 1})
    seconds = max(answer.seconds for answer in many)
    text = f"{AT_ONCE} at once took {seconds:.1f} s, one alone {one.seconds:.1f} s"
    if one.seconds < MEASURABLE_SECONDS or seconds < SERIAL_RATIO * one.seconds:
        return Verdict(state="ok", text=text)
    return Verdict(state="note", text=f"{text}: they are answered in turn", learned={"max_concurrent": AT_ONCE})


def observed(answers: Sequence[Answer]) -> Iterable[tuple[str, Verdict]]:
    """What the answers to all questions have in common: where thinking is, empty replies, rate limits."""
    replies = [answer for answer in answers if answer.ok and answer.message]
    if thinking := _thinking_place(replies):
        yield "thinks", thinking
    empty = [answer for answer in replies if not answer.text.strip()]
    if empty:
        text = f"{len(empty)} of {len(replies)} replies had no text ({quoted(empty[0].read[1])})"
        yield "empty", Verdict(state="note", text=text)
    limited = [answer for answer in answers if answer.status == 429]
    if limited:
        waits = [answer.headers["retry-after"] for answer in limited if "retry-after" in answer.headers]
        says = f"Retry-After: {waits[0]}" if waits else "no Retry-After"
        yield "rate", Verdict(state="note", text=f"answered 429 {len(limited)} times, {says}; rlm waits and repeats")


def _thinking_place(replies: Sequence[Answer]) -> Verdict | None:
    fields = {name for each in replies for name in ("reasoning_content", "reasoning") if each.message.get(name)}
    in_text = any(_thinks_in_text(each.message.get("content")) for each in replies)
    if in_text:
        return Verdict(
            state="note", text="in the text: rlm takes it out; better, start the server with its reasoning parser"
        )
    if fields:
        return Verdict(state="ok", text=f"apart from the text, in {' and '.join(sorted(fields))}")
    if any(map(_thinks, replies)):
        return Verdict(state="ok", text="apart from the text")
    return None


def _thinks(answer: Answer) -> bool:
    message = answer.message
    details = answer.usage.get("completion_tokens_details")
    counted = count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    content = message.get("content")
    parts = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    apart = message.get("reasoning_content") or message.get("reasoning") or "thinking" in parts
    return bool(counted or apart or _thinks_in_text(content))


def _thinks_in_text(content: object) -> bool:
    return isinstance(content, str) and ("</think" in content or bool(split_thinking(content)[0]))


def _content_form(message: Mapping[str, Any]) -> str:
    return ", as a list of parts" if isinstance(message.get("content"), list) else ""


def filler(lines: int) -> str:
    """Text of so many numbered lines, about 18 tokens each."""
    return "".join(FILLER.format(number, number * 37 % 101) for number in range(1, lines + 1))


# In the order in which they are asked; each uses what those before it have shown. `models` and the long prompt are apart.
QUESTIONS: Final[Mapping[str, Callable[[Known], Question]]] = {
    "reply": reply,
    "system": system,
    "roles": roles,
    "limit": limit,
    "fields": parameters,
    "usage": usage,
    "stream": stream,
    "text": text,
    "code": code,
    "at once": parallel,
}
