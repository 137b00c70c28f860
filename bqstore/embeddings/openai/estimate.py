"""What embedding some texts would take. It looks into the cache and sends nothing."""

from collections.abc import Iterable

from ..cache import EmbeddingCache, KeyMaker
from .packing import check_texts, measure, plan_requests
from .prices import BATCH_DISCOUNT, cost
from .requester import Settings
from .stream import enumerate_batches
from .usage import Estimate

_AT_ONCE = 20_000


def estimate(
    texts: Iterable[str],
    settings: Settings,
    cache: EmbeddingCache | None,
    key_of: KeyMaker,
    per_million: float | None,
    batch: bool,
) -> Estimate:
    """How many texts are cached, how many tokens and requests the rest takes, and the price.

    Parameters
    ----------
    per_million : float or None     US$ for a million tokens, one request at a time
    batch : bool                    through the Batch API, for half of it; there long texts are not shortened

    Raises InvalidInputError if a text cannot be embedded.
    """
    n = cached = tokens = 0
    seen: set[bytes] = set()
    pending: list[int] = []
    for start, part in enumerate_batches(texts, _AT_ONCE):
        sizes = check_texts(part, start)
        keys = {key_of(text): at for at, text in enumerate(part)}
        new = {key: at for key, at in keys.items() if key not in seen}
        seen.update(new)
        found = set() if cache is None else set(cache.get(list(new)))
        if cache is not None and settings.how is not None and not batch:
            how = {key_of(part[at], settings.how): key for key, at in new.items() if key not in found}
            found |= {how[key] for key in cache.get(list(how))}
        missing = sorted(at for key, at in new.items() if key not in found)
        n, cached = n + len(part), cached + len(found)
        counts = [sizes[at] for at in missing]
        if settings.counter is not None:
            tokens += sum(settings.counter(part[at]) for at in missing)
        else:
            tokens += sum(counts)
        pending += measure([part[at] for at in missing], counts, settings.limits, settings.counter)
    requests = sum(1 for _ in plan_requests(pending, settings.limits))
    price = None if per_million is None else cost(tokens, per_million * (BATCH_DISCOUNT if batch else 1))
    return Estimate(n, cached, tokens, requests, price, settings.counter is not None)
