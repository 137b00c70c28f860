"""Packs texts into requests, by the limits of OpenAI's API.

The limits count tokens, and exact counts need the tokenizer's tables, a download (`tokens`). Every token of a
byte-level tokenizer covers at least one byte of UTF-8, so the number of bytes is an upper bound: a request packed by
bytes is never refused for its size. For English it holds about a quarter of what would fit, which costs nothing when
several requests run concurrently. Tokens are counted only if that saves requests, or shows before sending that a text
is too long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from ...arguments import check_int
from .tokens import Counter


@dataclass(frozen=True)
class Limits:
    """The limits of a server; the defaults are OpenAI's. Raises InvalidInputError."""

    max_input_tokens: int = 8_192  # in one text
    max_request_texts: int = 2_048
    max_request_tokens: int = 300_000

    def __post_init__(self) -> None:
        for limit in fields(self):
            check_int(limit.name, getattr(self, limit.name), 1, 10**9)

    @classmethod
    def given(cls, *limits: int | None) -> "Limits":
        """OpenAI's limits, with the given ones replaced."""
        names = (field.name for field in fields(cls))
        return cls(**{name: limit for name, limit in zip(names, limits, strict=True) if limit is not None})


OPENAI = Limits()


def plan_requests(sizes: Sequence[int], limits: Limits = OPENAI) -> Iterator[range]:
    """Cut texts, by upper bounds of their tokens, into runs that fit one request; an oversized text is a run alone."""
    start = total = 0
    for index, size in enumerate(sizes):
        full = index - start == limits.max_request_texts or total + size > limits.max_request_tokens
        if full and index > start:
            yield range(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def count_tokens(texts: Sequence[str], sizes: Sequence[int], limits: Limits, counter: Counter | None) -> list[int]:
    """An upper bound of each text's tokens: their count if that helps, otherwise the bytes in ``sizes``."""
    if counter is None:
        return list(sizes)
    runs = sum(1 for _ in plan_requests(sizes, limits))
    if runs > -(-len(sizes) // limits.max_request_texts):  # fewer requests if packed by tokens
        return [counter(text) for text in texts]
    return [size if size <= limits.max_input_tokens else counter(text) for text, size in zip(texts, sizes, strict=True)]
