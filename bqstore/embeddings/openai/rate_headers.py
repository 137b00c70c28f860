"""What the headers of an answer say about waiting. It knows no requests and no clock but the one it is given.

Three forms of "come back later": ``retry-after-ms``, ``Retry-After`` in seconds, ``Retry-After`` as a date. And the
rate-limit headers of OpenAI's API, which tell how much is left before it comes to that.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Left:
    """What is left of a rate limit: ``remaining`` of ``limit`` (None: not said), all of it again in ``reset`` s."""

    remaining: float
    reset: float
    limit: float | None


def wait_of(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to wait; None if it does not say, or says what cannot be read.

    Parameters
    ----------
    headers : mapping of lower-case names
    now : float         seconds since 1970, to measure a date against
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after", "").strip()
    seconds = _number(said)
    if seconds is not None or not said:
        return seconds
    try:
        moment = parsedate_to_datetime(said)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.fromtimestamp(now, timezone.utc)).total_seconds())


def left_of(headers: Mapping[str, str], of: str) -> Left | None:
    """What the ``x-ratelimit-*`` headers say of ``requests`` or ``tokens``; None if they do not."""
    remaining = _number(headers.get(f"x-ratelimit-remaining-{of}"))
    reset = duration(headers.get(f"x-ratelimit-reset-{of}", ""))
    if remaining is None or reset is None:
        return None
    limit = _number(headers.get(f"x-ratelimit-limit-{of}"))
    return Left(remaining, reset, limit if limit else None)


def duration(text: str) -> float | None:
    """Seconds of ``6m0s``, ``120ms``, ``1h2m3.5s`` or a plain number of seconds; None of anything else."""
    text = text.strip()
    plain = _number(text)
    if plain is not None:
        return plain
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    """A number that is finite and not negative."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
