"""Queries as levels and bit planes, and scores from distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqstore.kernels import encode_query, layout
from tests import naive
from tests.kernels.given import (
    DIMS,
    ENCODINGS,
    INTERPRETED,
    METRICS,
    as_kernels_have_it,
    examples,
    signs,
    whole_vectors,
)

SCALAR = ENCODINGS[1:]
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def encoded(query, encoding, metric=layout.DOT):
    """levels (dim,), planes (encoding, W), and the query that codes of signs are compared with."""
    quantizer = signs(len(query))
    width = quantizer.width
    levels, planes = np.full(64 * width, 77, np.uint8), np.full((8, width), 77, np.uint64)
    turned = np.full(64 * width, 77, np.float32)
    held = as_kernels_have_it(encode_query.encode_query(query, quantizer, encoding, metric, levels, turned, planes))
    if encoding != layout.BINARY:
        assert not levels[len(query) :].any()  # a code has zeros there too
    assert held.planes is planes or INTERPRETED or (held.planes == planes).all()
    assert (held.encoding, held.bits, held.width, held.corrected) == (encoding, 1, width, 0)
    assert held.top == len(query) * (2**encoding - 1)
    return levels[: len(query)], planes[:encoding], held


@every_encoding
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.long
def test_planes_are_those_of_the_naive_version(dim, encoding):
    query = whole_vectors(np.random.default_rng(dim), 1, dim)[0]
    levels, planes, held = encoded(query, encoding)
    expected = naive.levels_of(query, encoding)
    if encoding != layout.BINARY:
        assert levels.tolist() == expected
    np.testing.assert_array_equal(planes, naive.planes_of(expected, encoding))
    assert 2 * held.half == pytest.approx(naive.step_of(query, encoding, layout.DOT), rel=1e-6)


@pytest.mark.parametrize("encoding", SCALAR)
@settings(max_examples=examples(100), deadline=None)
@given(
    # longer ones are refused before they are encoded
    hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-(2.0**55), 2.0**55, width=32)).filter(
        lambda query: not 0 < np.abs(query).max() < 1e-15
    )
)
def test_any_value_goes_to_the_nearest_level(encoding, query):
    levels, planes, held = encoded(query, encoding)
    np.testing.assert_array_equal(planes, naive.planes_of(levels.tolist(), encoding))
    top, steps = naive.top_of(query), 2**encoding - 1
    assert held.half == pytest.approx(top / steps, rel=1e-5)
    assert held.square == ((2 * levels.astype(np.int64) - steps) ** 2).sum()
    if top > 0:
        exact = np.clip((query.astype(np.float64) + top) / (2 * top), 0, 1) * steps
        assert np.abs(levels - exact).max() <= 0.5 + 3e-3
        assert (levels[query > 1.0001 * top] == steps).all()
        assert (levels[query < -1.0001 * top] == 0).all()


@pytest.mark.parametrize("encoding", SCALAR)
@pytest.mark.parametrize("factor", [1.0, 2.0**-50, 2.0**50])
@pytest.mark.parametrize("huge", [30.0, -1000.0])
def test_one_huge_value_does_not_make_all_others_equal(encoding, factor, huge):
    """As in ada-002: the others keep a third of the levels, and what is beyond them has the last."""
    rng = np.random.default_rng(0)
    query = rng.uniform(-1, 1, 1000).astype(np.float32)
    query[7] = huge
    levels, _, _ = encoded(query * np.float32(factor), encoding)
    assert levels.tolist() == naive.levels_of(query, encoding)
    assert levels[7] == (2**encoding - 1 if huge > 0 else 0)
    others = np.delete(levels, 7)
    assert len(set(others.tolist())) >= (4 if abs(huge) == 30 else 1)
    unclipped = np.delete(np.round((query / abs(huge) + 1) / 2 * (2**encoding - 1)), 7)
    assert np.ptp(others) >= 5 * np.ptp(unclipped) or abs(huge) > 30


@pytest.mark.parametrize("encoding", SCALAR)
def test_values_at_the_end_of_the_levels_are_not_clipped(encoding):
    """One value of nine is three times the root of the mean square, and all equal values are the largest."""
    steps = 2**encoding - 1
    for query, top in (([0] * 8 + [5], 5), ([2, -2] * 20, 2), ([0] * 99 + [-10], 3)):
        levels, _, held = encoded(np.array(query, np.float32), encoding)
        assert held.half == pytest.approx(top / steps, rel=1e-6)
        ends = {0: (steps + 1) // 2}
        assert levels.tolist() == [ends.get(value, steps if value > 0 else 0) for value in query]


@pytest.mark.parametrize("encoding", SCALAR)
@pytest.mark.parametrize("length", [1e-18, 1e-21, 1e-24, 1e-30])
def test_a_very_short_query_has_the_levels_of_a_longer_one(encoding, length):
    """Under dot and euclid no query is too short."""
    query = whole_vectors(np.random.default_rng(0), 1, 70)[0]
    levels, _, _ = encoded(query * np.float32(length), encoding)
    assert np.abs(levels - np.array(naive.levels_of(query, encoding))).max() <= 1


@every_encoding
def test_a_query_is_encoded_from_its_row(encoding):
    queries = whole_vectors(np.random.default_rng(0), 3, 70)
    for row in range(3):
        _, planes, _ = encoded(queries[row], encoding)
        np.testing.assert_array_equal(planes, naive.planes_of(naive.levels_of(queries[row], encoding), encoding))


@pytest.mark.parametrize("metric", METRICS)
@every_encoding
@pytest.mark.parametrize("dim", [1, 2, 63, 65, 130] if INTERPRETED else [1, 2, 63, 65, 130, 384, 768, 1536, 3072])
def test_a_score_is_the_metric_of_the_decoded_query_and_signs(dim, encoding, metric):
    rng = np.random.default_rng(dim)
    query = whole_vectors(rng, 1, dim)[0]
    query[0] = 2
    _, _, held = encoded(query, encoding, metric)
    levels = naive.levels_of(query, encoding)
    for code in naive.pack_signs(rng.standard_normal((4, dim))):
        distance = naive.distance(levels, encoding, code)
        found = encode_query.code_score(distance, held, metric)
        expected = naive.code_score(levels, encoding, naive.step_of(query, encoding, metric), code, metric)
        if metric == layout.EUCLID:  # as squares: a root makes much of what rounding leaves near 0
            assert found**2 == pytest.approx(expected**2, rel=1e-5, abs=1e-6 * dim)
        else:
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6 * (1 if metric == layout.COSINE else dim))


def test_the_scores_of_a_code_with_itself_are_exact():
    for dim in (3, 63, 384, 768, 1000, 1536, 3072, 4096):
        _, _, held = encoded(np.ones(dim, np.float32), layout.BINARY)
        scores = [float(encode_query.code_score(0, held, metric)) for metric in METRICS]
        assert scores == [1.0, dim, 0.0], dim


@every_encoding
def test_a_cosine_is_never_beyond_one(encoding):
    for dim in range(1, 400 if INTERPRETED else 4000, 7):
        query = np.ones(dim, np.float32)
        _, _, held = encoded(query, encoding)
        farthest = dim * (2**encoding - 1)
        for distance in (0, farthest):
            score = float(encode_query.code_score(distance, held, layout.COSINE))
            assert abs(score) <= (1 + 2e-7 if INTERPRETED else 1)  # NumPy's scalars stay float32 on the way
            assert score == pytest.approx(1 if distance == 0 else -1, abs=1e-6)


@pytest.mark.parametrize("encoding", SCALAR)
def test_a_query_of_zeros_has_the_dot_product_of_zeros(encoding):
    levels, _, held = encoded(np.zeros(70, np.float32), encoding)
    assert levels.tolist() == [2 ** (encoding - 1)] * 70
    for distance in (0, 5, 70 * (2**encoding - 1)):
        assert encode_query.code_score(distance, held, layout.DOT) == 0
        root = encode_query.code_score(distance, held, layout.EUCLID)
        assert root == pytest.approx(-math.sqrt(70))  # of nothing and of a vector of signs


@pytest.mark.parametrize("encoding", SCALAR)
def test_more_planes_say_more_about_the_product(encoding):
    """The order of codes by distance is nearer to that of the true products than that of signs alone."""
    rng = np.random.default_rng(1)
    dim = 64 if INTERPRETED else 384
    query = rng.standard_normal(dim)
    query = query.astype(np.float32)
    signs = np.where(rng.standard_normal((60, dim)) > 0, 1.0, -1.0)
    codes, products = naive.pack_signs(signs), signs @ query

    def correlation(levels, planes):
        return -np.corrcoef([naive.distance(levels, planes, code) for code in codes], products)[0, 1]

    levels, _, _ = encoded(query, encoding)
    assert correlation(levels.tolist(), encoding) > max(0.97, correlation(naive.levels_of(query, 1), 1))
