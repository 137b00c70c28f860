"""Texts and their vectors: equal ones share a row until they are handed over in the order of the texts."""

import numpy as np
import pytest

from bqstore.embeddings import EmbeddingCache
from bqstore.embeddings.disk_cache import KeyMaker
from bqstore.embeddings.text_rows import TextRows

KEY_OF = KeyMaker("there", "m", None)


@pytest.mark.parametrize("different", [1, 7, 3_000, 9_000])
def test_equal_texts_anywhere_among_many_have_one_vector(different):
    """More of them than are copied at once: a row is read before another is written over it."""
    numbers = np.random.default_rng(1).integers(0, different, 5_000).tolist()
    rows = TextRows([f"text {n}" for n in numbers], KEY_OF)
    assert len(rows.texts) == len(set(numbers)) and [numbers[at] for at in rows.first] == list(dict.fromkeys(numbers))
    for row in reversed(rows.lacking()):
        rows.put([row], np.array([[numbers[rows.first[row]], 1]], np.float32))
    assert rows.lacking() == [] and rows.complete() == 5_000
    np.testing.assert_array_equal(rows.hand_over(), [[n, 1] for n in numbers])
    assert rows.vectors is None and len(rows.lacking()) == len(set(numbers))


def test_what_a_cache_has_is_taken_under_the_name_of_what_was_done_to_the_text(tmp_path):
    cache, texts = EmbeddingCache(tmp_path), ["a", "b", "c", "a"]
    cache.put([KEY_OF("a"), KEY_OF("b", "truncate 5"), KEY_OF("c")], np.ones((3, 2), np.float32))
    cache.put([KEY_OF("c")], np.ones((1, 3), np.float32))  # of another dimension, and so another model's
    rows = TextRows(texts, KEY_OF, 2)
    assert rows.take_cached(None) == [0, 1, 2] and rows.take_cached(cache) == [1, 2]
    assert rows.take_cached(cache, variant="truncate 5") == [2] == rows.lacking() and rows.complete() == 2
