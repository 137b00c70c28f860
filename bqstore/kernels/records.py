"""Verifies records of the originals and reads their vectors.

A record is a row of uint32 words (see ``layout``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqstore.kernels import layout
from bqstore.kernels.intrinsics import as_float32, keyed_sum, prefetch, widen_halves, wrapping_add
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import (
    CHECKSUM_FACTOR,
    CHECKSUM_SEED,
    RECORD_HEADER_WORDS,
)

SEED = np.uint64(CHECKSUM_SEED)
KEY_0 = np.uint64(CHECKSUM_FACTOR | 1)
KEY_1 = np.uint64(2 * CHECKSUM_FACTOR % 2**32 | 1)
ODD = np.uint64(1)
SHIFT = np.uint64(32)
HALF_TO_FLOAT = np.float32(2.0**112)  # float32's exponent bias less float16's, as a factor


@leaf
def record_sum(records: npt.NDArray[np.uint32], row: int, ahead: int) -> np.uint64:
    """Return the checksum sum64 of a record's words from index 2 on (`record_words` has the formula)."""
    everything = keyed_sum(records, row, CHECKSUM_FACTOR, ahead)  # includes the first two words, the stored checksum
    own = KEY_0 * np.uint64(records[row, 0]) + KEY_1 * np.uint64(records[row, 1])
    return wrapping_add(wrapping_add(everything, SEED), wrapping_add(~own, ODD))


@leaf
def is_sound(records: npt.NDArray[np.uint32], row: int, ahead: int) -> bool:
    """Whether a record's checksum is correct; prefetches the record ``ahead`` meanwhile."""
    stored = np.uint64(records[row, 0]) | (np.uint64(records[row, 1]) << SHIFT)
    return bool(stored == record_sum(records, row, ahead))


fits = leaf(layout.records_fit)  # layout does not import numba


@leaf
def half_value(half: np.uint16) -> np.float32:
    """Return the exact value of finite float16 bits, including denormals.

    Not a `float_leaf`: fastmath could move the factor out of a sum, which would then add denormals.
    """
    bits = np.uint32(half)
    size = as_float32(np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))) * HALF_TO_FLOAT
    return -size if bits & np.uint32(0x8000) else size


@leaf
def read_half(halves: npt.NDArray[np.uint16], scale: np.float32, out: npt.NDArray[np.float32]) -> None:
    """Write the float16 payload of a record, seen as uint16 (2 * stride,), times its scale to ``out``."""
    done = widen_halves(halves, 2 * RECORD_HEADER_WORDS, out)
    for j in range(out.shape[0] - done):
        out[done + j] = half_value(halves[done + j + 2 * RECORD_HEADER_WORDS])
    if scale != np.float32(1):  # rare (`storage.format.half_scales`)
        for j in range(out.shape[0]):
            out[j] *= scale


@leaf
def read_int8(small: npt.NDArray[np.int8], scale: np.float32, out: npt.NDArray[np.float32]) -> None:
    """Write the int8 payload of a record, seen as int8 (4 * stride,), times its scale to ``out``."""
    for j in range(out.shape[0]):
        out[j] = scale * np.float32(small[j + 4 * RECORD_HEADER_WORDS])


@leaf
def fetch_record(records: npt.NDArray[np.uint32], row: int) -> None:
    """Prefetch every cache line of a record."""
    for line in range(0, records.shape[1], 16):
        prefetch(records, row, line)
