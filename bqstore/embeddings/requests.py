"""How many texts go into one request. It knows the limits of OpenAI's API and nothing of the network.

The limits count tokens, and only the tokenizer's tables, a download, would count them exactly. Every token of
a byte-level tokenizer covers at least one byte of UTF-8, so the number of bytes is never less than the number
of tokens: a request planned by bytes cannot be refused for its size. It is about a quarter of what would fit
in English, which costs nothing when several requests run at once.
"""

from collections.abc import Iterator, Sequence

from ..errors import InvalidInputError

MAX_INPUT_TOKENS = 8_192  # in one text
MAX_REQUEST_TEXTS = 2_048
MAX_REQUEST_TOKENS = 300_000


def check_texts(texts: Sequence[str]) -> list[int]:
    """Refuse what no model can embed, and measure the rest.

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
    for index, text in enumerate(texts):
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


def plan_requests(sizes: Sequence[int]) -> Iterator[range]:
    """Cut ``0 .. len(sizes)`` into runs that each fit one request; a text too big for any goes alone.

    Parameters
    ----------
    sizes : sequence of int (n,)    upper bounds of the tokens of each text
    """
    start = total = 0
    for index, size in enumerate(sizes):
        full = index - start == MAX_REQUEST_TEXTS or total + size > MAX_REQUEST_TOKENS
        if full and index > start:
            yield range(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))
