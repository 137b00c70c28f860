"""Documents that were added again and again under other ids do not keep better ones from being found.

Where all candidates were copies of one vector, that vector alone was compared by its original: of eighty copies each,
a third of the hits were right.
"""

import numpy as np
import pytest

from tests.conftest import clustered
from tests.engine.given import filled

K = 10
CODES = [("one_bit", "sign"), ("one_bit", "rabitq"), ("four_bits", "rabitq")]


def copied(copies, n=8000, dim=128):
    both = clustered(n // copies + 40, dim, 1)
    order = np.random.default_rng(0).permutation(n // copies * copies)
    return np.repeat(both[:-40], copies, 0)[order], np.ascontiguousarray(both[-40:])


def right(scores, best):
    """The part of the hits that are as near as the best k; which of the copies they are is all the same."""
    return (scores >= best[:, -1:] - 1e-6).mean()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("copies", [12, 80, 400])
@pytest.mark.parametrize(("encoding", "estimator"), CODES)
def test_copies_do_not_take_the_place_of_candidates(tmp_path, copies, encoding, estimator):
    base, queries = copied(copies)
    with filled(tmp_path / "store", base, encoding=encoding, estimator=estimator) as col:
        assert col.info().way == "walk"
        best = col.search_ids(queries, K, exact=True)[1]
        asked = right(col.search_ids(queries, K, oversampling=3.0)[1], best)  # what is asked for is what is done
        many = col.search_ids(queries, K)[1]
        one = np.concatenate([col.search_ids(query, K)[1] for query in queries])
        np.testing.assert_array_equal(many, one)
        assert right(many, best) >= min(1.0, asked + (0.2 if asked < 0.7 else 0.0))
        assert copies == 12 or right(many, best) >= 0.85
        half = {"filter": {"m": {"$lt": 100}}}
        best = col.search_ids(queries, K, exact=True, **half)[1]
        assert right(col.search_ids(queries, K, **half)[1], best) >= 0.85
        told = col.search(queries[0], K, explain=True).explanation
        assert told.rescored > col.search(queries[0], K, oversampling=3.0, explain=True).explanation.rescored


def test_without_copies_nothing_more_is_looked_at():
    base, queries = copied(1)
    base[: len(base) // 4] = base[0]  # as many equal ones, far from most queries
    with filled(None, base, encoding="one_bit", estimator="rabitq") as col:
        for query in queries:
            one, two = (col.search(query, K, explain=True, oversampling=o).explanation for o in (None, 3.0))
            assert one == two
