"""One line on the terminal that shows how far a long task is; where stderr is no terminal, nothing is printed."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress

_QUIET = 1.0
_EVERY = 0.2


def _share_and_time_left(done: int, total: int | None, seconds: float) -> str:
    total = total or 0
    share = f"{100 * done // max(1, total)}%"
    return f"{share}, {seconds / done * (total - done):,.0f} s left" if done else share


class Progress:
    """The line of one task. Use it as a context and call it with what is done; at the end the line is wiped out.

    Parameters
    ----------
    task : str              what is being done, such as "linking"
    total : int or None     how much there is to do; None if that is not known
    describe : callable     (done, total, seconds since the start) to the text in parentheses
    quiet : float or None   seconds before the first line; None: one second, as a task that is done by then needs none
    """

    def __init__(
        self,
        task: str,
        total: int | None = None,
        describe: Callable[[int, int | None, float], str] = _share_and_time_left,
        quiet: float | None = None,
    ) -> None:
        self._task, self._total, self._describe = task, total, describe
        self._begun = time.monotonic()
        self._next = self._begun + (_QUIET if quiet is None else quiet)
        self._width = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._width:
            _write("\r" + " " * self._width + "\r")

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show how much is done; ``total`` if it was not known at the start."""
        now = time.monotonic()
        if now < self._next or not _is_terminal():
            return
        total = self._total if total is None else total
        of = "" if total is None else f" of {total:,}"
        line = f"{self._task}: {done:,}{of} ({self._describe(done, total, now - self._begun)})"
        _write("\r" + line.ljust(self._width))
        self._next, self._width = now + _EVERY, max(self._width, len(line))


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, a program has replaced it, or it is closed
        return False


def _write(text: str) -> None:
    with suppress(OSError, ValueError):  # the terminal may be gone; the task goes on
        sys.stderr.write(text)
        sys.stderr.flush()
