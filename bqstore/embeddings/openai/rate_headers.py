"""Reads the headers of an answer that concern waiting.

A server asks for a delay in one of three forms: ``retry-after-ms``, ``Retry-After`` in seconds, or ``Retry-After`` as
a date. The ``x-ratelimit-*`` headers of OpenAI's API state what remains of a rate limit before a request is refused.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class RateLimit:
    """``remaining`` of ``limit`` (None: not stated); the whole limit is available again in ``reset`` seconds."""

    remaining: float
    reset: float
    limit: float | None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that an answer asks to wait; None if it does not, or in an unknown form.

    ``headers`` have lower-case names; ``now``, in seconds since 1970, is subtracted from a date.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "").strip()
    seconds = _number(value)
    if seconds is None and value:
        with suppress(TypeError, ValueError, IndexError, OverflowError):
            date = parsedate_to_datetime(value)
            date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
            seconds = max(0.0, date.timestamp() - now)
    return seconds


def rate_limit(headers: Mapping[str, str], kind: str) -> RateLimit | None:
    """The limit of "requests" or "tokens" by the ``x-ratelimit-*`` headers; None without them."""
    remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
    reset = duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
    if remaining is None or reset is None:
        return None
    return RateLimit(remaining, reset, _number(headers.get(f"x-ratelimit-limit-{kind}")) or None)


def duration(text: str) -> float | None:
    """The seconds in ``6m0s``, ``120ms``, ``1h2m3.5s`` or a plain number of seconds; None for anything else."""
    text = text.strip()
    plain = _number(text)
    if plain is not None:
        return plain
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    """The text as a finite number of 0 or more, otherwise None."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
