"""Compiles the kernels in child processes of low priority, which store them in the disk cache for all processes.

Compiling takes tens of seconds and holds the GIL, so it runs in other processes. A program that gets the lock file in
the cache folder starts the children and passes the lock on to them: of many programs that start together, one compiles;
if a child is killed, the system releases the lock, and another program continues. A kernel is stored atomically. The
children outlive the program that started them, since its next start needs the kernels.

``BQSTORE_COMPILE`` in the environment: "background"; "foreground": in this process, when a kernel is first called;
"off": kernels in the cache, and numpy for the others.
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
except ImportError:  # Windows has no flock: every program compiles for itself
    fcntl = None  # type: ignore[assignment]

# The kernels of the two processes, in the order in which a new collection needs them; both take about equally long.
HALVES = (
    ("encode", "prepare", "search_exact", "search_bits", "rescore"),
    (
        *("find_links", "merge_links", "search_graph", "check_graph", "spread", "sift"),
        *("numbers_between", "strings_between", "strings_like", "any_member", "every_member"),
    ),
)
MODES = ("background", "foreground", "off")
NOT_KEPT = 3  # exit code of a child that could not store a kernel in the cache
_TRIES = 2  # a child may be killed for lack of memory, by hand, or with its terminal
_AGAIN = 0.5  # seconds between attempts to get a lock that another program holds
_ENOUGH_MEMORY = 1 << 30  # bytes that must be free for a second process; each takes a third of that


def mode() -> str:
    """How kernels are compiled. Raises InvalidInputError for an unknown setting."""
    if getattr(numba.config, "DISABLE_JIT", 0):
        return "off"
    asked = os.environ.get("BQSTORE_COMPILE") or "background"
    if asked not in MODES:
        raise InvalidInputError(f"BQSTORE_COMPILE is {asked!r}; expected one of {', '.join(MODES)}")
    return "foreground" if asked == "background" and _here.failed else asked


def is_compiling() -> bool:
    """Whether child processes compile, which this call may start; False if this process must compile."""
    return _here.go_on()


def has_begun() -> bool:
    """Whether this process has started child processes, or found that another program compiles."""
    return _here.begun


class _Child(NamedTuple):
    process: subprocess.Popen[bytes]
    said: IO[bytes]  # its stderr


class _Children:
    """The child processes of this process; used under the lock that excludes forks (`dispatch`)."""

    def __init__(self) -> None:
        self.failed = self.begun = False
        self.tries = 0
        self.running: list[_Child] = []
        self._next_look = 0.0
        self._reason: str | None = None  # why a child failed

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
            if self._reason and not useless:  # if the cache cannot be written, `cache` warns itself
                warnings.warn(
                    f"{self._reason}; this process compiles the kernels itself. bqstore.warm_up() shows why",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return False
        try:
            self._try(folder)
        except (OSError, RuntimeError):  # no more processes, or interpreter exit
            self.failed = not self.running
        return not self.failed

    def _try(self, folder: Path) -> None:
        """Start the processes, unless another program holds the lock."""
        self.begun = True
        lock = _lock(folder)
        if lock is None:
            return
        self.tries += 1
        try:
            for names in parts():
                child = _start(names, lock)
                self.running.append(child)
                # wait for the child, or it would remain as a zombie
                with suppress(RuntimeError):  # no more threads
                    threading.Thread(target=child.process.wait, daemon=True).start()
        finally:
            os.close(lock)

    def let_go(self) -> None:
        """At exit and in a fork: leave the processes running, without Python's warning about unawaited children."""
        for child in self.running:
            child.said.close()
            if child.process.returncode is None:
                child.process.returncode = 0
        self.__init__()  # type: ignore[misc]


_here = _Children()
atexit.register(_here.let_go)
in_forks(_here.let_go)


def can_start_python() -> bool:
    """Whether ``sys.executable`` is a Python interpreter, not a program that embeds one."""
    name = Path(sys.executable or "").stem.lower()
    return not getattr(sys, "frozen", False) and name.startswith(("python", "pypy"))


def parts() -> tuple[tuple[str, ...], ...]:
    """The kernels of each process to start: two processes if cores and memory suffice, otherwise one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return HALVES if cores > 1 and _free_memory() >= _ENOUGH_MEMORY else (HALVES[0] + HALVES[1],)


def _free_memory() -> float:
    """Bytes of memory that this process may still use, on Linux; infinite elsewhere."""
    free = float("inf")
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = min(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with suppress(OSError, ValueError):  # the limit of a container
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return free


def _lock(folder: Path) -> int | None:
    """The file descriptor of the lock in the cache folder; None while another program of this user holds it."""
    descriptor = os.open(folder / f"bqstore-compiling-{USER}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
    return descriptor


def _start(names: tuple[str, ...], lock: int) -> _Child:
    """Start a process that compiles kernels and holds the lock meanwhile, with the module paths of this process."""
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
    """Why processes failed; empty if none has. Closes their stderr files."""
    reason = ""
    for child in ended:
        if child.process.returncode:
            child.said.seek(0)
            lines = child.said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            code = child.process.returncode
            reason = f"a process that compiles kernels ended with exit code {code} ({lines[-1].strip()})"
        child.said.close()
    return reason
