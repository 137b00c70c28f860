"""Dates in metadata: how JSON marks them, and the text that filters compare.

JSON has no dates. A date or datetime is stored as its ISO 8601 text behind a mark, U+10FFFF twice, which Unicode gives
to no character, so that it comes back as what it was. In a column, dates and datetimes without a time zone are that
text, and compare with strings. A datetime with a time zone is an instant: the mark and its text in UTC, which sorts
behind every other string and is equal to no other, whatever zone it came with.
"""

import datetime
import re
from typing import Any, Final

import numpy as np

MARK: Final = "\U0010ffff\U0010ffff"
IN_JSON: Final = f'"{MARK}'  # where a string begins with the mark; one quick search finds that a text has none
_ISO: Final = re.compile(
    r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{6})?([+-]\d\d:\d\d(:\d\d(\.\d{6})?)?)?)?",
    re.ASCII,
)
_INSTANT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(:\d\d)?(?:[.,](\d{1,6})\d*)?(Z|z|[+-]\d\d:?\d\d)", re.ASCII
)


def marked(value: datetime.date) -> str:
    """The string that stands for a date or datetime in JSON. Raises ValueError for one that has none."""
    if isinstance(value, datetime.datetime):
        if getattr(value, "nanosecond", 0):  # of pandas
            raise ValueError(f"{value} is finer than a microsecond; use .floor('us'), or the text")
        if value.tzinfo is not None and value.utcoffset() is not None:
            _utc(value)
        elif value.tzinfo is not None:
            value = value.replace(tzinfo=None)
    return MARK + value.isoformat()


def date_of(value: np.datetime64) -> datetime.date:
    """A date, or a datetime, from numpy's. Raises ValueError for NaT, and where something would be lost."""
    if np.isnat(value):
        raise ValueError("NaT is no date; use None")
    unit = np.datetime_data(value.dtype)[0]
    moment: Any = value.astype("datetime64[D]" if unit in "YMWD" else "datetime64[us]")
    if unit not in "YMWD" and moment.astype(value.dtype) != value:
        raise ValueError(f"{value} is finer than a microsecond")
    found = moment.item()
    if not isinstance(found, datetime.date):
        raise ValueError(f"{value} is beyond the years 1 to 9999")
    return found


def restored(value: Any) -> Any:
    """A JSON value with its marked dates as what they were."""
    if isinstance(value, str):
        return _date(value) if value[:2] == MARK else value
    if isinstance(value, list):
        return [restored(each) for each in value]
    if isinstance(value, dict):
        return {key: restored(each) for key, each in value.items()}
    return value


def _date(text: str) -> datetime.date | str:
    plain = text[2:]
    if not _ISO.fullmatch(plain):
        return text
    try:
        return datetime.date.fromisoformat(plain) if len(plain) == 10 else datetime.datetime.fromisoformat(plain)
    except ValueError:  # a text of the user's, from a version that did not mark dates
        return text


def in_column(text: str) -> str:
    """The text of a marked string in a column."""
    value = _date(text)
    if isinstance(value, str):
        return text
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return MARK + _utc(value)
    return value.isoformat()


def as_instant(text: str) -> datetime.datetime | str:
    """The datetime in UTC of an instant's text in a column; any other text as it is."""
    if text[:2] == MARK and isinstance(value := _date(text), datetime.datetime):
        return value.replace(tzinfo=datetime.timezone.utc)
    return text


def instant(text: str) -> str | None:
    """The text in a column of the instant that a user's string names, such as "2024-05-06T09:00:00Z"; else None."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        return None
    day, minute, seconds, fraction, zone = found.groups()
    zone = "+00:00" if zone in "Zz" else zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
    try:
        value = datetime.datetime.fromisoformat(
            f"{day}T{minute}{seconds or ':00'}.{(fraction or '0').ljust(6, '0')}{zone}"
        )
        return MARK + _utc(value)
    except ValueError:
        return None


def _utc(value: datetime.datetime) -> str:
    try:
        return value.astimezone(datetime.timezone.utc).replace(tzinfo=None).isoformat()
    except OverflowError:
        raise ValueError(f"{value} is beyond the years 1 to 9999 in UTC") from None
