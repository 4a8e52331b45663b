"""A fixed seed for `random`, so that a cell repeats exactly in a resumed run or a new sandbox."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

SEED = 0  # equals the seed of hashes, which the container's environment sets


class SeededRandom:
    """Seeds the module when a cell imports it. An import at every start would cost 10 ms and 1 MB."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Wrap the loader of `random`; None leaves other modules to the next finder of `sys.meta_path`."""
        if name != "random":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def seeded(module: ModuleType) -> None:
                execute(module)
                module.seed(SEED)

            spec.loader.exec_module = seeded  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Install the finder. Call once, before any cell."""
    sys.meta_path.insert(0, SeededRandom())
