"""Questions about a package of Python files, given as a folder: callers, definitions, counts.

The package is generated; every answer follows from the code. Comments, docstrings and texts mention functions as if they
were called, and names share their parts, so that a search for a name finds too much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rlm.errors import ConfigError
from rlm.evals.corpus.chance import Chance
from rlm.evals.corpus.code import Code, Definition, read_code
from rlm.evals.corpus.prose import passage
from rlm.evals.corpus.templates import parts_of
from rlm.evals.corpus.tokens import tokens
from rlm.evals.corpus.words import NOUNS, listed
from rlm.evals.task import Instance

VERBS: Final = listed(
    """add apply build check clean close collect copy count drop fetch filter find fold gather join keep link list load
    map mark match merge move open order pack parse pick plan print read reduce render save scan send sort split start
    store strip sync test trace trim turn walk weigh wrap write"""
)
ENDINGS: Final = ("", "_all", "_once", "s")  # names that differ in their end alone
PACKAGES: Final = listed("core data store views tasks tools")
FUNCTIONS, METHODS = 6, 3  # of a file, and of the class in it
MAX_CALLS: Final = 3  # in a function
NEAR: Final = 40  # a function calls one of so many that were defined before it
MIN_FILES: Final = 2
FILE_TOKENS: Final = 600  # a file has more
HEAD_TOKENS: Final = 12  # of a file's path where a folder is one text

_NAMES: Final = "Answer with the {what}, separated by commas, or with 'none'."
_NUMBER: Final = "Answer with the number alone."
_DEFINITIONS: Final = "functions and methods (a method as Class.method)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A kind of question: `answer` takes the code and the part of the query that it is about."""

    asks: str
    scorer: str
    about: str
    answer: Callable[[Code, str], tuple[str, ...]]


FORMS: Final = (
    Form(
        asks="In which file is the function `{part}` defined? Answer with the file's path alone.",
        scorer="phrase",
        about="function",
        answer=lambda code, part: (code.definitions[part].path,),
    ),
    Form(
        asks=f"Which {_DEFINITIONS} call the function `{{part}}` in their own bodies? {_NAMES.format(what='names')}",
        scorer="names",
        about="function",
        answer=lambda code, part: tuple(code.callers(part)),
    ),
    Form(
        asks="How many calls of the function `{part}` are there in all files? Comments, docstrings and texts do not count. "
        + _NUMBER,
        scorer="number",
        about="function",
        answer=lambda code, part: (str(code.call_count(part)),),
    ),
    Form(
        asks="What is the default value of the last parameter of the function `{part}`? " + _NUMBER,
        scorer="number",
        about="function",
        answer=lambda code, part: (str(list(code.definitions[part].defaults.values())[-1]),),
    ),
    Form(
        asks=f"Which files import the function `{{part}}`? {_NAMES.format(what='paths of the files')}",
        scorer="names",
        about="function",
        answer=lambda code, part: tuple(code.importers(part)),
    ),
    Form(
        asks="Which functions does the function `{part}` call, or do those call, and so on down to the end? "
        + _NAMES.format(what="names"),
        scorer="names",
        about="function",
        answer=lambda code, part: tuple(code.reached(part)),
    ),
    Form(
        asks="Which functions defined in the file `{part}`, without its methods, are called nowhere in all files? "
        + _NAMES.format(what="names"),
        scorer="names",
        about="file",
        answer=lambda code, part: tuple(code.unused(part)),
    ),
    Form(
        asks="How many methods does the class `{part}` have? " + _NUMBER,
        scorer="number",
        about="class",
        answer=lambda code, part: (str(code.methods(part)),),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoQA:
    """Instance i asks the kinds of questions in turn, each about a package of its own."""

    name: str = "repo_qa"

    def make(self, *, length: int, seed: int, index: int) -> Instance:
        """See `Task`."""
        chance, form = Chance(self.name, length, seed, index), FORMS[index % len(FORMS)]
        files, code = _package(chance, length - tokens(form.asks) - 10)  # 10: what the query is about
        if len(files) < MIN_FILES:
            raise ConfigError(f"{self.name} has {MIN_FILES} files at least: ask for a greater length.")
        match form.about:
            case "function":
                few = chance.sample(code.functions(), 3)  # most functions are called nowhere: the most called of three
                part = max(few, key=lambda found: code.call_count(found.name)).name
            case "file":
                part = chance.choice(list(files))
            case _:
                part = chance.choice([name for name in code.definitions if "." in name]).partition(".")[0]
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
        raise ValueError(f"This is no question of {self.name}: {query}")


def _package(chance: Chance, left: int) -> tuple[dict[str, str], Code]:
    """Files for so many tokens, and what is in them, as it was planned."""
    files: dict[str, str] = {}
    definitions: dict[str, Definition] = {}
    imports: dict[str, tuple[str, ...]] = {}
    most = len(VERBS) * len(NOUNS) * len(ENDINGS)
    enough = FUNCTIONS * (left // FILE_TOKENS + 2)
    if enough > most:
        raise ConfigError(f"There are names for {most:,} functions only: ask for a smaller length.")
    names = (_function_name(number) for number in chance.sample(range(most), max(FUNCTIONS, enough)))
    recent = list[Definition]()
    while True:
        noun = NOUNS[len(files) % len(NOUNS)]
        path = f"app/{PACKAGES[len(files) % len(PACKAGES)]}/{noun}{len(files) // len(NOUNS) or ''}.py"
        text, defined, imported = _file(chance, path, recent, names)
        recent = [*recent, *defined][-NEAR:]
        left -= tokens(text) + HEAD_TOKENS
        if left < 0:
            return files, Code(definitions=definitions, imports=imports)
        files[path], imports[path] = text, imported
        definitions |= {found.name: found for found in defined}


def _function_name(number: int) -> str:
    rest, ending = divmod(number, len(ENDINGS))
    verb, noun = divmod(rest, len(NOUNS))
    return f"{VERBS[verb]}_{NOUNS[noun]}{ENDINGS[ending]}"


def _file(
    chance: Chance, path: str, before: list[Definition], names: Iterator[str]
) -> tuple[str, list[Definition], tuple[str, ...]]:
    """A file's text, its definitions, and the names that it imports; it calls what is defined `before` it and in it."""
    known = {found.name: found.path for found in before if "." not in found.name}
    defined = list[Definition]()
    texts = list[str]()
    for _ in range(FUNCTIONS):
        found, text = _function(chance, next(names), path, list(known))
        defined.append(found)
        texts.append(text)
        known[found.name] = path
    title = path.rpartition("/")[2].removesuffix(".py").title()
    methods = list[str]()
    for number in range(chance.between(1, METHODS)):
        found, text = _function(chance, f"{title}.{chance.choice(VERBS)}_{number}", path, list(known))
        defined.append(found)
        methods.append("\n".join(f"    {line}" if line else "" for line in text.split("\n")))
    texts.append(f'class {title}:\n    """{_sentence(chance)}"""\n\n' + "\n\n".join(methods))
    called = {name for found in defined for name in found.calls}
    imported = tuple(sorted(name for name in called if known[name] != path))
    head = [f'"""{" ".join(passage(chance, 40))}"""', ""]
    head += [f"from {known[name].removesuffix('.py').replace('/', '.')} import {name}" for name in imported]
    return "\n".join(head).rstrip() + "\n\n\n" + "\n\n\n".join(texts) + "\n", defined, imported


def _function(chance: Chance, name: str, path: str, known: list[str]) -> tuple[Definition, str]:
    """A function or method that calls some of the known ones and mentions others."""
    calls = chance.choices(known, chance.below(MAX_CALLS + 1)) if known else []
    size, default = chance.choice(("depth", "limit", "width")), chance.between(2, 99)
    method, _, short = name.rpartition(".")
    lines = [f"def {short}({'self, ' if method else ''}items, {size}={default}):", f'    """{_sentence(chance)}"""']
    if known and chance.share() < 0.5:
        lines.append(f"    # {chance.choice(known)}(items) was called here once.")
    lines.append(f"    total = {size} * {chance.between(2, 9)}")
    for called in calls:
        match chance.below(3):
            case 0:
                lines.append(f"    total += {called}(items)")
            case 1:
                lines += [f"    for step in range({size}):", f"        total -= {called}(items, step)"]
            case _:
                lines += [f"    if total > {chance.between(10, 99)}:", f"        total = {called}(items, {size}=total)"]
    if known and chance.share() < 0.3:
        lines += [f'    note = "{chance.choice(known)}(items) would be slower"', '    total += note != ""']
    lines.append("    return total")
    return Definition(name=name, path=path, calls=Counter(calls), defaults={size: default}), "\n".join(lines)


def _sentence(chance: Chance) -> str:
    return passage(chance, 1)[0]
