"""Scripted root models for RULER, OOLONG and OOLONG-Pairs: label chunks by sub-calls, then aggregate in code.

They read the question and write the code that a careful model would. They never see a label or an answer. Their code is a
second implementation of every template. With a perfect labeller (`oracle`), a score of 1 shows that tasks, scorers, loop
and sandbox agree. With a weaker labeller, only its mistakes cost points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rlm.evals.corpus.dates import MONTHS, read_date
from rlm.evals.corpus.questions import LABELS, NAMES
from rlm.evals.corpus.templates import parts_of
from rlm.evals.tasks.oolong_forms import TEMPLATES
from rlm.evals.tasks.pairs import CONDITIONS, Both, OneAndOther, query_of
from rlm.models.scripted import ScriptedModel
from rlm.types import Message

CHUNK_LINES: Final = 50  # lines of a prompt for the labeller

_LOOK: Final = """First I look at what there is.

```repl
print(type(context).__name__, len(context))
print(context[:900])
print(context[-400:])
```"""

_LABEL: Final = """Every line needs its label. I cut the lines into chunks and have all chunks labelled at once.

```repl
import re
from collections import Counter
from datetime import date
from itertools import combinations

LABELS = {labels!r}
MONTHS = {months!r}
found = re.findall(r"^Date: (\\w{{3}}) (\\d\\d), (\\d{{4}}) \\|\\| User: (\\d+) \\|\\| Instance: (.+)$", context, re.M)
task = "Which label has each of the questions above: " + ", ".join(LABELS) + "? Reply with a line `number: label` for each."
labels = {{}}
for attempt in range(3):
    waiting = [n for n in range(len(found)) if n not in labels]
    chunks = [waiting[i:i + {chunk}] for i in range(0, len(waiting), {chunk})]
    prompts = ["\\n".join(f"{{n}}: {{found[n][4]}}" for n in chunk) + "\\n\\n" + task for chunk in chunks]
    for reply in llm_batch(prompts, recurse=False) if prompts else []:
        for number, label in re.findall(r"^(\\d+): (.+)$", reply, re.M) if reply else []:
            if label.strip() in LABELS and int(number) < len(found):
                labels[int(number)] = label.strip()
rows = [
    (date(int(year), MONTHS.index(month) + 1, int(day)), user, labels.get(n, ""))
    for n, (month, day, year, user, question) in enumerate(found)
]
print(len(rows), "lines;", len(labels), "labelled;", Counter(labels.values()))
```"""

_AGGREGATE: Final = """All lines have a label. The rest is counting.

```repl
{code}
```"""

_SCOPES: Final = {
    "lines of users": "rows = [row for row in rows if row[1] in {users!r}.split(', ')]",
    "users": "rows = [row for row in rows if row[1] in {users!r}.split(', ')]",
    "month": "rows = [row for row in rows if row[0].month == {month_number}]",
    "range": "rows = [row for row in rows if {start_day!r} <= row[0].isoformat() <= {end_day!r}]",
}
_BY_MONTH: Final = """months = {{}}
for day, user, label in rows:
    months.setdefault((day.year, day.month), Counter())[label] += 1
"""
_FORMS: Final = {
    "most common label": 'FINAL("Label: " + max(LABELS, key=lambda label: sum(row[2] == label for row in rows)))',
    "least common label": 'FINAL("Label: " + min(LABELS, key=lambda label: sum(row[2] == label for row in rows)))',
    "two labels": """more = sum((row[2] == {a!r}) - (row[2] == {b!r}) for row in rows)
phrase = "more common than" if more > 0 else "less common than" if more < 0 else "same frequency as"
FINAL("Answer: " + {a!r} + " is " + phrase + " " + {b!r})""",
    "count": 'FINAL(f"Answer: {{sum(row[2] == {label!r} for row in rows)}}")',
    "user": 'FINAL("User: " + Counter(row[1] for row in rows).most_common(1)[0][0])',
    "second user": 'FINAL("User: " + Counter(row[1] for row in rows).most_common(2)[1][0])',
    "user of label": """users = Counter(row[1] for row in rows if row[2] == {label!r})
FINAL("User: " + (users.most_common(1)[0][0] if users else "none"))""",
    "one of two users": """users = Counter(row[1] for row in rows if row[2] == {label!r})
FINAL("User: " + ({first!r} if users[{first!r}] > users[{second!r}] else {second!r}))""",
    "date": """day = Counter(row[0] for row in rows).most_common(1)[0][0]
FINAL(f"Date: {{day.month:02}}/{{day.day:02}}/{{day.year}}")""",
    "second date": """day = Counter(row[0] for row in rows).most_common(2)[1][0]
FINAL(f"Date: {{day.month:02}}/{{day.day:02}}/{{day.year}}")""",
    "dates seen n times": """times = Counter(row[0] for row in rows)
FINAL(f"Answer: {{sum(seen == {n} for seen in times.values())}}")""",
    "before or after": """before = [row[2] for row in rows if row[0].isoformat() < {time!r}]
after = [row[2] for row in rows if row[0].isoformat() > {time!r}]
more = before.count({label!r}) * len(after) - after.count({label!r}) * len(before)
phrase = "more common" if more > 0 else "less common" if more < 0 else "the same frequency"
FINAL("Answer: " + {label!r} + " is " + phrase + " before " + {time!r})""",
    "first month": _BY_MONTH
    + """above = [month for month in sorted(months) if months[month][{a!r}] > months[month][{b!r}]]
FINAL(f"Answer: {{{long_months!r}[above[0][1] - 1]}} {{above[0][0]}}" if above else "Answer: never")""",
    "months above": _BY_MONTH
    + 'FINAL(f"Answer: {{sum(counts[{a!r}] > counts[{b!r}] for counts in months.values())}}")',
    "months alone": _BY_MONTH
    + """alone = [counts for counts in months.values() if [*counts.values()].count(max(counts.values())) == 1]
FINAL(f"Answer: {{sum(max(counts, key=counts.get) == {label!r} for counts in alone)}}")""",
}

_PAIRS: Final = """users = {{}}
for day, user, label in rows:
    users.setdefault(user, []).append((day.isoformat(), label))

def has(user, label):
    return sum(found == label for day, found in users[user])

def one(user):
    return {one}

def other(user):
    return {other}

names = sorted(users, key=int)
left, right = {{user: one(user) for user in names}}, {{user: other(user) for user in names}}
pairs = [(a, b) for a, b in combinations(names, 2) if (left[a] and right[b]) or (left[b] and right[a])]
result = "\\n".join(f"({{a}}, {{b}})" for a, b in pairs) or "none"
print(len(pairs), "pairs")
FINAL_VAR("result")"""


def _oolong(query: str) -> str:
    """The code that answers a question of OOLONG from `rows`."""
    for scope, form, text in TEMPLATES:
        if (parts := parts_of(text, query)) is not None:
            known = _template_values(parts)
            lines = [_SCOPES[scope].format_map(known)] if scope in _SCOPES else []
            return "\n".join([*lines, _FORMS[form.name].format_map(known)])
    return 'FINAL("I do not understand the question.")'


def _template_values(parts: Mapping[str, str]) -> dict[str, object]:
    """The parts of a question, and values that its code needs."""
    known: dict[str, object] = {**parts, "long_months": MONTHS}
    if "month" in parts:
        known["month_number"] = MONTHS.index(parts["month"]) + 1
    for name in ("start", "end"):
        day = read_date(parts[name]) if name in parts else None
        known[f"{name}_day"] = day.isoformat() if day else ""
    return known


def _pairs(query: str) -> str:
    """The code that answers a question of OOLONG-Pairs."""
    for condition in CONDITIONS:
        if query_of(condition) == query:
            match condition:
                case Both():
                    both = _code_of_both(condition)
                    return _PAIRS.format(one=both, other=both)
                case OneAndOther():
                    return _PAIRS.format(one=_code_of(condition.one), other=_code_of(condition.other))
    return 'FINAL("I do not understand the question.")'


def _code_of_both(condition: Both) -> str:
    code = "(" + " or ".join(f"has(user, {NAMES[label]!r})" for label in condition.either) + ")"
    if not condition.dated:
        return code
    sign, day = (">" if condition.side == "after" else "<"), condition.day.isoformat()
    return f"{code} and all(day {sign} {day!r} for day, label in users[user] if label == {NAMES[condition.dated]!r})"


def _code_of(required: Mapping[str, str]) -> str:
    return " and ".join(
        f"has(user, {NAMES[label]!r}) {'==' if number.startswith('=') else '>='} {number.lstrip('=')}"
        for label, number in required.items()
    )


_RULER: Final = """Needles have one form of sentence: I find all of them, then those that are asked for.

```repl
import re
asked = re.split(r", and |, ", {asked!r})
found = re.findall(r"One of the special magic \\w+ for ([\\w-]+) is: ([\\w-]+)\\.", context)
FINAL(", ".join(value for key, value in found if key in asked))
```"""


def ruler_root_model(*, name: str = "scripted", latency: float = 0.0) -> ScriptedModel:
    """The scripted root model for RULER's needles. As a sub-model it replies NONE."""

    def reply(messages: Sequence[Message]) -> str:
        if messages[0].role != "system":
            return "NONE"
        if len(messages) == 2:
            return _LOOK
        asked = re.search(r"for (.+) mentioned in the provided text", messages[1].content)
        return _RULER.format(asked=asked[1] if asked else "")

    return ScriptedModel(reply, name=name, latency=latency)


def oolong_root_model(task: str, *, name: str = "scripted", latency: float = 0.0) -> ScriptedModel:
    """The scripted root model for `oolong/...` and `oolong_pairs...`, by the task's name."""
    write = _pairs if task.startswith("oolong_pairs") else _oolong
    return ScriptedModel(lambda messages: _oolong_reply(messages, write), name=name, latency=latency)


def _oolong_reply(messages: Sequence[Message], write: Callable[[str], str]) -> str:
    match sum(message.role == "assistant" for message in messages):
        case 0:
            return _LOOK
        case 1:
            return _LABEL.format(labels=list(LABELS), months=[month[:3] for month in MONTHS], chunk=CHUNK_LINES)
        case _:
            asked = re.search(r"Question:\n(.+?)\n\n`context` is", messages[1].content, re.DOTALL)
            return _AGGREGATE.format(code=write(asked[1] if asked else ""))
