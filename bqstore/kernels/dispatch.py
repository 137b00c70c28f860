"""Call a root without numba's look at the types of its arguments.

At every call numba compares the types of all arguments to choose a compiled version. For some twenty arrays in tuples
that takes 3.5 microseconds, a tenth of a search. A root has only one version (a test checks that), so it is kept after
the first call and called directly. Nothing checks the arguments then: the caller passes C-order arrays of the right
dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def direct(root: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls the root's one compiled version directly, from its second call on."""
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
