"""Reads pickles of other stores without running what they hold.

A pickle may name any function and call it. This reader knows a few classes that only hold values, gives records in
their place, and refuses all other names.
"""

from __future__ import annotations

import datetime
import decimal
import io
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import bqstore

_VALUES_PER_BYTE: Final = 4  # a byte of a pickle makes one value, or more where documents share their metadata
_FEW: Final = 1_000_000  # as where some hundred documents share a list of a thousand
_TIMES: Final = 32  # bytes of containers that a byte of a pickle makes; of short documents without metadata it is 15
_LITTLE: Final = 64 << 20
_LENGTHS: Final = {ord(each.code): each.arg.n if each.arg else 0 for each in pickletools.opcodes}
_WIDTHS: Final = {-2: 1, -3: 4, -4: 4, -5: 8}  # of the length that stands before a value
_STOP, _FLOAT, _PUT, _LONG_PUT = b".Gpr"
_ROOM: Final = {
    **dict.fromkeys(b"R\x81\x92oi", 400),  # an object and its attributes
    **dict.fromkeys(b"\x8f\x91", 232),  # sets
    **dict.fromkeys(b"]}ldt\x85\x86\x87", 80),  # lists, dictionaries, tuples
}
_SIMPLE: Final = frozenset({bool, bytes, float, int, str, type(None)})
_VALUES: dict[tuple[str, str], Any] = {  # written in C: they cannot be changed from a pickle
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("collections", "OrderedDict"): OrderedDict,
}


class Stored:
    """An object of another library's: its class's name, and the attributes it was stored with."""

    name = ""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes: a dictionary, or one inside of pydantic's."""
        self.state = state[0] if isinstance(state, tuple) and state else state


def _attributes(stored: Stored) -> dict[str, Any]:
    state = stored.state if isinstance(stored.state, dict) else {}
    inner = state.get("__dict__", state)
    return inner if isinstance(inner, dict) else {}


def load(data: bytes, known: dict[tuple[str, str], str], path: Path) -> Any:
    """The objects of a pickle, those of ``known`` (module, name) as `Stored`; CorruptionError for any other."""
    known = {**known, ("uuid", "UUID"): "UUID"}
    classes: dict[tuple[str, str], Any] = {**_VALUES}

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in known and (module, name) not in classes:
                # of this reading alone, so that nothing can be left in it; made once, as it takes a kilobyte
                classes[module, name] = type(name, (Stored,), {"name": known[module, name]})
            if (module, name) in classes:
                return classes[module, name]
            raise bqstore.CorruptionError(
                f"{path} is a pickle that names {module}.{name}, which no such store needs: it was not read, as "
                "a pickle may run any program"
            )

    try:
        _bounded(data, path)
        return Reader(io.BytesIO(data)).load()
    except bqstore.BqstoreError:
        raise
    except Exception as error:  # any error that a damaged or hostile pickle can raise
        raise bqstore.CorruptionError(f"{path} is no pickle that can be read ({type(error).__name__})") from None


def _bounded(data: bytes, path: Path) -> None:
    """CorruptionError for a pickle that asks for far more memory than it is long, before any of it is taken.

    Python's reader believes what it reads. A value is kept under a number, to be named again: under 2 ** 28, in twelve
    bytes, in a table of 4 GB. Room is made for a length before its bytes are looked for. An empty set, of one byte,
    takes 216.
    """
    at, size = 0, len(data)
    left = _TIMES * size + _LITTLE
    while at < size:
        code, number = data[at], 0
        if code == _FLOAT:  # of a vector: a thousand in one step
            some = data[at : at + 9000 : 9]
            at += 9 * (len(some) - len(some.lstrip(b"G")))
            continue
        at += 1
        length = _LENGTHS.get(code)
        if length is None or code == _STOP:  # what is no instruction ends the reading, too
            return
        left -= _ROOM.get(code, 0)
        if length >= 0:
            if code == _LONG_PUT:
                number = int.from_bytes(data[at : at + 4], "little")
            at += length
        elif length in _WIDTHS:
            width = _WIDTHS[length]
            at += width + int.from_bytes(data[at : at + width], "little")
        else:
            for _ in range(1 + (code in b"ci")):  # a module and a name are two lines
                begin, at = at, data.find(b"\n", at) + 1 or size + 1
            if code == _PUT:
                number = int(data[begin:at])
        if number > size or at > size or left < 0:
            raise bqstore.CorruptionError(
                f"{path} is no pickle that can be read: it breaks off, or asks for far more memory than its "
                f"{size:,} bytes can fill"
            )


def plain(value: Any, size: int) -> Any:
    """The value without `Stored`: dictionaries of attributes in their place, UUIDs as UUIDs.

    ``size`` is that of the pickle in bytes. A list may stand in it once and be named many times, by lists that are
    named many times themselves: forty of them hold more than any memory does. So values are counted.
    """
    left = _VALUES_PER_BYTE * size + _FEW

    def of(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > 100:
            raise bqstore.CorruptionError("a pickle nests values more than 100 deep")
        if left < 0:
            raise bqstore.CorruptionError(f"a pickle of {size:,} bytes repeats its values without end")
        if isinstance(value, Stored):
            state = _attributes(value)
            if value.name == "UUID":
                return UUID(int=state["int"])
            return {key: of(each, depth + 1) for key, each in state.items()}
        if isinstance(value, dict):
            return {key: of(each, depth + 1) for key, each in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            if _SIMPLE.issuperset(map(type, value)):  # a vector, most of all
                left -= len(value)
                return list(value)
            return [of(each, depth + 1) for each in value]
        return value

    return of(value, 0)


def plain_values(data: bytes, known: dict[tuple[str, str], str], path: Path) -> Any:
    """What a pickle holds, see `load`, as `plain` gives it."""
    return plain(load(data, known, path), len(data))
