"""Metadata as JSON: which values may be metadata, and the text that is stored.

A value with one obvious form in JSON is converted, as pydantic does it; one that would lose something is an error that
names the key. ``docs/collection.md`` has the table.
"""

import base64
import json
from collections import deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import numpy as np

from ..arguments import shown, text_bytes, type_of
from ..clock import EXPIRES_AT_KEY
from ..errors import InvalidInputError
from . import dates, expiry

MAX_METADATA_BYTES: Final = 16 << 20
MAX_DEPTH: Final = 100  # of nested values: readers are recursive

# Keys of the framework adapters: stored and returned beside the user's, and hidden from filters.
PRIVATE_PREFIX: Final = "_bq_"
REF_DOC_ID_KEY: Final = "_bq_ref_doc_id"  # the source document of a chunk; filters know it
ID_KEY: Final = "_bq_id"  # in a filter: the document's own id


def split_metadata(given: object, what: str) -> tuple[str, str | None, str | None]:
    """The user's metadata as JSON, the adapters' as JSON or None, and the source document's id or None."""
    if given is None:
        return "{}", None, None
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{what} is {type_of(given)}; expected a dict")
    public, private, ref = dict(given), {}, None
    if any(type(key) is not str for key in public):  # a member of an enum of strings hashes by its name
        public = {str.__str__(key) if isinstance(key, str) else key: value for key, value in public.items()}
    for key in [k for k in public if isinstance(k, str) and k.startswith(PRIVATE_PREFIX)]:
        private[key] = public.pop(key)
    if private:
        if ID_KEY in private:
            raise InvalidInputError(f"{what} has the key {ID_KEY!r}, which filters use for the id itself: rename it")
        if EXPIRES_AT_KEY in private:
            time = expiry.moment(private.pop(EXPIRES_AT_KEY), f"{what}: {EXPIRES_AT_KEY!r}")
            if time is not None:
                public[EXPIRES_AT_KEY] = time
        ref = private.pop(REF_DOC_ID_KEY, None)
        if ref is not None:
            if not isinstance(ref, str):
                raise InvalidInputError(f"{what}: {REF_DOC_ID_KEY!r} is {type_of(ref)}; expected a string")
            text_bytes(ref, f"{what}: {REF_DOC_ID_KEY!r}")
    hidden = to_json(private, what, private=True) if private else None
    return to_json(public, what), hidden, ref


def to_json(given: Mapping[Any, Any], what: str, private: bool = False) -> str:
    """JSON text of a dictionary, at most 16 MiB; see `plain` for what is not JSON."""
    converted: list[None] = []

    def convert(value: object) -> object:
        made = plain(value)
        if isinstance(made, str) and made[:2] == dates.MARK:
            converted.append(None)
        elif isinstance(made, (dict, list)):
            check_keys(made, what)
        return made

    try:
        check_keys(given, what)
        text = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=convert)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{what} cannot be written as JSON: {_reason(given, error)}") from error
    try:
        size = text_bytes(text, what)
    except InvalidInputError:  # names the place in the JSON text; the key is more useful
        for path, leaf in _leaves(given, ""):
            if isinstance(leaf, str) and not leaf.isascii() and leaf != leaf.encode(errors="replace").decode():
                raise InvalidInputError(
                    f"{what} holds a lone surrogate in {shown(path)}, which is not text: decode with errors='replace' "
                    "where it was read"
                ) from None
        raise
    if dates.IN_JSON in text and text.count(dates.IN_JSON) > len(converted):
        raise InvalidInputError(
            f"{what} has a string that begins with U+10FFFF twice, which is no character: remove it"
        )
    if size > MAX_METADATA_BYTES:
        which = f", in its keys that begin with {PRIVATE_PREFIX!r}," if private else ""
        raise InvalidInputError(
            f"{what}{which} takes {size:,} bytes as JSON; at most {MAX_METADATA_BYTES:,} are kept: put long values "
            "elsewhere"
        )
    return text


def plain(value: object) -> object:
    """A value that is not JSON as one that is. Raises TypeError or ValueError for what has no such form.

    A date becomes a string with the mark of `dates`.
    """
    if isinstance(value, date):
        return None if value != value else dates.marked(value)  # noqa: PLR0124 - pandas' NaT is a datetime
    if isinstance(value, np.generic):
        return _of_numpy(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, (UUID, PurePath)):
        return str(value)
    if isinstance(value, time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text(bytes(value))
    if value is np.ma.masked:  # as in a list of what a masked array holds
        return None
    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            return value[()]  # of numpy's type, which is looked at next
        return list(value) if value.ndim != 1 or value.dtype.kind in "mMOV" else value.tolist()
    if hasattr(value, "shape") and callable(listed := getattr(value, "tolist", None)):  # a tensor of torch or JAX
        try:
            return listed()
        except RuntimeError as error:
            raise TypeError(f"{type_of(value)} cannot be listed ({error}); use .item() or a list") from error
    if isinstance(value, Set):
        return _in_order(value)
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    dumped = getattr(value, "model_dump", None)  # pydantic
    if callable(dumped) and not isinstance(value, type):
        return dumped()
    if type(value).__name__ == "NAType":  # pandas
        return None
    if isinstance(value, (range, deque)):
        return list(value)
    raise TypeError(f"{type_of(value)} is not JSON; use strings, numbers, booleans, None, dates, lists and dicts")


def _of_numpy(value: np.generic) -> object:
    if isinstance(value, np.datetime64):
        return dates.marked(dates.date_of(value))
    if isinstance(value, (np.timedelta64, np.complexfloating, np.void)):
        raise TypeError(f"{type_of(value)} is not JSON; use a number or a string")
    found: object = value.item()
    if isinstance(found, np.generic):  # a long double
        return float(found)
    return found


def _number(value: Decimal) -> float | int:
    """As a number, so that filters compare it as one."""
    if not value.is_finite():
        raise ValueError(f"{value} is no number of JSON; use None")
    if value == value.to_integral_value() and abs(value.adjusted()) < 4000:
        return int(value)
    if Decimal(repr(float(value))) != value:
        raise ValueError(f"{value} has more digits than a float keeps; use float(), or str()")
    return float(value)


def _duration(value: timedelta) -> str:
    """ISO 8601, as pydantic writes it: "P1DT2H3M4.5S"."""
    sign, rest = ("-", -value) if value < timedelta(0) else ("", value)
    minutes, seconds = divmod(rest.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{rest.microseconds:06}".rstrip("0") if rest.microseconds else ""
    parts = [(hours, "H"), (minutes, "M")]
    clock = "".join(f"{n}{unit}" for n, unit in parts if n) + (f"{seconds}{fraction}S" if seconds or fraction else "")
    days = f"{rest.days}D" if rest.days else ""
    return f"{sign}P{days}{'T' + clock if clock else ''}" if days or clock else "PT0S"


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        start = base64.b64encode(value[:12]).decode()
        raise ValueError(
            f"bytes that are not UTF-8 are not JSON; use base64.b64encode(...).decode() ({start}...)"
        ) from None


def _in_order(values: Set[Any]) -> list[Any]:
    """The elements of a set, sorted where they can be: the same set is the same text."""
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def _reason(given: object, error: Exception) -> str:
    """Which key cannot be written, and why."""
    if isinstance(error, RecursionError):
        return "it nests too deep, or holds itself"
    for path, value in _leaves(given, ""):
        try:
            json.dumps(value, allow_nan=False, default=plain)
        except (TypeError, ValueError, RecursionError) as found:
            why = str(found)
            if isinstance(value, (float, np.floating)):
                why = f"{value} is no number of JSON; use None"
            return f"{shown(path)}: {why}"
    return str(error)


def _leaves(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}" if path else str(key), depth + 1)
    elif depth < MAX_DEPTH and isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            yield from _leaves(each, f"{path}[{i}]", depth + 1)
    else:
        yield path, value


def check_keys(given: Mapping[Any, Any] | list[Any] | tuple[Any, ...], what: str, depth: int = 1) -> None:
    """Refuse keys that are not strings, as json would turn 1 and "1" into one key, and values nested too deep."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"{what} nests more than {MAX_DEPTH} deep; flatten it, or keep it as a string")
    if isinstance(given, Mapping):
        for key in given:
            if not isinstance(key, str):
                raise InvalidInputError(
                    f"{what} has a key of type {type(key).__name__}, {shown(key)}; expected strings"
                )
    for value in given.values() if isinstance(given, Mapping) else given:
        if isinstance(value, (Mapping, list, tuple)):
            check_keys(value, what, depth + 1)
