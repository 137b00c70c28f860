"""Reads pickles of other stores without running code from them.

A pickle may name any function and call it. This reader accepts a few classes that only hold values, replaces them by
records, and refuses all other names.
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

_VALUES_PER_BYTE: Final = 4  # allowed; a byte makes one value, or more if documents share their metadata
_FEW: Final = 1_000_000  # values allowed in any pickle: some hundred documents may share a list of a thousand
_TIMES: Final = 32  # bytes of containers allowed per byte of a pickle; short documents without metadata need 15
_LITTLE: Final = 64 << 20
_LENGTHS: Final = {ord(each.code): each.arg.n if each.arg else 0 for each in pickletools.opcodes}
_WIDTHS: Final = {-2: 1, -3: 4, -4: 4, -5: 8}  # bytes of the length prefix of a value
_STOP, _FLOAT, _PUT, _LONG_PUT = b".Gpr"
_ROOM: Final = {
    **dict.fromkeys(b"R\x81\x92oi", 400),  # an object and its attributes
    **dict.fromkeys(b"\x8f\x91", 232),  # sets
    **dict.fromkeys(b"]}ldt\x85\x86\x87", 80),  # lists, dictionaries, tuples
}
_SIMPLE: Final = frozenset({bool, bytes, float, int, str, type(None)})
_VALUES: dict[tuple[str, str], Any] = {  # implemented in C: a pickle cannot modify them
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("collections", "OrderedDict"): OrderedDict,
}


class Stored:
    """Stands for an object of another library: the name of its class, and its stored attributes."""

    name = ""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes: a dictionary, or pydantic's dictionary that contains them."""
        self.state = state[0] if isinstance(state, tuple) and state else state


def _attributes(stored: Stored) -> dict[str, Any]:
    state = stored.state if isinstance(stored.state, dict) else {}
    inner = state.get("__dict__", state)
    return inner if isinstance(inner, dict) else {}


def load(data: bytes, known: dict[tuple[str, str], str], path: Path) -> Any:
    """The objects of a pickle, those of ``known`` (module, name) as `Stored`. Raises CorruptionError for others."""
    known = {**known, ("uuid", "UUID"): "UUID"}
    classes: dict[tuple[str, str], Any] = {**_VALUES}

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in known and (module, name) not in classes:
                # a new class for each reading: a pickle can change nothing that outlives it. Once per name: 1 KB each
                classes[module, name] = type(name, (Stored,), {"name": known[module, name]})
            if (module, name) in classes:
                return classes[module, name]
            raise bqstore.CorruptionError(
                f"{path} is a pickle that names {module}.{name}, which no such store needs: it was not read, since "
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
    """Raise CorruptionError for a pickle whose reading would take far more memory than its length, before reading it.

    Python's reader trusts its input. Memoizing one value under the number 2 ** 28, an instruction of a few bytes,
    allocates a table of 4 GB. A buffer is allocated from a length prefix before its bytes are read. An empty set of
    one byte takes 216.
    """
    at, size = 0, len(data)
    left = _TIMES * size + _LITTLE
    while at < size:
        code, number = data[at], 0
        if code == _FLOAT:  # floats of a vector: up to a thousand in one step
            some = data[at : at + 9000 : 9]
            at += 9 * (len(some) - len(some.lstrip(b"G")))
            continue
        at += 1
        length = _LENGTHS.get(code)
        if length is None or code == _STOP:  # an unknown instruction ends the reading, too
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
            for _ in range(1 + (code in b"ci")):  # these take two lines, a module and a name
                begin, at = at, data.find(b"\n", at) + 1 or size + 1
            if code == _PUT:
                number = int(data[begin:at])
        if number > size or at > size or left < 0:
            raise bqstore.CorruptionError(
                f"{path} is no pickle that can be read: it is cut off, or asks for far more memory than its "
                f"{size:,} bytes can fill"
            )


def plain(value: Any, size: int) -> Any:
    """The value with each `Stored` replaced by a dictionary of its attributes, or by a UUID.

    ``size`` is the pickle's length in bytes, which bounds the values: a pickle may hold a list once and refer to it
    many times, from lists that are themselves referred to many times. Forty such levels exceed any memory.
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
            if _SIMPLE.issuperset(map(type, value)):  # mostly a vector
                left -= len(value)
                return list(value)
            return [of(each, depth + 1) for each in value]
        return value

    return of(value, 0)


def plain_values(data: bytes, known: dict[tuple[str, str], str], path: Path) -> Any:
    """The contents of a pickle: `load`, then `plain`."""
    return plain(load(data, known, path), len(data))
