"""What embedding some texts would take. It looks into the cache and sends nothing."""

from collections.abc import Iterable

from ..disk_cache import EmbeddingCache, KeyMaker
from ..texts import enumerate_batches, with_prefix
from .packing import plan_requests
from .prices import BATCH_DISCOUNT, cost
from .settings import Settings
from .usage import Estimate

_AT_ONCE = 20_000
_BYTES_A_TOKEN = 5  # of plain English it is 4.5, of code and other languages 2 to 4


def estimate(
    texts: Iterable[str],
    settings: Settings,
    cache: EmbeddingCache | None,
    key_of: KeyMaker,
    batch: bool,
    prefix: str = "",
) -> Estimate:
    """How many texts are cached, how many tokens and requests the rest takes, and the price.

    ``batch`` : through the Batch API, for half the price; it does not shorten long texts.

    Raises InvalidInputError if a text cannot be embedded.
    """
    n = cached = 0
    seen: set[bytes] = set()
    pending: list[int] = []
    for start, part in enumerate_batches(texts, _AT_ONCE):
        part, sizes = with_prefix(prefix, part, start)  # noqa: PLW2901
        keys = {key_of(text): at for at, text in enumerate(part)}
        new = {key: at for key, at in keys.items() if key not in seen}
        seen.update(new)
        found = set() if cache is None else set(cache.get(list(new)))
        if cache is not None and settings.variant is not None and not batch:
            variants = {key_of(part[at], settings.variant): key for key, at in new.items() if key not in found}
            found |= {variants[key] for key in cache.get(list(variants))}
        missing = sorted(at for key, at in new.items() if key not in found)
        n, cached = n + len(part), cached + len(found)
        pending += [sizes[at] if settings.counter is None else settings.counter(part[at]) for at in missing]
    requests, tokens = sum(1 for _ in plan_requests(pending, settings.limits)), sum(pending)
    exact = settings.counter is not None
    least = tokens if exact else -(-tokens // _BYTES_A_TOKEN)
    price, least_price = (
        None if settings.price is None else cost(count, settings.price * (BATCH_DISCOUNT if batch else 1))
        for count in (tokens, least)
    )
    return Estimate(n, cached, tokens, requests, price, exact, least, least_price)
