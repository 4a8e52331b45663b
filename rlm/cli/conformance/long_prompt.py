"""The question about long prompts: what a server does with one that does not fit. Pure.

A fact stands at the beginning of the prompt. A server that silently cuts the beginning off loses it.
"""

from __future__ import annotations

import re
from typing import Final

from rlm.models.refusals import stated_window
from rlm.models.window import MIN_WINDOW

from .exchange import Answer, Ask, Known, Question, Verdict, ask
from .questions import FILLER, filler

BUDGET: Final = 40_000  # input tokens of all long prompts together
STEPS: Final = (2_500, 8_000, 24_000)  # prompts for an unknown window: below 4,096, above it, and well above 8,192
FITS, EXCEEDS = 0.6, 1.2  # of a stated window
MAX_WITHIN: Final = 12_000  # tokens of the prompt that fits
CODE: Final = "TULIP-4731"
MIN_SHARE: Final = 0.8  # of a size that fits: estimates of tokens are not exact
CUT_SHARE: Final = 0.8  # of the prompt: a server that counts fewer tokens has cut it


def long_prompt(known: Known) -> Question:
    """What happens to a prompt that is longer than the window?"""
    window = known.stated_window
    if window is None:
        return (yield from _unknown_window(known))
    fits = min(int(FITS * window), MAX_WITHIN)
    (inside,) = yield [_ask(fits, known)]
    problem = _loss(inside, fits, known)
    if problem is not None:
        return problem
    exceeds = int(EXCEEDS * window)
    if fits + exceeds > BUDGET:
        text = f"reads one of {fits:,} tokens whole; the window of {window:,} is too long to try"
        return Verdict(state="ok", text=text)
    (outside,) = yield [_ask(exceeds, known)]
    return _beyond(outside, exceeds, window, known)


def _unknown_window(known: Known) -> Question:
    whole = 0
    for tokens in STEPS:
        (answer,) = yield [_ask(tokens, known)]
        if not answer.ok or CODE not in answer.text:
            return _beyond(answer, tokens, whole or MIN_WINDOW, known)
        whole = tokens
    return Verdict(
        state="note", text=f"reads one of {whole:,} tokens whole; the window is unknown", learned={"window": None}
    )


def _loss(answer: Answer, tokens: int, known: Known) -> Verdict | None:
    """What is wrong with the answer to a prompt that fits by the server's own word; None if nothing is."""
    if not answer.ok:
        text = f"refuses one of {tokens:,} tokens, although the window is {known.stated_window:,} ({answer.error})"
        return Verdict(state="note", text=text, learned={"window": stated_window(answer.json) or tokens // 2})
    cut = _counted_cut(answer, tokens)
    if cut is not None:
        text = (
            f"cuts one of {tokens:,} tokens to {cut:,} without an error, although the window is {known.stated_window:,}"
        )
        return Verdict(state="note", text=text, learned={"window": cut})
    return None


def _beyond(answer: Answer, tokens: int, window: int, known: Known) -> Verdict:
    """What the server does with a prompt of `tokens` beyond its window of about `window` tokens."""
    if answer.status is None:
        return Verdict(
            state="note",
            text=f"gives no answer to one of {tokens:,} tokens ({answer.failure})",
            learned={"window": window},
        )
    if not answer.ok:
        stated = _stated_number(answer, window)
        limit = stated or window
        if not answer.too_long:
            text = f"refuses one of {tokens:,} tokens with a message that rlm does not recognize ({answer.error})"
            return Verdict(state="note", text=text, learned={"window": limit})
        says = "states no number" if stated is None else f"states {stated:,}"
        return Verdict(
            state="ok",
            text=f"refuses one of {tokens:,} tokens as too long; the error {says}",
            learned={"window": limit},
        )
    cut = _counted_cut(answer, tokens)
    if cut is not None:
        return Verdict(
            state="note", text=f"cuts one of {tokens:,} tokens to {cut:,} without an error", learned={"window": cut}
        )
    if CODE in answer.text:
        return Verdict(state="ok", text=f"reads one of {tokens:,} tokens whole: the window is longer than {window:,}")
    if answer.input_tokens is not None:  # not cut, by the server's count
        text = f"counts one of {tokens:,} tokens whole, but the model does not find what stands at its beginning"
        return Verdict(state="note", text=text, learned={"window": None})
    text = f"loses the beginning of one of {tokens:,} tokens without an error, or the model does not find it"
    return Verdict(state="note", text=text, learned={"window": window if window > MIN_WINDOW else None})


def _ask(tokens: int, known: Known) -> Ask:
    lines = max(1, int(tokens * known.chars_per_token) // len(FILLER.format(1000, 50)))
    question = "What is the code at the very beginning of this text? Reply with the code only."
    return ask(f"The code is {CODE}.\n{filler(lines)}\n{question}")


def _counted_cut(answer: Answer, tokens: int) -> int | None:
    """The server's count of a prompt's tokens, if that says that it was cut; None if not."""
    if CODE in answer.text or answer.input_tokens is None or answer.input_tokens >= CUT_SHARE * tokens:
        return None
    return answer.input_tokens or None


def _stated_number(answer: Answer, window: int) -> int | None:
    """The window that an error states. It also states the prompt's size, which is greater, and perhaps the reply's."""
    numbers = [int(each.replace(",", "")) for each in re.findall(r"\d[\d,]*\d", answer.words)]
    return min((number for number in numbers if MIN_SHARE * window <= number), default=None)
