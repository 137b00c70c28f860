"""Recall of the codes alone on real embeddings, against the same made with numpy (`reference.json` beside the data)."""

import json

import numpy as np
import pytest

from bqstore.index import ENCODINGS, Plan, Quantizer, Search, Work
from bqstore.index.threads import ALONE
from bqstore.kernels.layout import COSINE
from tests.conftest import DATA
from tests.index.given import records_of, searchable

MORE = ("openai_3small_1536", "openai_ada002_1536", "openai_3large_3072", "mpnet_base_v2_768")
K = 10
SOME = 300  # queries, where that many tell enough
every_set = pytest.mark.parametrize(
    "name", ["minilm_l6_v2_384", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)


class Measured:
    """A set of embeddings and its true nearest."""

    def __init__(self, base, queries):
        self.base, self.queries = np.ascontiguousarray(base), np.ascontiguousarray(queries)
        self.truth = np.argpartition(-(queries @ base.T), K, axis=1)[:, :K]

    def codes(self, encoding, estimator, rotate=False, records=False):
        """The codes of the set; its originals too, if they are asked for."""
        made = Quantizer.train(self.base, encoding, estimator, rotate, COSINE)
        kept = records_of(self.base) if records else None
        return searchable(made.encode(self.base), self.base.shape[1], None, kept, metric=COSINE, quantizer=made)

    def recall(self, found):
        """The part of the true nearest that are among those found."""
        return float(
            np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), self.truth.tolist(), strict=False)])
        )

    def raw(self, data, query_encoding, queries=None):
        """Recall of the codes alone, over the first of the queries."""
        search = Search(data, None, data.n, K, Plan("scan", False, K), ENCODINGS[query_encoding])
        return self.recall(search.nearest(self.queries[:queries], ALONE)[0])


@pytest.fixture(scope="module")
def measured(embeddings):
    """Each set, loaded once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded.clear()  # one at a time in memory
            loaded[name] = Measured(*embeddings(f"{name}.npz"))
        return loaded[name]

    return load


def reference(name, way):
    """What numpy finds without rescoring."""
    found = json.loads((DATA / "reference.json").read_text())[f"{name}.npz"]
    return found["recall@10 at oversampling 1,2,3,4,8 after exact rescoring"][way][0]


@pytest.mark.slow
@every_set
@pytest.mark.long
def test_one_bit_is_as_good_as_numpy_makes_it(measured, name):
    """Signs to the last query; with a finer query, and corrected, as good as a query of floats but for its levels."""
    given = measured(name)
    signs = given.codes("one_bit", "sign")
    assert given.raw(signs, "binary") == pytest.approx(reference(name, "sign"), abs=0.002)
    fine = given.raw(signs, "scalar8bits")
    assert fine == pytest.approx(reference(name, "sign, float query"), abs=0.01)
    expected = reference(name, "centred with both corrections, float query")
    data = given.codes("one_bit", "rabitq")
    for query_encoding in ("scalar4bits", "scalar8bits"):
        found = given.raw(data, query_encoding)
        assert found == pytest.approx(expected, abs=0.01), query_encoding
        assert found > fine, query_encoding


@pytest.mark.slow
@every_set
def test_rotation_costs_nothing_and_more_bits_find_more(measured, name):
    given = measured(name)
    found = {}
    for rotate in (False, True):
        for encoding in ("one_bit", "two_bits", "four_bits"):
            found[encoding, rotate] = given.raw(given.codes(encoding, "rabitq", rotate), "scalar8bits", SOME)
        assert found["one_bit", rotate] + 0.02 < found["two_bits", rotate] < found["four_bits", rotate] - 0.02, found
        assert found["four_bits", rotate] > 0.94
    for encoding in ("one_bit", "two_bits", "four_bits"):
        assert found[encoding, True] > found[encoding, False] - 0.01, found
    one, two = (given.raw(given.codes(encoding, "sign"), "scalar8bits", SOME) for encoding in ("one_bit", "two_bits"))
    assert two > one - 0.01


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("encoding", ["one_bit", "two_bits", "four_bits"])
@every_set  # the last one, so that each set is loaded once
@pytest.mark.long
def test_pruning_changes_no_hit(measured, encoding, rotate, name):
    """Though the errors of real embeddings are no matter of chance, where they are not turned."""
    given = measured(name)
    queries = given.queries[:SOME]
    data = given.codes(encoding, "rabitq", rotate, records=True)
    for query_encoding in ENCODINGS:
        search = Search(data, None, data.n, K, Plan("scan", True, 50), ENCODINGS[query_encoding])
        work = Work()
        found = search.nearest(queries, ALONE, None, work)[0]
        search.settings = search.settings._replace(prune=0)
        expected = search.nearest(queries, ALONE)[0]
        assert (found != expected).any(1).sum() <= 1, query_encoding
        if encoding == "four_bits" and query_encoding == "scalar8bits":
            assert work.rescored < 0.6 * 50 * len(queries)
