"""Texts that try to break out of what displays them, and a run that consists of them."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from rlm.events import (
    AnswerReplayed,
    CellFinished,
    CellStarted,
    Compacted,
    Event,
    LimitsRaised,
    ModelFailed,
    ModelReplied,
    QuestionAsked,
    ReplayDiverged,
    RLMFinished,
    RLMStarted,
    RunFinished,
    RunResumed,
    RunStarted,
    SandboxLost,
    SubCallFinished,
    SubCallStarted,
    ToolUsed,
    TurnStarted,
)
from rlm.store.event_log import EventLog
from rlm.types import CellResult, Usage

ATTACKS = [
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "</ScRiPt ><img src=x onerror=window.pwned=1>",
    "<!--<script>",
    "--><svg onload=window.pwned=1>",
    "]]><iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "</title></style></noscript></textarea><img src=https://example.invalid/x onerror=window.pwned=1>",
    "javascript:window.pwned=1",
    "[link](javascript:window.pwned=1) ![x](https://example.invalid/x.png)",
    "data:text/html,<script>window.pwned=1</script>",
    '#0/0" onclick="window.pwned=1',
    "' style='background:url(https://example.invalid/x)' x='",
    "} body { display: none } @import 'https://example.invalid/x.css'; {",
    "<style>body{display:none}</style><link rel=stylesheet href=https://example.invalid/x.css>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'><base href=https://example.invalid/>",
    "<form action=https://example.invalid/><input autofocus onfocus=window.pwned=1>",
    "{{constructor.constructor('window.pwned=1')()}} ${window.pwned=1} <%= 1 %>",
    "\u202egnp.exe \u2066\u200b\u2069\ufeff \x00\x1b[2J\x07\x9b31m \u2028\u2029 \U000e0041",
    "\ud800 lone \udfff",
    "\r\n\r\nfoo\rbar\x0b\x0c",
    "z" + "\u0300" * 500,
    "\u05d0\u05d1\u05d2 \u0627\u0644\u0639 \ufdfd",
    '{"__proto__": {"polluted": 1}}',
    "__proto__",
    "constructor",
    "&lt;script&gt;&#60;&#x3c;\\u003cscript\\u003e",
    "`" * 40 + "'''" * 20 + '"""' * 20 + "\\",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.pwned=1>",
    "A" * 100_000,
]


def attacked_run(directory: Path) -> None:
    """Write the events, limits and journal of a run in which every text holds all attacks, and every name is one."""
    every = "\n".join(ATTACKS)
    usage = Usage(calls=1, input_tokens=1, output_tokens=1)
    names = iter(ATTACKS * 4)

    def rlm(node: str) -> list[Event]:
        start = RLMStarted(
            node=node,
            level=0,
            depth=2,
            model=next(names),
            sandbox=next(names),
            context_type=next(names),
            context_size=5,
        )
        return [
            start,
            TurnStarted(node=node, turn=1, of=3),
            ModelReplied(
                node=node,
                role="root",
                model=next(names),
                text=_cell_of(every),
                finish_reason=next(names),
                usage=usage,
                seconds=0.1,
                thinking=every,
            ),
            ModelFailed(node=node, role="root", model=next(names), error=every, usage=None, seconds=0.1),
            Compacted(node=node, messages=3, summary=every),
            ReplayDiverged(node=node, ordinal=1),
            CellStarted(node=node, cell=1, code=every),
            ToolUsed(node=node, tool=next(names), arguments=every, ok=False, seconds=0.1),
            SubCallStarted(node=f"{node}.__proto__", prompt=every, model="__proto__", recursive=False, batch=1),
            SubCallFinished(node=f"{node}.__proto__", ok=True, text=every, seconds=0.1),
            SandboxLost(node=node, sandbox=next(names), reason=every, replacement=next(names)),
            CellFinished(
                node=node,
                cell=1,
                result=CellResult(outcome="died", stdout=every, stderr=every, error=every, answer=every),
            ),
            TurnStarted(node=node, turn=1, of=3),
            RLMFinished(node=node, answer=every, stop_reason="max_iterations", iterations=1),
        ]

    children = [f"0.{text}" for text in ("<img src=x onerror=window.pwned=1>", "\u202e1", "constructor", "toString")]
    with (directory / "events.jsonl").open("w") as file:
        log = EventLog("<img src=x onerror=window.pwned=1>", file, [])
        log.emit(RunStarted(query=every, depth=2, models={0: ATTACKS[0], 1: "__proto__"}, context_bytes=9))
        log.emit(RunResumed(recorded=3, in_flight=1))
        for event in rlm("0"):
            log.emit(event)
        for child, attack in zip(children, ATTACKS, strict=False):
            log.emit(SubCallStarted(node=child, prompt=f"\u202e{attack}", model=attack, recursive=True, batch=1))
            for event in rlm(child):
                log.emit(event)
            log.emit(AnswerReplayed(node=child, below=[attack]))
            log.emit(SubCallFinished(node=child, ok=False, text=every, seconds=0.1))
        log.emit(LimitsRaised(limits=dict.fromkeys(ATTACKS, 1.5)))
        log.emit(QuestionAsked(query=every, context_bytes=3))
        log.emit(RunFinished(stop_reason=None, usage=usage, seconds=1.0, error=every))
    limits = {attack: attack for attack in ATTACKS}
    (directory / "run.json").write_text(json.dumps({"limits": limits}))
    with closing(sqlite3.connect(directory / "journal.sqlite")) as database, database:
        database.execute("CREATE TABLE calls (id INTEGER PRIMARY KEY, node, ordinal, messages, text)")
        database.execute("CREATE TABLE messages (digest BLOB PRIMARY KEY, role, content)")
        stored = every.encode("utf-8", "surrogatepass")
        roles = [(bytes([number]), text) for number, text in enumerate(ATTACKS) if text.isascii()]
        database.executemany("INSERT INTO messages VALUES (?, ?, ?)", [(*role, stored) for role in roles])
        digests = json.dumps([digest.hex() for digest, _ in roles])
        reply = _cell_of(every).encode("utf-8", "surrogatepass")
        database.execute("INSERT INTO calls VALUES (1, '0', 1, ?, ?)", [digests, reply])


def _cell_of(text: str) -> str:
    return f"{text}\n```repl\n{text}\n```"
