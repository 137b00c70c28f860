"""What embedding costs, as it was listed on one day. It knows names and numbers, and nothing of an account.

Prices change and differ by contract and region: the table says how old it is, the caller's own price goes before it,
and a model it does not name has no price rather than a likely one.
"""

from ...arguments import check_real
from ...errors import InvalidInputError

PRICES_AS_OF = "2026-05"  # year and month
BATCH_DISCOUNT = 0.5  # OpenAI's Batch API: half of the price, an answer within a day

# US dollars for a million tokens, from OpenAI's public price list
_LISTED = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}

_EXPECTED = "US dollars for a million tokens, 0 or more"


def price_of(model: str, batch: bool = False, *, price: float | None = None) -> float | None:
    """US dollars for a million tokens.

    Parameters
    ----------
    batch : bool              through the Batch API
    price : float, optional   what the caller pays without batches, instead of the table's

    Returns
    -------
    float or None   None for a model that the table does not name

    Raises
    ------
    InvalidInputError   the price given is negative or no number
    """
    if price is None:
        price = _LISTED.get(model)
    elif check_real("price", price, _EXPECTED) < 0:
        raise InvalidInputError(f"price is {price}; expected {_EXPECTED}")
    return price if price is None or not batch else price * BATCH_DISCOUNT


def cost(tokens: int, price: float) -> float:
    """US dollars for ``tokens``, at ``price`` for a million."""
    return tokens * price / 1_000_000
