"""Models without a REPL: the whole context in one prompt, or piece by piece."""

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

from .base import MethodContext, MethodOutcome

MAX_PIECE_TOKENS: Final = 32_000  # limit of a piece for map_reduce, if the windows allow it
REPLY_TOKENS: Final = 2_000  # reserved in a window for the reply,
REPLY_SHARE: Final = 1 / 8  # but at most this share of a small one
ESTIMATE_SHARE: Final = 0.85  # share of a window that an estimate may fill: estimates are up to 17 % short
MAX_CONCURRENT_CALLS: Final = 16  # per map_reduce
SHRINK_FACTOR: Final = 0.6  # share of the context that a retry keeps when a model rejects a prompt as too long
MAX_ATTEMPTS: Final = 8  # the last one sends a thirty-sixth of the context
_DIRECT_PROMPT: Final = "{context}\n\n{query}"
_MAP_PROMPT: Final = """{piece}

The text above is part {number} of {count} of a longer one. This is asked about the whole of it:
{query}

Write down everything in this part that helps to answer it, with exact figures and names. Write NONE if there is nothing."""
_REDUCE_PROMPT: Final = """Notes from the parts of a long text, in their order:

{notes}

This is asked about the whole text. Answer it from the notes, in the form that it asks for:
{query}"""
_OMISSION: Final = "\n[... {left_out:,} characters left out here ...]\n"


async def direct(instance: Instance, ctx: MethodContext, folder: Path) -> MethodOutcome:
    """One plain call with the context, or with as much of its head and tail as the window holds."""
    model, _ = _plain_models(instance, ctx, "direct")
    text = instance.text
    size = tokens(text)
    window = ctx.window or model.context_window
    budget = size if window is None else max(0, _context_tokens(window, instance))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        kept = max(0, len(text) * budget // size) if size > budget else len(text)
        context = text
        if kept < len(text):
            context = text[: kept // 2] + _OMISSION.format(left_out=len(text) - kept) + text[len(text) - kept // 2 :]
        prompt = _DIRECT_PROMPT.format(context=context, query=instance.query)
        try:
            reply = await model.complete([Message(role="user", content=prompt)])
            break
        except ContextTooLong:  # the window is unknown, or the estimate was short
            if attempt == MAX_ATTEMPTS:
                raise
            budget = int(min(budget, size) * SHRINK_FACTOR)
    note = f"context truncated to about {budget:,} of {size:,} tokens" if kept < len(text) else ""
    return MethodOutcome(
        answer=reply.text, usage=reply.usage, by_node={"0": reply.usage}, stop_reason=reply.finish_reason, note=note
    )


async def map_reduce(instance: Instance, ctx: MethodContext, folder: Path) -> MethodOutcome:
    """The sub-model takes notes on fixed pieces; the root model answers from the notes. Runs no code."""
    model, sub_model = _plain_models(instance, ctx, "map_reduce")
    windows = [window for window in (ctx.window or model.context_window, sub_model.context_window) if window]
    size = min([MAX_PIECE_TOKENS, *(_context_tokens(window, instance) for window in windows)])
    if size < 1:
        raise ConfigError(
            f"A window of {min(windows):,} tokens is too small for map_reduce: increase --context-window."
        )
    replies: dict[str, ModelReply] = {}
    slots = anyio.CapacityLimiter(MAX_CONCURRENT_CALLS)

    async def call(model: Model, prompt: str, node: str) -> str:
        async with slots:
            replies[node] = await model.complete([Message(role="user", content=prompt)])
        return replies[node].text

    async def take_notes(pieces: Sequence[str], node: str) -> list[str]:
        notes = [""] * len(pieces)

        async def read(number: int) -> None:
            prompt = _MAP_PROMPT.format(
                piece=pieces[number], number=number + 1, count=len(pieces), query=instance.query
            )
            notes[number] = await call(sub_model, prompt, f"{node}.{number + 1}")

        try:
            async with anyio.create_task_group() as group:
                for number in range(len(pieces)):
                    group.start_soon(read, number)
        except* ModelError as failed:
            raise failed.exceptions[0] from failed  # one error explains the failure
        return [note for note in notes if note.strip().strip(".") != "NONE"]

    notes = await take_notes(split_text(instance.text, size), "0")
    rounds = 1
    while tokens(joined := "\n\n".join(notes)) > size and len(pieces := split_text(joined, size)) > 1:
        shorter = await take_notes(pieces, "0" + ".1" * rounds)
        if len("\n\n".join(shorter)) >= len(joined):
            break  # a model that repeats its input would loop for ever
        notes, rounds = shorter, rounds + 1
    answer = await call(model, _REDUCE_PROMPT.format(notes=joined or "(nothing)", query=instance.query), "0")
    usage = {node: reply.usage for node, reply in replies.items()}
    truncated = any(reply.finish_reason == "length" for reply in replies.values())  # in notes it costs the answer too
    return MethodOutcome(
        answer=answer,
        usage=sum(usage.values(), Usage()),
        by_node=usage,
        stop_reason="length" if truncated else "final",
        sub_calls=len(usage) - 1,
        depth=min(rounds, len(usage) - 1),
    )


def _plain_models(instance: Instance, ctx: MethodContext, method: str) -> tuple[Model, Model]:
    model, sub_model = ctx.models(instance.task)
    if isinstance(model, str) or isinstance(sub_model, str):
        raise ConfigError(f"{method} requires Model objects, not names.")
    return model, sub_model


def _context_tokens(window: int, instance: Instance) -> int:
    """The maximum number of context tokens in a window that also holds the question and the reply."""
    return int((window - min(REPLY_TOKENS, int(window * REPLY_SHARE))) * ESTIMATE_SHARE) - tokens(instance.query)


def split_text(text: str, size: int) -> list[str]:
    """Pieces of at most `size` tokens, cut at line ends where possible."""
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
        pieces += split_text(text[start:end], size)  # a dense piece may exceed the size
        start = end
    return pieces
