"""Search on codes of every kind, with every encoding of a query: walk, scan, and what is read of the originals."""

from functools import cached_property

import numpy as np
import pytest

from bqstore.index import ENCODINGS, HnswGraph, Plan, Search, Work, planner
from bqstore.index.quantizer import Quantizer, values_of
from bqstore.index.threads import ALONE
from bqstore.kernels import api, layout
from bqstore.kernels.layout import COSINE, DOT, EUCLID
from tests import naive
from tests.conftest import clustered
from tests.index.given import (
    CODINGS,
    CORRECTED,
    bitmap,
    bytes_of,
    data_of,
    grow,
    lists_of,
    named,
    reached,
    records_of,
    searchable,
)

N, DIM, K, TAIL = 1200, 96, 10, 40
METRICS = (COSINE, DOT, EUCLID)
PLANES = tuple(ENCODINGS.values())
SCALAR = PLANES[1:]
every_coding = pytest.mark.parametrize("coding", CODINGS, ids=named)
every_corrected = pytest.mark.parametrize("coding", CORRECTED, ids=named)
every_metric = pytest.mark.parametrize("metric", METRICS)


class State:
    """Vectors in clusters, of any length, their codes and their graph."""

    def __init__(self, coding, metric, n=N, dim=DIM, graph=True, form=layout.FLOAT32, queries=25):
        vectors, self.queries = data_of(n, dim, queries=queries)
        lengths = np.random.default_rng(0).uniform(0.5, 2, (n, 1)).astype(np.float32)
        self.vectors = (vectors * lengths / np.float32(np.sqrt(dim))).astype(np.float32)
        self.quantizer = Quantizer.train(self.vectors, *coding, metric)
        self.words, self.metric, self.n = self.quantizer.encode(self.vectors), metric, n
        self.graph = grow(self.words, stop=n - TAIL, quantizer=self.quantizer) if graph else None
        self.records = records_of(self.vectors, form)
        made = searchable(self.words, dim, self.graph, self.records, metric=metric, quantizer=self.quantizer)
        self.data = made if form == layout.FLOAT32 else made.__class__(**{**vars(made), "form": form})

    def search(self, plan, planes, k=K, flags=None):
        accepted = self.n if flags is None else int(flags.sum())
        return Search(self.data, None if flags is None else bitmap(flags), accepted, k, plan, planes)

    def found(self, plan, planes, k=K, flags=None):
        return self.search(plan, planes, k, flags).nearest(self.queries, ALONE)

    @cached_property
    def truth(self):
        """float64 (m, n): the true scores, of unit vectors under cosine."""
        queries, vectors = (
            np.array([naive.unit(row, self.metric) for row in rows]) for rows in (self.queries, self.vectors)
        )
        if self.metric == EUCLID:
            return -np.array([np.linalg.norm(vectors - query, axis=1) for query in queries])
        return queries @ vectors.T

    def recall(self, plan, planes):
        """The part of the true nearest that are found."""
        found, truth = self.found(plan, planes)[0], self.truth
        bound = np.partition(truth, self.n - K, axis=1)[:, self.n - K]
        return float((np.take_along_axis(truth, found.astype(np.int64), 1) >= bound[:, None] - 1e-6).mean())


_states = {}


def state_of(coding, metric):
    """The state, made once."""
    if (coding, metric) not in _states:
        _states[coding, metric] = State(coding, metric)
    return _states[coding, metric]


def same(found, expected):
    """The same ordinals and scores; where two are as good as equal, in any order."""
    np.testing.assert_allclose(found[1], expected[1], rtol=2e-6, atol=2e-6)
    differing = found[0] != expected[0]
    assert differing.mean() < 0.01
    for row in np.flatnonzero(differing.any(1)):
        gaps = np.abs(np.diff(expected[1][row]))
        assert gaps.min() < 1e-5 or differing[row, -1]


@pytest.mark.sampled(3)
@every_coding
@every_metric
@pytest.mark.parametrize("planes", PLANES)
def test_a_wide_walk_is_a_scan(planes, metric, coding):
    """With and without a filter; the tail behind the graph too."""
    state = state_of(coding, metric)
    assert api.check_graph(state.graph.view) == 0
    flags = np.random.default_rng(0).random(N) < 0.5
    for accept in (None, flags):
        for rescoring in (False, True):
            plans = [Plan(way, rescoring, 40, N, N) for way in ("walk", "scan")]
            same(*(state.found(plan, planes, flags=accept) for plan in plans))
    work = Work()
    state.search(plans[0], planes).nearest(state.queries, ALONE, None, work)
    assert work.way == "walk"


@every_corrected
@every_metric
@pytest.mark.parametrize("planes", PLANES)
def test_a_scan_finds_the_best_estimates_there_are(planes, metric, coding):
    """By what the codes hold, multiplied by NumPy with the query as it is: but for what its levels lose."""
    state = state_of(coding, metric)
    values, add, factor = values_of(state.words, state.quantizer)
    mean, turns = state.quantizer.arrays.mean.astype(np.float64), state.quantizer.arrays.rotation_signs
    rotation = naive.rotation(turns)
    found, scores = state.found(Plan("scan", False, K), planes)
    agreeing = []
    for i, query in enumerate(naive.unit(query, metric) for query in state.queries):
        share = naive.share_of_mean(query, mean, metric)
        rest = rotation @ (query - share * mean)
        steps, top = 2**planes - 1, naive.corrected_top(rest, planes)
        levels = rest > 0 if planes == 1 else np.clip(np.floor((rest + top) / (2 * top) * steps + 0.5), 0, steps)
        estimates = share * add + factor * (values @ naive.decoded(levels, planes, top / steps))
        best = np.argsort(-estimates, kind="stable")[:K]
        agreeing.append(len(set(best.tolist()) & set(found[i].tolist())) / K)
        expected = [naive.score_of_estimate(estimates[o], query, mean.astype(np.float32), metric) for o in found[i]]
        np.testing.assert_allclose(scores[i], expected, rtol=1e-3, atol=2e-3)
    assert np.mean(agreeing) > 0.98  # a value between two levels may go to either


@every_coding
@every_metric
@pytest.mark.parametrize("planes", PLANES)
def test_one_by_one_and_at_once_are_the_same(planes, metric, coding):
    state = state_of(coding, metric)
    for plan in (Plan("walk", True, 30, 60, 60), Plan("walk", False, 30, 60, 60), Plan("scan", True, 30)):
        search = state.search(plan, planes)
        expected = search.nearest(state.queries, ALONE)
        for i in range(0, 25, 4):
            one = search.one(state.queries[i : i + 1])
            same(one, (expected[0][i : i + 1], expected[1][i : i + 1]))


@every_coding
@every_metric
@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("way", ["walk", "scan"])
def test_originals_asked_for_ahead_change_no_hit(way, planes, metric, coding):
    """And where estimates tell, fewer are asked for: the k best by the codes first, then those that may be better."""
    state = state_of(coding, metric)
    search = state.search(Plan(way, True, 60, 400, 400), planes)
    asked, plain, ahead = [], Work(), Work()
    expected = search.nearest(state.queries, ALONE, None, plain)
    same(search.nearest(state.queries, ALONE, asked.append, ahead), expected)
    assert ahead.way == plain.way == way
    assert abs(ahead.rescored - plain.rescored) <= 2
    for rows in asked:
        assert rows.dtype == np.int32 and rows.flags.c_contiguous and rows.shape[0] <= 25
        assert ((rows >= -1) & (rows < N)).all()
    count = sum(int((rows >= 0).sum()) for rows in asked)
    if coding[1] == "sign":
        assert count == plain.rescored == 25 * 60
    else:
        assert plain.rescored <= count <= 25 * 60
        assert asked[0].shape[1] == K
        if coding[0] == "four_bits" and planes > 1:
            assert count < 25 * 60
    by_row = {}
    for rows in asked:
        if len(rows) == 25:
            for i, row in enumerate(rows):
                by_row.setdefault(i, []).extend(row[row >= 0].tolist())
    for i, row in by_row.items():
        assert len(set(row)) == len(row) and set(expected[0][i].tolist()) <= set(row)


@every_corrected
@every_metric
@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("form", [layout.FLOAT32, layout.FLOAT16, layout.INT8])
def test_pruning_changes_no_hit(form, planes, metric, coding):
    """Also where what is kept of the originals is not quite what was encoded."""
    state = State(coding, metric, n=600, graph=False, form=form)
    search = state.search(Plan("scan", True, 100), planes)
    spared, read = Work(), Work()
    assert search.settings.prune == 1
    found = search.nearest(state.queries, ALONE, None, spared)
    search.settings = search.settings._replace(prune=0)
    expected = search.nearest(state.queries, ALONE, None, read)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert read.rescored == 25 * 100 and 25 * K <= spared.rescored <= read.rescored
    if coding[0] == "four_bits" and planes == 8:
        assert spared.rescored < 0.7 * read.rescored


@every_corrected
@every_metric
@pytest.mark.parametrize("cold", [False, True])
def test_nothing_is_pruned_by_codes_of_a_part(cold, metric, coding):
    """Their estimates bound nothing of the whole. Asked for ahead, all candidates are at once."""
    n, part = 600, DIM // 4
    base, queries = data_of(n, DIM, queries=25)
    for kept in (part, DIM):
        made = Quantizer.train(base, *coding, metric, kept)
        data = searchable(made.encode(base), DIM, None, records_of(base), metric=metric, quantizer=made)
        search, work, told = Search(data, None, n, K, Plan("scan", True, 100), 8), Work(), []
        assert search.settings.prune == (kept == DIM)
        found = search.nearest(queries, ALONE, told.append if cold else None, work)
        if kept == part:
            assert work.rescored == 25 * 100
            assert not cold or (sum((each >= 0).sum() for each in told) == 25 * 100 and len(told) == -(-25 // 16))
        everything = Search(data, None, n, K, Plan("scan", True, n), 8).nearest(queries, ALONE)
        exact = Search(data, None, n, K, Plan("exact", False, 0), 8).nearest(queries, ALONE)
        np.testing.assert_array_equal(everything[0], exact[0])
        np.testing.assert_array_equal(everything[1], exact[1])
        assert (found[1] <= exact[1]).all()


@every_corrected
@pytest.mark.parametrize("shape", ["outliers", "low rank", "heavy tails", "far from zero", "two clusters"])
@pytest.mark.parametrize("planes", SCALAR)
def test_pruning_changes_no_hit_where_dimensions_are_not_alike(planes, shape, coding):
    """Where errors are no matter of chance, as in real embeddings that are not turned."""
    rng = np.random.default_rng(1)
    n = 1500
    both = {
        "outliers": lambda: clustered(n + 25, DIM, 1) * np.where(np.arange(DIM) % 31 == 0, 12, 1),
        "low rank": lambda: clustered(n + 25, 12, 1) @ rng.standard_normal((12, DIM)),
        "heavy tails": lambda: clustered(n + 25, DIM, 1) + rng.standard_t(2, (n + 25, DIM)).clip(-30, 30),
        "far from zero": lambda: clustered(n + 25, DIM, 1) + 20 * rng.standard_normal(DIM),
        "two clusters": lambda: clustered(n + 25, DIM, 1, 2),
    }[shape]().astype(np.float32)
    base, queries = np.ascontiguousarray(both[:n]), np.ascontiguousarray(both[n:])
    for metric in METRICS:
        made = Quantizer.train(base, *coding, metric)
        data = searchable(made.encode(base), DIM, None, records_of(base), metric=metric, quantizer=made)
        search = Search(data, None, n, K, Plan("scan", True, 60), planes)
        found = search.nearest(queries, ALONE)
        search.settings = search.settings._replace(prune=0)
        expected = search.nearest(queries, ALONE)
        assert (found[0] != expected[0]).any(1).sum() <= 1, metric


@pytest.mark.sampled(2)
@every_metric
@pytest.mark.parametrize("rotate", [False, True])
def test_more_bits_and_finer_queries_find_more(rotate, metric):
    """Of the codes alone, on clustered data: by a wide margin from one bit to two, and from two to four."""
    found = {}
    for encoding in ("one_bit", "two_bits", "four_bits"):
        state = State((encoding, "rabitq", rotate), metric, n=3000, graph=False, queries=200)
        for name, planes in ENCODINGS.items():
            found[encoding, name] = state.recall(Plan("scan", False, K), planes)
    for name in ("scalar4bits", "scalar8bits"):
        assert found["one_bit", name] + 0.05 < found["two_bits", name] < found["four_bits", name] - 0.05, found
    for encoding in ("one_bit", "two_bits", "four_bits"):
        assert found[encoding, "binary"] + 0.03 < found[encoding, "scalar4bits"], found
        assert found[encoding, "scalar4bits"] < found[encoding, "scalar8bits"] + 0.02, found
    assert found["four_bits", "scalar4bits"] < found["four_bits", "scalar8bits"], found
    assert found["four_bits", "scalar8bits"] > 0.85


@every_metric
def test_two_bits_of_signs_find_more_than_one(metric):
    plan = Plan("scan", False, K)
    one, two = (
        State((encoding, "sign", False), metric, graph=False, queries=200) for encoding in ("one_bit", "two_bits")
    )
    for planes in SCALAR:
        assert two.recall(plan, planes) > one.recall(plan, planes) + 0.02


@every_coding
@every_metric
def test_a_walk_finds_nearly_what_a_scan_finds(metric, coding):
    """At the width that is usual, with the query's usual encoding."""
    state = state_of(coding, metric)
    for planes in (4, 8):
        expected = state.found(Plan("scan", False, K), planes)[0]
        found = state.found(Plan("walk", False, K, 100, 100), planes)[0]
        shared = [len(set(a) & set(b)) / K for a, b in zip(found.tolist(), expected.tolist(), strict=True)]
        assert np.mean(shared) > 0.95, planes


@pytest.fixture
def walked_if_it_may_be(monkeypatch):
    """A scan that costs a fortune: it is not taken because a collection is small."""
    monkeypatch.setattr(planner, "_SCAN_CODE", 1e12)


def planned(data, ef):
    """The way that a collection's search goes."""
    arrays, n = data.quantizer.arrays, data.n
    settings = {"planes": 8, "bits": arrays.bits, "width": arrays.width, "m": 16, "ef_construct": 64}
    settings |= {"exact": False, "full_scan_threshold": 0, "originals": False, "rescore": False, "oversampling": 1.0}
    return planner.plan(
        n=n, linked=data.linked, alike=data.alike, accepted=n, dim=data.dim, k=K, hnsw_ef=ef, **settings
    )


@pytest.mark.sampled(2)
@every_corrected
@pytest.mark.parametrize("dim", [8, *(pytest.param(dim, marks=pytest.mark.slow) for dim in (6, 16))])
def test_vectors_of_few_dimensions_share_signs_and_are_found_all_the_same(walked_if_it_may_be, dim, coding):
    """Two hundred and fifty-six lists for two thousand vectors: the first of a list is not the nearest of it."""
    for metric in METRICS:
        vectors, queries = data_of(2000, dim, queries=50)
        made = Quantizer.train(vectors, *coding, metric)
        words = made.encode(vectors)
        graph = grow(words, quantizer=made)
        data = searchable(words, dim, graph, metric=metric, quantizer=made)
        way = planned(data, 100)
        scan, walk, found = (
            Search(data, None, 2000, K, plan, 8).nearest(queries, ALONE)[1]
            for plan in (Plan("scan", False, K), Plan("walk", False, K, 100, 100), way)
        )
        # by signs, of which there are a few hundred only: a list is opened if its first is near
        by_signs = coding[0] == "one_bit" and metric == COSINE
        assert way.way == ("scan" if by_signs else "walk")
        assert (found >= scan[:, -1:] - 1e-5).mean() > 0.95, metric
        assert (walk >= scan[:, -1:] - 1e-5).mean() > (0.75 if by_signs else 0.95), metric


@pytest.mark.sampled(2)
@pytest.mark.parametrize("order", ["short first", "long first", "mixed"])
@pytest.mark.parametrize("coding", [("one_bit", "rabitq", False), ("four_bits", "rabitq", True)], ids=named)
def test_of_vectors_that_differ_in_length_alone_the_longest_are_found(walked_if_it_may_be, coding, order):
    """Under dot each counts by its length, and is a node of its own; at one bit all of a direction stood in a list."""
    both = clustered(1050, DIM, 1)
    base, queries = both[:1000], np.ascontiguousarray(both[1000:])
    factors = [0.2, 1.0, 3.0] if order != "long first" else [3.0, 1.0, 0.2]
    vectors = np.concatenate([np.float32(factor) * base for factor in factors])
    if order == "mixed":
        vectors = np.random.default_rng(0).permutation(vectors)
    made = Quantizer.train(np.concatenate([vectors, -vectors]), *coding, DOT)  # without a mean
    words = made.encode(vectors)
    graph = grow(words, quantizer=made)
    data = searchable(words, DIM, graph, metric=DOT, quantizer=made)
    way = planned(data, 64)
    scan, walk, found = (
        Search(data, None, 3000, K, plan, 8).nearest(queries, ALONE)[0].tolist()
        for plan in (Plan("scan", False, K), Plan("walk", False, K, 64, 64), way)
    )
    assert way.way == "walk"
    for ids in (found, walk):
        shared = [len(set(a) & set(b)) / K for a, b in zip(ids, scan, strict=True)]
        assert np.mean(shared) > 0.95, np.mean(shared)


@every_coding
@every_metric
def test_nearly_every_node_is_reached(metric, coding):
    """All of them, but for a few short vectors where links go by products, which are nobody's nearest."""
    state = state_of(coding, metric)
    copies = {copy for each in lists_of(state.graph).values() for copy in each}
    missing = [o for o in np.flatnonzero(~reached(state.graph)).tolist() if o not in copies]
    if metric == DOT and coding[0] in ("two_bits", "four_bits") and coding[1] == "rabitq":
        lengths = np.linalg.norm(state.vectors, axis=1)
        assert len(missing) < N / 200 and all(lengths[o] < np.median(lengths) for o in missing)
    else:
        assert not missing


@pytest.mark.sampled(3)
@every_coding
def test_any_number_of_threads_and_pieces_gives_the_same_graph(coding):
    state = state_of(coding, COSINE)
    expected = bytes_of(grow(state.words, step=500, quantizer=state.quantizer))
    assert bytes_of(grow(state.words, step=500, threads=3, quantizer=state.quantizer)) == expected


@pytest.mark.sampled(3)
@every_coding
def test_a_graph_goes_on_growing_after_it_was_restored(coding):
    state = state_of(coding, EUCLID)
    graph = grow(state.words, stop=700, quantizer=state.quantizer)
    again = HnswGraph(16, 64)
    again.restore(*graph.parts(), 700)
    for each in (graph, again):
        grow(state.words, graph=each, quantizer=state.quantizer)
    assert bytes_of(graph) == bytes_of(again)


def test_every_root_has_one_version_after_all_kinds_of_codes():
    """`direct` calls the first version without a look at the types: arrays of every quantizer are of one type."""
    for coding in CODINGS:
        for metric in METRICS:
            state = state_of(coding, metric)
            for planes in PLANES:
                exact = Plan("exact", False, 0)
                for plan in (Plan("walk", True, 20, 40, 40), Plan("scan", True, 20), Plan("scan", False, 10), exact):
                    search = state.search(plan, planes)
                    search.one(state.queries[:1])
                    search.nearest(state.queries, ALONE, lambda _: None, Work())
    assert [len(root.signatures) for root in api.ROOTS] == [1] * len(api.ROOTS)
