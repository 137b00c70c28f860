"""What a corrected code says of a score: the estimate as a distance, its error, and that it errs to neither side."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, bits, encode_query, layout, rotate
from bqstore.kernels.jit import leaf
from bqstore.kernels.layout import BINARY, COSINE, DOT, EUCLID
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    INTERPRETED,
    METRICS,
    corrected,
    distances_from,
    encoded_as,
    encoded_query,
    examples,
    make_accept,
    make_candidates,
    make_hits,
    make_settings,
    measured_spread,
    no_originals,
    parts_of,
    some_turns,
)

BITS = (1, 2, 4)
SCALAR = ENCODINGS[1:]
PRECISION = 2.0**-20
TINY = 2.0**-146  # some steps of the smallest numbers there are
every_bits = pytest.mark.parametrize("bit_planes", BITS)
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)
every_metric = pytest.mark.parametrize("metric", METRICS)
rotated_or_not = pytest.mark.parametrize("rounds", [0, 4])
compiled = pytest.mark.skipif(INTERPRETED, reason="statistics of many vectors")


@leaf
def through_ranks(estimates, ranks, back):
    """The rank of every estimate, and what becomes of it."""
    for i in range(estimates.shape[0]):
        ranks[i] = bits.estimate_to_rank(estimates[i])
        back[i] = bits.rank_to_estimate(ranks[i])


@leaf
def scores_of(ranks, query, metric, out):
    """The score of every rank."""
    for i in range(ranks.shape[0]):
        out[i] = encode_query.code_score(ranks[i], query, metric)


@leaf
def turn(rows, turns):
    """Rotate every row."""
    for i in range(rows.shape[0]):
        rotate.rotate_row(rows[i], turns)


def ranked(estimates):
    estimates = np.array(estimates, np.float32)
    ranks, back = np.zeros(len(estimates), np.int32), np.zeros(len(estimates), np.float32)
    through_ranks(estimates, ranks, back)
    return ranks, back


def of_all_magnitudes():
    """float32, ascending: both signs, from the smallest to the largest there is, neighbors and powers of two too."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-45, 38.5, 300 if INTERPRETED else 20_000)
    sizes = np.concatenate([sizes, 2.0 ** np.arange(-149, 128), [0, 1e30, 3.4028234e38, 1e-45, 1.1754944e-38]])
    sizes = sizes.astype(np.float32)
    sizes = np.concatenate([sizes, np.nextafter(sizes[:50], np.float32(0))])
    return np.sort(np.concatenate([-sizes, sizes])) + np.float32(0)  # of zeros, the positive one


def test_ranks_fall_as_estimates_rise_and_fit_a_key():
    estimates = of_all_magnitudes()
    ranks, _ = ranked(estimates)
    assert ranks.min() >= 0 and ranks.max() < 2**30
    assert (np.diff(ranks.astype(np.int64)) <= 0).all()
    apart = np.diff(estimates.astype(np.float64)) > PRECISION * np.abs(estimates[1:].astype(np.float64)) + TINY
    assert (np.diff(ranks.astype(np.int64))[apart] < 0).all()


def test_an_estimate_comes_back_from_its_rank():
    estimates = of_all_magnitudes()
    _, back = ranked(estimates)
    wrong = np.abs(back.astype(np.float64) - estimates.astype(np.float64))
    assert (wrong <= PRECISION * np.abs(estimates.astype(np.float64)) + TINY).all()
    again, once_more = ranked(back)
    assert (again == ranked(estimates)[0]).all() and (once_more == back).all()


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
)
def test_any_two_estimates_keep_their_order(pair):
    low, high = sorted(value + 0.0 for value in pair)  # of zeros, the positive one
    rank_low, rank_high = ranked([low, high])[0]
    assert rank_low >= rank_high
    if float(high) - float(low) > PRECISION * max(abs(low), abs(high)) + TINY:
        assert rank_low > rank_high


def test_what_is_no_number_has_a_rank_all_the_same():
    with np.errstate(all="ignore"):
        ranks, _ = ranked([np.inf, -np.inf, np.nan, -np.nan])
    assert (ranks >= 0).all() and (ranks < 2**30).all()
    assert ranks[0] <= ranked([3.4e38])[0][0] and ranks[1] >= ranked([-3.4e38])[0][0]


def given_codes(rng, n, dim, bit_planes, rounds, metric, mean_size=0.5):
    """Vectors, and their codes beside a mean that is no part of them."""
    mean = (mean_size * rng.standard_normal(dim) / np.sqrt(dim)).astype(np.float32)
    vectors = (rng.standard_normal((n, dim)) * rng.uniform(0.2, 2, (n, 1)) / np.sqrt(dim)).astype(np.float32) + mean
    return vectors, encoded_as(corrected(bit_planes, mean, some_turns(rng, dim, rounds)), vectors, metric)


def some_query(rng, dim, metric):
    query = rng.standard_normal(dim)
    return (query / np.linalg.norm(query) * (1 if metric == COSINE else 1.7)).astype(np.float32)


def by_definition(codes, held, encoding):
    """float64 (n,): the estimates of a query as its planes hold it."""
    quantizer = codes.quantizer
    query = naive.decoded(naive.levels_in(held.planes[:encoding], quantizer.lanes), encoding, held.half)
    values, add, factor = parts_of(codes)
    return held.share * add + factor * (values @ query)


@every_bits
def test_many_codes_at_once_are_read_as_one_by_one(bit_planes):
    rng = np.random.default_rng(0)
    _, codes = given_codes(rng, 6, 100, bit_planes, 4, DOT)
    values, add, factor = parts_of(codes)
    for row, code in enumerate(codes.words):
        assert values[row].tolist() == naive.values_of(code, bit_planes, 2, 100)
        assert naive.floats_of(code).tolist() == [add[row], factor[row]]
    held = encoded_query(codes.quantizer, some_query(rng, 100, DOT), 4)
    query = naive.decoded(naive.levels_in(held.planes[:4], 100), 4, held.half)
    expected = [naive.estimate(code, query, codes.quantizer, held.share) for code in codes.words]
    np.testing.assert_allclose(by_definition(codes, held, 4), expected, rtol=1e-12)


@every_bits
@every_encoding
@every_metric
@rotated_or_not
@pytest.mark.parametrize("dim", [1, 5, 64, 100] if INTERPRETED else [1, 5, 64, 100, 384, 1000])
def test_distances_order_as_the_estimates(dim, rounds, metric, encoding, bit_planes):
    rng = np.random.default_rng(dim)
    n = 8 if INTERPRETED else 60
    _, codes = given_codes(rng, n, dim, bit_planes, rounds, metric)
    held = encoded_query(codes.quantizer, some_query(rng, dim, metric), encoding, metric)
    expected = by_definition(codes, held, encoding)
    ranks = distances_from(held, codes)
    found = np.array([bits.rank_to_estimate(int(rank)) for rank in ranks], np.float64)
    add = held.share * parts_of(codes)[1]
    doubt = 2 * PRECISION * (np.abs(add) + np.abs(expected) + np.abs(expected - add))
    assert (np.abs(found - expected) <= doubt).all()
    further = expected[:, None] - expected[None] > doubt[:, None] + doubt[None]
    assert ((ranks[:, None] < ranks[None]) | ~further).all()


@every_bits
@every_encoding
@every_metric
@rotated_or_not
@pytest.mark.parametrize("dim", [1, 3, 64, 100] if INTERPRETED else [1, 3, 64, 100, 384])
def test_a_query_is_encoded_less_the_mean_and_rotated(dim, rounds, metric, encoding, bit_planes):
    rng = np.random.default_rng(dim)
    mean, turns = rng.standard_normal(dim).astype(np.float32), some_turns(rng, dim, rounds)
    quantizer = corrected(bit_planes, mean, turns, error_scales=(0.7, 1.3))
    query = some_query(rng, dim, metric)
    held = encoded_query(quantizer, query, encoding, metric)
    assert (held.encoding, held.bits, held.width, held.corrected) == (encoding, bit_planes, quantizer.width, 1)
    steps, rest = 2**encoding - 1, naive.rotated_query(query, mean, turns, metric)
    assert held.top == (2**bit_planes - 1) * steps * dim
    top = naive.corrected_top(rest, encoding)
    assert held.half == pytest.approx(top / steps, rel=1e-5)
    levels = np.array(naive.levels_in(held.planes[:encoding], 64 * quantizer.width))
    assert not levels[dim:].any()
    if encoding == BINARY:
        clear = np.abs(rest) > 1e-5
        assert (levels[:dim][clear] == (rest > 0)[clear]).all()
    else:
        exact = np.clip((rest + top) / (2 * top), 0, 1) * steps
        assert np.abs(levels[:dim] - exact).max() <= 0.5 + 1e-3
    share = naive.share_of_mean(query, mean, metric)
    assert held.share == pytest.approx(share, rel=1e-5, abs=1e-6)
    plain = query.astype(np.float64) - share * mean
    offset = plain @ plain if metric == EUCLID else plain @ mean.astype(np.float64)
    assert held.offset == pytest.approx(offset, rel=1e-5, abs=1e-5 * np.linalg.norm(plain))
    lost = ((rest - naive.decoded(levels[:dim], encoding, held.half)) ** 2).sum()
    error = math.sqrt(plain @ plain * 0.7**2 + lost * 1.3**2)
    assert held.error == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("encoding", SCALAR)
@rotated_or_not
def test_a_query_that_is_the_mean_has_no_error(encoding, rounds):
    """And finds by ``add`` alone, which is exact then."""
    rng = np.random.default_rng(0)
    vectors, codes = given_codes(rng, 9, 70, 1, rounds, DOT)
    held = encoded_query(codes.quantizer, codes.quantizer.mean, encoding)
    assert held.error == 0 == held.half
    scores = [encode_query.code_score(int(rank), held, DOT) for rank in distances_from(held, codes)]
    np.testing.assert_allclose(scores, vectors @ codes.quantizer.mean, rtol=1e-5, atol=1e-6)


@every_bits
@every_encoding
@every_metric
@rotated_or_not
def test_the_score_of_a_code_is_near_the_true_one(rounds, metric, encoding, bit_planes):
    """Exactly what the estimate makes of it, and within five standard deviations of the truth; so is what it may be."""
    rng = np.random.default_rng(1)
    dim, n = (64, 20) if INTERPRETED else (500, 200)
    vectors, codes = given_codes(rng, n, dim, bit_planes, rounds, metric)
    mean = codes.quantizer.mean
    rests = np.array([naive.unit(vector, metric) for vector in vectors]) - mean
    if rounds:
        rests = rests @ naive.rotation(codes.quantizer.rotation_signs).T
    quantizer = codes.quantizer._replace(error_scales=measured_spread(codes, rests))
    codes = codes._replace(quantizer=quantizer)
    _, _, factor = parts_of(codes)
    for _ in range(3):
        query = some_query(rng, dim, metric)
        held = encoded_query(quantizer, query, encoding, metric)
        ranks = distances_from(held, codes)
        scores = np.array([encode_query.code_score(int(rank), held, metric) for rank in ranks], np.float64)
        estimates = np.array([bits.rank_to_estimate(int(rank)) for rank in ranks], np.float64)
        expected = [naive.score_of_estimate(each, query, mean, metric) for each in estimates]
        np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)
        truth = np.array([naive.true_score(query, vector, metric) for vector in vectors])
        doubt = 5 * held.error * factor + 1e-4
        far = np.abs(scores - truth).mean() / truth.std()
        if encoding == BINARY:  # a third is lost of what they are: not even five deviations hold
            assert far < 2, far
            continue
        if metric == EUCLID:  # of the squares: twice the product
            assert (np.abs(scores**2 - truth**2) <= 2 * doubt).all()
        else:
            assert (np.abs(scores - truth) <= doubt).all()
        assert far < 1.2 / bit_planes, far
        for i in range(0, n, 5):
            prune = encode_query.score_bound(codes.words, i, int(ranks[i]), held, metric, 1)
            bounds = encode_query.BOUND_DEVIATIONS * held.error * factor[i]
            most = naive.score_of_estimate(estimates[i] + bounds, query, mean, metric)
            assert prune == pytest.approx(most, rel=2e-5, abs=2e-5) and prune >= scores[i]
            assert encode_query.score_bound(codes.words, i, int(ranks[i]), held, metric, 0) == np.inf


@every_bits
@every_encoding
@every_metric
def test_a_scan_finds_the_best_estimates_with_their_scores(metric, encoding, bit_planes):
    rng = np.random.default_rng(3)
    dim, n = 70, 40 if INTERPRETED else 700  # more than a block
    _, codes = given_codes(rng, n, dim, bit_planes, 4, metric)
    accept = make_accept(rng.random(n) < 0.7)
    queries = np.array([some_query(rng, dim, metric) for _ in range(3)])
    candidates, hits = make_candidates(3, 25), make_hits(3, 30)
    way = make_settings(encoding=encoding)
    found = api.search_bits(queries, codes, no_originals(dim, metric), accept, way, candidates, hits)
    assert found == (layout.OK, 0)
    for i, query in enumerate(queries):
        held = encoded_query(codes.quantizer, query, encoding, metric)
        ranks = distances_from(held, codes).tolist()
        near = sorted((ranks[o], o) for o in naive.accepted(accept, n))[:25]
        count = len(near)
        assert candidates.counts[i] == count
        assert list(zip(candidates.distances[i], candidates.ordinals[i], strict=True))[:count] == near
        assert hits.ordinals[i].tolist() == [o for _, o in near] + [-1] * (30 - count)
        scores = [encode_query.code_score(rank, held, metric) for rank, _ in near]
        np.testing.assert_allclose(hits.scores[i, :count], scores, rtol=1e-6, atol=1e-6)
        assert np.isnan(hits.scores[i, count:]).all()


# ---- how wrong an estimate is, over many rotations


class Errors:
    """Estimates and truths of <query, vector> beside the mean, each pair under rotations of its own."""

    def __init__(self, dim, bit_planes, encoding, rotations, n=40, alike=0.0, mean_size=0.5, metric=DOT):
        rng = np.random.default_rng(dim)
        mean = (mean_size * rng.standard_normal(dim) / np.sqrt(dim)).astype(np.float32)
        query = rng.standard_normal(dim)
        vectors = alike * query + np.sqrt(1 - alike**2) * rng.standard_normal((n, dim))
        query = (mean + query / np.linalg.norm(query)).astype(np.float32)
        vectors = (mean + vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.truth = np.array([naive.true_score(query, vector, metric) for vector in vectors])
        self.estimates, self.deviations = [], []
        for _ in range(rotations):
            quantizer = corrected(bit_planes, mean, some_turns(rng, dim))
            codes = encoded_as(quantizer, vectors, metric)
            rests = vectors - mean
            turn(rests, quantizer.rotation_signs)
            quantizer = quantizer._replace(error_scales=measured_spread(codes, rests.astype(np.float64)))
            held = encoded_query(quantizer, query, encoding, metric)
            self.estimates.append(np.empty(n, np.float32))
            scores_of(distances_from(held, codes), held, metric, self.estimates[-1])
            self.deviations.append(held.error * parts_of(codes)[2])
        self.estimates, self.deviations = np.array(self.estimates, np.float64), np.array(self.deviations)
        self.wrong = self.estimates - self.truth


@compiled
@every_bits
@pytest.mark.parametrize("encoding", SCALAR)
@pytest.mark.parametrize("dim", [64, 100, 200])
def test_the_mean_error_over_rotations_is_nothing(dim, encoding, bit_planes):
    wrong = Errors(dim, bit_planes, encoding, 400).wrong
    # estimates under one rotation share its query, so each rotation counts once
    means = wrong.mean(1)
    assert abs(means.mean()) <= 4 * means.std() / math.sqrt(len(means))
    each = wrong.mean(0) / (wrong.std(0) / math.sqrt(len(wrong)))
    assert np.abs(each).max() < 5  # of forty


@compiled
@every_bits
@pytest.mark.parametrize("encoding", SCALAR)
def test_of_near_vectors_the_estimate_is_neither_shrunk_nor_stretched(encoding, bit_planes):
    """But for what lies beyond three deviations in a query, which its levels cut off: some .27%.

    What is sparing relies on it: a shrunk estimate of the nearest would say that they cannot be hits. (Of a query's
    signs it is shrunk by a third: those order, and tell no more.)
    """
    errors = Errors(128, bit_planes, encoding, 300, alike=0.9, mean_size=0)
    slope = (errors.estimates.mean(0) / errors.truth).mean()
    assert abs(slope - 1) < 0.006, slope


@compiled
@every_bits
@every_encoding
@pytest.mark.parametrize("dim", [64, 200, 256])
def test_nearly_all_estimates_are_within_five_deviations(dim, encoding, bit_planes):
    errors = Errors(dim, bit_planes, encoding, 500)
    beyond = np.abs(errors.wrong) > 5 * errors.deviations
    assert beyond.mean() <= 1e-4
    told = math.sqrt(((errors.wrong / errors.deviations) ** 2).mean())
    assert 0.7 < told < 1.1, told


@compiled
@every_bits
@pytest.mark.parametrize("encoding", SCALAR)
def test_the_error_shrinks_with_the_root_of_the_dimensions(encoding, bit_planes):
    sizes = []
    for dim in (64, 256, 1024):
        sizes.append(math.sqrt((Errors(dim, bit_planes, encoding, 40, n=100).wrong ** 2).mean()))
    assert 1.6 < sizes[0] / sizes[1] < 2.5 and 1.6 < sizes[1] / sizes[2] < 2.5, sizes


@compiled
@pytest.mark.parametrize("encoding", SCALAR)
def test_more_bits_are_less_wrong(encoding):
    sizes = [math.sqrt((Errors(256, b, encoding, 40).wrong ** 2).mean()) for b in BITS]
    assert sizes[0] > 1.7 * sizes[1] > (3 if encoding == 8 else 2) * sizes[2], sizes
    fewer, more = (math.sqrt((Errors(256, 4, planes, 40).wrong ** 2).mean()) for planes in SCALAR)
    assert fewer > 1.1 * more
