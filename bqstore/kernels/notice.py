"""One line on stderr when kernels are compiled: without it the first calls on a machine stand still in silence."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

LINE = "bqstore: compiling for this processor, once; takes up to a minute (bqstore.warm_up() does it beforehand)\n"


def install() -> None:
    """Have the line written when the first kernel is compiled, not when kernels come from numba's cache."""
    try:
        from numba.core import event
    except ImportError:  # internals of numba
        return

    class Notice(event.Listener):
        def on_start(self, start: Any) -> None:
            dispatcher = (start.data or {}).get("dispatcher")
            if getattr(dispatcher, "__module__", "").startswith("bqstore."):
                event.unregister("numba:compile", self)
                with suppress(OSError, ValueError, AttributeError):  # no stderr, or a closed one
                    sys.stderr.write(LINE)

        def on_end(self, end: Any) -> None:
            pass

    event.register("numba:compile", Notice())
