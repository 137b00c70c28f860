"""What a person sees of a compilation: one line on stderr, and nothing of numba's debug log.

Without the line the first calls on a machine stand still in silence. A program that logs everything would get tens of
thousands of records from numba for each kernel.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

LINE = "bqstore: compiling for this processor, once (bqstore warm-up does it beforehand)\n"


def watch() -> None:
    """Watch numba compile kernels; loading them from the cache is no compilation."""
    try:
        from numba.core import event
    except ImportError:  # internals of numba
        return
    log = logging.getLogger("numba")

    class Watch(event.Listener):
        """Told of every function, those among them that a kernel calls."""

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
