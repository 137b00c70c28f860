"""What a process of `background` does: compile kernels into the cache, at low priority."""

from __future__ import annotations

import os
from contextlib import suppress

_NICE = 5  # a quarter of a busy processor: at 19 a program that never rests would never get its kernels


def main(names: list[str]) -> None:
    """Compile those of these kernels that are not in the cache yet; exit with ``NOT_KEPT`` when one cannot be kept."""
    with suppress(AttributeError, OSError):  # Windows; a sandbox
        os.nice(_NICE)
    from bqstore.kernels import background, dispatch

    for name in names:
        if not getattr(dispatch, name).compile():
            raise SystemExit(background.NOT_KEPT)
