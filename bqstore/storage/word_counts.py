"""Counts of words in texts outside of any catalogue, split by FTS5 as a text index splits them."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import cache

from .text_index import TOKENIZERS, check_available

_available = cache(check_available)


def word_counts(texts: Sequence[str], tokenize: str) -> list[Counter[str]]:
    """How often each word occurs in each of some texts. Raises StorageError where SQLite lacks the tokenizer."""
    out: list[Counter[str]] = [Counter() for _ in texts]
    if not texts:
        return out
    _available(tokenize)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            f"CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='{TOKENIZERS[tokenize]}')"
        )
        connection.execute("CREATE VIRTUAL TABLE found USING fts5vocab(words, 'instance')")
        connection.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", enumerate(texts))
        for at, word, n in connection.execute("SELECT doc, term, count(*) FROM found GROUP BY doc, term"):
            out[at][word] = n
    return out
