"""Calling a root without asking for its arguments' types again.

numba looks at every argument of every call to pick a compiled version; for some twenty arrays in tuples that takes 3.5
microseconds, a tenth of a search. A root has one version (a test says so), so the first call's is kept, and called by
its own entry point from then on. That checks shapes of nothing: who calls passes C-order arrays of the right dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def direct(root: Callable[..., Any]) -> Callable[..., Any]:
    """The root, to be called with arguments of the types that it is always called with."""
    entry: list[Callable[..., Any]] = []

    def call(*args: Any) -> Any:
        if entry:
            return entry[0](*args)
        result = root(*args)
        compiled = getattr(root, "overloads", {})  # a plain function under NUMBA_DISABLE_JIT
        if len(compiled) == 1:
            entry.append(next(iter(compiled.values())).entry_point)
        return result

    return call
