"""Qdrant's two bits and one and a half: three levels a value, by its dimension's mean and deviation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqstore.kernels import api, layout
from bqstore.kernels.layout import ONE_AND_HALF_BITS, TWO_BITS
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    FORMS,
    INTERPRETED,
    METRICS,
    assert_code_hits,
    assert_hits,
    distances_from,
    encoded_as,
    encoded_query,
    examples,
    grown,
    make_accept,
    make_candidates,
    make_hits,
    make_scratch,
    make_settings,
    no_originals,
    signs,
    some_levels,
    three_levels,
    unit_vectors,
    whole_vectors,
)

KINDS = (ONE_AND_HALF_BITS, TWO_BITS)
DIMS = (1, 2, 3, 21, 42, 43, 63, 64, 65) if INTERPRETED else (1, 2, 3, 21, 42, 43, 63, 64, 65, 127, 384, 1000, 1536)
every_kind = pytest.mark.parametrize("kind", KINDS)
BOUND = np.float32(2 / 3)


def trained(rng, kind, dim):
    """A quantizer of any means and deviations, some of them too small to count."""
    mean = (0.3 * rng.standard_normal(dim)).astype(np.float32)
    deviation = rng.uniform(0.1, 3, dim).astype(np.float32)
    deviation[rng.random(dim) < 0.1] = 0
    deviation[rng.random(dim) < 0.1] = 1e-7
    return three_levels(kind, mean, deviation)


def whole(rng, kind, dim):
    """A quantizer whose bounds lie between whole numbers."""
    mean = rng.integers(-1, 2, dim).astype(np.float32)
    return three_levels(kind, mean, rng.choice(np.array([0, 1, 2], np.float32), dim))


def assert_packed(quantizer, vectors):
    expected = naive.pack_three_levels(vectors, quantizer.mean, quantizer.deviation, quantizer.kind)
    found = encoded_as(quantizer, vectors).words
    assert found.shape == (len(vectors), layout.words_per_code(vectors.shape[1], quantizer.kind))
    np.testing.assert_array_equal(found, expected)


@every_kind
@pytest.mark.parametrize("dim", DIMS)
def test_codes_are_those_of_the_naive_version(dim, kind):
    rng = np.random.default_rng(dim)
    assert_packed(trained(rng, kind, dim), rng.standard_normal((5, dim)).astype(np.float32))
    assert_packed(whole(rng, kind, dim), whole_vectors(rng, 5, dim))


@every_kind
def test_under_cosine_codes_are_those_of_unit_vectors(kind):
    rng = np.random.default_rng(0)
    quantizer = trained(rng, kind, 16)
    vectors = unit_vectors(rng, 5, 16)  # of length 4: scaled exactly
    expected = naive.pack_three_levels(vectors / 4, quantizer.mean, quantizer.deviation, kind)
    np.testing.assert_array_equal(encoded_as(quantizer, vectors, layout.COSINE).words, expected)
    assert (encoded_as(quantizer, vectors).words != expected).any()


def bits_of(values, mean, deviation, kind):
    """The bits of the code of a few values, as text: first bits, then second ones."""
    array = [np.array(part, np.float32) for part in (values, mean, deviation)]
    code = encoded_as(three_levels(kind, *array[1:]), array[0][None]).words[0]
    return "".join(str(naive.bit_of(code, j)) for j in range(layout.lanes_of(len(values), kind)))


def test_below_the_middle_is_00_in_it_10_and_above_it_11():
    below, above = np.nextafter(BOUND, np.float32(0)), np.nextafter(BOUND, np.float32(1))
    for value, expected in (
        *((-5, "00"), (-above, "00"), (-BOUND, "00"), (-below, "10"), (-0.0, "10"), (0, "10")),
        *((below, "10"), (BOUND, "11"), (above, "11"), (5, "11"), (1e30, "11"), (-1e30, "00")),
    ):
        assert bits_of([value], [0], [1], TWO_BITS) == expected, value
        assert bits_of([value], [0], [1], ONE_AND_HALF_BITS) == expected
    assert bits_of([8.5, 9.5, 10.4, 11], [9.5] * 4, [1] * 4, TWO_BITS) == "0111" + "0011"


def test_a_dimension_that_does_not_vary_has_its_sign_and_no_second_bit():
    """How little is none is for `Quantizer` to say."""
    assert bits_of([-1, 0, 1e-30, 5], [3] * 4, [0] * 4, TWO_BITS) == "0011" + "0000"
    assert bits_of([4, 4], [3, 3], [0, 1.2e-7], TWO_BITS) == "11" + "01"
    assert bits_of([1e-30, 1e-30], [0, 0], [0, 1e-30], TWO_BITS) == "11" + "01"


def test_one_and_a_half_bits_are_the_examples_of_qdrant():
    """Of its source: [1,0] and [1,1] make [1,1,1]; [0,0] and [1,0] make [0,1,0]. An odd one stays alone."""
    low, middle, high = -1, 0, 1
    assert bits_of([middle, high], [0, 0], [1, 1], ONE_AND_HALF_BITS) == "111"
    assert bits_of([low, middle], [0, 0], [1, 1], ONE_AND_HALF_BITS) == "010"
    assert (
        bits_of([high, low, low, high, high, high, middle], [0] * 7, [1] * 7, ONE_AND_HALF_BITS) == "1001111" + "1110"
    )
    assert bits_of([low, low, high], [0] * 3, [1] * 3, ONE_AND_HALF_BITS) == "001" + "01"


@every_kind
@settings(max_examples=examples(100), deadline=None)
@given(
    vectors=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 70)),
        elements=st.floats(-(2.0**60), 2.0**60, width=32),
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_vectors_pack_as_the_naive_version_packs_them(kind, vectors, seed):
    assert_packed(trained(np.random.default_rng(seed), kind, vectors.shape[1]), vectors)


@every_kind
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("metric", [layout.DOT, layout.EUCLID])
@pytest.mark.parametrize("dim", DIMS)
def test_queries_are_encoded_as_those_of_the_naive_version(dim, metric, encoding, kind):
    """As a vector is, or as levels: once more for the second bits, or the larger of each two."""
    rng = np.random.default_rng(dim)
    quantizer = whole(rng, kind, dim)
    for query in whole_vectors(rng, 3, dim):
        held = encoded_query(quantizer, query, encoding, metric)
        expected = naive.query_levels(query, quantizer, encoding, metric)
        np.testing.assert_array_equal(held.planes[:encoding], naive.planes_of(expected, encoding))
        assert (held.encoding, held.bits, held.width, held.corrected) == (encoding, 1, quantizer.width, 0)
        steps = 2**encoding - 1
        assert held.top == steps * quantizer.lanes
        assert held.square == sum((2 * level - steps) ** 2 for level in expected)
        step = naive.step_of(naive.extended(query, kind), encoding, metric, kind)
        assert 2 * held.half == pytest.approx(step, rel=1e-6)


@every_kind
def test_a_scalar_query_is_not_measured_by_means_and_deviations(kind):
    rng = np.random.default_rng(0)
    query = rng.standard_normal(70).astype(np.float32)
    one, other = (encoded_query(trained(rng, kind, 70), query, layout.SCALAR_8_BITS) for _ in range(2))
    assert (one.planes == other.planes).all()


@every_kind
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("metric", METRICS)
def test_a_scan_finds_the_nearest_codes_with_their_scores(metric, encoding, kind):
    for dim in DIMS[:8:2]:
        rng = np.random.default_rng(dim)
        vectors, queries = whole_vectors(rng, 30, dim), unit_vectors(rng, 2, dim)
        codes = encoded_as(whole(rng, kind, dim), vectors, spare=3)
        accept = make_accept(rng.random(30) < 0.8)
        candidates, hits = make_candidates(2, 12), make_hits(2, 5)
        way = make_settings(encoding=encoding)
        found = api.search_bits(queries, codes, no_originals(dim, metric), accept, way, candidates, hits)
        assert found == (layout.OK, 0)
        for i, query in enumerate(queries):
            near = naive.nearest_codes(query, codes, accept, 12, encoding, metric)
            assert list(zip(candidates.distances[i], candidates.ordinals[i], strict=True))[: len(near)] == near
            assert_code_hits(hits, i, query, codes, [o for _, o in near[:5]], encoding, metric)


@every_kind
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_walk_finds_what_a_scan_finds_and_rescores_it(encoding, form, kind):
    """Sparing or not: nothing is known of how wrong such a code is, and all candidates are read."""
    n, dim, metric = 40 if INTERPRETED else 200, 30, layout.DOT
    rng = np.random.default_rng(1)
    vectors, query = whole_vectors(rng, n, dim), unit_vectors(rng, 1, dim)
    codes, originals = encoded_as(whole(rng, kind, dim), vectors), naive.make_originals(vectors, form, metric)
    graph = grown(codes, 4, 30, some_levels(rng, n, 3), n - 5)
    assert api.check_graph(graph) == 0
    for rescoring, prune in ((0, 0), (1, 0), (1, 1)):
        way = make_settings(n, n, 12, rescoring, encoding, prune)
        scratch, hits = make_scratch(n, codes.words.shape[1], 4, n, 12, 5, dim), make_hits(1, 5)
        assert api.search_graph(query, codes, graph, originals, make_accept(None), way, scratch, hits) == layout.OK
        near = [o for _, o in naive.nearest_codes(query[0], codes, make_accept(None), 12, encoding, metric)]
        assert scratch.counters[layout.COUNT_RESCORED] == 12 * rescoring
        if rescoring:
            assert_hits(hits, 0, naive.best_scores(query[0], originals, near, 5))
        else:
            assert_code_hits(hits, 0, query[0], codes, near[:5], encoding, metric)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_two_bits_tell_more_than_one(encoding):
    """The order of codes by distance, against that of the true products."""
    rng = np.random.default_rng(2)
    dim, n = 64 if INTERPRETED else 384, 60 if INTERPRETED else 400
    vectors, queries = (rng.standard_normal((count, dim)).astype(np.float32) for count in (n, 8))
    found = []
    for quantizer in (signs(dim), three_levels(TWO_BITS, vectors.mean(0), vectors.std(0))):
        codes = encoded_as(quantizer, vectors)
        found.append([])
        for query in queries:
            distances = distances_from(encoded_query(quantizer, query, encoding), codes)
            found[-1].append(-np.corrcoef(distances, vectors @ query)[0, 1])
    # against a query's own bits, of values that vary alike in every dimension, they tell as much
    more = -0.02 if encoding == layout.BINARY else 0.05
    assert np.mean(found[1]) > np.mean(found[0]) + more, found
