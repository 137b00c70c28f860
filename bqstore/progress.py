"""How long work tells a person that it goes on: one line on a terminal, nothing anywhere else. Floor 0."""

import sys
import time
from contextlib import suppress

_QUIET = 1.0  # seconds before the first line, and work that is done by then needs none
_EVERY = 0.2


class Progress:
    """One task, ``done`` of ``total``. Use as a context; what it prints it wipes out at the end."""

    def __init__(self, task: str, total: int) -> None:
        self._task, self._total = task, total
        self._begun = time.monotonic()
        self._next = self._begun + _QUIET
        self._width = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._width:
            _write("\r" + " " * self._width + "\r")

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say how much is done."""
        now = time.monotonic()
        if now < self._next or not _is_terminal():
            return
        total = self._total if total is None else total
        left = (now - self._begun) / done * (total - done) if done else 0.0
        line = f"{self._task}: {done:,} of {total:,} ({100 * done // max(1, total)}%, {left:,.0f} s left)"
        _write("\r" + line.ljust(self._width))
        self._next, self._width = now + _EVERY, max(self._width, len(line))


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # none, what a program has put in its place, or closed
        return False


def _write(text: str) -> None:
    with suppress(OSError, ValueError):  # the terminal is gone: the work is not
        sys.stderr.write(text)
        sys.stderr.flush()
