"""Filters answered: a test on the entries of a column, its outcome spread over the ordinals, and trees of such bitmaps.

A bitmap is uint64 (ceil(n / 64),): bit o % 64 of word o // 64 is ordinal o; those past n are 0. Floor 3: knows columns
and trees; knows no SQL and no documents.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bitmap import Bits, everything, to_bitmap
from ..kernels import metadata as kernels
from ..kernels.metadata import ASK, BIG, LENGTH_BITS, LENGTH_MASK, LIST, STRING
from .columns import Column, Entries, mark_of
from .filter_grammar import All, Among, Contains, Either, Elements, Field, Like, Not, Present, Range, Test, Tree
from .values import MAX_PIECE, Token, pieces_of

Table = NDArray[np.uint8]
_LEAST, _MOST = -(2**63), 2**63 - 1
_NO_TEXT = np.zeros(0, np.uint8)


def evaluate(tree: Tree, n: int, bits_of: Callable[[Field], Bits]) -> Bits:
    """The ordinals, of n, that a tree matches; ``bits_of`` answers for one field. Never to be written to."""
    if isinstance(tree, Field):
        return bits_of(tree)
    if isinstance(tree, Not):
        return everything(n) & ~evaluate(tree.part, n, bits_of)
    assert isinstance(tree, (All, Either)), "functions are answered from documents"
    if not tree.parts:
        return everything(n)
    bits = evaluate(tree.parts[0], n, bits_of)
    for part in tree.parts[1:]:
        other = evaluate(part, n, bits_of)
        bits = bits & other if isinstance(tree, All) else bits | other
    return bits


def matching(column: Column, test: Test) -> Bits:
    """The ordinals of a column that pass a test."""
    out = np.empty(-(-column.n // 64), np.uint64)
    if isinstance(test, Present):
        return to_bitmap(column.codes != 0)
    table = table_of(column.dictionary.entries, test)
    passing = np.flatnonzero(table) if len(table) <= 1 << 16 else None
    if passing is not None and len(passing) <= 1:
        # a dictionary that has grown for newer versions has entries that the codes of this one cannot name
        if not len(passing) or passing[0] > np.iinfo(column.codes.dtype).max:
            out[:] = 0
            return out
        return to_bitmap(column.codes == column.codes.dtype.type(passing[0]))
    kernels.spread(column.codes, table, out)
    return out


def table_of(entries: Entries, test: Test) -> Table:
    """uint8 (d,): 1 for each entry that passes; the first, of fields that are not there, does not."""
    if isinstance(test, Among):
        own = (_which(entries, test.operands) >= 0).astype(np.uint8)
        return own if test.whole else _with_lists(entries, own)
    if isinstance(test, Elements):
        which = _which(entries, test.operands)
        if test.every:
            return _every(entries, which, len(test.operands))
        return _with_lists(entries, (which >= 0).astype(np.uint8), keep=False)
    if isinstance(test, Contains):
        own = (_which(entries, (test.operand,)) >= 0).astype(np.uint8)
        held = _with_lists(entries, own, keep=False)
        pieces = _like(entries, test.parts, False) if test.parts else np.zeros_like(own)
        return np.where(entries.kinds == LIST, held, pieces)
    if isinstance(test, Like):
        return _with_lists(entries, _like(entries, test.parts, test.folded))
    assert isinstance(test, Range)
    strings = "string" in (end[0] for end in (test.low, test.high) if end is not None)
    return _with_lists(entries, _strings(entries, test) if strings else _numbers(entries, test))


def _blank(entries: Entries) -> Table:
    return np.empty(len(entries.kinds), np.uint8)


def _with_lists(entries: Entries, own: Table, keep: bool = True) -> Table:
    """What entries pass, and lists by what is in them; ``keep``: also by what they are as a whole."""
    if not len(entries.members) and keep:
        return own
    table = _blank(entries)
    kernels.any_member(entries.kinds, entries.values, entries.members, own, keep, table)
    return table


def _every(entries: Entries, which: NDArray[np.int32], wanted: int) -> Table:
    table, stamps = _blank(entries), np.full(wanted, -1, np.int32)
    kernels.every_member(entries.kinds, entries.values, entries.members, which, stamps, table)
    return table


def _which(entries: Entries, operands: tuple[Token, ...]) -> NDArray[np.int32]:
    """Which operand each entry equals, int32 (d,); -1: none."""
    which = np.full(len(entries.kinds), -1, np.int32)
    by_mark: dict[int, list[int]] = {}
    for i, operand in enumerate(operands):
        by_mark.setdefault(mark_of(operand), []).append(i)
    if not by_mark:
        return which
    marks = np.array(list(by_mark), np.uint32)
    if len(marks) == 1:
        likely: NDArray[Any] = np.flatnonzero(entries.marks == marks[0])
    else:
        wanted = np.zeros(1 << 16, np.uint8)
        wanted[marks & 0xFFFF] = 1
        room = np.empty(len(which), np.int32)
        some = room[: kernels.sift(entries.marks, wanted, room)]
        likely = some[np.isin(entries.marks[some], marks)]
    for entry, mark in zip(likely.tolist(), entries.marks[likely].tolist(), strict=True):
        for i in by_mark[mark]:
            if entries.equals(entry, operands[i]):
                which[entry] = i
    return which


def _numbers(entries: Entries, test: Range) -> Table:
    """Numbers within a range, whatever their size: integers by integers, floats by the floats at its ends."""
    low, high = (None if end is None else end[1] for end in (test.low, test.high))
    least = _LEAST if low is None else math.ceil(low) + (test.low_open and low == math.ceil(low))
    most = _MOST if high is None else math.floor(high) - (test.high_open and high == math.floor(high))
    if least > _MOST or most < _LEAST:
        least, most = 1, 0
    ends = np.array([_float_end(low, test.low_open, -math.inf), _float_end(high, test.high_open, math.inf)])
    table = _blank(entries)
    kernels.numbers_between(entries.kinds, entries.values, max(least, _LEAST), min(most, _MOST), ends, table)
    for entry in np.flatnonzero(entries.kinds == BIG).tolist():
        start, length = entries.values[entry] >> LENGTH_BITS, entries.values[entry] & LENGTH_MASK
        number = int(entries.heap[start : start + length].tobytes()[len("('number', ") : -1])
        above = low is None or (number > low if test.low_open else number >= low)
        table[entry] = above and (high is None or (number < high if test.high_open else number <= high))
    return table


def _float_end(end: float | None, is_open: bool, none: float) -> float:
    """The outermost float on this side of an end, which may be an integer that no float is; ``none``: its side."""
    if end is None:
        return none
    try:
        near = float(end)
    except OverflowError:
        near = math.inf if end > 0 else -math.inf
    inside = near >= end if none < 0 else near <= end
    if inside and not (is_open and near == end):
        return near
    return math.nextafter(near, -none)


def _strings(entries: Entries, test: Range) -> Table:
    low, high = (
        _NO_TEXT if end is None else np.frombuffer(end[1].encode(), np.uint8).copy() for end in (test.low, test.high)
    )
    least = -1 if test.low is None else int(test.low_open)
    most = 1 if test.high is None else -int(test.high_open)
    table = _blank(entries)
    kernels.strings_between(entries.kinds, entries.values, entries.heap, low, least, high, most, table)
    return table


def _like(entries: Entries, parts: tuple[int, ...], folded: bool) -> Table:
    """Strings as a pattern says; where case is more than that of ASCII, Python folds it."""
    pieces = pieces_of(parts)
    if max(map(len, pieces)) > MAX_PIECE:
        return _with_long(entries, [bytes(piece) for piece in pieces], folded)
    pattern, table = np.array(parts, np.int16), _blank(entries)
    kernels.strings_like(entries.kinds, entries.values, entries.heap, pattern, folded, table)
    asked = np.flatnonzero(table == ASK) if folded else ()
    if len(asked):
        places = zip(
            (entries.values[asked] >> LENGTH_BITS).tolist(), (entries.values[asked] & LENGTH_MASK).tolist(), strict=True
        )
        texts = [entries.heap[at : at + size].tobytes().decode().casefold().encode() for at, size in places]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        values = ((np.cumsum(lengths) - lengths) << LENGTH_BITS) | lengths
        answers, kinds = np.empty(len(texts), np.uint8), np.full(len(texts), STRING, np.uint8)
        heap: Any = np.frombuffer(b"".join(texts) or b"\0", np.uint8).copy()
        kernels.strings_like(kinds, values, heap, pattern, False, answers)
        table[asked] = answers
    return table


def _with_long(entries: Entries, pieces: list[bytes], folded: bool) -> Table:
    """Strings that have all pieces in their order, by Python's own search.

    It is slower, but its time does not grow with the product of the lengths, as it may in a kernel.
    """
    table = np.zeros(len(entries.kinds), np.uint8)
    first, *middle, last = pieces if len(pieces) > 1 else [*pieces, b""]
    for entry in np.flatnonzero(entries.kinds == STRING).tolist():
        start, length = int(entries.values[entry]) >> LENGTH_BITS, int(entries.values[entry]) & LENGTH_MASK
        text = entries.heap[start : start + length].tobytes()
        if folded:
            text = text.decode().casefold().encode()
        if len(pieces) == 1:
            table[entry] = text == first
            continue
        at, end = len(first), len(text) - len(last)
        good = text.startswith(first) and text.endswith(last)
        for piece in middle if good else ():
            at = text.find(piece, at, end)
            if at < 0:
                good = False
                break
            at += len(piece)
        table[entry] = good and at <= end
    return table
