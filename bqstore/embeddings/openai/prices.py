"""What embedding costs by a price list of a known date.

Prices change and differ by contract and region: the table carries its date, the caller's own price takes precedence,
and a model that the table does not name has no price rather than a guessed one.
"""

from ...arguments import check_real
from ...errors import InvalidInputError

PRICES_AS_OF = "2026-05"  # year and month
BATCH_DISCOUNT = 0.5  # OpenAI's Batch API costs half

# US dollars for a million tokens, from OpenAI's public price list
_LISTED = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}

_EXPECTED = "US dollars for a million tokens, 0 or more"


def price_of(model: str, price: float | None = None) -> float | None:
    """US dollars for a million tokens: the caller's price, or the listed one, None if there is none.

    Raises InvalidInputError if the price given is negative or not a number.
    """
    if price is None:
        return _LISTED.get(model)
    if check_real("price", price, _EXPECTED) < 0:
        raise InvalidInputError(f"price is {price}; expected {_EXPECTED}")
    return price


def cost(tokens: int, price: float | None, batch: bool = False) -> float | None:
    """US dollars for ``tokens``, at ``price`` for a million, or by the Batch API; None if the price is not known."""
    return None if price is None else tokens * price * (BATCH_DISCOUNT if batch else 1) / 1_000_000
