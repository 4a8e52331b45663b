"""Adjusts modules of the standard library to the sandbox, each when a cell first imports it.

An import at every start would cost time and memory at each fork.
"""

from __future__ import annotations

import functools
import linecache
import re
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final, NoReturn

from .streams import for_callers_cell

SEED: Final = 0  # equals the seed of hashes, which the container's environment sets

NO_SEMAPHORES: Final = (
    "this sandbox has no semaphores, so pools, queues and locks of processes do not work: use threads "
    "(concurrent.futures.ThreadPoolExecutor, multiprocessing.pool.ThreadPool), or subprocess"
)
NO_MANAGERS: Final = (
    "this sandbox has no server sockets, so multiprocessing managers do not work: use threads "
    "(concurrent.futures.ThreadPoolExecutor), which share all objects"
)
NO_SHARED_MEMORY: Final = (
    "this sandbox has no shared memory: use threads, which share all objects, or mmap with a file in /tmp"
)
NO_FORKSERVER: Final = (
    "this sandbox has no server sockets, so the start method 'forkserver' does not work: use threads "
    "(concurrent.futures.ThreadPoolExecutor), or subprocess"
)
NOT_SPAWNED: Final = (
    "the start method 'spawn' does not work with functions and classes of a cell, because the new process cannot "
    "import them: use threads (concurrent.futures.ThreadPoolExecutor), or the start method 'fork'"
)


def _seed_random(random: ModuleType) -> None:
    """A cell must repeat exactly in a resumed run or a new sandbox."""
    random.seed(SEED)


def _give_work_its_cell(thread: ModuleType) -> None:
    """Output of work that a cell gives to an older executor belongs to that cell."""
    thread.ThreadPoolExecutor.submit = _for_callers_cell(thread.ThreadPoolExecutor.submit)


def _adjust_thread_pools(pool: ModuleType) -> None:
    """The same for `ThreadPool`. It also needs locks of threads only, where Python takes locks of processes."""
    import multiprocessing.context
    import threading

    class ThreadContext(multiprocessing.context.BaseContext):
        Lock = staticmethod(threading.Lock)  # type: ignore[assignment]

    def create(self: Any, processes: Any = None, initializer: Any = None, initargs: Any = ()) -> None:
        pool.Pool.__init__(self, processes, initializer, initargs, context=ThreadContext())

    pool.ThreadPool.__init__ = functools.wraps(pool.ThreadPool.__init__)(create)
    for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
        setattr(pool.ThreadPool, name, _for_callers_cell(getattr(pool.ThreadPool, name)))


def _for_callers_cell(submit: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method whose first argument is a function for another thread."""

    @functools.wraps(submit)
    def wrapped(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return submit(self, for_callers_cell(fn) if callable(fn) else fn, *args, **kwargs)

    return wrapped


def _refuse(owner: Any, method: str, reason: str) -> None:
    """Replace a method that cannot work, so that its error says what to use."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise OSError(reason)

    setattr(owner, method, functools.wraps(getattr(owner, method))(refuse))


def _explain_spawn(popen: ModuleType) -> None:
    launch = popen.Popen.__init__

    @functools.wraps(launch)
    def start(self: Any, process: Any) -> None:
        homes = {type(process).__module__, getattr(getattr(process, "_target", None), "__module__", None)}
        if "__main__" in homes and not hasattr(sys.modules["__main__"], "__file__"):
            raise OSError(NOT_SPAWNED)
        launch(self, process)

    popen.Popen.__init__ = start


def _keep_arenas_in_tmp(heap: Any) -> None:
    """Shared arrays without locks need no /dev/shm: a file in /tmp does."""
    heap.Arena._dir_candidates = []


def _find_classes(inspect: Any) -> None:
    """Let `inspect.getsource` find classes of cells, whose module has no file."""
    getfile = inspect.getfile

    @functools.wraps(getfile)
    def of_cell(object: Any) -> Any:  # noqa: A002 - a name that callers may use
        if inspect.isclass(object) and object.__module__ == "__main__":
            definition = re.compile(rf"^\s*class\s+{re.escape(object.__name__)}\b", re.MULTILINE)
            for name, entry in reversed(list(linecache.cache.items())):
                if name.startswith("<cell ") and definition.search("".join(entry[2])):  # type: ignore[misc]
                    return name
        return getfile(object)

    inspect.getfile = of_cell


ADJUSTMENTS: Final[dict[str, Callable[[Any], None]]] = {
    "random": _seed_random,
    "concurrent.futures.thread": _give_work_its_cell,
    "inspect": _find_classes,
    "multiprocessing.heap": _keep_arenas_in_tmp,
    "multiprocessing.pool": _adjust_thread_pools,
    "multiprocessing.synchronize": lambda module: _refuse(module.SemLock, "__init__", NO_SEMAPHORES),
    "multiprocessing.managers": lambda module: _refuse(module.BaseManager, "start", NO_MANAGERS),
    "multiprocessing.shared_memory": lambda module: _refuse(module.SharedMemory, "__init__", NO_SHARED_MEMORY),
    "multiprocessing.popen_forkserver": lambda module: _refuse(module.Popen, "__init__", NO_FORKSERVER),
    "multiprocessing.popen_spawn_posix": _explain_spawn,
}


class Finder:
    """Adjusts a module right after its import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Wrap the loader of a module with an adjustment; None leaves others to the next finder of `sys.meta_path`."""
        adjust = ADJUSTMENTS.get(name)
        if adjust is None:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def adjusted(module: ModuleType) -> None:
                execute(module)
                adjust(module)

            spec.loader.exec_module = adjusted  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Install the finder, and adjust what is already imported. Call once, before any cell."""
    sys.meta_path.insert(0, Finder())
    for name, adjust in ADJUSTMENTS.items():
        if name in sys.modules:
            adjust(sys.modules[name])
