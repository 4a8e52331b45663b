"""A model without any REPL: the whole text in one prompt, or piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio

from rlm.errors import ConfigError, ContextTooLong, ModelError
from rlm.evals.corpus.tokens import tokens
from rlm.evals.task import Instance
from rlm.models.base import Model
from rlm.types import Message, ModelReply, Usage

from .base import MethodContext, Outcome

CHUNK_TOKENS: Final = 32_000  # of a piece that map_reduce reads, where the windows hold so much
REPLY_TOKENS: Final = 2_000  # left free in a window for the reply
ESTIMATE_SHARE: Final = 0.85  # of a window that an estimate may fill: it is wrong by up to 17 %
AT_ONCE: Final = 16  # calls of one map_reduce
SHRINK: Final = 0.6  # a prompt that a model finds too long is sent again with so much of its context
ATTEMPTS: Final = 8  # the last one is with a thirty-sixth of it
_DIRECT: Final = "{context}\n\n{query}"
_MAP: Final = """{piece}

The text above is part {number} of {count} of a longer one. This is asked about the whole of it:
{query}

Write down everything in this part that helps to answer it, with exact figures and names. Write NONE if there is nothing."""
_REDUCE: Final = """Notes from the parts of a long text, in their order:

{notes}

This is asked about the whole text. Answer it from the notes, in the form that it asks for:
{query}"""
_CUT: Final = "\n[... {left_out:,} characters left out here ...]\n"


async def direct(instance: Instance, means: MethodContext, folder: Path) -> Outcome:
    """One plain call with all of the context, or as much of its head and tail as the model's window holds."""
    model, _ = _plain_models(instance, means, "direct")
    text = instance.text
    size = tokens(text)
    window = means.window or model.context_window
    room = size if window is None else max(0, _room(window, instance))
    for attempt in range(1, ATTEMPTS + 1):
        kept = max(0, len(text) * room // size) if size > room else len(text)
        context = text
        if kept < len(text):
            context = text[: kept // 2] + _CUT.format(left_out=len(text) - kept) + text[len(text) - kept // 2 :]
        prompt = _DIRECT.format(context=context, query=instance.query)
        try:
            reply = await model.complete([Message(role="user", content=prompt)])
            break
        except ContextTooLong:  # its window is not known, or its tokens are shorter than the estimate
            if attempt == ATTEMPTS:
                raise
            room = int(min(room, size) * SHRINK)
    note = f"context cut to about {room:,} of {size:,} tokens" if kept < len(text) else ""
    return Outcome(
        answer=reply.text, usage=reply.usage, by_node={"0": reply.usage}, stop_reason=reply.finish_reason, note=note
    )


async def map_reduce(instance: Instance, means: MethodContext, folder: Path) -> Outcome:
    """Fixed pieces are read by the sub-model, which takes notes; the root model answers from the notes. No code."""
    model, sub_model = _plain_models(instance, means, "map_reduce")
    windows = [window for window in (means.window or model.context_window, sub_model.context_window) if window]
    size = min([CHUNK_TOKENS, *(_room(window, instance) for window in windows)])
    if size < 1:
        raise ConfigError(f"A window of {min(windows):,} tokens holds no piece of a text: give a greater --window.")
    replies: dict[str, ModelReply] = {}
    slots = anyio.CapacityLimiter(AT_ONCE)

    async def ask(asked: Model, prompt: str, node: str) -> str:
        async with slots:
            replies[node] = await asked.complete([Message(role="user", content=prompt)])
        return replies[node].text

    async def noted(pieces: Sequence[str], node: str) -> list[str]:
        notes = [""] * len(pieces)

        async def one(number: int) -> None:
            prompt = _MAP.format(piece=pieces[number], number=number + 1, count=len(pieces), query=instance.query)
            notes[number] = await ask(sub_model, prompt, f"{node}.{number + 1}")

        try:
            async with anyio.create_task_group() as group:
                for number in range(len(pieces)):
                    group.start_soon(one, number)
        except* ModelError as failed:
            raise failed.exceptions[0] from failed  # one is enough to say why
        return [note for note in notes if note.strip().strip(".") != "NONE"]

    notes = await noted(_pieces(instance.text, size), "0")
    rounds = 1
    while tokens(together := "\n\n".join(notes)) > size and len(pieces := _pieces(together, size)) > 1:
        fewer = await noted(pieces, "0" + ".1" * rounds)
        if len("\n\n".join(fewer)) >= len(together):
            break  # a model that repeats what it reads would go on for ever
        notes, rounds = fewer, rounds + 1
    answer = await ask(model, _REDUCE.format(notes=together or "(nothing)", query=instance.query), "0")
    used = {node: reply.usage for node, reply in replies.items()}
    cut = any(reply.finish_reason == "length" for reply in replies.values())  # notes too: what they lack, no answer has
    return Outcome(
        answer=answer,
        usage=sum(used.values(), Usage()),
        by_node=used,
        stop_reason="length" if cut else "final",
        sub_calls=len(used) - 1,
        depth=min(rounds, len(used) - 1),
    )


def _plain_models(instance: Instance, means: MethodContext, name: str) -> tuple[Model, Model]:
    model, sub_model = means.models(instance.task)
    if isinstance(model, str) or isinstance(sub_model, str):
        raise ConfigError(f"{name} needs models as objects.")
    return model, sub_model


def _room(window: int, instance: Instance) -> int:
    """Tokens of a text that a window holds beside the question and the reply."""
    return int((window - REPLY_TOKENS) * ESTIMATE_SHARE) - tokens(instance.query)


def _pieces(text: str, size: int) -> list[str]:
    """Cut at line ends where there are any, into pieces of so many tokens at most."""
    count = -(-tokens(text) // size)
    if count <= 1:
        return [text] if text else []
    width = -(-len(text) // count)
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = min(len(text), start + width)
        if end < len(text) and (line_end := text.rfind("\n", start + width // 2, end)) >= 0:
            end = line_end + 1
        pieces += _pieces(text[start:end], size)  # one that is denser than the whole is cut again
        start = end
    return pieces
