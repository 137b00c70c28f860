"""Announces compilation by one line on stderr, and suppresses numba's debug log meanwhile.

Without the line the first calls on a machine would block without explanation. numba would send tens of thousands of
debug records per kernel to a program that logs everything.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

LINE = "bqstore: compiling for this processor, once (bqstore warm-up does it beforehand)\n"


def watch() -> None:
    """Watch numba compile kernels; loading one from the cache does not count."""
    try:
        from numba.core import event
    except ImportError:  # internals of numba
        return
    log = logging.getLogger("numba")

    class Watch(event.Listener):
        """Notified of every function, including those that a kernel calls."""

        announced = False
        depth, level = 0, logging.NOTSET

        def on_start(self, start: Any) -> None:
            if self.depth == 0:
                self.level = log.level
                if self.level == logging.NOTSET:
                    log.setLevel(logging.WARNING)
            self.depth += 1
            dispatcher = (start.data or {}).get("dispatcher")
            if not self.announced and getattr(dispatcher, "__module__", "").startswith("bqstore."):
                self.announced = True
                with suppress(OSError, ValueError, AttributeError):  # no stderr, or a closed one
                    sys.stderr.write(LINE)

        def on_end(self, end: Any) -> None:
            self.depth -= 1
            if self.depth == 0:
                log.setLevel(self.level)

    event.register("numba:compile", Watch())
