"""What embedding will cost, and what it has cost."""

import threading
from collections import Counter
from dataclasses import dataclass

from .prices import cost


@dataclass(frozen=True)
class Estimate:
    """What embedding some texts would take.

    Attributes
    ----------
    texts : int             all of them
    cached : int            those whose vectors are in the cache, which cost nothing
    tokens : int            of the rest: counted if ``exact``; otherwise their bytes, which tokens never exceed
    requests : int          for the rest
    price : float or None   US$; None if the model's price is not known
    exact : bool            whether the tokens were counted with the model's own tokenizer
    least_tokens : int      if they were not, what plain English of as many bytes has: there are hardly fewer
    least_price : float or None   of these
    """

    texts: int
    cached: int
    tokens: int
    requests: int
    price: float | None
    exact: bool
    least_tokens: int
    least_price: float | None


@dataclass(frozen=True)
class Usage:
    """What an embedder has requested since it was made.

    Attributes
    ----------
    texts : int             embedded by the server
    tokens : int            as the server counted them
    requests : int          sent
    retried : int           of these, sent again after a refusal
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
    """Adds up `Usage`, from any number of threads."""

    def __init__(self, per_million: float | None) -> None:
        self._per_million = per_million
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        """Add to the counts, which are named as in `Usage`."""
        with self._lock:
            self._counts.update(counts)

    def read(self) -> Usage:
        """The counts so far."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("texts", "tokens", "requests", "retried", "cached")}
        return Usage(**counts, price=cost(counts["tokens"], self._per_million))
