"""The ways in which an instance is answered, side by side: plain calls, map and reduce, RLMs of any depth, and no model.

A method gets an instance and gives an `Outcome`. What all of them need is in `Means`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import anyio

from rlm.config import Limits, SandboxConfig
from rlm.errors import ConfigError, ContextTooLong, JournalError, ModelError, ReplayDiffers
from rlm.evals.corpus.tokens import tokens
from rlm.evals.task import Instance
from rlm.models.base import Model
from rlm.orchestrator import Orchestrator
from rlm.prompts import SystemPrompt, default_system_prompt
from rlm.sandbox.base import SandboxFactory
from rlm.store.runs import RunSummary, list_runs
from rlm.types import Completion, Message, ModelReply, Usage

from .guessing import guessed

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method gave for an instance. `note` is what a reader of the score should know, such as a context that was cut.

    `run_dir` is that of the run, where there is one; `resumed`: it was begun by an earlier process.
    """

    answer: str
    usage: Usage = field(default_factory=Usage)
    by_node: Mapping[str, Usage] = field(default_factory=dict)
    stop_reason: str = "final"
    iterations: int = 0
    sub_calls: int = 0
    depth: int = 0
    sandboxes: int = 0
    run_dir: Path | None = None
    resumed: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What methods work with.

    `models` gives the root model and the sub-model for a task, by its name. `window` is the root model's, in tokens, over
    what is known of it. `sandboxes` makes them where they are not to be containers (tests). `system_prompt` is that of RLMs.
    """

    models: Callable[[str], tuple[str | Model, str | Model]]
    limits: Limits = field(default_factory=Limits)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    sandboxes: SandboxFactory | None = None
    window: int | None = None
    system_prompt: SystemPrompt = default_system_prompt
    verbose: bool = False


Method = Callable[[Instance, Means, Path], Awaitable[Outcome]]


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


def _rlm_of(depth: int) -> Method:
    async def rlm(instance: Instance, means: Means, folder: Path) -> Outcome:
        """An RLM. One of this instance that was cut off goes on where it was."""
        model, sub_model = means.models(instance.task)
        orchestrator = Orchestrator(
            depth=depth,
            model=model,
            sub_model=sub_model,
            limits=means.limits,
            sandbox=means.sandbox,
            sandboxes=means.sandboxes,
            run_root=folder,
            system_prompt=means.system_prompt,
            verbose=means.verbose,
        )
        for run in reversed(list(list_runs(folder))):  # the latest first
            if (done := await _gone_on(orchestrator, run, means.limits)) is not None:
                return replace(_of_run(done), run_dir=run.directory, resumed=True)
        return _of_run(await orchestrator.acompletion(instance.context, instance.query))

    return rlm


async def _gone_on(orchestrator: Orchestrator, run: RunSummary, limits: Limits) -> Completion | None:
    """The end of a run that was begun before; None where nothing can be made of it, and it has to be begun anew."""
    try:
        match run.state:
            case "finished":  # and the process was killed before the row was written: the journal has all replies
                return await orchestrator.areplay(run.directory)
            case "interrupted" | "failed" if run.calls:
                return await orchestrator.aresume(run.directory, limits=limits)
    except (ConfigError, JournalError, ReplayDiffers):
        return None
    return None


def _of_run(done: Completion) -> Outcome:
    return Outcome(
        answer=done.answer,
        usage=done.usage,
        by_node=done.by_node,
        stop_reason=done.stop_reason,
        iterations=done.iterations,
        sub_calls=done.sub_calls,
        depth=done.depth_reached,
        sandboxes=done.sandboxes,
        run_dir=done.run_dir,
    )


async def direct(instance: Instance, means: Means, folder: Path) -> Outcome:
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


async def map_reduce(instance: Instance, means: Means, folder: Path) -> Outcome:
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


_WORD: Final = re.compile(r"[\w-]+")
_UNIT: Final = re.compile(r"[^\n]+?(?:[.?!](?=\s)|$)", re.MULTILINE)
_SHAPES: Final = {
    "uuid": re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"),
    "number": re.compile(r"\b\d[\d,]*\b"),
    "how many": re.compile(r"\b\d[\d,]*\b"),
}
_COMMON: Final = frozenset(
    (
        *("the", "and", "are", "all", "for", "with", "from", "that", "this", "what", "which", "who", "how", "many"),
        *("mentioned", "provided", "text", "answer", "only", "give", "name", "form"),
    )
)


async def keyword(instance: Instance, means: Means, folder: Path) -> Outcome:
    """No model at all: rules on words. Shows what needs no intelligence.

    On OOLONG, labels are guessed from the words of each line and counted rightly; elsewhere the answer is the sentences that
    share the most words with the question.
    """
    return await anyio.to_thread.run_sync(_keyword, instance)


def _keyword(instance: Instance) -> Outcome:
    if (guess := guessed(instance)) is not None:
        return Outcome(answer=guess)
    query = instance.query.casefold()
    asked = {word for word in _WORD.findall(query) if len(word) > 2} - _COMMON
    best: list[str] = []
    most = 0
    for unit in _units(instance):
        shared = len(asked.intersection(_WORD.findall(unit.casefold())))
        if shared > most:
            best, most = [unit], shared
        elif shared == most and most and len(best) < 20:
            best.append(unit)
    shape = next((shape for name, shape in _SHAPES.items() if name in query), None)
    if shape is not None:
        best = [found for unit in best for found in shape.findall(unit) if found.casefold() not in asked]
    return Outcome(answer=", ".join(Counter(best)))


def _units(instance: Instance) -> Iterator[str]:
    for text in (instance.context,) if isinstance(instance.context, str) else instance.context.values():
        for found in _UNIT.finditer(text):
            yield found[0].strip()


def _plain_models(instance: Instance, means: Means, name: str) -> tuple[Model, Model]:
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
