"""Ctrl-C at any line of the storage."""

import linecache
import sys
from collections.abc import Callable

AFTER_THE_COMMIT = 12  # the last lines of a write, of which a sample has all


def lines_of(action: Callable[[], object]) -> int:
    """How many lines the storage runs in an action."""
    return _run(action, 0)[0]


def some_lines(count: int, stride: int) -> list[int]:
    """Every so many lines of an action, and its last ones."""
    return sorted({*range(1, count + 1, stride), *range(max(1, count - AFTER_THE_COMMIT), count + 1)})


def interrupted(action: Callable[[], object], line: int) -> bool:
    """Do something, with Ctrl-C at the n-th line that the storage runs; whether it came."""
    return _run(action, line)[1]


def _run(action: Callable[[], object], line: int) -> tuple[int, bool]:
    seen = 0

    def trace(frame, _event, _):
        if "/bqstore/storage/" not in frame.f_code.co_filename or frame.f_code.co_name == "__del__":
            return None  # exceptions in a finalizer are only printed
        inside: set[int] = set()  # lines of `with` that were entered

        def at_line(frame, event, _):
            nonlocal seen
            if event == "line":
                number = frame.f_lineno
                if linecache.getline(frame.f_code.co_filename, number).lstrip().startswith("with "):
                    inside.symmetric_difference_update({number})
                    if number not in inside:  # it is left: Python looks for signals only when __exit__ has been called
                        return at_line
                seen += 1
                if seen == line:
                    raise KeyboardInterrupt
            return at_line

        return at_line

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return seen, True
    finally:
        sys.settrace(before)
    return seen, False
