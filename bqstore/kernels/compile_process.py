"""The main function of `background`'s child processes: compile kernels into the cache, at low priority."""

from __future__ import annotations

import os
from contextlib import suppress

_NICE = 5  # a quarter of a busy processor; at 19 a program that never idles would starve the compilation


def main(names: list[str]) -> None:
    """Compile the kernels that are not in the cache yet; exit with ``NOT_KEPT`` if one cannot be stored."""
    with suppress(AttributeError, OSError):  # Windows; a sandbox
        os.nice(_NICE)
    from bqstore.kernels import background, dispatch

    for name in names:
        if not getattr(dispatch, name).compile():
            raise SystemExit(background.NOT_KEPT)
