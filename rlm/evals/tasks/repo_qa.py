"""Questions about a folder of Python files: callers, definitions, counts.

The package is generated, and every answer follows from its code. Comments, docstrings and strings mention functions as if
they were called, and names share their parts, so a plain search finds too much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rlm.evals.corpus.code import Code, Definition, read_code
from rlm.evals.corpus.prose import passage
from rlm.evals.corpus.seeded_random import SeededRandom
from rlm.evals.corpus.templates import parts_of
from rlm.evals.corpus.tokens import tokens
from rlm.evals.corpus.words import NOUNS, listed
from rlm.evals.task import Instance, too_long, too_short

VERBS: Final = listed(
    """add apply build check clean close collect copy count drop fetch filter find fold gather join keep link list load
    map mark match merge move open order pack parse pick plan print read reduce render save scan send sort split start
    store strip sync test trace trim turn walk weigh wrap write"""
)
ENDINGS: Final = ("", "_all", "_once", "s")  # names that differ only in their ending
PACKAGES: Final = listed("core data store views tasks tools")
FUNCTIONS, MAX_METHODS = 6, 3  # functions of each file, and methods of its class
MAX_CALLS: Final = 3  # calls per function
MAX_FUNCTIONS: Final = len(VERBS) * len(NOUNS) * len(ENDINGS)  # distinct names
RECENT_FUNCTIONS: Final = 40  # a function calls only those defined shortly before it
MIN_FILES: Final = 2
MIN_FILE_TOKENS: Final = 600
HEAD_TOKENS: Final = 12  # tokens of a file's heading when the folder becomes one text

_NAMES: Final = "Answer with the {what}, separated by commas, or with 'none'."
_NUMBER: Final = "Answer with the number alone."
_DEFINITIONS: Final = "functions and methods (a method as Class.method)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoForm:
    """A kind of question.

    Attributes:
        asks: template of the query.
        scorer: a name in `rlm.evals.scorers.SCORERS`.
        about: what `{part}` names: a function, file or class.
        answer: takes the code and the part; gives the answers.
    """

    asks: str
    scorer: str
    about: str
    answer: Callable[[Code, str], tuple[str, ...]]


FORMS: Final = (
    RepoForm(
        asks="In which file is the function `{part}` defined? Answer with the file's path alone.",
        scorer="phrase",
        about="function",
        answer=lambda code, part: (code.definitions[part].path,),
    ),
    RepoForm(
        asks=f"Which {_DEFINITIONS} call the function `{{part}}` in their own bodies? {_NAMES.format(what='names')}",
        scorer="names",
        about="function",
        answer=lambda code, part: tuple(code.callers(part)),
    ),
    RepoForm(
        asks="How many calls of the function `{part}` are there in all files? Comments, docstrings and texts do not count. "
        + _NUMBER,
        scorer="number",
        about="function",
        answer=lambda code, part: (str(code.call_count(part)),),
    ),
    RepoForm(
        asks="What is the default value of the last parameter of the function `{part}`? " + _NUMBER,
        scorer="number",
        about="function",
        answer=lambda code, part: (str(list(code.definitions[part].defaults.values())[-1]),),
    ),
    RepoForm(
        asks=f"Which files import the function `{{part}}`? {_NAMES.format(what='paths of the files')}",
        scorer="names",
        about="function",
        answer=lambda code, part: tuple(code.importers(part)),
    ),
    RepoForm(
        asks="Which functions does the function `{part}` call, or do those call, and so on down to the end? "
        + _NAMES.format(what="names"),
        scorer="names",
        about="function",
        answer=lambda code, part: tuple(code.reached(part)),
    ),
    RepoForm(
        asks="Which functions defined in the file `{part}`, without its methods, are called nowhere in all files? "
        + _NAMES.format(what="names"),
        scorer="names",
        about="file",
        answer=lambda code, part: tuple(code.unused(part)),
    ),
    RepoForm(
        asks="How many methods does the class `{part}` have? " + _NUMBER,
        scorer="number",
        about="class",
        answer=lambda code, part: (str(code.methods(part)),),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoQA:
    """Instances ask the kinds of questions in turn, each about a separate package."""

    name: str = "repo_qa"

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        rng, form = SeededRandom(self.name, length, seed, index), FORMS[index % len(FORMS)]
        budget = length - tokens(form.asks) - 10  # 10: the name in the query
        if FUNCTIONS * (budget // MIN_FILE_TOKENS + 2) > MAX_FUNCTIONS:
            raise too_long(self.name, length)
        files, code = _package(rng, budget)
        if len(files) < MIN_FILES:
            raise too_short(self.name, length)
        match form.about:
            case "function":
                few = rng.sample(code.functions(), 3)  # most functions have no caller, so take the most called of three
                part = max(few, key=lambda found: code.call_count(found.name)).name
            case "file":
                part = rng.choice(list(files))
            case _:
                part = rng.choice([name for name in code.definitions if "." in name]).partition(".")[0]
        return Instance(
            task=self.name,
            length=length,
            seed=seed,
            index=index,
            context=files,
            query=form.asks.format(part=part),
            answers=form.answer(code, part),
            scorer=form.scorer,
        )

    def gold(self, context: str | Mapping[str, str], query: str) -> tuple[str, ...]:
        """See `Task`. The answer comes from the syntax trees of the files."""
        assert not isinstance(context, str)
        for form in FORMS:
            if (parts := parts_of(form.asks, query)) is not None:
                return form.answer(read_code(context), parts["part"])
        raise ValueError(f"Not a question of {self.name}: {query}")


def _package(rng: SeededRandom, budget: int) -> tuple[dict[str, str], Code]:
    """Files that fill `budget` tokens, and the code that the generator put into them."""
    files: dict[str, str] = {}
    definitions: dict[str, Definition] = {}
    imports: dict[str, tuple[str, ...]] = {}
    count = FUNCTIONS * (budget // MIN_FILE_TOKENS + 2)
    names = (_function_name(number) for number in rng.sample(range(MAX_FUNCTIONS), max(FUNCTIONS, count)))
    recent = list[Definition]()
    while True:
        noun = NOUNS[len(files) % len(NOUNS)]
        path = f"app/{PACKAGES[len(files) % len(PACKAGES)]}/{noun}{len(files) // len(NOUNS) or ''}.py"
        text, defined, imported = _file(rng, path, recent, names)
        recent = [*recent, *defined][-RECENT_FUNCTIONS:]
        budget -= tokens(text) + HEAD_TOKENS
        if budget < 0:
            return files, Code(definitions=definitions, imports=imports)
        files[path], imports[path] = text, imported
        definitions |= {found.name: found for found in defined}


def _function_name(number: int) -> str:
    rest, ending = divmod(number, len(ENDINGS))
    verb, noun = divmod(rest, len(NOUNS))
    return f"{VERBS[verb]}_{NOUNS[noun]}{ENDINGS[ending]}"


def _file(
    rng: SeededRandom, path: str, before: list[Definition], names: Iterator[str]
) -> tuple[str, list[Definition], tuple[str, ...]]:
    """A file's text, definitions and imports. It calls functions defined `before` it and in it."""
    known = {found.name: found.path for found in before if "." not in found.name}
    defined = list[Definition]()
    texts = list[str]()
    for _ in range(FUNCTIONS):
        found, text = _function(rng, next(names), path, list(known))
        defined.append(found)
        texts.append(text)
        known[found.name] = path
    title = path.rpartition("/")[2].removesuffix(".py").title()
    methods = list[str]()
    for number in range(rng.between(1, MAX_METHODS)):
        found, text = _function(rng, f"{title}.{rng.choice(VERBS)}_{number}", path, list(known))
        defined.append(found)
        methods.append("\n".join(f"    {line}" if line else "" for line in text.split("\n")))
    texts.append(f'class {title}:\n    """{_sentence(rng)}"""\n\n' + "\n\n".join(methods))
    called = {name for found in defined for name in found.calls}
    imported = tuple(sorted(name for name in called if known[name] != path))
    head = [f'"""{" ".join(passage(rng, 40))}"""', ""]
    head += [f"from {known[name].removesuffix('.py').replace('/', '.')} import {name}" for name in imported]
    return "\n".join(head).rstrip() + "\n\n\n" + "\n\n\n".join(texts) + "\n", defined, imported


def _function(rng: SeededRandom, name: str, path: str, known: list[str]) -> tuple[Definition, str]:
    """A function or method that calls some known functions and mentions others."""
    calls = rng.choices(known, rng.below(MAX_CALLS + 1)) if known else []
    size, default = rng.choice(("depth", "limit", "width")), rng.between(2, 99)
    method, _, short = name.rpartition(".")
    lines = [f"def {short}({'self, ' if method else ''}items, {size}={default}):", f'    """{_sentence(rng)}"""']
    if known and rng.random() < 0.5:
        lines.append(f"    # {rng.choice(known)}(items) was called here once.")
    lines.append(f"    total = {size} * {rng.between(2, 9)}")
    for called in calls:
        match rng.below(3):
            case 0:
                lines.append(f"    total += {called}(items)")
            case 1:
                lines += [f"    for step in range({size}):", f"        total -= {called}(items, step)"]
            case _:
                lines += [f"    if total > {rng.between(10, 99)}:", f"        total = {called}(items, {size}=total)"]
    if known and rng.random() < 0.3:
        lines += [f'    note = "{rng.choice(known)}(items) would be slower"', '    total += note != ""']
    lines.append("    return total")
    return Definition(name=name, path=path, calls=Counter(calls), defaults={size: default}), "\n".join(lines)


def _sentence(rng: SeededRandom) -> str:
    return passage(rng, 1)[0]
