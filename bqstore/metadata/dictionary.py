"""The dictionary of a column: its distinct values as entries in arrays, where kernels can test them.

A value may have several entries: to bound memory, at most 65,536 values, or 32 MiB of them, are remembered to be found
again. The arrays are append-only: an older column goes on reading its part of them.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.metadata import ABSENT, BIG, DICT, FALSE, FLOAT, INT, LENGTH_BITS, LENGTH_MASK, LIST, NULL, STRING, TRUE
from .dates import as_instant
from .id_column import check_text, room
from .to_json import MAX_DEPTH, MAX_METADATA_BYTES
from .values import IS_LONG, LONGEST, Typed, in_short, is_short, typed

_REMEMBERED, _REMEMBERED_BYTES = 1 << 16, 32 << 20  # values, and bytes of their texts
_MEMBERS = 1000  # members of a list or dictionary that is remembered, at most
NOTHING = object()  # stands for the value of a missing field
_DIGEST = len(IS_LONG.encode()) + 64  # bytes
_BIG_PREFIX = "('number', "  # of the text of a BIG: its `Typed` as Python writes it


class Entries(NamedTuple):
    """The entries of a dictionary at a moment; entry 0 stands for a missing field.

    Parameters
    ----------
    kinds : uint8 (d,)      the type: INT, STRING ... of `kernels.metadata`
    values : int64 (d,)     an INT; the bits of a FLOAT; of the others, start and length of a piece of heap or members
    marks : uint32 (d,)     CRC-32 of the value, see `mark_of`
    heap : uint8            UTF-8 of strings; of large integers and dictionaries, the text of their `Typed`
    members : int32         the entries of the elements of lists
    """

    kinds: NDArray[np.uint8]
    values: NDArray[np.int64]
    marks: NDArray[np.uint32]
    heap: NDArray[np.uint8]
    members: NDArray[np.int32]

    def text(self, entry: int) -> bytes:
        """The piece of the heap of a STRING, BIG or DICT."""
        value = int(self.values[entry])
        start = value >> LENGTH_BITS
        return self.heap[start : start + (value & LENGTH_MASK)].tobytes()

    def elements(self, entry: int) -> list[int]:
        """The entries of the elements of a LIST."""
        value = int(self.values[entry])
        start = value >> LENGTH_BITS
        elements: list[int] = self.members[start : start + (value & LENGTH_MASK)].tolist()
        return elements

    def big(self, entry: int) -> int:
        """The integer of a BIG."""
        return int(self.text(entry)[len(_BIG_PREFIX) : -1])

    def equals(self, entry: int, wanted: Typed) -> bool:
        """Whether an entry holds a value."""
        kind, value, name = int(self.kinds[entry]), int(self.values[entry]), wanted[0]
        if kind == LIST:
            if name != "list" or len(wanted[1]) != value & LENGTH_MASK:
                return False
            return all(map(self.equals, self.elements(entry), wanted[1]))
        if kind in (STRING, BIG, DICT):
            return name == {STRING: "string", BIG: "number", DICT: "dict"}[kind] and self.text(entry) == text_of(wanted)
        if kind == INT:
            return bool(wanted == ("number", value))
        if kind == FLOAT:
            return name == "number" and isinstance(wanted[1], float) and _bits(wanted[1]) == value
        return wanted == _SINGLE.get(kind)


_MARKS = 1 << 14  # entries whose marks are compared when they come from a file
_BIG = re.compile(rb"\('number', -?[1-9][0-9]{18,4299}\)")
_DTYPES = ("u1", "i8", "u4", "u1", "i4")  # of `Entries`
_SINGLE: dict[int, Typed] = {NULL: ("null",), FALSE: ("bool", False), TRUE: ("bool", True)}


def text_of(value: Typed) -> bytes:
    """The text of a value in the heap; different values of one type have different texts."""
    if value[0] == "string":
        text: bytes = value[1].encode()
        return text
    text = repr(value).encode()
    return text if value[0] != "dict" or len(text) <= LONGEST else hashlib.sha256(text).hexdigest().encode()


def mark_of(value: Typed) -> int:
    """The CRC-32 of a value's text: equal values have the same, few others do."""
    return zlib.crc32(text_of(value))


def _bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


class Dictionary:
    """The distinct values of a column, shared by its versions: one thread adds, any thread reads."""

    def __init__(self) -> None:
        empty: list[Any] = [np.zeros(64, dtype) for dtype in _DTYPES]
        self._arrays, self._sizes = Entries(*empty), (1, 0, 0)
        self.entries = self._view()
        self._known: dict[Any, int] = {}  # entries of strings as they are, of other values by their `Typed`
        self._held = 0  # an upper bound of the bytes of texts in `_known`
        self._is_read = True  # `_known` has the entries that came from a file, if these are few
        self.has_long = False  # whether an entry is the digest of a string that is too long to be kept

    def __len__(self) -> int:
        return len(self.entries.kinds)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, of the look-up table roughly."""
        return sum(array.nbytes for array in self._arrays) + 120 * len(self._known) + self._held

    def _view(self) -> Entries:
        count, text, members = self._sizes
        kinds, values, marks, heap, held = self._arrays
        return Entries(kinds[:count], values[:count], marks[:count], heap[:text], held[:members])

    def enter(self, values: Iterable[object]) -> NDArray[np.int64]:
        """The entries of values, int64 (n,); new ones are appended."""
        self._remember()
        new = _New(self._known, *self._sizes)
        numbers = np.fromiter((new.number(value) for value in values), np.int64)
        self._append(new)
        return numbers

    def _append(self, new: "_New") -> None:
        self.has_long = self.has_long or new.has_long
        if new.kinds:
            parts = (new.kinds, new.values, new.marks, np.frombuffer(bytes(new.heap), np.uint8), new.members)
            sizes = (self._sizes[0],) * 3 + self._sizes[1:]
            arrays = []
            given: Any = zip(self._arrays, sizes, parts, strict=True)
            for array, size, part in given:
                arrays.append(room(array, size, size + len(part)))
                arrays[-1][size : size + len(part)] = part
            self._arrays = Entries(*arrays)
            self._sizes = (self._sizes[0] + len(new.kinds), self._sizes[1] + len(new.heap), new.at_members)
            self.entries = self._view()
        # after the entries are appended: an interrupt must not leave the number of an entry that does not exist
        fresh, size = (new.fresh, len(new.heap)) if len(new.heap) <= _REMEMBERED_BYTES else ({}, 0)
        if len(self._known) + len(fresh) > _REMEMBERED or self._held + size > _REMEMBERED_BYTES:
            self._known.clear()  # frequent values will be remembered again
            self._held = 0
        if len(fresh) <= _REMEMBERED:
            self._known.update(fresh)
            self._held += size

    @classmethod
    def restored(cls, entries: Entries) -> "Dictionary":
        """One with these entries; the arrays are kept, not copied. Raises ValueError if they do not fit each other."""
        given: Any = zip(Entries._fields, entries, _DTYPES, strict=True)
        for name, array, dtype in given:
            if array.dtype != np.dtype(dtype) or array.ndim != 1:
                raise ValueError(f"a column's {name} are {array.dtype} {array.shape}")
        kinds, values, marks, heap, members = entries
        count = len(kinds)
        if not count or len(values) != count or len(marks) != count or kinds[0] != ABSENT or kinds.max() > DICT:
            raise ValueError("a column's entries do not fit each other")
        starts, lengths = values >> LENGTH_BITS, values & LENGTH_MASK
        text = np.isin(kinds, (STRING, BIG, DICT))
        lists = kinds == LIST
        if (starts[text | lists] < 0).any() or (starts[text] + lengths[text] > len(heap)).any():
            raise ValueError("a column's texts are out of bounds")
        if (starts[lists] + lengths[lists] > len(members)).any() or (
            len(members) and (members.min() < 1 or members.max() >= count)
        ):
            raise ValueError("a column's lists are out of bounds")
        owner = np.repeat(np.flatnonzero(lists), lengths[lists])
        if len(owner) and (members[_ranges(starts[lists], lengths[lists])] >= owner).any():
            raise ValueError("a column's lists hold themselves")
        if not kinds[1:].all():
            raise ValueError("a column has an entry of an unknown kind")
        check_text(heap, np.concatenate([starts[text], starts[text] + lengths[text]]), "a column's texts")
        floats = values[kinds == FLOAT].view(np.float64)
        if not (np.isfinite(floats) & (floats != np.trunc(floats))).all():
            raise ValueError("a column's numbers are no fractions")
        for number in np.flatnonzero(kinds == BIG).tolist():
            if not _BIG.fullmatch(entries.text(number)) or -(2**63) <= entries.big(number) < 2**63:
                raise ValueError("a column's numbers are no large integers")
        new = cls()
        new._arrays, new._sizes, new.entries = entries, (count, len(heap), len(members)), entries
        new._is_read = _elements(kinds, starts, lengths, members) > _REMEMBERED  # remembering them would walk all
        some = range(1, count) if count <= _MARKS else np.linspace(1, count - 1, _MARKS, dtype=np.int64).tolist()
        for number in some:
            text_ = new._text(number)
            if text_ is not None and zlib.crc32(text_) != marks[number]:
                raise ValueError("a column's marks are not those of its entries")
        digests = np.flatnonzero((kinds == STRING) & (lengths == _DIGEST))
        new.has_long = any(entries.text(entry).startswith(IS_LONG.encode()) for entry in digests.tolist())
        return new

    def _text(self, number: int) -> bytes | None:
        """The text that an entry's mark is made of; None if it would take long to find."""
        kind = self.entries.kinds[number]
        if kind in (STRING, BIG, DICT):
            return self.entries.text(number)
        value = None if kind == LIST and self._is_read else self._value(number)
        return None if value is None else text_of(value)

    def _remember(self) -> None:
        """Remember entries that came from a file, if they are few, so that new values find them."""
        if self._is_read:
            return
        self._is_read = True  # also if nothing can be remembered, as of dictionaries: each write would try again
        if len(self) > _REMEMBERED or len(self.entries.heap) > _REMEMBERED_BYTES:
            return
        known: dict[Any, int] = {}
        for number in range(1, len(self)):
            value = self._value(number)
            if value is not None:
                known.setdefault(value[1] if value[0] == "string" else value, number)
        self._known, self._held = known, len(self.entries.heap)

    def _value(self, number: int) -> Typed | None:
        """The value of an entry; None for a dictionary, whose text is not parsed."""
        entries, kind, value = self.entries, int(self.entries.kinds[number]), int(self.entries.values[number])
        if kind == STRING:
            return ("string", entries.text(number).decode())
        if kind == LIST:
            elements = [self._value(element) for element in entries.elements(number)]
            return None if None in elements else ("list", tuple(elements))
        if kind == FLOAT:
            return ("number", float(struct.unpack("<d", struct.pack("<q", value))[0]))
        if kind in (INT, BIG):
            return ("number", value if kind == INT else entries.big(number))
        return _SINGLE.get(kind)

    def value_of(self, number: int) -> Any:
        """The value of an entry as JSON has it, an instant as a datetime in UTC; None for a dictionary, too."""
        value = self._value(number)
        if value is None or value == ("null",):
            return None
        return as_instant(value[1]) if value[0] == "string" else value[1]

    def only(self, used: NDArray[np.int64]) -> tuple["Dictionary", NDArray[np.int64]]:
        """A dictionary of the used entries alone, and the new number of each old one, int64 (d,)."""
        entries = self.entries
        kinds, values = entries.kinds, entries.values
        kept = np.zeros(len(self), bool)
        kept[used] = kept[0] = True
        while True:
            lists = np.flatnonzero(kept & (kinds == LIST))
            starts, lengths = values[lists] >> LENGTH_BITS, values[lists] & LENGTH_MASK
            held = entries.members[_ranges(starts, lengths)]
            if kept[held].all():
                break
            kept[held] = True
        numbers = np.cumsum(kept) - 1
        texts = np.flatnonzero(kept & np.isin(kinds, (STRING, BIG, DICT)))
        moved = values.copy()
        moved[lists] = (_begins(lengths) << LENGTH_BITS) | lengths
        where, sizes = values[texts] >> LENGTH_BITS, values[texts] & LENGTH_MASK
        moved[texts] = (_begins(sizes) << LENGTH_BITS) | sizes
        heap, members = entries.heap[_ranges(where, sizes)], numbers[held].astype(np.int32)
        return Dictionary.restored(Entries(kinds[kept], moved[kept], entries.marks[kept], heap, members)), numbers


def _elements(
    kinds: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], members: NDArray[np.int32]
) -> int:
    """How many values all lists hold, however deep; ValueError if one nests deeper, or is longer, than metadata may."""
    lists = np.flatnonzero((kinds == LIST) & (lengths > 0))
    if not len(lists):
        return 0
    held, sizes = members[_ranges(starts[lists], lengths[lists])], np.ones(len(kinds))
    at = _begins(lengths[lists])
    for _ in range(MAX_DEPTH + 1):
        before = sizes[lists]
        sizes[lists] = 1 + np.add.reduceat(sizes[held], at)
        if (sizes[lists] == before).all():
            break
        if sizes.max() > MAX_METADATA_BYTES:
            raise ValueError("a column's lists are longer than metadata may be")
    else:
        raise ValueError("a column's lists nest deeper than metadata may")
    return int(min(sizes[lists].sum(), 1 << 62))


def _begins(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The start of each of several pieces that stand one after the other."""
    return np.cumsum(lengths) - lengths


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The concatenated ranges ``starts[i] .. starts[i] + lengths[i]``."""
    return np.repeat(starts - _begins(lengths), lengths) + np.arange(int(lengths.sum()))


class _New:
    """New entries of a dictionary, which are appended to its arrays all at once."""

    def __init__(self, known: Mapping[Any, int], count: int, text: int, members: int) -> None:
        self._known, self._count, self._text, self.at_members = known, count, text, members
        self.fresh: dict[Any, int] = {}
        self.kinds: list[int] = []
        self.values: list[int] = []
        self.marks: list[int] = []
        self.heap = bytearray()
        self.members: list[int] = []
        self.has_long = False

    def number(self, value: object) -> int:
        """The entry of a value."""
        if value is NOTHING:
            return 0
        if type(value) is str:
            return self._found(value if is_short(value) else in_short(value))
        return self._found(typed(value))

    def _found(self, key: Any) -> int:
        number = self._known.get(key)
        if number is None:
            number = self.fresh.get(key)
        return self._made(key) if number is None else number

    def _made(self, key: Any) -> int:
        """A new entry."""
        made: Typed = ("string", key) if isinstance(key, str) else key
        name, text = made[0], text_of(made)
        if name == "list":
            numbers = [self._found(member[1] if member[0] == "string" else member) for member in made[1]]
            kind, value = LIST, (self.at_members << LENGTH_BITS) | len(numbers)
            self.members += numbers
            self.at_members += len(numbers)
        elif name == "number" and isinstance(made[1], float):
            kind, value = FLOAT, _bits(made[1])
        elif name == "number" and -(2**63) <= made[1] < 2**63:
            kind, value = INT, made[1]
        elif name in ("string", "dict", "number"):
            kind = {"string": STRING, "dict": DICT, "number": BIG}[name]
            value = ((self._text + len(self.heap)) << LENGTH_BITS) | len(text)
            self.heap += text
        else:
            kind, value = next(kind for kind, single in _SINGLE.items() if single == made), 0
        number = self._count + len(self.kinds)
        self.kinds.append(kind)
        self.values.append(value)
        self.marks.append(zlib.crc32(text))
        if name not in ("list", "dict") or len(made[1]) <= _MEMBERS:  # larger ones would take too much memory
            self.fresh[key] = number
        self.has_long = self.has_long or (name == "string" and made[1].startswith(IS_LONG))
        return number
