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
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numba

from bqstore.errors import InvalidInputError
from bqstore.forks import in_forks
from bqstore.kernels.cache import GIVEN, USER, writable_folder

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
NOT_KEPT = 3  # exit code of a process that compiled a kernel and could not keep it
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


def has_begun() -> bool:
    """Whether this process has seen somebody compile."""
    return _here.begun


class _Child(NamedTuple):
    process: subprocess.Popen[bytes]
    said: IO[bytes]  # its stderr


class _Children:
    """What this process knows of those that compile; used under the lock that keeps forks away (`dispatch`)."""

    def __init__(self) -> None:
        self.failed = self.begun = False
        self.tries = 0
        self.running: list[_Child] = []
        self._next_look = 0.0
        self._reason: str | None = None  # why the last one to fail has failed

    def go_on(self) -> bool:
        ended = [child for child in self.running if child.process.poll() is not None]
        self.running = [child for child in self.running if child not in ended]
        useless = any(child.process.returncode == NOT_KEPT for child in ended)
        self._reason = _last_words(ended) or self._reason
        now = time.monotonic()
        if self.failed or ((self.running or now < self._next_look) and not useless):
            return not self.failed
        self._next_look = now + _AGAIN
        folder = writable_folder() if can_start_python() else None
        if folder is None or useless or self.tries >= _TRIES:
            self.failed = True
            if self._reason and not useless:  # where nothing can be kept, the cache warns of it
                warnings.warn(
                    f"{self._reason}; this process compiles the kernels itself. bqstore.warm_up() shows why",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return False
        try:
            self._try(folder)
        except (OSError, RuntimeError):  # no more processes, or Python is about to end
            self.failed = not self.running
        return not self.failed

    def _try(self, folder: Path) -> None:
        """Start the processes, unless another program has."""
        self.begun = True
        lock = _lock(folder)
        if lock is None:
            return
        self.tries += 1
        try:
            for names in parts():
                child = _start(names, lock)
                self.running.append(child)
                # once ended, a process stays in the system's table until it is waited for
                with suppress(RuntimeError):  # no more threads
                    threading.Thread(target=child.process.wait, daemon=True).start()
        finally:
            os.close(lock)

    def let_go(self) -> None:
        """At exit, and in a fork: the processes go on, and Python need not warn that nobody waits for them."""
        for child in self.running:
            child.said.close()
            if child.process.returncode is None:
                child.process.returncode = 0
        self.__init__()  # type: ignore[misc]


_here = _Children()
atexit.register(_here.let_go)
in_forks(_here.let_go)


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
    """The lock beside the cache as a file descriptor; None while another program of this user holds it."""
    descriptor = os.open(folder / f"bqstore-compiling-{USER}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
    return descriptor


def _start(names: tuple[str, ...], lock: int) -> _Child:
    """Start a process that compiles some kernels and holds the lock meanwhile. It finds modules where this one does."""
    environment = {**os.environ, "BQSTORE_COMPILE": "foreground"}
    if GIVEN is not None:
        environment["NUMBA_CACHE_DIR"] = str(GIVEN)
    package = Path(__file__).parents[2]
    path = [str(Path(entry).absolute()) for entry in sys.path if entry] + [str(package)]
    script = f"import sys; sys.path[:] = {path!r}; from bqstore.kernels.compile_process import main; main(sys.argv[1:])"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    given: dict[str, Any] = {} if os.name == "nt" else {"pass_fds": (lock,), "start_new_session": True}
    said = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, *flags, "-c", script, *names],
        env=environment,
        cwd=package,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        **given,
    )
    return _Child(process, said)


def _last_words(ended: list[_Child]) -> str:
    """Why processes have ended without what they were to do; empty if they have not failed. Closes their files."""
    reason = ""
    for child in ended:
        if child.process.returncode:
            child.said.seek(0)
            lines = child.said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            code = child.process.returncode
            reason = f"a process that compiles kernels ended with exit code {code} ({lines[-1].strip()})"
        child.said.close()
    return reason
