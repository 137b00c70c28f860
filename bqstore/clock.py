"""The time that decides which documents have expired: one function, which a test may replace to move the clock."""

import time
from typing import Final

# in the metadata, as microseconds since 1970: the document expires then
EXPIRES_AT_KEY: Final = "_bq_expires_at"


def now() -> int:
    """Microseconds since 1970, by the system's clock."""
    return time.time_ns() // 1000
