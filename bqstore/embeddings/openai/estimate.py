"""Estimates tokens, requests and price of embedding texts. It reads the cache and sends nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..disk_cache import EmbeddingCache
from ..texts import enumerate_batches
from .embedding_task import Side
from .packing import plan_requests
from .prices import cost
from .settings import Settings

_AT_ONCE = 20_000
_BYTES_A_TOKEN = 5  # plain English has 4.5, code and other languages 2 to 4


@dataclass(frozen=True)
class Estimate:
    """An estimate of embedding some texts.

    Attributes
    ----------
    texts : int             number of texts
    cached : int            distinct texts in the cache, which cost nothing
    tokens : int            tokens of the others: counted if ``exact``; otherwise their bytes, an upper bound
    requests : int          requests for the others
    price : float or None   US$; None if the model's price is not known
    exact : bool            whether the tokens were counted with the model's own tokenizer
    least_tokens : int      a low estimate: equal to ``tokens`` if ``exact``, otherwise a fifth of the bytes
    least_price : float or None   the price of these
    """

    texts: int
    cached: int
    tokens: int
    requests: int
    price: float | None
    exact: bool
    least_tokens: int
    least_price: float | None


def estimate(
    texts: Iterable[str], settings: Settings, cache: EmbeddingCache | None, side: Side, batch: bool
) -> Estimate:
    """Estimate the cached texts, the tokens and requests of the others, and the price.

    ``batch`` : with the Batch API, at half the price; it does not shorten long texts.

    Raises InvalidInputError if a text cannot be embedded.
    """
    n = cached = 0
    seen: set[bytes] = set()
    pending: list[int] = []
    for start, part in enumerate_batches(texts, _AT_ONCE):
        rows, sizes = side.rows_of(part, start)
        new = [row for row, key in enumerate(rows.keys) if key not in seen]
        seen.update(rows.keys)
        missing = rows.take_cached(cache, new)
        if settings.variant is not None and not batch:
            missing = rows.take_cached(cache, missing, settings.variant)
        n, cached = n + len(part), cached + len(new) - len(missing)
        pending += [sizes[row] if settings.counter is None else settings.counter(rows.texts[row]) for row in missing]
    requests, tokens = sum(1 for _ in plan_requests(pending, settings.limits)), sum(pending)
    exact = settings.counter is not None
    least = tokens if exact else -(-tokens // _BYTES_A_TOKEN)
    price, least_price = (cost(count, settings.price, batch) for count in (tokens, least))
    return Estimate(n, cached, tokens, requests, price, exact, least, least_price)
