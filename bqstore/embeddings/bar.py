"""The line on a terminal while texts are embedded: done, rate, cost so far, time left. Nothing anywhere else."""

import time
from collections.abc import Callable

from ..progress import _is_terminal, _write
from .openai.usage import Usage

_QUIET = 2.0  # seconds before the first line
_EVERY = 0.2


class Bar:
    """One call's progress; ``total`` is None where nobody knows. Use as a context: it wipes itself out at the end.

    usage : callable, optional      what was spent so far; None where that is not known
    """

    def __init__(self, usage: Callable[[], Usage] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._usage, self._clock = usage, clock
        self._spent_before = self._spent()
        self._begun = clock()
        self._next = self._begun + _QUIET
        self._first: int | None = None
        self._width = 0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._width:
            _write("\r" + " " * self._width + "\r")

    def __call__(self, done: int, total: int | None) -> None:
        """Say how much is done."""
        if self._first is None:  # what came from the cache says nothing of the rate
            self._first = done
        now = self._clock()
        if now < self._next or not _is_terminal():
            return
        line = self._line(done, total, now - self._begun)
        _write("\r" + line.ljust(self._width))
        self._next, self._width = now + _EVERY, max(self._width, len(line))

    def _line(self, done: int, total: int | None, seconds: float) -> str:
        rate = (done - (self._first or 0)) / seconds if seconds > 0 else 0.0
        parts = [f"{rate:,.0f} texts/s"]
        price = self._spent()
        if price is not None:
            parts.append(f"${price - (self._spent_before or 0.0):,.4f}")
        if total is not None and rate > 0:
            parts.append(f"{(total - done) / rate:,.0f} s left")
        of = "" if total is None else f" of {total:,}"
        return f"embedding: {done:,}{of} ({', '.join(parts)})"

    def _spent(self) -> float | None:
        return None if self._usage is None else self._usage().price
