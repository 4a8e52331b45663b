"""Finds the blocks of a reply, and the code in them. Pure. Imports nothing of the package.

Blocks are fenced as in CommonMark, or stand between the marks that other systems taught models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

CELL_LANGUAGES: Final = frozenset({"repl", "python", "py", "python3", "ipython", "ipython3", "tool_code"})
DOCUMENT_LANGUAGES: Final = frozenset({"markdown", "md", "text", "txt", "plaintext", "rst", "html"})  # may hold fences

_FENCE: Final = re.compile(r"^(?P<indent>[ \t]*+)(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?![\"')])(?P<info>[^`\n]*+)$")
_FENCE_BEHIND: Final = re.compile(
    r"(?<!`)(?P<fence>`{3,}+)(?P<info>[^\s`]++)[ \t]*$|(?<=FINAL\()[\"']{0,3}(?P<bare>`{3,}+)[ \t]*$"
)
_IN_ANSWER: Final = re.compile(r"\W{0,12}(?:[\w ,]{0,40}[ :=*]{1,3})?FINAL(?:_VAR)?\(", re.IGNORECASE)
LIST_ITEM: Final = re.compile(r"^[ \t]*+(?:[-*+•]|\d{1,9}[.)])[ \t]++")
_LANGUAGE: Final = re.compile(r"[{.\s]*+(?P<name>[\w+#-]++)")
_TAG: Final = re.compile(
    r"^[ \t]*+<(?P<tag>code|python|python_code|py|ipython|repl|execute(?:_i?python|_code|_cell)?|"
    r"tool_code|tool_call|function_call)"
    r"(?P<attributes>[ \t][^<>\n]*)?>(?P<rest>.*)$",
    re.IGNORECASE,
)
_TOKEN: Final = re.compile(r"^[ \t]*+(?:<\|(?P<name>python_tag|tool_call)\|>|\[(?:PYTHON|CODE)\](?=[ \t]*$))")
_TOKEN_END: Final = re.compile(r"<\|(?:eom_id|eot_id|im_end|end|/?tool_call)\|>|\[/(?:PYTHON|CODE)\]")
_PYTHON: Final = re.compile(  # in Python code, what may end a block, and what may hide such an end
    r"""#[^\n]*+|"{3}|'{3}|"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+'"""
    r"|`{3,}+|^[ \t]*+(?:~{3,}+|</(?:code|python|repl)>?)[ \t\r]*+$",
    re.MULTILINE | re.DOTALL,
)
_TRIPLE_ENDS: Final = {
    '"""': re.compile(r'(?:[^"\\]|\\.|"(?!""))*+"""', re.DOTALL),
    "'''": re.compile(r"(?:[^'\\]|\\.|'(?!''))*+'''", re.DOTALL),
}
_BEHIND_STRING: Final = re.compile(r"[ \t]*+(?:$|[)\],;.%+#:}\[]|(?:if|for|in|and|or|not|is)\b)", re.MULTILINE)
_FENCE_LINE: Final = re.compile(r"^[ \t]*+`{3,}+[ \t]*+(?P<info>[^`\n]*+)$", re.MULTILINE)
_CODE_ARGUMENTS: Final = ("code", "python_code", "source", "script", "python", "input", "cell")
_INTERPRETER: Final = re.compile(  # the names of tools that run Python
    r"(?:^|[._:/-])(?:i?python\w*|\w*_i?python|\w*(?:interpreter|repl|notebook|jupyter)\w*|"
    r"(?:run|exec|execute|eval)(?:_?(?:code|cell|python|script))?|code)$",
    re.IGNORECASE,
)
_NOT_PYTHON: Final = re.compile(
    r"(?:lang\w*|class)\s*=\s*[\"'](?!(?:language-)?(?:py|python3?|repl)[\"'])", re.IGNORECASE
)
_TOOL_JSON: Final = re.compile(r"\s*\[?\s*\{\s*\"(?:name|function|type|id|arguments|parameters|tool_name)\"")
_FUNCTION: Final = re.compile(r"<function=(?P<name>[^>]*)>(?P<body>.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER: Final = re.compile(r"<parameter=(?P<name>[^>]*)>\n?(?P<value>.*?)\n?(?:</parameter|\Z)", re.DOTALL)
MAX_ENDS: Final = 8  # closing tags of one tool call that are tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block: its span in the text, its cells, the language of its fence, and whether it has an end."""

    start: int
    end: int
    cells: tuple[str, ...] = ()
    language: str = ""
    closed: bool = True
    is_tool_call: bool = False


def find_blocks(text: str, *, only_fenced: bool = False) -> Iterator[Block]:
    """The blocks of a text, in order. Runs in time linear in its length."""
    position = 0
    in_list = False
    while position < len(text):
        line_end = line_end_of(text, position)
        line = text[position:line_end].rstrip("\r")
        block = _block_at(text, position, line, in_list=in_list, only_fenced=only_fenced)
        if block is None:
            if line.strip():
                in_list = bool(LIST_ITEM.match(line)) or (in_list and line[0] in " \t")
            position = line_end + 1
        else:
            yield block
            at_line_start = text[block.end - 1 : block.end] in ("", "\n")
            position = block.end if at_line_start else line_end_of(text, block.end) + 1
    if not only_fenced and text.lstrip()[:1] == "{" and text.rstrip()[-1:] == "}" and (cells := _tool_code(text)):
        yield Block(start=0, end=len(text), cells=cells)


def _block_at(text: str, position: int, line: str, *, in_list: bool, only_fenced: bool) -> Block | None:
    """The block that begins in this line."""
    if match := _FENCE.match(line):
        if len(match["indent"].expandtabs(4)) > 3 and not in_list:  # an indented block of CommonMark
            return None
        return _fenced(text, position, position + len(line), match["indent"], match["fence"], match["info"])
    if "```" in line and (match := _FENCE_BEHIND.search(line)) and not _is_quoted(line[: match.start()]):
        fence, info = match["fence"] or match["bare"], match["info"] or ""
        in_answer = _IN_ANSWER.match(line) is not None
        if _language(info) in CELL_LANGUAGES or in_answer:
            start = position + match.start()
            item = LIST_ITEM.match(line)
            indent = " " * match.start() if item and item.end() == match.start() else ""
            block = _fenced(text, start, position + len(line), indent, fence, info)
            return block if block is not None and block.closed else None
    if only_fenced:
        return None
    if (match := _TAG.match(line)) and not _NOT_PYTHON.search(match["attributes"] or ""):
        return _tagged(text, position, line, match["tag"].lower(), match["rest"].strip())
    if match := _TOKEN.match(line):
        start = position + match.end()
        end = _TOKEN_END.search(text, start)
        content = text[start : end.start() if end else len(text)]
        block_end = end.end() if end else len(text)
        return _code_block(position, block_end, content, tool=match["name"] == "tool_call", closed=end is not None)
    return None


def _is_quoted(before: str) -> bool:
    """Whether a fence behind this text is in a quotation or within inline code."""
    return before.lstrip(" ").startswith(">") or before.count("`") % 2 == 1


def _fenced(text: str, start: int, line_end: int, indent: str, fence: str, info: str) -> Block | None:
    language = _language(info)
    content = min(line_end_of(text, line_end) + 1, len(text))
    if language not in CELL_LANGUAGES:
        return _other_block(text, start, content, fence, language)
    content_end, end, closed = _end_of_code(text, content, fence)
    if not closed and _is_sentence(info):
        return None
    lines = text[content:content_end].split("\n")
    code = "\n".join(_dedented(line, indent) for line in lines)
    return Block(start=start, end=end, cells=(code,) if code.strip() else (), language=language, closed=closed)


def _is_sentence(info: str) -> bool:
    """Whether what follows a fence is text that speaks of it, as in "```python in line 3"."""
    words = info.split()
    return len(words) > 1 and words[1:] != ["block"] and not any(mark in info for mark in "={:")


def _other_block(text: str, start: int, content: int, fence: str, language: str) -> Block | None:
    """A block that does not run. None if its fence is a stray one before the block of a cell."""
    position = content
    while position < len(text):
        line_end = line_end_of(text, position)
        line = text[position:line_end].rstrip("\r")
        match = _FENCE.match(line)
        if match and match["fence"].startswith(fence) and not match["info"].strip():
            return Block(start=start, end=position + match.end(), language=language)
        if match is None and line.lstrip().startswith(fence):  # the argument of FINAL ends behind the fence
            return Block(start=start, end=position + line.index(fence) + len(fence), language=language)
        if (
            match
            and _language(match["info"]) in CELL_LANGUAGES
            and not (language in DOCUMENT_LANGUAGES and _closes_twice(text, line_end + 1))
        ):
            return Block(start=start, end=position, language=language) if language else None
        position = line_end + 1
    return Block(start=start, end=len(text), language=language, closed=False)


def _closes_twice(text: str, start: int) -> bool:
    """Whether the next two fences close blocks: one the block within a document, one the document."""
    fences = [match["info"].strip() for _, match in zip(range(2), _FENCE_LINE.finditer(text, start), strict=False)]
    return fences == ["", ""]


def _end_of_code(text: str, start: int, fence: str) -> tuple[int, int, bool]:
    """Where a cell's code ends, where its block ends, and whether a fence ends it.

    Outside of strings and comments, Python has no backticks: the next fence there ends the code, wherever it stands.
    """
    unterminated: set[str] = set()
    position = start
    while token := _PYTHON.search(text, position):
        position = token.end()
        mark = token[0].strip()
        if mark in _TRIPLE_ENDS and mark not in unterminated:
            closing = _TRIPLE_ENDS[mark].match(text, position)
            if closing is None:
                unterminated.add(mark)
            elif not _is_stray(text, position, closing.end()):
                position = closing.end()
        elif mark.startswith("</"):
            return max(text.rfind("\n", 0, token.start() + 1), start), token.end(), True
        elif mark.startswith(fence):
            line_start = text.rfind("\n", 0, token.start()) + 1
            first = max(line_start, start)
            if text[first : token.start()].strip() or (line_start < start):
                return token.start(), token.end(), True
            if text[token.end() : token.end() + 1].strip(" \t\r\n)\"'"):  # another block opens: the fence is missing
                return line_start - 1, line_start, True
            return max(line_start - 1, start), token.end(), True
    return len(text), len(text), False


def _is_stray(text: str, start: int, end: int) -> bool:
    """Whether the marks of a string stand far apart by mistake: text between or behind them is no part of the code."""
    is_open = False
    fences = 0
    for line in _FENCE_LINE.finditer(text, start, end):
        fences += 1
        if is_open and _language(line["info"]) in CELL_LANGUAGES:
            return True
        is_open = not is_open
    return fences > 0 and _BEHIND_STRING.match(text, end) is None


def _tagged(text: str, position: int, line: str, tag: str, rest: str) -> Block | None:
    closing = re.compile(f"</{tag}(?:</{tag})*+(?:>|[ \\t\\r]*+$)", re.IGNORECASE | re.MULTILINE)
    start = position + line.index(">") + 1
    if tag in ("tool_call", "function_call"):
        spoken_of = rest and not (rest[0] in "[{<`" or rest.isidentifier())
        return None if spoken_of else _tool_call(text, position, start, tag, closing)
    following = re.compile(rf"^[ \t]*+<{tag}\b", re.IGNORECASE | re.MULTILINE).search(text, position + len(line))
    limit = following.start() if following else len(text)
    ends = list(closing.finditer(text, start, limit))
    match = next((end for end in ends if not text[end.end() : end.end() + 1].strip()), ends[0] if ends else None)
    content = text[start : match.start() if match else limit]
    if rest:  # inline code of HTML, unless the whole line or several lines are between the tags
        if match is None or not content.strip():
            return None
        line_start = text.rfind("\n", 0, match.start()) + 1
        alone = line_start <= position or not text[line_start : match.start()].strip()
        if not alone or text[match.end() : line_end_of(text, match.end())].strip():
            return None
    return _code_block(position, match.end() if match else limit, content, tool=False, closed=match is not None)


def _tool_call(text: str, position: int, start: int, tag: str, closing: re.Pattern[str]) -> Block:
    """A tool call. Its code may hold the closing tag."""
    following = text.find(f"\n<{tag}>", start)
    limit = len(text) if following < 0 else following + 1
    ends = list(closing.finditer(text, start, limit))
    blocks = [_code_block(position, end.end(), text[start : end.start()], tool=True) for end in ends[:MAX_ENDS]]
    if not blocks:
        return _code_block(position, limit, text[start:limit], tool=True, closed=False)
    return next((block for block in blocks if block.cells), blocks[0])


def _code_block(start: int, end: int, content: str, *, tool: bool, closed: bool = True) -> Block:
    """A block between marks other than fences. It may hold a fenced block, or a tool call."""
    fenced = find_blocks(content, only_fenced=True) if tool or content.lstrip().startswith(("```", "~~~")) else ()
    inner = tuple(cell for block in fenced for cell in block.cells)
    if tool or _TOOL_JSON.match(content):
        return Block(start=start, end=end, cells=_tool_code(content) or inner, closed=closed, is_tool_call=True)
    code = content.strip("\r\n")
    return Block(start=start, end=end, cells=inner or ((code,) if code.strip() else ()), closed=closed)


def _tool_code(content: str) -> tuple[str, ...]:
    """The Python code in tool calls: JSON objects, or `<function=...>` elements."""
    cells: list[str] = []
    for match in _FUNCTION.finditer(content):
        arguments = {parameter["name"]: parameter["value"] for parameter in _PARAMETER.finditer(match["body"])}
        cells += _code_of(match["name"], arguments)
    if "<arg_key>" in content:
        cells += _code_of(content.lstrip().partition("\n")[0].strip(), _pairs(content))
    decoder = json.JSONDecoder(strict=False)
    position = content.find("{")
    while position >= 0 and not content[:1].startswith("<"):
        try:
            call, position = decoder.raw_decode(content, position)
        except (ValueError, RecursionError):
            break
        function = call.get("function") if isinstance(call, dict) else None
        call = function if isinstance(function, dict) else call
        code = (
            _code_of(call.get("name"), call.get("arguments", call.get("parameters"))) if isinstance(call, dict) else []
        )
        if not code:  # to run a part of the calls might do something else
            return ()
        cells += code
        position = content.find("{", position)
    return tuple(cells)


def _pairs(content: str) -> dict[str, str]:
    """The arguments of a tool call that are written as pairs of `<arg_key>` and `<arg_value>`."""
    parts = (part.partition("</arg_key>") for part in content.split("<arg_key>")[1:])
    return {key.strip(): rest.partition("<arg_value>")[2].partition("</arg_value>")[0] for key, _, rest in parts}


def _code_of(name: object, arguments: Any) -> list[str]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            return [arguments] if str(name).lower() in ("python", "ipython", "repl") and arguments.strip() else []
    if not isinstance(name, str) or not _INTERPRETER.search(name) or not isinstance(arguments, Mapping):
        return []
    if _NOT_PYTHON.search(f'lang="{arguments.get("language", "python")}"'):
        return []
    for key in _CODE_ARGUMENTS:
        code = arguments.get(key)
        if isinstance(code, str) and code.strip():
            return [code]
    return []


def _language(info: str) -> str:
    match = _LANGUAGE.match(info)
    return match["name"].lower() if match else ""


def _dedented(line: str, indent: str) -> str:
    """The line without the indentation of its fence, or what it has of it."""
    if line.startswith(indent):
        return line[len(indent) :]
    return line[: len(indent)].lstrip(" \t") + line[len(indent) :]


def content_of(text: str, block: Block) -> str:
    """The text between the fences of a block."""
    lines = text[block.start : block.end].split("\n")[1:]
    return "\n".join(lines[:-1] if block.closed else lines).strip("\n")


def line_end_of(text: str, position: int) -> int:
    """The end of the line at `position`, without its line end."""
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def mask(text: str, blocks: Sequence[Block]) -> str:
    """The text with its blocks overwritten, so that nothing in them is read."""
    return "".join(f"{before}{'x' * covered}" for before, covered in _around(text, blocks))


def without(text: str, blocks: Sequence[Block]) -> str:
    """The text around the blocks."""
    return "".join(before for before, _ in _around(text, blocks)).strip()


def _around(text: str, blocks: Sequence[Block]) -> Iterator[tuple[str, int]]:
    """Each piece of text outside the blocks, and how many characters the block behind it covers."""
    position = 0
    for block in blocks:
        yield text[position : block.start], block.end - max(position, block.start)
        position = max(position, block.end)
    yield text[position:], 0
