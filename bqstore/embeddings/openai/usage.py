"""What embedding will cost, and what it has cost. It knows numbers only."""

import threading
from dataclasses import dataclass

from .prices import cost


@dataclass(frozen=True)
class Estimate:
    """What embedding some texts would take; ``price`` in US$, None if the model's is not known.

    ``tokens`` are of what is not in the cache, and exact if ``exact``; otherwise bytes, which tokens never exceed.
    """

    texts: int
    cached: int
    tokens: int
    requests: int
    price: float | None
    exact: bool


@dataclass(frozen=True)
class Usage:
    """What an embedder has asked for since it was made; ``price`` in US$, None if the model's is not known.

    ``texts`` were embedded by the server, ``cached`` came from the cache or from another thread's request;
    ``requests`` were sent, ``retried`` of them again.
    """

    texts: int
    tokens: int
    requests: int
    retried: int
    cached: int
    price: float | None


class Meter:
    """Counts for `Usage`, from any number of threads."""

    def __init__(self, per_million: float | None) -> None:
        self.per_million = per_million
        self._lock = threading.Lock()
        self._texts = self._tokens = self._requests = self._retried = self._cached = 0

    def add(self, *, texts: int = 0, tokens: int = 0, requests: int = 0, retried: int = 0, cached: int = 0) -> None:
        """Count."""
        with self._lock:
            self._texts += texts
            self._tokens += tokens
            self._requests += requests
            self._retried += retried
            self._cached += cached

    def read(self) -> Usage:
        """The counts so far."""
        with self._lock:
            price = None if self.per_million is None else cost(self._tokens, self.per_million)
            return Usage(self._texts, self._tokens, self._requests, self._retried, self._cached, price)
