"""Reads pickles of other stores without running what they hold.

A pickle may name any function and call it. This reader knows a few classes that only hold values, gives records in
their place, and refuses all other names.
"""

from __future__ import annotations

import datetime
import decimal
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import bqstore

_VALUES_PER_BYTE: Final = 4  # a byte of a pickle makes one value, or more where documents share their metadata
_FEW: Final = 1_000_000  # as where some hundred documents share a list of a thousand
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

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = _VALUES.get((module, name))
            if found is not None:
                return found
            if (module, name) == ("uuid", "UUID"):
                return type("UUID", (Stored,), {"name": "UUID"})
            if (module, name) in known:  # a class of this reading alone, so that nothing can be left in it
                return type(name, (Stored,), {"name": known[module, name]})
            raise bqstore.CorruptionError(
                f"{path} is a pickle that names {module}.{name}, which no such store needs: it was not read, as "
                "a pickle may run any program"
            )

    try:
        return Reader(io.BytesIO(data)).load()
    except bqstore.BqstoreError:
        raise
    except Exception as error:  # any error that a damaged or hostile pickle can raise
        raise bqstore.CorruptionError(f"{path} is no pickle that can be read ({type(error).__name__})") from None


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
