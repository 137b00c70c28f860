"""How many texts go into one request. It knows the limits of OpenAI's API and nothing of the network.

The limits count tokens, and only the tokenizer's tables, a download, would count them exactly (`tokens`). Every token
of a byte-level tokenizer covers at least one byte of UTF-8, so the number of bytes is never less than the number
of tokens: a request planned by bytes cannot be refused for its size. It is about a quarter of what would fit
in English, which costs nothing when several requests run at once. Tokens are counted only where that lets more
texts into a request, or tells before sending that a text is too long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...arguments import check_int
from ...errors import InvalidInputError
from .tokens import Counter

MAX_INPUT_TOKENS = 8_192  # in one text
MAX_REQUEST_TEXTS = 2_048
MAX_REQUEST_TOKENS = 300_000


@dataclass(frozen=True)
class Limits:
    """What a server takes: tokens in a text, texts in a request, tokens in a request."""

    input_tokens: int
    texts: int
    tokens: int

    @classmethod
    def of(cls, input_tokens: int | None, texts: int | None, tokens: int | None) -> "Limits":
        """OpenAI's where None is given."""
        given = (input_tokens, texts, tokens)
        for name, value in zip(("max_input_tokens", "max_request_texts", "max_request_tokens"), given, strict=True):
            if value is not None:
                check_int(name, value, 1, 10**9)
        own = (MAX_INPUT_TOKENS, MAX_REQUEST_TEXTS, MAX_REQUEST_TOKENS)
        return cls(*(fallback if value is None else value for value, fallback in zip(given, own, strict=True)))


def check_texts(texts: Sequence[str], start: int = 0) -> list[int]:
    """Refuse what no model can embed, and measure the rest.

    Parameters
    ----------
    texts : sequence of str
    start : int           the index of the first, when these are a part of more

    Returns
    -------
    list[int]   bytes of each text in UTF-8: at least its number of tokens

    Raises
    ------
    InvalidInputError   a text is not a string, is empty, or holds a lone surrogate; it is named by its index
    """
    if isinstance(texts, str):
        raise InvalidInputError("embed() takes a list of texts, not one string; use embed_query(text) or embed([text])")
    sizes = []
    for index, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise InvalidInputError(f"text {index} is a {type(text).__name__}; a string was expected")
        if not text:
            raise InvalidInputError(f"text {index} is empty; an empty text has no embedding, leave it out")
        try:
            sizes.append(len(text.encode()))
        except UnicodeEncodeError:
            pass  # raised below, not here: the UnicodeEncodeError would carry the text along
        else:
            continue
        raise InvalidInputError(f"text {index} holds a lone surrogate, which is not valid Unicode")
    return sizes


def plan_requests(sizes: Sequence[int], limits: Limits | None = None) -> Iterator[range]:
    """Cut ``0 .. len(sizes)`` into runs that each fit one request; a text too big for any goes alone.

    Parameters
    ----------
    sizes : sequence of int (n,)    upper bounds of the tokens of each text
    """
    limits = limits or Limits.of(None, None, None)
    start = total = 0
    for index, size in enumerate(sizes):
        full = index - start == limits.texts or total + size > limits.tokens
        if full and index > start:
            yield range(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def measure(texts: Sequence[str], sizes: Sequence[int], limits: Limits, counter: Counter | None) -> list[int]:
    """The tokens of each text, counted where it helps; its bytes, an upper bound, elsewhere."""
    if counter is None:
        return list(sizes)
    runs = sum(1 for _ in plan_requests(sizes, limits))
    if runs > -(-len(sizes) // limits.texts):  # counted, more would fit
        return [counter(text) for text in texts]
    return [size if size <= limits.input_tokens else counter(text) for text, size in zip(texts, sizes, strict=True)]
