"""When a document is over: what a user gives, the number that is stored, and the datetime that comes back.

The time stands in the metadata, under a key of its own, as microseconds since 1970: so it has a column as any field,
which follows commits, is kept with the graph and copied with the rows.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from numbers import Real
from typing import Any, Final

from .. import clock
from ..arguments import counted, items, shown, type_of
from ..clock import EXPIRES_AT_KEY
from ..errors import InvalidInputError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)
_EXPECTED: Final = "expected a datetime with a time zone, or seconds from now as a number or timedelta"


def moment(given: object, what: str) -> int | None:
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
        return (given - _EPOCH) // _MICROSECOND
    if isinstance(given, timedelta):
        seconds = given.total_seconds()
    elif isinstance(given, Real) and not isinstance(given, bool):
        seconds = float(given)
    else:
        raise InvalidInputError(f"{what} is {type_of(given)}; {_EXPECTED}")
    if seconds == math.inf:
        return None
    if not seconds > 0:
        raise InvalidInputError(f"{what} is {given}; expected seconds from now, above 0")
    try:
        return (_EPOCH + timedelta(microseconds=clock.now(), seconds=seconds) - _EPOCH) // _MICROSECOND
    except OverflowError:
        raise InvalidInputError(f"{what} is {given} seconds from now, beyond the year 9999; leave it out") from None


def shown_as(stored: object) -> object:
    """The datetime of a stored number, in UTC; anything else as it is."""
    try:
        return _EPOCH + timedelta(microseconds=stored) if type(stored) is int else stored
    except OverflowError:
        return stored


def with_times(metadatas: list[Any], given: object) -> list[Any]:
    """Metadata with a time for all, or with one for each; None among them leaves that document's."""
    if given is None:
        return metadatas
    several = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping))
    times = items(given, "expires_at") if several else [given] * len(metadatas)
    if len(times) != len(metadatas):
        raise InvalidInputError(
            f"expires_at has {counted(len(times), 'entry')} for {counted(len(metadatas), 'document')}; expected one "
            "for all, or one each"
        )
    found: list[Any]
    if several:  # resolved here, once: seconds are counted from now, not from when a row is made
        found = [None if time is None else _absolute(time, f"expires_at {i}") for i, time in enumerate(times)]
    else:
        found = [_absolute(given, "expires_at")] * len(metadatas)
    return [
        metadata
        if time is None or not (metadata is None or isinstance(metadata, Mapping))  # an error, which others tell
        else {**(metadata or {}), EXPIRES_AT_KEY: time}
        for metadata, time in zip(metadatas, found, strict=True)
    ]


def _absolute(given: object, what: str) -> object:
    """A time that does not depend on now: a datetime, or infinity."""
    time = moment(given, what)
    return math.inf if time is None else shown_as(time)
