from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, layout
from tests import naive
from tests.kernels.given import (
    DIMS,
    FORMS,
    INTERPRETED,
    METRICS,
    assert_hits,
    damage,
    examples,
    make_accept,
    make_candidates,
    make_codes,
    make_hits,
    make_list,
    make_settings,
    no_originals,
    whole_vectors,
)

NO_BOUND = np.full((1, 100), np.inf, np.float32)  # of no candidate is it known how good it may be


def check(originals, queries, n, accept, k):
    hits = make_hits(len(queries), k)
    assert api.search_exact(queries, originals, n, accept, hits) == layout.OK
    for i, query in enumerate(queries):
        assert_hits(hits, i, naive.best_scores(query, originals, naive.accepted(accept, n), k))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", DIMS)
def test_every_dim_form_and_metric(dim, metric, form):
    rng = np.random.default_rng(dim)
    originals = naive.make_originals(whole_vectors(rng, 12, dim), form, metric)
    check(originals, whole_vectors(rng, 3, dim), 11, make_accept(rng.random(12) < 0.8), 4)


@pytest.mark.parametrize("form", FORMS)
def test_a_list_of_ordinals_takes_the_place_of_a_bitmap(form):
    """One, and more than are read at a time; those that are none are left out: they would be read from beyond."""
    n = 40 if INTERPRETED else 700
    rng = np.random.default_rng(0)
    originals, queries = (
        naive.make_originals(whole_vectors(rng, n + 9, 5), form, layout.COSINE),
        whole_vectors(rng, 2, 5),
    )
    most = np.flatnonzero(rng.random(n) < 0.9).tolist()
    for rows in ([3], most, [-2, *most, n, n + 30, 2**31 - 1], [-1], [n]):
        check(originals, queries, n, make_list(rows), 7)


@settings(max_examples=examples(60), deadline=None)
@given(
    n=st.integers(0, 40 if INTERPRETED else 400),
    m=st.integers(0, 3),
    k=st.integers(0, 30),
    density=st.sampled_from([None, 0.0, 0.05, 0.5, 1.0]),
    form=st.sampled_from(FORMS),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_sizes_and_filters(n, m, k, density, form, metric, seed):
    rng = np.random.default_rng(seed)
    originals = naive.make_originals(whole_vectors(rng, n, 3), form, metric)
    accept = make_accept(None if density is None else rng.random(n) < density)
    check(originals, whole_vectors(rng, m, 3), n, accept, k)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_real_numbers_to_float32_precision(metric, form):
    rng = np.random.default_rng(5)
    dim = 20 if INTERPRETED else 1536
    vectors = rng.standard_normal((30, dim)).astype(np.float32)
    query = rng.standard_normal((1, dim)).astype(np.float32)
    query /= np.linalg.norm(query)
    originals = naive.make_originals(vectors, form, metric)
    hits = make_hits(1, 30)
    assert api.search_exact(query, originals, 30, make_accept(None), hits) == layout.OK
    assert sorted(hits.ordinals[0].tolist()) == list(range(30))
    assert (np.diff(hits.scores[0]) <= 0).all()
    expected = [naive.score(query[0], originals, o) for o in hits.ordinals[0]]
    np.testing.assert_allclose(hits.scores[0], expected, rtol=2e-5, atol=2e-5)


def test_cosine_is_clamped_and_a_zero_vector_scores_zero():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [-3.0, -4.0]], np.float32)
    originals = naive.make_originals(vectors, layout.FLOAT32, layout.COSINE)
    hits = make_hits(1, 3)
    api.search_exact(np.array([[0.6001, 0.8001]], np.float32), originals, 3, make_accept(None), hits)
    assert hits.ordinals[0].tolist() == [0, 1, 2]
    assert hits.scores[0].tolist() == [1.0, 0.0, -1.0]


def test_an_overflowing_score_is_the_worst():
    vectors = np.array([[3e38, -3e38], [1, 1]], np.float32)
    originals = naive.make_originals(np.ones((2, 2), np.float32), layout.FLOAT32, layout.DOT)
    words = originals.records.copy()
    words.view(np.float32)[:, 8:10] = vectors
    naive.seal(words)
    words.flags.writeable = False
    hits = make_hits(1, 2)
    with np.errstate(all="ignore"):
        api.search_exact(
            np.array([[3e38, 3e38]], np.float32),
            originals._replace(records=words),
            2,
            make_accept(None),
            hits,
        )
    assert sorted(hits.ordinals[0].tolist()) == [0, 1]
    assert not np.isnan(hits.scores[0]).any()


def test_a_damaged_record_is_reported_if_accepted():
    originals = naive.make_originals(np.ones((5, 4), np.float32), layout.FLOAT32, layout.DOT)
    bad = damage(damage(originals, 3, 9, 31), 4, 0, 0)
    query = np.ones((1, 4), np.float32)
    everything, without = make_accept(None), make_accept(np.array([1, 1, 1, 0, 0], bool))
    assert api.search_exact(query, bad, 5, everything, make_hits(1, 1)) == 3
    assert api.search_exact(query, bad, 3, everything, make_hits(1, 1)) == layout.OK
    assert api.search_exact(query, bad, 5, without, make_hits(1, 1)) == layout.OK


def test_more_ordinals_than_records_or_another_dim_are_out_of_range():
    originals = naive.make_originals(np.ones((5, 4), np.float32), layout.FLOAT32, layout.DOT)
    query, accept = np.ones((1, 4), np.float32), make_accept(None)
    assert api.search_exact(query, originals, 6, accept, make_hits(1, 1)) == layout.OUT_OF_RANGE
    assert api.search_exact(np.ones((1, 5), np.float32), originals, 5, accept, make_hits(1, 1)) == -2
    assert api.search_exact(query, no_originals(4, 0), 0, accept, make_hits(1, 1)) == layout.OK


def rescore(originals, n, query, ordinals, k):
    candidates = make_candidates(1, len(ordinals) + 2)
    candidates.ordinals[0, : len(ordinals)] = ordinals
    candidates.counts[0] = len(ordinals)
    hits = make_hits(1, k)
    status, read = api.rescore(query, originals, n, candidates, NO_BOUND, 1000, hits)
    assert read == (len(ordinals) if status == layout.OK else 0)
    return status, hits


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [0, 1, 3, 9])
def test_candidates_are_rescored(k, metric, form):
    rng = np.random.default_rng(k)
    originals = naive.make_originals(whole_vectors(rng, 20, 70), form, metric)
    query = whole_vectors(rng, 1, 70)
    for ordinals in ([], [19], [7, 3, 0, 19, 11, 4]):
        status, hits = rescore(originals, 20, query, ordinals, k)
        assert status == layout.OK
        assert_hits(hits, 0, naive.best_scores(query[0], originals, ordinals, k))


@pytest.mark.parametrize("ordinal", [-1, -(2**31), 15, 20, 2**31 - 1])
def test_an_ordinal_outside_n_is_never_read(ordinal):
    originals = naive.make_originals(np.ones((20, 4), np.float32), layout.FLOAT32, layout.DOT)
    status, _ = rescore(originals, 15, np.ones((1, 4), np.float32), [2, ordinal, 3], 2)
    assert status == layout.OUT_OF_RANGE


def test_n_past_the_records_does_not_help_an_ordinal():
    originals = naive.make_originals(np.ones((20, 4), np.float32), layout.FLOAT32, layout.DOT)
    status, _ = rescore(originals, 1000, np.ones((1, 4), np.float32), [20], 2)
    assert status == layout.OUT_OF_RANGE


def test_counts_past_the_array_are_cut():
    originals = naive.make_originals(np.ones((20, 4), np.float32), layout.FLOAT32, layout.DOT)
    candidates, hits = make_candidates(1, 2), make_hits(1, 5)
    candidates.ordinals[0] = [4, 3]
    candidates.counts[0] = 1000
    assert api.rescore(np.ones((1, 4), np.float32), originals, 20, candidates, NO_BOUND, 1000, hits) == (layout.OK, 2)
    assert hits.ordinals[0].tolist() == [3, 4, -1, -1, -1]


def test_candidates_of_a_scan_can_be_rescored_later():
    rng = np.random.default_rng(3)
    vectors = whole_vectors(rng, 60, 33)
    queries = whole_vectors(rng, 3, 33)
    originals = naive.make_originals(vectors, layout.FLOAT16, layout.EUCLID)
    codes, accept = make_codes(vectors), make_accept(None)
    candidates, at_once, later = make_candidates(3, 12), make_hits(3, 5), make_hits(3, 5)
    api.search_bits(queries, codes, originals, accept, make_settings(rescoring=1), candidates, at_once)
    api.search_bits(queries, codes, originals, accept, make_settings(), candidates, later)
    assert api.rescore(queries, originals, 60, candidates, NO_BOUND, 1000, later) == (layout.OK, 36)
    np.testing.assert_array_equal(at_once.ordinals, later.ordinals)
    np.testing.assert_array_equal(at_once.scores, later.scores)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", DIMS)
def test_queries_are_prepared_as_the_naive_version_prepares_them(dim, metric):
    queries = np.random.default_rng(dim).standard_normal((3, dim)).astype(np.float32)
    out = np.full((3, dim), 77, np.float32)
    assert api.prepare(queries, metric, out) == layout.OK
    expected = [naive.prepare(query, metric) for query in queries]
    np.testing.assert_allclose(out, expected, rtol=1e-6 if metric == layout.COSINE else 0)
    assert api.prepare(queries, metric, queries) == layout.OK  # in place
    np.testing.assert_array_equal(queries, out)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of numpy, where kernels run interpreted
@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e30])
def test_a_query_that_cannot_be_computed_with_is_not_prepared(bad):
    queries = np.ones((3, 4), np.float32)
    queries[1, 2] = bad
    assert api.prepare(queries, layout.DOT, np.empty_like(queries)) == layout.BAD_QUERY
