from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import heap
from tests.kernels.given import examples

scores = st.floats(width=32, allow_nan=False).map(np.float32)


def best(pairs, size):
    keys = np.full((2, size), heap.EMPTY)
    for score, ordinal in pairs:
        heap.offer(keys, 1, heap.make_key(heap.score_to_rank(score), ordinal))
    count = heap.sort_row(keys, 1)
    assert (keys[0] == heap.EMPTY).all()
    return [(heap.rank_to_score(heap.key_rank(key)), int(heap.key_ordinal(key))) for key in keys[1, :count]]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(scores, st.integers(0, 2**31 - 1)), max_size=60), st.integers(1, 20))
def test_the_best_come_back_in_order(pairs, size):
    expected = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:size]
    assert best(pairs, size) == expected


def test_equal_scores_are_ordered_by_ordinal():
    pairs = [(np.float32(1), o) for o in (5, 3, 9, 1, 7)]
    assert [o for _, o in best(pairs, 3)] == [1, 3, 5]


def test_both_zeros_rank_alike():
    assert [o for _, o in best([(np.float32(0), 4), (np.float32(-0.0), 2)], 2)] == [2, 4]


def test_nan_is_worse_than_any_number():
    assert [o for _, o in best([(np.float32(np.nan), 1), (np.float32(-3e38), 2)], 2)] == [2, 1]
