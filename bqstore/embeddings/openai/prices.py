"""What embedding has cost, by a dated price list.

Prices change, and differ by contract and region. So the table has a date, a price passed by the caller takes
precedence, and an unlisted model has no price rather than a guess.
"""

import threading
from collections import Counter
from dataclasses import dataclass

from ...arguments import check_real
from ...errors import InvalidInputError

PRICES_AS_OF = "2026-05"  # year and month
BATCH_DISCOUNT = 0.5  # OpenAI's Batch API costs half

# US dollars for a million tokens, from OpenAI's public price list
_LISTED = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}

_EXPECTED = "US dollars for a million tokens, 0 or more"


def price_of(model: str, price: float | None = None) -> float | None:
    """US dollars per million tokens: the caller's price, or the listed one; None if there is neither.

    Raises InvalidInputError if the price given is negative or not a number.
    """
    if price is None:
        return _LISTED.get(model)
    if check_real("price", price, _EXPECTED) < 0:
        raise InvalidInputError(f"price is {price}; expected {_EXPECTED}")
    return price


def cost(tokens: int, price: float | None, batch: bool = False) -> float | None:
    """US dollars for ``tokens`` at ``price`` per million, or with the batch discount; None if the price is unknown."""
    return None if price is None else tokens * price * (BATCH_DISCOUNT if batch else 1) / 1_000_000


@dataclass(frozen=True)
class Usage:
    """What an embedder has requested since it was created.

    Attributes
    ----------
    texts : int             embedded by the server
    tokens : int            as counted by the server; an upper bound for answers that do not state them
    requests : int          requests sent, including retries
    retried : int           retries among these
    cached : int            texts whose vectors came from the cache
    price : float or None   US$; None if the model's price is not known
    """

    texts: int
    tokens: int
    requests: int
    retried: int
    cached: int
    price: float | None


class Meter:
    """Counts `Usage`. Thread-safe."""

    def __init__(self, per_million: float | None) -> None:
        self._per_million = per_million
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        """Add to the counts, named as in `Usage`."""
        with self._lock:
            self._counts.update(counts)

    def read(self) -> Usage:
        """The counts so far."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("texts", "tokens", "requests", "retried", "cached")}
        return Usage(**counts, price=cost(counts["tokens"], self._per_million))
