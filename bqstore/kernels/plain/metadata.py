"""Filters on metadata columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bqstore.kernels.metadata import (
    ABSENT,
    ANY_CHARACTER,
    ANY_RUN,
    ASK,
    FLOAT,
    INT,
    LENGTH_BITS,
    LENGTH_MASK,
    LIST,
    STRING,
)
from bqstore.kernels.plain.codes import packed

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


def spread(codes: npt.NDArray[Any], table: U8, out: U64) -> int:
    """Write the bitmap of ``table[codes]``; return how many bits are set (`metadata.spread`)."""
    within = codes < len(table)
    bits = within & (table[np.where(within, codes, 0)] != 0) if len(table) else within
    out[:] = packed(bits[None], len(out))[0]
    return int(bits.sum())


def sift(marks: npt.NDArray[np.uint32], wanted: U8, out: npt.NDArray[np.int32]) -> int:
    """Write the entries whose mark is wanted; return how many (`metadata.sift`)."""
    found = np.flatnonzero(wanted[marks & np.uint32(0xFFFF)])[: len(out)]
    out[: len(found)] = found
    return len(found)


def numbers_between(kinds: U8, values: I64, low: int, high: int, ends: npt.NDArray[np.float64], table: U8) -> None:
    """Set ``table`` where a number is within a range (`metadata.numbers_between`)."""
    d = min(len(kinds), len(table))
    kinds, values = kinds[:d], values[:d]
    floats = values.view(np.float64)
    whole = (kinds == INT) & (values >= low) & (values <= high)
    table[:d] = whole | ((kinds == FLOAT) & (floats >= ends[0]) & (floats <= ends[1]))


def _slices(kinds: U8, values: I64, kind: int, size: int) -> Iterator[tuple[int, int, int]]:
    """The entries of a kind whose slice lies within ``size``, each with its start and end."""
    for i in np.flatnonzero(kinds == kind).tolist():
        start = int(values[i]) >> LENGTH_BITS
        stop = start + (int(values[i]) & LENGTH_MASK)
        if start >= 0 and stop <= size:
            yield i, start, stop


def strings_between(kinds: U8, values: I64, heap: U8, low: U8, least: int, high: U8, most: int, table: U8) -> None:
    """Set ``table`` where a string is between two others (`metadata.strings_between`)."""
    d, whole, first, last = min(len(kinds), len(table)), heap.tobytes(), low.tobytes(), high.tobytes()
    table[:d] = 0
    for i, start, stop in _slices(kinds[:d], values, STRING, len(whole)):
        text = whole[start:stop]
        above = least < 0 or (text > first) - (text < first) >= least
        table[i] = above and (most > 0 or (text > last) - (text < last) <= most)


def strings_like(kinds: U8, values: I64, heap: U8, pattern: npt.NDArray[np.int16], folded: bool, table: U8) -> None:
    """Set ``table`` where a string matches a pattern (`metadata.strings_like`)."""
    d, whole, matches = min(len(kinds), len(table)), heap.tobytes(), _expression(pattern.tolist()).fullmatch
    table[:d] = 0
    for i, start, stop in _slices(kinds[:d], values, STRING, len(whole)):
        text = whole[start:stop]
        if folded and not text.isascii():
            table[i] = ASK
        else:
            table[i] = matches(text.lower() if folded else text) is not None


def _expression(pattern: list[int]) -> re.Pattern[bytes]:
    """A pattern as a regular expression. Text after a run matches at its first position only: never exponential."""
    pieces = [b""]
    for part in pattern:
        if part == ANY_RUN:
            pieces.append(b"")
        else:
            any_character = rb"[^\x80-\xbf][\x80-\xbf]*"
            pieces[-1] += any_character if part == ANY_CHARACTER else re.escape(bytes([part]))
    first, *middle = pieces
    if not middle:
        return re.compile(first, re.DOTALL)
    *middle, last = middle
    found = b"".join(b"(?=(?P<g%d>.*?%s))(?P=g%d)" % (i, piece, i) for i, piece in enumerate(middle) if piece)
    return re.compile(first + found + b".*" + last, re.DOTALL)


def any_member(kinds: U8, values: I64, members: npt.NDArray[np.int32], own: U8, keep: bool, table: U8) -> None:
    """Set ``table`` to ``own``, for a list by its members (`metadata.any_member`)."""
    d = min(len(kinds), len(own), len(table))
    table[:d] = np.where((kinds[:d] == LIST) & (not keep), 0, own[:d])
    for i, start, stop in _slices(kinds[:d], values, LIST, len(members)):
        some = members[start:stop]
        table[i] |= own[some[(some >= 0) & (some < len(own))]].max(initial=0)


def every_member(
    kinds: U8,
    values: I64,
    members: npt.NDArray[np.int32],
    which: npt.NDArray[np.int32],
    stamps: npt.NDArray[np.int32],
    table: U8,
) -> None:
    """Set ``table`` where the members of a list include all operands (`metadata.every_member`)."""
    d, m = min(len(kinds), len(which), len(table)), len(stamps)
    kinds = kinds[:d]
    found = ((which[:d] >= 0) & (which[:d] < m) & (kinds != LIST)).astype(np.int64)
    for i, start, stop in _slices(kinds, values, LIST, len(members)):
        some = members[start:stop]
        operands = which[some[(some >= 0) & (some < len(which))]]
        found[i] = len(np.unique(operands[(operands >= 0) & (operands < m)]))
    table[:d] = (found == m) & (kinds != ABSENT)
