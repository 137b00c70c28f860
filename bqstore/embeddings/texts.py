"""Checks a caller's texts, given as a list or iterable, and cuts them into batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import islice

from ..errors import InvalidInputError


def check_iterable(given: object, name: str) -> None:
    """Raise InvalidInputError unless ``given`` is an iterable other than a string."""
    if isinstance(given, (str, bytes, Mapping, Set)) or not isinstance(given, Iterable):
        unordered = ", which has no order" if isinstance(given, Set) else ""
        raise InvalidInputError(
            f"{name} is of type {type(given).__name__}{unordered}; expected a list or another iterable"
        )


def as_list(texts: Iterable[str]) -> list[str]:
    """The texts as a list. Raises InvalidInputError."""
    if isinstance(texts, str):
        raise InvalidInputError("embed() takes a list of texts, not one string; use embed_query(text) or embed([text])")
    check_iterable(texts, "texts")
    return list(texts)


def enumerate_batches(texts: Iterable[str], batch: int, start: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Lists of ``batch`` texts, each with the index of its first text; the first index is ``start``."""
    check_iterable(texts, "texts")
    reading = iter(texts)
    while part := list(islice(reading, batch)):
        yield start, part
        start += len(part)


def check_texts(texts: Sequence[str], start: int = 0) -> list[int]:
    """The length of each text in UTF-8 bytes; ``start`` is the index of the first, used in messages.

    Raises InvalidInputError, with the index of a text that is not a string, is empty, or holds a lone surrogate.
    """
    sizes = []
    for index, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise InvalidInputError(f"text {index} is of type {type(text).__name__}; expected a string")
        if not text:
            raise InvalidInputError(f"text {index} is empty; an empty text has no embedding, leave it out")
        size = 0
        with suppress(UnicodeEncodeError):  # the error would show the text in tracebacks
            size = len(text.encode())
        if not size:
            raise InvalidInputError(f"text {index} holds a lone surrogate, which is not valid Unicode")
        sizes.append(size)
    return sizes
