"""Asks a server the questions, one after another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Final

import anyio

from rlm.errors import ModelError
from rlm.models.adapt import MAX_TOKENS_FIELDS
from rlm.models.gate import retry_after
from rlm.models.openai import OpenAIModel
from rlm.models.refusals import is_loading

from . import questions
from .exchange import THINKING_REPLY, Answer, Ask, Known, Question, Verdict
from .long_prompt import BUDGET, long_prompt
from .questions import QUESTIONS

REQUEST_SECONDS: Final = 300.0  # timeout of one request: a slow processor reads a long prompt for minutes
RETRIES: Final = 2  # after a rate limit or an outage
LOADING_RETRIES: Final = 60  # while the server loads the model
RETRY_SECONDS: Final = 1.0
MAX_WAIT_SECONDS: Final = 30.0  # for a server that limits the rate
DEFAULT_WAIT_SECONDS: Final = 5.0
MAX_REQUESTS: Final = 25  # of all questions but that about long prompts
SHORT_INPUT: Final = 6_000  # tokens of their prompts together
ESSENTIAL: Final = ("models", "reply")  # without these, the other questions tell nothing


def cost_note(*, long: bool) -> str:
    """What the questions cost at most."""
    tokens = f"{SHORT_INPUT + BUDGET * long:,} input tokens" + f" ({SHORT_INPUT:,} with --skip-long-prompt)" * long
    return (
        f"At most {MAX_REQUESTS} requests and {tokens}.\n"
        f"Usually a few hundred output tokens; {MAX_REQUESTS * THINKING_REPLY:,} at most, if the model thinks."
    )


class Suite:
    """The questions to one model.

    Args:
        model: the model at its server. Closed by the caller.
        long: whether to ask about long prompts, which cost most.

    Attributes:
        model: the model.
        known: what the questions so far have shown.
        answers: all answers so far.
    """

    def __init__(self, model: OpenAIModel, *, long: bool = True) -> None:
        self.model = model
        self._long = long
        self.known = Known()
        self.answers: list[Answer] = []

    async def run(self) -> AsyncIterator[tuple[str, Verdict]]:
        """Ask, and yield each question's name with its verdict. Stops early if the server is of no use."""
        parts: dict[str, Any] = {"models": lambda known: questions.models(self.model.name, known), **QUESTIONS}
        if self._long:
            parts["long"] = long_prompt
        for part, question in parts.items():
            verdict = await self._verdict(question(self.known))
            self.known = replace(self.known, **verdict.learned)
            yield part, verdict
            if verdict.state == "problem" and part in ESSENTIAL:
                return
        for part, verdict in questions.observed(self.answers):
            yield part, verdict

    @property
    def tokens(self) -> tuple[int, int]:
        """Input and output tokens, as the server counted them."""
        return (
            sum(answer.input_tokens or 0 for answer in self.answers),
            sum(answer.output_tokens or 0 for answer in self.answers),
        )

    async def _verdict(self, question: Question) -> Verdict:
        try:
            asks = next(question)
            while True:
                asks = question.send(await self._ask_all(asks))
        except StopIteration as done:
            verdict: Verdict = done.value
            return replace(verdict, text=self.model.redact(verdict.text))

    async def _ask_all(self, asks: Sequence[Ask]) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(asks)

        async def one(number: int) -> None:
            answers[number] = await self._ask(asks[number])

        async with anyio.create_task_group() as group:
            for number in range(len(asks)):
                group.start_soon(one, number)
        return [answer for answer in answers if answer is not None]

    async def _ask(self, ask: Ask) -> Answer:
        """The answer to a request. Rate limits, outages and a model that loads are waited for."""
        for attempt in count():
            answer = await self._send(ask)
            loading = answer.status is not None and is_loading(answer.status, answer.json)
            failed = (
                answer.status is not None and (answer.status == 429 or answer.status >= 500) and not answer.too_long
            )
            if attempt >= (LOADING_RETRIES if loading else RETRIES if failed else 0):
                break
            seconds = retry_after(answer.headers) or (RETRY_SECONDS if answer.status != 429 else DEFAULT_WAIT_SECONDS)
            await anyio.sleep(min(seconds, MAX_WAIT_SECONDS))
        field = self.known.limit_field
        if ask.limit and field == MAX_TOKENS_FIELDS[0] and answer.status in (400, 422) and field in answer.words:
            self.known = replace(self.known, limit_field=MAX_TOKENS_FIELDS[1])
            return await self._ask(ask)
        return answer

    async def _send(self, ask: Ask) -> Answer:
        try:
            response = await self.model.exchange(ask.path, _body(ask, self.model.name, self.known))
        except ModelError as error:
            answer = Answer(status=None, failure=str(error), messages=ask.messages)
        else:
            answer = Answer(
                status=response.status,
                body=response.body,
                headers=response.headers,
                seconds=response.seconds,
                messages=ask.messages,
                redact=self.model.redact,
            )
        self.answers.append(answer)
        return answer


def _body(ask: Ask, model: str, known: Known) -> Mapping[str, object] | None:
    if not ask.messages:
        return None
    messages = list(ask.messages)
    if messages[0][0] == "system" and not known.system_role:
        (_, system), (role, content), *others = messages
        messages = [(role, f"{system}\n\n{content}"), *others]
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": role, "content": content} for role, content in messages],
        "stream": False,
        **ask.fields,
    }
    if ask.limit and known.limit_field is not None:
        body[known.limit_field] = known.output_limit
    return body
