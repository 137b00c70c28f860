"""Bitmaps of ordinals: uint64 (ceil(n / 64),); bit ``o % 64`` of word ``o // 64`` is ordinal o; bits past n are 0."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
Rows = NDArray[np.int32]


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


class Matches:
    """The ordinals that a filter matches, of n: as a bitmap, or as a list where they are few and known one by one.

    Not to be written to.
    """

    def __init__(self, n: int, bits: Bits | None = None, rows: Rows | None = None) -> None:
        self.n, self.rows = n, rows  # ascending; None: only the bitmap is known
        if bits is not None:
            self.bits = bits

    @cached_property
    def bits(self) -> Bits:
        """As a bitmap."""
        return to_bitmap(self.mask())

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows) if self.rows is not None else count(self.bits)

    def mask(self) -> NDArray[np.bool_]:
        """As bool (n,)."""
        if self.rows is None:
            return to_mask(self.bits, self.n)
        mask = np.zeros(self.n, bool)
        mask[self.rows] = True
        return mask

    def ordinals(self) -> NDArray[np.int64]:
        """As a list, ascending."""
        return np.flatnonzero(self.mask()) if self.rows is None else self.rows.astype(np.int64)

    def among(self, live: NDArray[np.bool_], live_bits: Bits) -> "Matches":
        """Those that are live, too, which is given both ways."""
        if self.rows is None:
            return Matches(self.n, self.bits & live_bits)
        return Matches(self.n, rows=self.rows[live[self.rows]])
