"""From what a user types to an expression of FTS5: its words, each quoted, so that none is taken for an operator."""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

MOST_WORDS: Final = 256  # different words of a query; further ones are left out
_PIECE: Final = 3  # characters of a trigram


def words_of(text: str, tokenize: str) -> list[str]:
    """The different words of a text in their order; with the tokenizer "trigram" its pieces of three characters."""
    found: dict[str, str] = {}
    for word in _trigrams(text) if tokenize == "trigram" else _words(text):
        found.setdefault(word.casefold(), word)
        if len(found) == MOST_WORDS:
            break
    return list(found.values())


def any_of(words: Iterable[str]) -> str:
    """The expression of what has at least one of the words."""
    return " OR ".join('"{}"'.format(word.replace('"', '""')) for word in words)


def _words(text: str) -> Iterator[str]:
    """Runs of letters, digits and marks. FTS5 splits them further where it sees a separator, and finds the phrase."""
    start = -1
    for at, char in enumerate(text):
        if char.isalnum() or unicodedata.category(char)[0] in "LNM" or unicodedata.category(char) == "Co":
            start = at if start < 0 else start
        elif start >= 0:
            yield text[start:at]
            start = -1
    if start >= 0:
        yield text[start:]


def _trigrams(text: str) -> Iterator[str]:
    for run in text.split():
        for at in range(len(run) - _PIECE + 1):
            if "\0" not in run[at : at + _PIECE]:
                yield run[at : at + _PIECE]
