"""Operations again and again under strace, and each time the next of their calls to the system fails.

strace counts the calls of each process for itself, and lets number `AT` fail. So a fork for each fault makes as many
calls to nothing as it takes for the wanted one to be that number. This process starts strace when modules are imported
and kernels compiled. It prints how many calls each operation makes, then a line a fault: its number, the outcome
("done", "refused", "poisoned"), and the error.

    python -m tests.torture.faults.sweep FOLDER add,delete lseek EIO 5
"""

import ctypes
import errno
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import bqstore
from bqstore.errors import BqstoreError, ClosedError, LockedError

from .table import BEFORE, NUMBERS, OPERATIONS, Contents, contents, fresh, opened, prepare, search

AT = 400
LOCKED = "; SQLite keeps a lock that could not be given back until the process ends"
PROBE = {"probe": "probe"}
ANY_TRACER = 0x59616D61, ctypes.c_ulong(-1)  # of prctl: PR_SET_PTRACER, PR_SET_PTRACER_ANY
_libc = ctypes.CDLL(None, use_errno=True)


class Sweep:
    """One operation, one call, one error."""

    def __init__(self, folder: Path, operation: str, name: str, error: str) -> None:
        self.template, self.work = folder / "template", folder / "work"
        self.operation, self.name, self.error = operation, name, getattr(errno, error)
        self.opens = operation in ("open", "read_only")
        self.act, self.after = OPERATIONS.get(operation, (search, BEFORE))

    def call_nothing(self, count: int) -> int:
        """Make a call that can do nothing up to ``count`` times; how often until one failed by injection."""
        for done in range(count):
            ctypes.set_errno(0)
            _libc.syscall(NUMBERS[self.name], -1, 0, 0, 0, -1, 0)
            if ctypes.get_errno() == self.error:
                return done
        return count

    def ready(self) -> bqstore.Collection | None:
        """What is open when the operation begins."""
        return None if self.opens else opened(self.work)

    def done(self, col: bqstore.Collection | None) -> bqstore.Collection:
        """The operation, under the fault."""
        if col is None:
            return bqstore.open(self.work, threads=1, lock_timeout=5, read_only=self.operation == "read_only")
        self.act(col)
        return col

    def calls(self, whole: bool) -> int:
        """How many of the calls a process makes until the operation begins, or until it has ended."""

        def measured() -> int:
            col = self.ready()
            if whole:
                col = self.done(col)
            return AT - 1 - self.call_nothing(AT)

        fresh(self.template, self.work)
        return int(in_fork(measured))

    def one(self, padding: int, n: int) -> str:
        """The outcome of the operation whose call number ``n`` fails; AssertionError if it is none of the three."""
        col, error = self.ready(), None
        self.call_nothing(padding)
        try:
            col = self.done(col)
        except (BqstoreError, MemoryError) as caught:
            error = caught
        self.call_nothing(n)  # a fault that did not strike must not strike in what follows
        words = f"{type(error).__name__}: {error}" if error is not None else ""
        outcome, found = "done" if error is None else "refused", None
        expected: Contents = BEFORE if error is not None else self.after
        if col is not None:
            try:
                found = contents(col)
                if not col.info().read_only:
                    col.add([[1.0] * 8], ["probe"], ["probe"])
                assert found == expected, f"{words}: it is open with {sorted(set(found) ^ set(expected))}"
                expected = contents(col)  # with the probe
            except ClosedError:
                assert self.operation == "close", words
            except BqstoreError as poison:
                assert "open it again" in str(poison), f"{words}: and then {poison}"
                outcome = "poisoned"
            col.close()
            col.close()
        allowed = [expected, self.after, BEFORE] if outcome == "poisoned" else [expected]
        try:
            return f"{outcome} {words}{self.reopened(allowed)}"
        except LockedError as locked:
            assert self.name == "fcntl", f"{words}: and then {locked}"
            return f"{outcome} {words}{LOCKED}"

    def unlocked(self) -> str:
        """Open it in another process than the one that keeps a lock: this commit or the one before, with or without."""
        return self.reopened([{**each, **more} for each in (self.after, BEFORE) for more in ({}, PROBE)])

    def reopened(self, allowed: list[Contents]) -> str:
        """Open it again, and compare what is in it."""
        with bqstore.open(self.work) as again:
            found, report = contents(again), again.verify()
            assert report.ok, report.problems
            assert found in allowed, f"there is {sorted(set(found) ^ set(allowed[0]))}"
            if len(found) > len(BEFORE):
                search(again)
        return ""


def in_fork(work: Callable[[], object]) -> str:
    """What a function returns in a process of its own, as a line; what it raises, after "WRONG"."""
    answer, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            text = str(work())
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-4:]
            text = f"WRONG {type(error).__name__}: {error} at {[f'{f.name}:{f.lineno}' for f in where]}"
        os.write(told, text.encode())
        os._exit(0)
    os.close(told)
    with os.fdopen(answer) as file:
        found = file.read()
    status = os.waitpid(child, 0)[1]
    return found.replace("\n", " ") if not status else f"WRONG the process ended with {status}"


def main(folder: str, operations: str, name: str, error: str, samples: str) -> None:
    """Some faults of each operation, evenly spread."""
    warnings.simplefilter("ignore")
    if not (Path(folder) / "template").exists():
        prepare(Path(folder) / "template")
    sweeps = [Sweep(Path(folder), operation, name, error) for operation in operations.split(",")]
    for sweep in sweeps:  # modules are imported, kernels compiled
        fresh(sweep.template, sweep.work)
        sweep.done(sweep.ready()).close()
        with bqstore.open(sweep.work) as col:
            contents(col), col.verify(), col.add([[1.0] * 8], ["probe"])
    trace(name, f"error={error}", AT)
    sweeps[0].call_nothing(AT)  # so that none strikes here: forks count anew
    for sweep in sweeps:
        run(sweep, int(samples))


def trace(name: str, fault: str, at: int) -> None:
    """Have strace trace this process, and all that it forks from now on: a fault at each one's call number ``at``."""
    _libc.prctl(*ANY_TRACER, 0, 0, 0)  # where only ancestors may
    options = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={at}"]
    tracer = subprocess.Popen(["strace", *options, "-p", str(os.getpid())])
    while "TracerPid:\t0" in Path("/proc/self/status").read_text():
        assert tracer.poll() is None, "strace has ended"
        time.sleep(0.01)


def run(sweep: Sweep, samples: int) -> None:
    """The sweep of one operation."""
    first, last = sweep.calls(whole=False), sweep.calls(whole=True)
    assert last < AT - 50, "let a later call fail"
    print(sweep.operation, sweep.name, last - first, flush=True)
    for n in sorted({round(place) for place in np.linspace(1, last - first, samples)} if last > first else ()):
        fresh(sweep.template, sweep.work)
        line = in_fork(lambda n=n: sweep.one(AT - first - n, n))
        if line.endswith(LOCKED):
            line += in_fork(sweep.unlocked)
        print(n, line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
