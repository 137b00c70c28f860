"""The decorators that compile kernels; they preserve the function's type for mypy.

A root is called from Python and cached on disk: see ``api.py`` and ``metadata.py``. Every other kernel is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from bqstore.kernels import compile_notice
from bqstore.kernels.cache import KernelCache
from bqstore.kernels.leaf_compiler import compile_leaf

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_njit = cast("Callable[..., Callable[[Any], Any]]", numba.njit)


def _compile_leaf(function: Kernel, **options: Any) -> Any:
    return function if getattr(numba.config, "DISABLE_JIT", 0) else compile_leaf(function, **options)


def leaf(function: Kernel) -> Kernel:
    """Compile a function that is called by other kernels only."""
    return cast("Kernel", _compile_leaf(function, nogil=True))


def float_leaf(function: Kernel) -> Kernel:
    """Compile a leaf whose float sums may be reordered to be vectorized; NaN and infinity keep their meaning."""
    return cast("Kernel", _compile_leaf(function, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}))


def root(function: Kernel) -> Kernel:
    """Compile a function that is called from Python, and cache it on disk."""
    dispatcher = _njit(nogil=True)(function)
    if dispatcher is not function:  # unchanged under NUMBA_DISABLE_JIT
        dispatcher._cache = KernelCache(function)
    return cast("Kernel", dispatcher)


if not getattr(numba.config, "DISABLE_JIT", 0):
    compile_notice.watch()
