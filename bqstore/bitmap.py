"""Bitmaps of ordinals: uint64 (ceil(n / 64),); bit ``o % 64`` of word ``o // 64`` is ordinal o; bits past n are 0."""

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]


def to_bitmap(mask: NDArray[np.bool_]) -> Bits:
    """The bitmap of bool (n,)."""
    bits = np.zeros(-(-len(mask) // 64) * 8, np.uint8)
    packed = np.packbits(mask, bitorder="little")
    bits[: len(packed)] = packed
    return bits.view(np.uint64)


def to_mask(bits: Bits, n: int) -> NDArray[np.bool_]:
    """The bool (n,) of a bitmap."""
    return np.unpackbits(bits.view(np.uint8), count=n, bitorder="little").view(np.bool_)


def count(bits: Bits) -> int:
    """How many bits are set."""
    if hasattr(np, "bitwise_count"):
        return int(np.bitwise_count(bits).sum(dtype=np.int64))
    return int(np.unpackbits(bits.view(np.uint8)).sum(dtype=np.int64))  # numpy 1


def everything(n: int) -> Bits:
    """The bitmap of all n ordinals."""
    bits = np.full(-(-n // 64), 2**64 - 1, np.uint64)
    if n % 64:
        bits[-1] = np.uint64(2 ** (n % 64) - 1)
    return bits
