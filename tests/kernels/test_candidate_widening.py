"""More candidates while the last half of them brings hits: those are read that the rule names, by every root."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, layout
from bqstore.kernels.layout import COSINE, COUNT_RESCORED, DOT, EUCLID
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    FORMS,
    METRICS,
    assert_hits,
    corrected,
    damage,
    encoded_as,
    examples,
    grown,
    make_accept,
    make_candidates,
    make_codes,
    make_hits,
    make_scratch,
    make_settings,
    some_levels,
    unit_vectors,
    whole_vectors,
)

EXAMPLES = examples(300)
COUNT, DIM = 40, 16


def ranked(*scores):
    """Originals whose scores for `ASKED` are these."""
    vectors = np.zeros((len(scores), 4), np.float32)
    vectors[:, 0] = scores
    return naive.make_originals(vectors, layout.FLOAT32, DOT)


ASKED = np.array([[1, 0, 0, 0]], np.float32)


def rescored(originals, query, ordinals, first, k, bounds=None, count=None):
    """Status, how many were read, and hits of candidates in their order."""
    candidates, hits = make_candidates(1, len(ordinals)), make_hits(1, k)
    candidates.ordinals[0], candidates.counts[0] = ordinals, len(ordinals) if count is None else count
    bounds = np.full((1, len(ordinals)), np.inf, np.float32) if bounds is None else np.array([bounds], np.float32)
    status, read = api.rescore(query, originals, len(originals.records), candidates, bounds, first, hits)
    return status, read, hits


# ---- the rule

READ = [
    # scores in the candidates' order, k, first, how many are read
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 2, 4, 4),  # nothing came of the last half
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 3, 4, 8),  # the third did; of the next four none
    ([9, 8, 7, 6, 99, 4, 3, 2, 1, 0], 2, 4, 4),  # not looked at
    ([9, 8, 7, 10, 5, 4, 3, 2, 1, 0], 2, 4, 8),  # the last of the first four
    ([9, 10, 7, 6, 99, 4, 3, 2, 1, 0], 2, 4, 4),  # the second of four is of the first half
    ([9, 8, 10, 6, 5, 4, 3, 2, 1, 0], 2, 4, 8),  # the third is not
    ([9, 8, 7, 10, 11, 4, 3, 2, 1, 0], 2, 4, 10),  # of those that came on top, any
    ([9, 8, 7, 10, 5, 4, 3, 11, 1, 0], 2, 4, 10),
    ([9, 8, 7, 10, 5, 4, 3, 2, 11, 12], 2, 4, 8),
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 2, 4, 10),  # each is better than all before
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 2, 1, 10),
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 2, 1, 4),  # the first two fill the hits; the second is of the last half of three
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 5, 1, 10),
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 5, 2, 10),
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 10, 1, 10),
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 1, 3, 3),
    ([9, 9, 9, 9, 9, 9, 9, 9, 9, 9], 1, 2, 2),  # of equals the lower ordinal, which is here
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 1, 0, 2),  # no first is a first of one, and that one fills the hits
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 1, -7, 2),
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 1, 10, 10),
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 1, 11, 10),
    ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 1, 2**62, 10),
    ([9], 1, 1, 1),
    ([9, 8], 1, 1, 2),
]


@pytest.mark.parametrize(("scores", "k", "first", "read"), READ)
def test_how_many_are_read(scores, k, first, read):
    originals, order = ranked(*scores), range(len(scores))
    status, count, hits = rescored(originals, ASKED, order, first, k)
    assert (status, count) == (layout.OK, read)
    expected, _ = naive.looked_at([(score, o) for o, score in enumerate(scores)], [np.inf] * len(scores), k, first)
    assert expected == list(range(read))
    assert_hits(hits, 0, naive.best_scores(ASKED[0], originals, range(read), k))


def test_of_equals_a_lower_ordinal_is_a_hit():
    """So that more are looked at: what is found does not depend on the order they come in."""
    originals = ranked(*[5] * 9)
    status, read, hits = rescored(originals, ASKED, [8, 7, 6, 5, 4, 3, 2, 1, 0], 2, 1)
    assert (status, read, hits.ordinals[0, 0]) == (layout.OK, 9, 0)
    status, read, hits = rescored(originals, ASKED, [0, 7, 6, 5, 4, 3, 2, 1, 8], 2, 1)
    assert (status, read, hits.ordinals[0, 0]) == (layout.OK, 2, 0)


def test_what_cannot_be_a_hit_is_not_read_and_brings_none():
    originals, order = ranked(9, 8, 7, 10, 5, 4, 3, 11, 1, 0), range(10)
    many = [99.0] * 10
    assert rescored(originals, ASKED, order, 4, 2, many)[:2] == (layout.OK, 10)
    for place, read in ((3, 3), (2, 9), (7, 7)):  # the fourth is not read, and no more are; the third brings nothing
        bounds = [*many[:place], 7.5, *many[place + 1 :]]
        status, count, _ = rescored(originals, ASKED, order, 4, 2, bounds)
        assert (status, count) == (layout.OK, read), place


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    count=st.integers(0, COUNT),
    first=st.one_of(st.integers(-1, COUNT + 2), st.integers(1, 6)),
    k=st.one_of(st.integers(1, 6), st.integers(0, COUNT + 5)),
    trust=st.floats(0, 1),
    prune=st.booleans(),
    metric=st.sampled_from(METRICS),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 2**32 - 1),
)
def test_those_that_the_rule_names_are_read_and_no_others(count, first, k, trust, prune, metric, form, seed):
    """In an order that tells more or less of the scores; every other record is damaged, and nobody notices."""
    rng = np.random.default_rng(seed)
    vectors, query = whole_vectors(rng, COUNT, DIM), unit_vectors(rng, 1, DIM)
    originals = naive.make_originals(vectors, form, metric)
    query = np.array([naive.prepare(query[0], metric)])
    scores = [naive.score(query[0], originals, o) for o in range(COUNT)]
    noise = (1 - trust) * rng.standard_normal(COUNT)
    order = sorted(range(COUNT), key=lambda o: -(trust * float(scores[o]) + noise[o]))[:count]
    slack = rng.choice([0.0001, 1, np.inf], count)
    bounds = [
        np.float32(scores[o] + more) if prune else np.float32(np.inf) for o, more in zip(order, slack, strict=True)
    ]
    pairs = [(float(scores[o]), o) for o in order]
    places, looked = naive.looked_at(pairs, bounds, min(k, count), first)
    read = {order[place] for place in places}
    bad = originals
    for o in range(COUNT):
        if o not in read:
            bad = damage(bad, o, o % originals.records.shape[1], o % 32)
    status, found, hits = rescored(bad, query, order, first, k, bounds)
    assert (status, found) == (layout.OK, len(read))
    assert min(count, max(1, first)) <= looked <= count
    if not prune:
        assert found == looked
    assert_hits(hits, 0, naive.best_scores(query[0], originals, sorted(read), k))
    # the same as of all that were looked at: what was left could not have been a hit
    assert_hits(hits, 0, naive.best_scores(query[0], originals, sorted(order[:looked]), k))
    for o in sorted(read)[:3]:
        status, _, _ = rescored(damage(originals, o, 2, 7), query, order, first, k, bounds)
        assert status == o


@pytest.mark.parametrize("count", [0, 1, 5, 12, 13, 2**40])
def test_no_more_than_the_count_are_looked_at(count):
    """What stands behind it is neither read nor compared with n; a count past the array is cut."""
    originals = ranked(*range(12))
    order = np.arange(12)
    order[min(count, 12) :] = 2**31 - 1
    status, read, hits = rescored(originals, ASKED, order, 1, 12, count=count)
    assert (status, read) == (layout.OK, min(count, 12))
    assert hits.ordinals[0, : min(count, 12)].tolist() == list(range(min(count, 12)))[::-1]
    assert (hits.ordinals[0, min(count, 12) :] == -1).all()


@pytest.mark.parametrize("ordinal", [-1, -(2**31), 12, 2**31 - 1])
def test_an_ordinal_that_would_not_be_looked_at_is_still_compared_with_n(ordinal):
    originals = ranked(*range(12, 0, -1))
    for place in (0, 3, 11):
        order = list(range(12))
        order[place] = ordinal
        status, read, _ = rescored(originals, ASKED, order, 2, 1)
        assert (status, read) == (layout.OUT_OF_RANGE, 0)


@pytest.mark.parametrize("form", FORMS)
def test_damage_beyond_what_is_read_does_not_matter(form):
    """And of what is read, the first that is damaged is told; whatever comes after."""
    vectors = np.zeros((12, 4), np.float32)
    vectors[:, 0] = range(12, 0, -1)
    originals = naive.make_originals(vectors, form, DOT)
    for first, k in ((3, 1), (4, 2), (4, 3), (1, 1), (12, 1)):
        _, read, sound = rescored(originals, ASKED, range(12), first, k)
        for bad in range(12):
            status, count, hits = rescored(
                damage(originals, bad, 9 % originals.records.shape[1], 3), ASKED, range(12), first, k
            )
            if bad < read:
                assert (status, count) == (bad, bad + 1)
            else:
                assert (status, count) == (layout.OK, read)
                np.testing.assert_array_equal(hits.ordinals, sound.ordinals)
                np.testing.assert_array_equal(hits.scores, sound.scores)


def test_each_query_looks_at_as_many_as_it_needs():
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0, 1, 0, 1, 2, 2, 3, 3]] * np.arange(1, 11, dtype=np.float32)[:, None]
    originals = naive.make_originals(vectors, layout.FLOAT32, DOT)
    queries = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]] - 0.5 * np.eye(4, dtype=np.float32)[[1, 0, 3, 2]]
    candidates, hits = make_candidates(4, 10), make_hits(4, 2)
    candidates.counts[:] = 10
    total, expected = 0, []
    for i, query in enumerate(queries):
        scores = [naive.score(query, originals, o) for o in range(10)]
        order = np.random.default_rng(i).permutation(10) if i % 2 else np.argsort(scores, kind="stable")[::-1]
        candidates.ordinals[i] = order
        read, _ = naive.looked_at([(float(scores[o]), int(o)) for o in order], [np.inf] * 10, 2, 3)
        total += len(read)
        expected.append(naive.best_scores(query, originals, order[: len(read)].tolist(), 2))
    bounds = np.full((1, 10), np.inf, np.float32)
    assert api.rescore(queries, originals, 10, candidates, bounds, 3, hits) == (layout.OK, total)
    for i in range(4):
        assert_hits(hits, i, expected[i])


# ---- by a scan and by a walk


class Given:
    """Vectors, their codes, originals and a graph; and queries."""

    def __init__(self, n=60, dim=33, metric=DOT, form=layout.FLOAT32, seed=0):
        rng = np.random.default_rng(seed)
        self.vectors, self.queries, self.metric, self.dim = (
            whole_vectors(rng, n, dim),
            unit_vectors(rng, 3, dim),
            metric,
            dim,
        )
        self.codes = make_codes(self.vectors)
        self.originals = naive.make_originals(self.vectors, form, metric)
        self.graph = grown(self.codes, 4, 40, some_levels(rng, n, 3))
        self.accept = make_accept(rng.random(n) < 0.8)

    def expected(self, query, encoding, most, first, k):
        """Which are read, by ordinal, and the hits: of the nearest codes."""
        order = [o for _, o in naive.nearest_codes(query, self.codes, self.accept, most, encoding)]
        prepared = naive.prepare(query, self.metric)
        scores = [(float(naive.score(prepared, self.originals, o)), o) for o in order]
        places, _ = naive.looked_at(scores, [np.inf] * len(order), k, first)
        read = [order[place] for place in places]
        return read, naive.best_scores(prepared, self.originals, read, k)

    def scan(self, way, k, originals=None, wide=None):
        candidates, hits = (
            make_candidates(3, max(way.max_candidates, way.candidates) if wide is None else wide),
            make_hits(3, k),
        )
        queries = np.array([naive.prepare(query, self.metric) for query in self.queries])
        held = self.originals if originals is None else originals
        status, read = api.search_bits(queries, self.codes, held, self.accept, way, candidates, hits)
        return status, read, hits

    def walk(self, way, k, originals=None, found=None):
        n = len(self.codes.words)
        max_beam = max(way.max_candidates, way.candidates) if found is None else found
        scratch, hits = make_scratch(n, 1, 4, way.max_beam, max_beam, k, self.dim), make_hits(3, k)
        held = self.originals if originals is None else originals
        status = api.search_graph(self.queries, self.codes, self.graph, held, self.accept, way, scratch, hits)
        return status, int(scratch.counters[COUNT_RESCORED]), hits


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("metric", METRICS)
def test_a_scan_and_a_walk_read_what_the_rule_names(metric, encoding):
    """A walk whose beam holds all finds the candidates of a scan, and reads as many of them."""
    state = Given(60, 33, metric)
    for first, most, k in itertools.product((1, 4, 9), (0, 4, 12, 36), (1, 3, 9)):
        if first < k:
            continue
        wide = max(first, most)
        way = make_settings(60, 60, first, 1, encoding)._replace(max_candidates=most)
        total = 0
        outcomes = state.scan(way, k, wide=wide), state.walk(way, k)
        for i, query in enumerate(state.queries):
            read, hits = state.expected(query, encoding, wide, first, k)
            assert min(first, wide) <= len(read) <= wide
            total += len(read)
            for _, _, found in outcomes:
                assert_hits(found, i, hits)
        assert [outcome[:2] for outcome in outcomes] == [(layout.OK, total)] * 2, (first, most, k)


def test_without_more_all_candidates_are_read():
    """``most`` of 0, or of less than the candidates: as it was."""
    state = Given()
    for most in (0, 1, 8, 12):
        way = make_settings(60, 60, 12, 1)._replace(max_candidates=most)
        assert state.walk(way, 3)[:2] == (layout.OK, 36)
    assert state.scan(make_settings(60, 60, 0, 1), 3, wide=12)[:2] == (layout.OK, 36)


def test_no_more_than_there_is_room_for_in_the_scratch():
    state = Given()
    way = make_settings(60, 60, 4, 1)._replace(max_candidates=2**40)
    for max_beam in (4, 5, 9, 48):
        status, read, _ = state.walk(way, 4, found=max_beam)
        assert status == layout.OK and 12 <= read <= 3 * max_beam
    state.accept = make_accept(np.arange(60) < 6)  # and no more than there are
    assert state.walk(way, 4, found=48)[:2] == (layout.OK, 18)


def test_fewer_than_max_candidates_are_enough():
    """Only fewer than the candidates are."""
    state = Given()
    for accepted in (4, 5, 11):
        state.accept = make_accept(np.arange(60) < accepted)
        for candidates, expected in ((4, layout.OK), (5, layout.TOO_FEW if accepted < 5 else layout.OK)):
            way = make_settings(60, 60, candidates, 1)._replace(max_candidates=20)
            assert state.walk(way, 4)[0] == expected


def test_without_rescoring_max_candidates_are_returned():
    """To be rescored later: the nearest, as many as there may be."""
    state = Given()
    way = make_settings(60, 60, 4, 0)._replace(max_candidates=20)
    status, read, hits = state.walk(way, 20)
    assert (status, read) == (layout.OK, 0)
    for i, query in enumerate(state.queries):
        nearest = [o for _, o in naive.nearest_codes(query, state.codes, state.accept, 20)]
        assert hits.ordinals[i].tolist() == nearest
    status, read, hits = state.walk(way, 30)
    assert status == layout.OK and (hits.ordinals[:, 20:] == -1).all() and (hits.ordinals[:, :20] >= 0).all()


@pytest.mark.parametrize("metric", [COSINE, EUCLID])
def test_damage_is_reported_when_it_is_read_and_only_then(metric):
    state = Given(40, 24, metric, layout.FLOAT16)
    state.queries = state.queries[:1].copy()
    way = make_settings(40, 40, 4, 1)._replace(max_candidates=30)
    read, hits = state.expected(state.queries[0], layout.BINARY, 30, 4, 3)
    assert len(read) < 30
    for o in range(40):
        bad = damage(state.originals, o, o % state.originals.records.shape[1], o % 32)
        status, _, found = state.walk(way, 3, bad)
        assert status == (o if o in read else layout.OK)
        if status == layout.OK:
            assert_hits(found, 0, hits)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_with_estimates_max_candidates_is_still_the_limit(bits):
    """Sparing and more at once: what cannot be a hit is not read, and brings no more."""
    rng = np.random.default_rng(bits)
    vectors = rng.standard_normal((80, 40)).astype(np.float32)
    codes = encoded_as(corrected(bits, np.zeros(40, np.float32)), vectors, DOT)
    codes = codes._replace(quantizer=codes.quantizer._replace(error_scales=np.array([0.3, 0.3], np.float32)))
    originals, query = naive.make_originals(vectors, layout.FLOAT32, DOT), vectors[:1].copy()
    candidates, told = make_candidates(1, 60), make_hits(1, 60)
    way = layout.SearchSettings(0, 0, 6, 0, layout.SCALAR_8_BITS, 1, 60)
    api.search_bits(query, codes, originals, make_accept(None), way, candidates, told)
    order, bounds = candidates.ordinals[0].tolist(), told.scores[0].tolist()
    pairs = [(float(naive.score(query[0], originals, o)), o) for o in order]
    expected, looked = naive.looked_at(pairs, bounds, 4, 6)
    hits = make_hits(1, 4)
    status, read = api.search_bits(
        query, codes, originals, make_accept(None), way._replace(rescoring=1), candidates, hits
    )
    assert status == layout.OK and abs(read - len(expected)) <= 1  # a bound that agrees to the last bit or so
    best = naive.best_scores(query[0], originals, [order[place] for place in expected], 4)
    assert hits.ordinals[0].tolist() == [o for _, o in best]
    assert 6 <= looked <= 60
