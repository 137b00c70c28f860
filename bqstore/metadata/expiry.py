"""When a document expires: what a user gives, the number that is stored, and the datetime that comes back.

The time is stored in the metadata, under a key of its own, as microseconds since 1970. So it has a column like any
field, which follows commits, is kept in snapshots, and is copied with the rows.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from numbers import Real
from typing import Any, Final

import numpy as np

from .. import clock
from ..arguments import counted, items, shown, type_of
from ..clock import EXPIRES_AT_KEY
from ..errors import InvalidInputError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST, _LAST = ((end.replace(tzinfo=timezone.utc) - _EPOCH) // _MICROSECOND for end in (datetime.min, datetime.max))
_EXPECTED: Final = "expected a datetime with a time zone, or seconds from now as a number or timedelta"


def moment(given: object, what: str, now: int | None = None) -> int | None:
    """A time in microseconds since 1970, seconds being counted from now; None for never, which infinity means, too.

    Raises InvalidInputError.
    """
    if given is None:
        return None
    if isinstance(given, str):  # as exports write it
        try:
            given = datetime.fromisoformat(given.replace("Z", "+00:00"))
        except ValueError:
            raise InvalidInputError(f"{what} is {shown(given)}; {_EXPECTED}") from None
    if isinstance(given, datetime):
        if given.tzinfo is None or given.utcoffset() is None:
            raise InvalidInputError(
                f"{what} is {given.isoformat()}, which has no time zone; use datetime.now(timezone.utc) + ..., or "
                ".astimezone() for local time"
            )
        time = (given - _EPOCH) // _MICROSECOND
        if not _FIRST <= time <= _LAST:
            raise InvalidInputError(f"{what} is {given.isoformat()}, in UTC not within the years 1 to 9999")
        return time
    if isinstance(given, timedelta):
        seconds = given.total_seconds()
    elif isinstance(given, np.timedelta64):  # a Real, of any unit
        seconds = _seconds_of(given)
    elif isinstance(given, Real) and not isinstance(given, bool):
        try:
            seconds = float(given)
        except OverflowError:
            raise InvalidInputError(f"{what} is {type_of(given)} beyond all times; {_EXPECTED}") from None
    else:
        raise InvalidInputError(f"{what} is {type_of(given)}; {_EXPECTED}")
    if seconds == math.inf:
        return None
    if not seconds > 0:
        raise InvalidInputError(f"{what} is {given}; expected seconds from now, above 0")
    try:
        from_now = timedelta(microseconds=clock.now() if now is None else now, seconds=seconds)
        return (_EPOCH + from_now - _EPOCH) // _MICROSECOND
    except OverflowError:
        raise InvalidInputError(f"{what} is {given} seconds from now, beyond the year 9999; leave it out") from None


def _seconds_of(given: np.timedelta64) -> float:
    """Seconds; NaN for NaT, and for months and years, which have no fixed length."""
    try:
        return float(given / np.timedelta64(1, "s"))
    except TypeError:
        return math.nan


def shown_as(stored: object) -> object:
    """The datetime of a stored number, in UTC; anything else as it is."""
    try:
        return _EPOCH + timedelta(microseconds=stored) if type(stored) is int else stored
    except OverflowError:
        return stored


def is_each(given: object) -> bool:
    """Whether there is a time for each document, not one for all."""
    one = given is None or isinstance(given, (str, bytes, Mapping)) or getattr(given, "ndim", 1) == 0
    return not one and isinstance(given, Iterable)


def with_times(metadatas: list[Any], given: object, skip: bool = False) -> list[Any]:
    """Metadata with one time for all documents, or one for each; None leaves the document's time as it is.

    ``skip``: a value that is no time is put into its document's metadata, so that this document alone is refused.
    """
    if given is None:
        return metadatas
    one = not is_each(given)
    times = [given] * len(metadatas) if one else items(given, "expires_at")
    if len(times) != len(metadatas):
        raise InvalidInputError(
            f"expires_at has {counted(len(times), 'entry')} for {counted(len(metadatas), 'document')}; expected one "
            "for all, or one each"
        )
    found: list[Any]
    now = clock.now()  # read once, so that equal seconds give equal times
    if one:
        found = [_absolute(given, "expires_at", now)] * len(metadatas)
    else:
        found = [_absolute(time, f"expires_at {i}", now, skip) for i, time in enumerate(times)]
    return [
        metadata
        if time is None or not (metadata is None or isinstance(metadata, Mapping))  # other types are refused later
        else {**(metadata or {}), EXPIRES_AT_KEY: time}
        for metadata, time in zip(metadatas, found, strict=True)
    ]


def _absolute(given: object, what: str, now: int, skip: bool = False) -> object:
    """A time that does not depend on now: a datetime, or infinity; None for None. ``skip``: returns what is no time."""
    if given is None:
        return None
    try:
        time = moment(given, what, now)
    except InvalidInputError:
        if skip:
            return given
        raise
    return math.inf if time is None else shown_as(time)
