"""Metadata columns: one field of all ordinals in arrays, so that filters read no documents. Floor 3.

A column is a dictionary of entries and, for each ordinal, the number of its entry. A test is answered once per entry
and spread over the ordinals by one look-up each. Entries need not differ: only so many are remembered while values are
entered that memory stays bounded, and a field that is different everywhere costs its arrays alone. Both only grow: an
older state goes on reading the part it knows. A row changed in place gets a copy of the numbers. Knows values, no SQL.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.metadata import ABSENT, BIG, DICT, FALSE, FLOAT, INT, LENGTH_BITS, LENGTH_MASK, LIST, NULL, STRING, TRUE
from .id_column import room
from .values import Token, token

_REMEMBERED = 1 << 16
NOTHING = object()  # the value of a field that is not there
_NAMES = ("codes", "kinds", "values", "marks", "heap", "members")


class Entries(NamedTuple):
    """What a dictionary holds at a moment; entry 0 is the one of fields that are not there.

    Parameters
    ----------
    kinds : uint8 (d,)
    values : int64 (d,)     an INT; the bits of a FLOAT; where text or members are, and how long (`kernels.columns`)
    marks : uint32 (d,)     `mark_of` what is equal is equal
    heap : uint8            UTF-8 of strings; what tells large integers and dictionaries apart
    members : int32         entries of the elements of lists
    """

    kinds: NDArray[np.uint8]
    values: NDArray[np.int64]
    marks: NDArray[np.uint32]
    heap: NDArray[np.uint8]
    members: NDArray[np.int32]

    def equals(self, entry: int, wanted: Token) -> bool:
        """Whether an entry is a value."""
        kind, value = int(self.kinds[entry]), int(self.values[entry])
        start, length = value >> LENGTH_BITS, value & LENGTH_MASK
        name = wanted[0]
        if kind == LIST:
            members = self.members[start : start + length].tolist()
            return name == "list" and len(wanted[1]) == length and all(map(self.equals, members, wanted[1]))
        if kind in (STRING, BIG, DICT):
            known = {STRING: "string", BIG: "number", DICT: "dict"}[kind]
            return name == known and self.heap[start : start + length].tobytes() == text_of(wanted)
        if kind == INT:
            return bool(wanted == ("number", value))
        if kind == FLOAT:
            return name == "number" and isinstance(wanted[1], float) and _bits(wanted[1]) == value
        return wanted == {NULL: ("null",), FALSE: ("bool", False), TRUE: ("bool", True)}.get(kind)


def text_of(value: Token) -> bytes:
    """What tells a value from others in the heap."""
    return value[1].encode() if value[0] == "string" else repr(value).encode()


def mark_of(value: Token) -> int:
    """A number of 32 bits, the same for equal values."""
    return zlib.crc32(text_of(value))


def _bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


class Dictionary:
    """The entries of a column, shared by its versions; one thread enters, any read."""

    def __init__(self) -> None:
        empty: list[Any] = [np.zeros(64, dtype) for dtype in ("u1", "i8", "u4", "u1", "i4")]
        self._arrays, self._sizes = Entries(*empty), (1, 0, 0)
        self.entries = self._view()
        self._known: dict[Any, int] = {}  # strings as they are, other values by their tokens

    def __len__(self) -> int:
        return len(self.entries.kinds)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, of what is remembered roughly."""
        return sum(array.nbytes for array in self._arrays) + 120 * len(self._known)

    def _view(self) -> Entries:
        count, text, members = self._sizes
        kinds, values, marks, heap, held = self._arrays
        return Entries(kinds[:count], values[:count], marks[:count], heap[:text], held[:members])

    def enter(self, values: Iterable[object]) -> NDArray[np.int64]:
        """The numbers of the entries of values, int64 (n,); new ones are made."""
        new = _New(self._known, *self._sizes)
        numbers = np.fromiter((new.number(value) for value in values), np.int64)
        self._append(new)
        return numbers

    def _append(self, new: "_New") -> None:
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
        # after the entries are there: an interrupt must not leave a number of none
        if len(self._known) + len(new.fresh) > _REMEMBERED:
            self._known.clear()  # what comes often comes again
        self._known.update(new.fresh if len(new.fresh) <= _REMEMBERED else {})

    @classmethod
    def restored(cls, entries: Entries) -> "Dictionary":
        """One with these entries; the arrays are kept, not copied. Raises ValueError if they do not fit each other."""
        given: Any = zip(_NAMES[1:], entries, ("u1", "i8", "u4", "u1", "i4"), strict=True)
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
        new = cls()
        new._arrays, new._sizes, new.entries = entries, (count, len(heap), len(members)), entries
        return new

    def remember(self) -> None:
        """Know the entries that came from a file, if they are few, so that new values find them."""
        if self._known or len(self) > _REMEMBERED:
            return
        known: dict[Any, int] = {}
        for number in range(1, len(self)):
            value = self._token(number)
            if value is not None:
                known.setdefault(value[1] if value[0] == "string" else value, number)
        self._known = known

    def _token(self, number: int) -> Token | None:
        """The value of an entry; None of a dictionary, whose text is not read back."""
        entries = self.entries
        kind, value = int(entries.kinds[number]), int(entries.values[number])
        start, length = value >> LENGTH_BITS, value & LENGTH_MASK
        if kind in (STRING, BIG):
            text = entries.heap[start : start + length].tobytes().decode()
            return ("string", text) if kind == STRING else ("number", int(text[len("('number', ") : -1]))
        if kind == LIST:
            members = [self._token(member) for member in entries.members[start : start + length].tolist()]
            return None if None in members else ("list", tuple(members))
        if kind == INT:
            return ("number", value)
        if kind == FLOAT:
            return ("number", float(struct.unpack("<d", struct.pack("<q", value))[0]))
        return {NULL: ("null",), FALSE: ("bool", False), TRUE: ("bool", True)}.get(kind)

    def only(self, used: NDArray[np.int64]) -> tuple["Dictionary", NDArray[np.int64]]:
        """One with the used entries alone, and their new numbers, int64 (d,)."""
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


def _begins(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of several pieces begins when they stand one behind the other."""
    return np.cumsum(lengths) - lengths


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """All of ``starts[i] + 0 .. lengths[i]``, one behind the other."""
    return np.repeat(starts - _begins(lengths), lengths) + np.arange(int(lengths.sum()))


class _New:
    """Entries on their way into a dictionary."""

    def __init__(self, known: Mapping[Any, int], count: int, text: int, members: int) -> None:
        self._known, self._count, self._text, self.at_members = known, count, text, members
        self.fresh: dict[Any, int] = {}
        self.kinds: list[int] = []
        self.values: list[int] = []
        self.marks: list[int] = []
        self.heap = bytearray()
        self.members: list[int] = []

    def number(self, value: object) -> int:
        """The entry of a value."""
        if value is NOTHING:
            return 0
        return self._found(value if type(value) is str else token(value))

    def _found(self, key: Any) -> int:
        number = self._known.get(key)
        if number is None:
            number = self.fresh.get(key)
        return self._made(key) if number is None else number

    def _made(self, key: Any) -> int:
        """A new entry."""
        made: Token = ("string", key) if isinstance(key, str) else key
        name = made[0]
        text = text_of(made)
        if name == "string":
            kind, value = STRING, self._piece(text)
        elif name == "list":
            numbers = [self._found(member[1] if member[0] == "string" else member) for member in made[1]]
            kind, value = LIST, (self.at_members << LENGTH_BITS) | len(numbers)
            self.members += numbers
            self.at_members += len(numbers)
        elif name == "dict":
            kind, value = DICT, self._piece(text)
        elif name == "number":
            if isinstance(made[1], float):
                kind, value = FLOAT, _bits(made[1])
            elif -(2**63) <= made[1] < 2**63:
                kind, value = INT, made[1]
            else:
                kind, value = BIG, self._piece(text)
        else:
            kind, value = {("null",): NULL, ("bool", False): FALSE, ("bool", True): TRUE}[made], 0
        number = self._count + len(self.kinds)
        self.kinds.append(kind)
        self.values.append(value)
        self.marks.append(zlib.crc32(text))
        self.fresh[key] = number
        return number

    def _piece(self, text: bytes) -> int:
        start = self._text + len(self.heap)
        self.heap += text
        return (start << LENGTH_BITS) | len(text)


def _narrow(count: int) -> type[Any]:
    """The smallest type that holds the numbers of so many entries."""
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32


class Column:
    """One metadata field of all ordinals; a version of it, which never changes."""

    def __init__(self, key: str, dictionary: Dictionary | None = None) -> None:
        self.key = key
        self.n = 0
        self.dictionary = Dictionary() if dictionary is None else dictionary
        self._codes: NDArray[Any] = np.zeros(64, np.uint8)

    @property
    def codes(self) -> NDArray[Any]:
        """The entry of each ordinal, uint8, uint16 or uint32 (n,)."""
        return self._codes[: self.n]

    @property
    def is_blank(self) -> bool:
        """Whether no document has had the field."""
        return len(self.dictionary) == 1

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self._codes.nbytes) + self.dictionary.nbytes

    def extended(self, values: Iterable[object]) -> "Column":
        """This and, behind it, more values."""
        self.dictionary.remember()
        numbers = self.dictionary.enter(values)
        new = Column(self.key, self.dictionary)
        new.n = self.n + len(numbers)
        new._codes = room(self._wide(), self.n, new.n)
        new._codes[self.n : new.n] = numbers
        return new

    def replaced(self, ordinals: Sequence[int], values: Iterable[object]) -> "Column":
        """A copy with other values at some ordinals."""
        self.dictionary.remember()
        numbers = self.dictionary.enter(values)
        new = Column(self.key, self.dictionary)
        new.n = self.n
        new._codes = self._wide()[: self.n].copy()
        new._codes[list(ordinals)] = numbers
        return new._compacted() if len(self.dictionary) > 2 * self.n + 1000 else new

    def _wide(self) -> NDArray[Any]:
        """The codes in a type that holds the number of every entry there is."""
        wanted = _narrow(len(self.dictionary))
        fits = self._codes.dtype.itemsize >= np.dtype(wanted).itemsize
        return self._codes if fits else self._codes.astype(wanted)

    def _compacted(self) -> "Column":
        """The same with the entries that still occur: a field that changes all the time must not keep them all."""
        dictionary, numbers = self.dictionary.only(np.unique(self.codes).astype(np.int64))
        new = Column(self.key, dictionary)
        new.n = self.n
        new._codes = numbers[self.codes].astype(_narrow(len(dictionary)))
        return new

    def parts(self, n: int) -> dict[str, NDArray[Any]]:
        """The arrays of its first n ordinals, for a file."""
        return dict(zip(_NAMES, (self._codes[:n], *self.dictionary.entries), strict=True))

    @classmethod
    def restored(cls, key: str, arrays: Mapping[str, NDArray[Any]], n: int) -> "Column":
        """The column that `parts` gave; the arrays are kept. Raises ValueError or KeyError if they do not fit."""
        new = cls(key, Dictionary.restored(Entries(*(arrays[name] for name in _NAMES[1:]))))
        codes = arrays["codes"]
        if codes.shape != (n,) or codes.dtype not in (np.uint8, np.uint16, np.uint32):
            raise ValueError(f"a column's codes are {codes.dtype} {codes.shape}")
        if n and int(codes.max()) >= len(new.dictionary):
            raise ValueError("a column's codes are of entries that are not there")
        new.n, new._codes = n, codes
        return new


def field_of(metadata: dict[str, Any], key: str) -> object:
    """The value of the exact top-level key, else of the dotted path; `NOTHING` if there is none."""
    if key in metadata:
        return metadata[key]
    value: Any = metadata
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return NOTHING
        value = value[part]
    return value
