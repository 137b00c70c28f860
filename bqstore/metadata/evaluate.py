"""Evaluates filters: a test on the entries of a column becomes a bitmap of ordinals, and a tree combines bitmaps."""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bitmap import Bits, Matches, Rows, everything, to_bitmap
from ..errors import InvalidInputError
from ..kernels import dispatch as kernels
from ..kernels.metadata import ANY_CHARACTER, ANY_RUN, ASK, BIG, LENGTH_BITS, LIST, STRING
from .columns import Column
from .dates import MARK
from .dictionary import Entries, mark_of
from .filter_tree import And, Contains, Elements, Exists, Field, Like, Not, OneOf, Or, Range, Test, Tree
from .values import LONGEST, MAX_PIECE, Typed, pieces_of

Table = NDArray[np.uint8]
_LEAST, _MOST = -(2**63), 2**63 - 1
_MARK = MARK.encode()
_SPARSE = 256  # a bitmap is made from a list of at most one ordinal in so many; for more, all codes are quicker
_NO_TEXT = np.zeros(0, np.uint8)


def evaluate(tree: Tree, n: int, bits_of: Callable[[Field], Bits]) -> Bits:
    """The bitmap of which of n ordinals a tree matches, read-only; ``bits_of`` gives the bitmap of one field."""
    if isinstance(tree, Field):
        return bits_of(tree)
    if isinstance(tree, Not):
        return everything(n) & ~evaluate(tree.part, n, bits_of)
    assert isinstance(tree, (And, Or)), "a function is evaluated on documents"
    if not tree.parts:
        return everything(n)
    bits = evaluate(tree.parts[0], n, bits_of)
    for part in tree.parts[1:]:
        other = evaluate(part, n, bits_of)
        bits = bits & other if isinstance(tree, And) else bits | other
    return bits


def matching(column: Column, test: Test) -> Bits:
    """The bitmap of the ordinals of a column that pass a test."""
    entries, rows = _equal(column, test)
    if rows is not None and len(rows) <= column.n // _SPARSE:
        return Matches(column.n, rows=rows).bits
    return _passing(column, test, entries)


def matches(column: Column, test: Test) -> Matches:
    """The ordinals of a column that pass a test: as a list, if postings give one."""
    entries, rows = _equal(column, test)
    return Matches(column.n, rows=rows) if rows is not None else Matches(column.n, _passing(column, test, entries))


def _equal(column: Column, test: Test) -> tuple[list[int] | None, Rows | None]:
    """The entries that pass a test, and the ordinals that have one of them, as far as postings tell."""
    found = column.equal(test.operands) if isinstance(test, OneOf) and not test.whole else None
    return (None, None) if found is None else found


def _passing(column: Column, test: Test, equal: list[int] | None) -> Bits:
    """The bitmap of the ordinals that pass; ``equal`` are the entries that do, if they are known."""
    if isinstance(test, Exists):
        return to_bitmap(column.codes != 0)
    if column.dictionary.has_long and _looks_inside(test):
        raise InvalidInputError(
            f"the field {column.key!r} has strings of more than {LONGEST:,} characters, of which filters know equality "
            "alone; use a function of the document, or keep what you filter by in a field of its own"
        )
    if equal is not None and len(equal) == 1 and equal[0] <= np.iinfo(column.codes.dtype).max:
        return to_bitmap(column.codes == column.codes.dtype.type(equal[0]))
    table, out = table_of(column.dictionary.entries, test), np.zeros(-(-column.n // 64), np.uint64)
    if len(table) <= 1 << 16:
        passing, largest = np.flatnonzero(table), np.iinfo(column.codes.dtype).max
        if not len(passing) or passing[0] > largest:  # entries of newer columns, which codes of this width cannot name
            return out
        if len(passing) == 1:
            return to_bitmap(column.codes == column.codes.dtype.type(passing[0]))
    kernels.spread(column.codes, table, out)
    return out


def _looks_inside(test: Test) -> bool:
    """Whether a test needs the characters of a string."""
    if isinstance(test, Range):
        return "string" in (end[0] for end in (test.low, test.high) if end is not None)
    return isinstance(test, Like) or (isinstance(test, Contains) and bool(test.parts))


def table_of(entries: Entries, test: Test) -> Table:
    """uint8 (d,): 1 for each entry that passes; entry 0, of a missing field, never does."""
    if isinstance(test, OneOf):
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
    """``own``, but a list also passes if one of its elements does; without ``keep``, only if one does."""
    if not len(entries.members) and keep:
        return own
    table = _blank(entries)
    kernels.any_member(entries.kinds, entries.values, entries.members, own, keep, table)
    return table


def _every(entries: Entries, which: NDArray[np.int32], wanted: int) -> Table:
    table, stamps = _blank(entries), np.full(wanted, -1, np.int32)
    kernels.every_member(entries.kinds, entries.values, entries.members, which, stamps, table)
    return table


def _which(entries: Entries, operands: tuple[Typed, ...]) -> NDArray[np.int32]:
    """The index of the operand that each entry equals, int32 (d,); -1: none. Only entries of equal CRC are compared."""
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
    """Numbers within a range, compared exactly: integers as integers, floats with the outermost floats in the range."""
    low, high = (None if end is None else end[1] for end in (test.low, test.high))
    least = _LEAST if low is None else math.ceil(low) + (test.low_open and low == math.ceil(low))
    most = _MOST if high is None else math.floor(high) - (test.high_open and high == math.floor(high))
    if least > _MOST or most < _LEAST:
        least, most = 1, 0
    ends = np.array([_float_end(low, test.low_open, -math.inf), _float_end(high, test.high_open, math.inf)])
    table = _blank(entries)
    kernels.numbers_between(entries.kinds, entries.values, max(least, _LEAST), min(most, _MOST), ends, table)
    for entry in np.flatnonzero(entries.kinds == BIG).tolist():
        number = entries.big(entry)
        above = low is None or (number > low if test.low_open else number >= low)
        table[entry] = above and (high is None or (number < high if test.high_open else number <= high))
    return table


def _float_end(end: float | None, is_open: bool, none: float) -> float:
    """The outermost float inside an end of a range, which may be any integer; ``none``: the infinity for no end."""
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
    """Strings within a range, by code points; or instants, which lie behind all strings and begin with `MARK`."""
    low, high, high_open = test.low, test.high, test.high_open
    if low is None and high is not None and high[1].startswith(MARK):
        low = ("string", MARK)
    elif high is None and low is not None and not low[1].startswith(MARK):
        high, high_open = ("string", MARK), True
    first, last = (_NO_TEXT if end is None else np.frombuffer(end[1].encode(), np.uint8).copy() for end in (low, high))
    least = -1 if low is None else int(test.low_open)
    most = 1 if high is None else -int(high_open)
    table = _blank(entries)
    kernels.strings_between(entries.kinds, entries.values, entries.heap, first, least, last, most, table)
    return table


def _like(entries: Entries, parts: tuple[int, ...], folded: bool) -> Table:
    """Strings that match a pattern; those whose case folding is more than ASCII's are folded by Python first."""
    pieces = pieces_of(parts)
    if max(map(len, pieces)) > MAX_PIECE:
        return _with_long(entries, [bytes(piece) for piece in pieces], folded)
    pattern, table = np.array(parts, np.int16), _blank(entries)
    kernels.strings_like(entries.kinds, entries.values, entries.heap, pattern, folded, table)
    asked = np.flatnonzero(table == ASK)
    if len(asked):
        given = [entries.text(entry).decode() for entry in asked.tolist()]
        texts = [text.casefold().encode() for text in given]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        values = ((np.cumsum(lengths) - lengths) << LENGTH_BITS) | lengths
        answers, kinds = np.empty(len(texts), np.uint8), np.full(len(texts), STRING, np.uint8)
        heap: Any = np.frombuffer(b"".join(texts), np.uint8).copy()
        kernels.strings_like(kinds, values, heap, pattern, False, answers)
        table[asked] = answers
        for entry, text in zip(asked.tolist() if ANY_CHARACTER in parts else (), given, strict=False):
            if len(text.casefold()) != len(text):
                table[entry] = _is_like(text, parts)
    passing = np.flatnonzero(table)
    starts = entries.values[passing] >> LENGTH_BITS
    # instants are no strings
    begins = passing[entries.heap.take(starts, mode="clip") == _MARK[0]] if len(entries.heap) else passing[:0]
    for entry in begins.tolist():
        table[entry] = not entries.text(entry).startswith(_MARK)
    return table


def _is_like(text: str, parts: tuple[int, ...]) -> bool:
    """Whether a text matches a folded pattern; `ANY_CHARACTER` is one of the text before folding, such as "ß".

    As the kernel `is_like`: backtracks to the last run only.
    """
    folded = [character.casefold().encode() for character in text]
    ends = dict(zip(accumulate(map(len, folded), initial=0), accumulate(map(len, folded)), strict=False))
    heap, m = b"".join(folded), len(parts)
    i = j = mark = 0
    run = -1
    while i < len(heap):
        part = parts[j] if j < m else None
        if part == ANY_RUN:
            run, mark, j = j, i, j + 1
        elif part == ANY_CHARACTER and i in ends:
            i, j = ends[i], j + 1
        elif part == heap[i]:
            i, j = i + 1, j + 1
        elif run >= 0:
            mark += 1
            i, j = mark, run + 1
        else:
            return False
    return all(part == ANY_RUN for part in parts[j:])


def _with_long(entries: Entries, pieces: list[bytes], folded: bool) -> Table:
    """Strings that have all pieces in order, found by Python: the kernel's time is the product of both lengths."""
    table = np.zeros(len(entries.kinds), np.uint8)
    for entry in np.flatnonzero(entries.kinds == STRING).tolist():
        text = entries.text(entry)
        table[entry] = _has(text.decode().casefold().encode() if folded else text, pieces)
    return table


def _has(text: bytes, pieces: list[bytes]) -> bool:
    """Whether a text is the pieces with anything between them."""
    if len(pieces) == 1:
        return text == pieces[0]
    first, *middle, last = pieces
    at, end = len(first), len(text) - len(last)
    if not (text.startswith(first) and text.endswith(last)):
        return False
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return at <= end
