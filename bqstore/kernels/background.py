"""Compiles the kernels in other processes, of low priority, which leave them in the cache for every process.

Compiling takes tens of seconds and holds the GIL; a process of its own holds nobody up. Whoever gets the lock beside
the cache starts these processes and hands the lock on to them: so of many programs that start at once, one compiles,
and when a compiling process is killed, the system gives the lock back and the next one goes on. A kernel appears in the
cache whole or not at all. The processes outlive the program that started them, as the next start needs what they do.

``BQSTORE_COMPILE`` in the environment: "background"; "foreground": in this process, when a kernel is first called;
"off": use what is in the cache, and numpy for the rest.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba

from bqstore.errors import InvalidInputError
from bqstore.kernels.cache import writable_folder

try:
    import fcntl
except ImportError:  # Windows: every program compiles for itself
    fcntl = None  # type: ignore[assignment]

# What the two processes compile, in the order in which a new collection needs it; each takes about as long.
HALVES = (
    ("encode", "prepare", "search_exact", "search_bits", "rescore"),
    (
        *("find_links", "merge_links", "search_graph", "check_graph", "spread", "sift"),
        *("numbers_between", "strings_between", "strings_like", "any_member", "every_member"),
    ),
)
MODES = ("background", "foreground", "off")
LOCK = "bqstore-compiling.lock"
_TRIES = 2  # a child may have been killed for its memory, by somebody who cleans up, or with its terminal
_AGAIN = 0.5  # seconds between two looks at a lock that another program holds
_ENOUGH_MEMORY = 1 << 30  # bytes that must be free for a second process; each takes a third of that


def mode() -> str:
    """How kernels are compiled; InvalidInputError for an unknown setting."""
    if getattr(numba.config, "DISABLE_JIT", 0):
        return "off"
    asked = os.environ.get("BQSTORE_COMPILE") or "background"
    if asked not in MODES:
        raise InvalidInputError(f"BQSTORE_COMPILE is {asked!r}; expected one of {', '.join(MODES)}")
    return "foreground" if asked == "background" and _here.failed else asked


def is_compiling() -> bool:
    """Whether the kernels are on their way, in processes that this call may start; False: this process must do it."""
    return _here.go_on()


class _Children:
    """What this process knows of those that compile."""

    def __init__(self) -> None:
        self.failed = False
        self._tries = 0
        self._running: list[subprocess.Popen[bytes]] = []
        self._next_look = 0.0

    def go_on(self) -> bool:
        if self.failed:
            return False
        self._running = [child for child in self._running if child.poll() is None]
        now = time.monotonic()
        if self._running or now < self._next_look:
            return True
        self._next_look = now + _AGAIN
        folder = writable_folder() if can_start_python() else None
        if folder is None or self._tries >= _TRIES:
            self.failed = True
            return False
        try:
            lock = _lock(folder)
            if lock is not None:
                self._tries += 1
                try:
                    self._start(lock)
                finally:
                    os.close(lock)
        except OSError:  # no more processes
            self.failed = not self._running
        return not self.failed

    def _start(self, lock: int) -> None:
        for names in parts():
            self._running.append(_start(names, lock))

    def let_go(self) -> None:
        """At exit, and in a fork: the processes go on, and Python need not warn that nobody waits for them."""
        for child in self._running:
            child.returncode = 0
        self.__init__()  # type: ignore[misc]


_here = _Children()
atexit.register(_here.let_go)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_here.let_go)


def can_start_python() -> bool:
    """Whether ``sys.executable`` is Python itself, and not a program that has it built in."""
    name = Path(sys.executable or "").stem.lower()
    return not getattr(sys, "frozen", False) and name.startswith(("python", "pypy"))


def parts() -> tuple[tuple[str, ...], ...]:
    """The kernels of each process to start: one takes all, or each of two a half, as processors and memory allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return HALVES if cores > 1 and _free_memory() >= _ENOUGH_MEMORY else (HALVES[0] + HALVES[1],)


def _free_memory() -> float:
    """Bytes that this process may still use, as far as Linux tells; infinite elsewhere."""
    free = float("inf")
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = min(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with suppress(OSError, ValueError):  # a container's
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return free


def _lock(folder: Path) -> int | None:
    """The lock beside the cache as a file descriptor; None while another program holds it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
    return descriptor


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _start(names: tuple[str, ...], lock: int) -> subprocess.Popen[bytes]:
    """Start a process that compiles some kernels and holds the lock meanwhile."""
    package = str(Path(__file__).parents[2])
    environment = {**os.environ, "BQSTORE_COMPILE": "foreground"}
    environment["PYTHONPATH"] = os.pathsep.join([package, *map(os.path.abspath, _paths())])
    if "NUMBA_CACHE_DIR" in environment:
        environment["NUMBA_CACHE_DIR"] = str(Path(environment["NUMBA_CACHE_DIR"]).absolute())
    given: dict[str, Any] = {} if os.name == "nt" else {"pass_fds": (lock,), "start_new_session": True}
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "bqstore.kernels.compile", *names],
        env=environment,
        cwd=package,  # Python looks for modules there, so it must be nobody else's
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **given,
    )
