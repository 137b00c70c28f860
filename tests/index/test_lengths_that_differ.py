"""Vectors of many lengths: every node can be reached, and a walk finds what a scan of the same codes finds."""

from functools import lru_cache

import numpy as np
import pytest

from bqstore.index import ALONE, Plan, Quantizer, Search
from bqstore.index.longest import Longest, are_passed_over
from bqstore.kernels.layout import COSINE, DOT, EUCLID
from tests.index.given import CORRECTED, bitmap, bytes_of, data_of, grow, named, searchable

N, DIM, K = 4000, 48, 10
# natural logarithms' deviations, and half of the vectors eight times longer
LENGTHS = {"alike": 0.0, "a little": 0.2, "more": 0.4, "much": 0.7, "two scales": None}
every_coding = pytest.mark.parametrize("coding", [coding for coding in CORRECTED if not coding[2]], ids=named)


@lru_cache(maxsize=4)
def made(coding, metric, lengths, threads=1, step=None):
    vectors, queries = data_of(N, DIM, queries=40)
    rng, sigma = np.random.default_rng(1), LENGTHS[lengths]
    scales = np.where(rng.random((N, 1)) < 0.5, 8, 1) if sigma is None else rng.lognormal(0, sigma, (N, 1))
    vectors = (vectors * scales).astype(np.float32)
    if sigma is None:
        queries[::2] *= 8
    quantizer = Quantizer.train(vectors, *coding, metric)
    words = quantizer.encode(vectors)
    graph = grow(words, quantizer=quantizer, threads=threads, step=step)
    return vectors, queries, searchable(words, DIM, graph, metric=metric, quantizer=quantizer), graph


def unlinked(graph):
    """int64: nodes to which no link leads, but for copies and the entry point."""
    view = graph.view
    met = np.bincount(view.links[: view.n][view.links[: view.n] >= 0], minlength=view.n) > 0
    met[view.same[: view.n][view.same[: view.n] >= 0]] = met[view.entry] = True
    return np.flatnonzero(~met)


def part_of_scan(data, queries, flags=None):
    """The part of what a scan finds that a walk of the usual width finds, or what is as good."""
    accept, accepted = (None, data.n) if flags is None else (bitmap(flags), int(flags.sum()))
    beam = 128 * data.n // accepted
    scanned, walked = (
        Search(data, accept, accepted, K, Plan(way, False, K, 128, beam), 8).nearest(queries, ALONE)[1]
        for way in ("scan", "walk")
    )
    return float((walked >= scanned[:, -1:]).mean())


@pytest.mark.sampled(2)
@every_coding
@pytest.mark.parametrize("metric", [DOT, EUCLID])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_no_link_led_to_vectors_shorter_than_those_around_them(lengths, metric, coding):
    """A quarter of all, where logarithms of lengths deviated by .7; and of one bit walks went astray."""
    vectors, queries, data, graph = made(coding, metric, lengths)
    assert len(unlinked(graph)) <= N // 500
    assert part_of_scan(data, queries) > 0.98
    short = np.linalg.norm(vectors, axis=1)
    assert part_of_scan(data, queries, short < np.median(short)) > 0.98


@pytest.mark.sampled(1)
@every_coding
def test_the_graph_is_the_same_on_any_number_of_threads_and_from_where_it_was_saved(coding):
    """Although what lifts reach is measured on the vectors that have come so far."""
    one = made(coding, DOT, "more", step=1500)[3]
    assert bytes_of(made(coding, DOT, "more", 4, 1500)[3]) == bytes_of(one)
    _, _, data, _ = made(coding, DOT, "more", step=1500)
    graph = grow(data.words, quantizer=data.quantizer, stop=3000, step=1500)
    again = type(graph)(16, 64)
    again.restore(*graph.parts(), 3000)
    assert bytes_of(grow(data.words, quantizer=data.quantizer, graph=again)) == bytes_of(one)


def test_what_lifts_reach_follows_the_lengths_of_what_comes():
    """Twenty times longer than the first ones: by the reach of those, lengths would count no more."""
    vectors, queries = data_of(N, DIM, queries=40)
    lengths = np.random.default_rng(1).lognormal(0, 0.5, (N, 1))
    vectors = (vectors * lengths * np.where(np.arange(N)[:, None] < 1024, 0.05, 1)).astype(np.float32)
    quantizer = Quantizer.train(vectors, "four_bits", "rabitq", False, DOT)
    words = quantizer.encode(vectors)
    graph = grow(words, quantizer=quantizer, step=512)
    data = searchable(words, DIM, graph, metric=DOT, quantizer=quantizer)
    assert part_of_scan(data, queries) > 0.98
    assert len(unlinked(graph)) <= N // 100


def test_a_filter_for_short_vectors_began_far_from_them_where_all_around_the_query_were_long():
    """In a cluster that had none of the sampled ones, nothing was found; at 40,000 that was one query in seventeen."""
    vectors, queries = data_of(N, DIM, queries=60)
    vectors = (vectors * np.random.default_rng(1).lognormal(0, 0.7, (N, 1))).astype(np.float32)
    quantizer = Quantizer.train(vectors, "four_bits", "rabitq", False, DOT)
    words = quantizer.encode(vectors)
    data = searchable(words, DIM, grow(words, m=6, quantizer=quantizer), metric=DOT, quantizer=quantizer)
    lengths = np.linalg.norm(vectors, axis=1)
    flags = lengths < np.quantile(lengths, 0.75)
    scanned, walked = (
        Search(data, bitmap(flags), int(flags.sum()), K, plan, 8).nearest(queries, ALONE)[1]
        for plan in (Plan("scan", False, K), Plan("walk", False, K, 64, 64, accepted_only=True))
    )
    assert (walked >= scanned[:, -1:]).mean() > 0.98


def longest_of(coding, metric, sigma, offset=0.0, n=N):
    """What is kept of the longest, and the lengths of all."""
    vectors = data_of(n, DIM)[0] / 7 + np.float32(offset)
    vectors *= np.random.default_rng(1).lognormal(0, sigma, (n, 1))
    quantizer = Quantizer.train(vectors.astype(np.float32), *coding, metric)
    words = quantizer.encode(vectors.astype(np.float32))
    return Longest().of(words, n, quantizer), np.linalg.norm(vectors, axis=1)


@every_coding
def test_filters_for_shorter_vectors_are_told_from_others(coding):
    """Of 100,000 a walk found half of what a scan finds of the shortest nine tenths, and all of any nine tenths."""
    longest, lengths = longest_of(coding, DOT, 0.7)
    order, rng = lengths.argsort().argsort() / N, np.random.default_rng(2)
    assert order[longest].mean() > 0.93
    for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.97):
        assert are_passed_over(longest, bitmap(order < share), share)
        assert not are_passed_over(longest, bitmap(order >= 1 - share), share)
        for _ in range(20):
            flags = rng.random(N) < share
            assert not are_passed_over(longest, bitmap(flags), flags.mean())
    flags = rng.random(N) < 1 - order  # the longer, the more seldom
    assert are_passed_over(longest, bitmap(flags), flags.mean())


def test_where_lengths_are_no_matter_no_filter_is_asked_about_them():
    for coding in CORRECTED:
        assert not len(longest_of(coding, DOT, 0.05, offset=0.2)[0])
        assert not len(longest_of(coding, COSINE, 0.7)[0]) and not len(longest_of(coding, EUCLID, 0.7)[0])
    assert not len(longest_of(("two_bits", "sign", False), DOT, 0.7)[0])
    assert not are_passed_over(np.zeros(0, np.int64), bitmap(np.ones(N, bool)), 0.5)


def test_the_longest_are_chosen_anew_when_there_are_twice_as_many():
    vectors = (data_of(N, DIM)[0] * np.random.default_rng(1).lognormal(0, 0.7, (N, 1))).astype(np.float32)
    quantizer = Quantizer.train(vectors, "one_bit", "rabitq", False, DOT)
    words, longest = quantizer.encode(vectors), Longest()
    first = longest.of(words, 2048, quantizer)
    assert len(first) == 128 and first.max() < 2048
    assert longest.of(words, N, quantizer) is first
    assert longest.of(np.concatenate([words, words]), 4096, quantizer).max() >= 2048
