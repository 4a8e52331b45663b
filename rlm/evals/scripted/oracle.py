"""A model that labels questions with a chosen accuracy. It separates the labeller's mistakes from the program's.

It answers prompts with one question per line, as a sub-model would. With an accuracy of 1, an error-free program scores
exactly 1, and the program or the system loses every point below that. The oracle runs as a model in this process, or as a
server with the OpenAI chat API on loopback, for real root models.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from rlm.evals.corpus.questions import LABELS, Questions
from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.models.scripted import ScriptedModel
from rlm.types import Message

MAX_HEAD_BYTES: Final = 64 * 1024  # limit of the request line and the headers
CHARS_PER_TOKEN: Final = 4  # for the usage that the server reports

_NUMBERED: Final = re.compile(r"\s*(\d+)[:.)] (.+)")
_INSTANCE: Final = re.compile(r".*\|\| Instance: (.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """Knows the labels of questions, and gives the correct one with a probability.

    A question always gets the same label for the same seed, as from a model at temperature 0.

    Attributes:
        questions: the known questions with their labels.
        accuracy: probability of a correct label, independent for each question.
        seed: random seed.
    """

    questions: Questions
    accuracy: float = 1.0
    seed: int = 0

    def label(self, question: str) -> str:
        """The label that the oracle gives to a known question."""
        right = self.questions.label_of[question]
        rng = SeededRandom("oracle", self.seed, question)
        if rng.random() < self.accuracy:
            return right
        return rng.choice([label for label in LABELS if label != right])

    def labelled(self) -> Questions:
        """The questions with the labels that the oracle gives; see `rlm.evals.methods.guessing.answer_from_labels`."""
        return Questions(by_label={}, label_of={question: self.label(question) for question in self.questions.label_of})

    def reply(self, prompt: str) -> str:
        """`number: label` for each known question in the prompt. Lines without a number are numbered in order."""
        return (
            "\n".join(f"{number}: {self.label(question)}" for number, question in self._questions_in(prompt)) or "NONE"
        )

    def _questions_in(self, prompt: str) -> Iterator[tuple[str, str]]:
        count = 0
        for line in prompt.splitlines():
            if match := _NUMBERED.fullmatch(line):
                number, question = match[1], match[2]
            elif match := _INSTANCE.fullmatch(line):
                number, question = str(count + 1), match[1]
            else:
                continue
            if question.strip() in self.questions.label_of:
                count += 1
                yield number, question.strip()

    def model(self, *, latency: float = 0.0) -> ScriptedModel:
        """The oracle as a model in this process; each reply takes `latency` seconds."""

        def reply(messages: Sequence[Message]) -> str:
            return self.reply(messages[-1].content)

        return ScriptedModel(reply, name="oracle", latency=latency)


class OracleServer:
    """The oracle behind `POST {base_url}/chat/completions` on loopback, as an async context manager.

        async with OracleServer(Oracle(questions=built_in()), latency=0.5) as server:
            sub_model = OpenAIModel("oracle", base_url=server.base_url)

    Args:
        oracle: gives the labels.
        latency: seconds that each response takes.

    Attributes:
        base_url: the server's address, set on entry.
        requests: number of answered requests.
    """

    def __init__(self, oracle: Oracle, *, latency: float = 0.0) -> None:
        self._oracle = oracle
        self._latency = latency
        self._connections: set[asyncio.Task[None]] = set()
        self.base_url = ""
        self.requests = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve_connection, "127.0.0.1", 0, limit=MAX_HEAD_BYTES, backlog=4096
        )
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                writer.write(await self._response(reader))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client disconnected or the server closes
        finally:
            self._connections.discard(task)
            writer.close()

    async def _response(self, reader: asyncio.StreamReader) -> bytes:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        body: dict[str, Any] = json.loads(await reader.readexactly(int(length[1]) if length else 0) or b"{}")
        messages = body.get("messages") or [{"content": ""}]
        text = self._oracle.reply(_text(messages[-1]["content"]))
        await asyncio.sleep(self._latency)
        self.requests += "messages" in body  # not the server's list of models
        prompt_tokens = sum(len(_text(message["content"])) for message in messages) // CHARS_PER_TOKEN
        completion_tokens = len(text) // CHARS_PER_TOKEN
        data = json.dumps(
            {
                "id": f"oracle-{self.requests}",
                "object": "chat.completion",
                "created": 1,
                "model": body.get("model", "oracle"),
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
                "usage": {
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": completion_tokens,
                    "total_tokens": prompt_tokens + completion_tokens,
                },
            }
        ).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data


def _text(content: str | Sequence[dict[str, Any]]) -> str:
    """The text of a message, whose content may be a list of parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
