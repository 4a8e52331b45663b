"""Definitions, calls and imports of a Python package: the facts behind questions about it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function or method.

    Attributes:
        name: `Class.method` for a method.
        path: path of its file.
        calls: how often its body calls each plain name.
        defaults: integer defaults by parameter.
    """

    name: str
    path: str
    calls: Mapping[str, int] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A package.

    Attributes:
        definitions: definitions by name, in the order of files and lines.
        imports: names that each file imports, by path.
    """

    definitions: Mapping[str, Definition]
    imports: Mapping[str, tuple[str, ...]]

    def functions(self) -> list[Definition]:
        """All definitions except methods."""
        return [found for found in self.definitions.values() if "." not in found.name]

    def callers(self, name: str) -> list[str]:
        """The functions and methods whose bodies call a function."""
        return sorted(found.name for found in self.definitions.values() if name in found.calls)

    def call_count(self, name: str) -> int:
        """How many calls of a function all files contain."""
        return sum(found.calls.get(name, 0) for found in self.definitions.values())

    def importers(self, name: str) -> list[str]:
        """The files that import a name."""
        return sorted(path for path, names in self.imports.items() if name in names)

    def unused(self, path: str) -> list[str]:
        """The functions of a file without a caller."""
        called = {name for found in self.definitions.values() for name in found.calls}
        return sorted(found.name for found in self.functions() if found.path == path and found.name not in called)

    def methods(self, class_name: str) -> int:
        """How many methods a class has."""
        return sum(name.startswith(f"{class_name}.") for name in self.definitions)

    def reached(self, name: str) -> list[str]:
        """All functions that a function calls, directly or indirectly."""
        seen, waiting = set[str](), [name]
        while waiting:
            for called in self.definitions[waiting.pop()].calls:
                if called in self.definitions and called not in seen:
                    seen.add(called)
                    waiting.append(called)
        return sorted(seen)


def read_code(files: Mapping[str, str]) -> Code:
    """The facts of Python files, from their syntax trees."""
    definitions: dict[str, Definition] = {}
    imports: dict[str, tuple[str, ...]] = {}
    for path, text in files.items():
        tree = ast.parse(text)
        imports[path] = tuple(
            alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
        )
        for name, node in _defined(tree):
            definitions[name] = Definition(name=name, path=path, calls=_calls(node), defaults=_defaults(node))
    return Code(definitions=definitions, imports=imports)


def _defined(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        match node:
            case ast.FunctionDef():
                yield node.name, node
            case ast.ClassDef():
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        yield f"{node.name}.{inner.name}", inner


def _calls(node: ast.FunctionDef) -> Counter[str]:
    return Counter(
        inner.func.id
        for inner in ast.walk(node)
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id != "range"
    )


def _defaults(node: ast.FunctionDef) -> dict[str, int]:
    given = node.args.defaults
    parameters = node.args.args[len(node.args.args) - len(given) :]
    return {
        parameter.arg: default.value
        for parameter, default in zip(parameters, given, strict=True)
        if isinstance(default, ast.Constant) and isinstance(default.value, int)
    }
