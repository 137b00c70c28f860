"""Words of texts as sparse vectors: BM25, in which the server weighs how rare a word is (its modifier "idf").

SQLite's FTS5 splits the texts, so a word here is a word of a local collection, with each of its tokenizers. A word is
one dimension of 2**32, by a digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from ..engine.query_words import words_of
from ..storage.word_counts import word_counts
from .library import models

VECTOR: Final = "words"  # the name of the sparse vector
_K1, _B = 1.2, 0.75  # as FTS5 has them


def average(found: Sequence[Mapping[str, int]]) -> float:
    """The average number of words of the texts that have any; 0.0 where none has."""
    lengths = [sum(each.values()) for each in found if each]
    return sum(lengths) / len(lengths) if lengths else 0.0


def of_document(found: Mapping[str, int], mean: float) -> Any:
    """The sparse vector of a text; None where it has no words. ``mean`` is that of the collection."""
    length = sum(found.values())
    norm = _K1 * (1 - _B + _B * length / (mean or length or 1))
    return _vector({word: n * (_K1 + 1) / (n + norm) for word, n in found.items()})


def of_query(text: str, tokenize: str) -> tuple[list[str], Any]:
    """The words that are looked for, and the sparse vector of them; None where there are none."""
    found = list(dict.fromkeys(word for each in word_counts(words_of(text, tokenize), tokenize) for word in each))
    return found, _vector(dict.fromkeys(found, 1.0))


def _vector(weights: Mapping[str, float]) -> Any:
    by_number: dict[int, float] = {}
    for word, weight in weights.items():
        number = int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=4).digest(), "little")
        by_number[number] = by_number.get(number, 0.0) + weight
    numbers = sorted(by_number)
    return models().SparseVector(indices=numbers, values=[by_number[each] for each in numbers]) if numbers else None
