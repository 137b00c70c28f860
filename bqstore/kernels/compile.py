"""``python -m bqstore.kernels.compile NAME...``: compile kernels into the cache, at low priority."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_NICE = 5  # a quarter of a busy processor: at 19 a program that never rests would never get its kernels


def main(names: list[str]) -> None:
    """Compile those of these kernels that are not in the cache yet."""
    with suppress(AttributeError, OSError):  # Windows; a sandbox
        os.nice(_NICE)
    from bqstore.kernels import dispatch

    for name in names:
        getattr(dispatch, name).compile()


if __name__ == "__main__":
    main(sys.argv[1:])
