"""What embedding some texts would take. It looks into the cache and sends nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..disk_cache import EmbeddingCache
from ..texts import enumerate_batches
from .embedding_task import Side
from .packing import plan_requests
from .prices import cost
from .settings import Settings

_AT_ONCE = 20_000
_BYTES_A_TOKEN = 5  # of plain English it is 4.5, of code and other languages 2 to 4


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


def estimate(
    texts: Iterable[str], settings: Settings, cache: EmbeddingCache | None, side: Side, batch: bool
) -> Estimate:
    """How many texts are cached, how many tokens and requests the rest takes, and the price.

    ``batch`` : through the Batch API, for half the price; it does not shorten long texts.

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
