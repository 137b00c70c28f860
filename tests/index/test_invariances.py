"""What must not change an answer: the length of a query, that of all vectors, the batch, the threads, the order.

A power of two changes no digit of a float, so that ordinals must be the same, and scores as much larger.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from bqstore.index import ENCODINGS, Plan, Search, Work
from bqstore.index.quantizer import Quantizer
from bqstore.index.threads import ALONE, Workers
from bqstore.kernels import api, layout
from bqstore.kernels.layout import COSINE, DOT, EUCLID
from tests.index.given import CODINGS, CORRECTED, bitmap, data_of, grow, named, records_of, searchable

N, DIM, K = 1500, 72, 10
METRICS = (COSINE, DOT, EUCLID)
PLANES = tuple(ENCODINGS.values())
FORMS = (layout.FLOAT32, layout.FLOAT16, layout.INT8)
WAYS = {
    "exact": Plan("exact", False, 0),
    "scan": Plan("scan", True, 30),
    "scan of codes": Plan("scan", False, K),
    "walk": Plan("walk", True, 30, 60, 60),
    "walk on codes": Plan("walk", False, K, 60, 60),
}
every_coding = pytest.mark.parametrize("coding", CODINGS, ids=named)
every_corrected = pytest.mark.parametrize("coding", CORRECTED, ids=named)
every_metric = pytest.mark.parametrize("metric", METRICS)
every_way = pytest.mark.parametrize("way", WAYS)
every_form = pytest.mark.parametrize("form", FORMS)


@lru_cache
def vectors_of(metric):
    """Vectors with a mean that is half as long as they are, of lengths that differ but under cosine; and queries."""
    vectors, queries = data_of(N, DIM, queries=24)
    offset = np.random.default_rng(7).standard_normal(DIM) * 0.6
    lengths = np.random.default_rng(8).uniform(0.5, 2, (N, 1)) if metric != COSINE else 1.0
    return (lengths * (vectors + offset)).astype(np.float32), (queries + offset).astype(np.float32)


@lru_cache(maxsize=64)
def coded(coding, metric, factor, graph):
    """Vectors, times a factor, and a collection of them without originals."""
    vectors = vectors_of(metric)[0] * np.float32(factor)
    quantizer = Quantizer.train(vectors, *coding, metric)
    words = quantizer.encode(vectors)
    linked = grow(words, quantizer=quantizer) if graph else None
    return vectors, searchable(words, DIM, linked, metric=metric, quantizer=quantizer)


@lru_cache(maxsize=64)
def made(coding, metric, factor=1.0, form=layout.FLOAT32, graph=True):
    """A collection of vectors, times a factor."""
    vectors, data = coded(coding, metric, factor, graph)
    return replace(data, records=records_of(vectors, form), form=form)


def found(data, way, queries, planes=4, flags=None, workers=ALONE, k=K):
    accepted = N if flags is None else int(flags.sum())
    plan = WAYS[way] if isinstance(way, str) else way
    return Search(data, None if flags is None else bitmap(flags), accepted, k, plan, planes).nearest(queries, workers)


def same(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def shared(one, other):
    """The part of one's hits that the other has, too."""
    return np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(one[0].tolist(), other[0].tolist(), strict=True)])


@pytest.mark.sampled(3)
@every_coding
@every_way
@every_form
@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("metric", [COSINE, DOT])
def test_a_short_query_found_the_mean_alone(metric, planes, form, way, coding):
    """Of products the order does not depend on the length of the query; corrected codes made it the mean's."""
    data, queries = made(coding, metric, form=form), vectors_of(metric)[1]
    ordinals, scores = found(data, way, queries, planes)
    of_signs = coding == CODINGS[0] and planes == layout.BINARY and way.endswith("codes")  # these have no length
    for exponent in (-40, -7, -3, 9, 40):
        times = np.float32(2.0**exponent)
        grown = scores * times if metric == DOT and not of_signs else scores
        same(found(data, way, queries * times, planes), (ordinals, grown))
    short = found(data, way, queries * np.float32(0.003), planes)
    if metric == COSINE or coding not in CORRECTED:
        assert shared(short, (ordinals, scores)) > 0.98
    else:  # the share of the mean that is taken off is a power of two: between two of them estimates are others
        truth = np.argsort(-(queries @ vectors_of(metric)[0].T), axis=1, kind="stable")[:, :K], None
        assert shared(truth, short) > shared(truth, (ordinals, scores)) - 0.05


@every_corrected
def test_corrected_codes_rank_products_better_than_signs_at_any_length(coding):
    vectors, queries = vectors_of(DOT)
    truth = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    data, plain = made(coding, DOT, graph=False), made(CODINGS[0], DOT, graph=False)
    for length in (1, 0.03, 0.001):
        some = queries * np.float32(length)
        recalls = [shared((truth, None), found(each, "scan of codes", some)) for each in (data, plain)]
        assert recalls[0] > recalls[1] + 0.05, (length, recalls)


@every_corrected
@pytest.mark.parametrize("length", [1, 0.01, 1e-6])
def test_the_estimate_of_a_product_is_as_good_for_a_short_query(length, coding):
    """Without originals it is the score; it was off by four times the products."""
    vectors, queries = vectors_of(DOT)
    ordinals, scores = found(made(coding, DOT, graph=False), "scan of codes", queries * np.float32(length), 8)
    true = np.einsum("ij,ikj->ik", queries * np.float32(length), vectors[ordinals])
    worst = {"one_bit": 0.35, "two_bits": 0.2, "four_bits": 0.06}[coding[0]]
    assert np.abs(scores - true).max() < worst * np.abs(true).max()


@pytest.mark.sampled(3)
@every_coding
@every_way
@every_form
@every_metric
def test_vectors_and_queries_of_another_length_have_the_same_neighbors(metric, form, way, coding):
    """Two bits of signs took small deviations for none at all."""
    ordinals, scores = found(made(coding, metric, form=form), way, vectors_of(metric)[1])
    for exponent in (-30, 10 if form == layout.FLOAT16 else 30):  # halves end at 65,504
        times = np.float32(2.0**exponent)
        again = found(made(coding, metric, times, form), way, vectors_of(metric)[1] * times)
        np.testing.assert_array_equal(again[0], ordinals)
        if coding[1] == "rabitq" or not way.endswith(("codes", "of codes")):
            grown = {COSINE: np.float32(1), EUCLID: times, DOT: times * times}[metric]
            np.testing.assert_allclose(again[1], scores * grown, rtol=1e-6)


@every_form
@every_metric
def test_short_originals_are_kept_as_well_as_long_ones(metric, form):
    """Halves below 6e-5 have fewer digits the smaller they are."""
    coding = ("one_bit", "sign", False)
    ordinals, scores = found(made(coding, metric, form=form, graph=False), "exact", vectors_of(metric)[1])
    for exponent in (-7, -17, -20, -23, -37):
        times = np.float32(2.0**exponent)
        again = found(made(coding, metric, times, form, graph=False), "exact", vectors_of(metric)[1] * times)
        assert shared(again, (ordinals, scores)) > (0.99 if form == layout.FLOAT16 else 0.999)


@lru_cache(maxsize=2)
def moved(coding):
    """A constant, and the collection of the vectors of `made` with it added to all."""
    constant = (4 * np.random.default_rng(3).standard_normal(DIM)).astype(np.float32)
    vectors = vectors_of(EUCLID)[0] + constant
    quantizer = Quantizer.train(vectors, *coding, EUCLID)
    words = quantizer.encode(vectors)
    graph = grow(words, quantizer=quantizer)
    return constant, vectors, searchable(words, DIM, graph, metric=EUCLID, quantizer=quantizer)


@pytest.mark.sampled(2)
@every_form
@every_way
@pytest.mark.parametrize("coding", CODINGS[1:], ids=named)
def test_where_all_lies_is_nothing_to_distances(coding, way, form):
    """Euclidean, with a constant added to all. (Plain signs, which have no mean, say another thing then.)

    Of three levels a value, codes have a mean, and binary queries. The steps of int8 grow with the longest value.
    """
    planes = 4 if coding in CORRECTED else layout.BINARY
    queries, (constant, vectors, after) = vectors_of(EUCLID)[1], moved(coding)
    after = replace(after, records=records_of(vectors, form), form=form)
    ways = found(after, way, queries + constant, planes), found(made(coding, EUCLID, form=form), way, queries, planes)
    if coding not in CORRECTED and way.endswith("codes"):  # many are as near as each other
        assert (ways[0][1] >= ways[1][1][:, -1:]).mean() > 0.97
    else:
        assert shared(*ways) > (0.9 if form == layout.INT8 else 0.97)


@lru_cache
def turned_around(coding, metric):
    """The vectors of `made` with their values in another order, that order, the quantizer, codes and graph of them."""
    order = np.random.default_rng(5).permutation(DIM)
    mixed = np.ascontiguousarray(vectors_of(metric)[0][:, order])
    quantizer = Quantizer.train(mixed, *coding, metric)
    words = quantizer.encode(mixed)
    return mixed, order, quantizer, words, grow(words, quantizer=quantizer)


@pytest.mark.sampled(3)
@every_coding
@every_metric
@every_way
@every_form
def test_the_order_of_dimensions_is_nothing_to_an_answer(form, way, metric, coding):
    """But for pairs, which share a bit, and for rotations, which are others then: these find as much."""
    mixed, order, quantizer, words, graph = turned_around(coding, metric)
    queries = vectors_of(metric)[1]
    asked = np.ascontiguousarray(queries[:, order])
    after = searchable(words, DIM, graph, records_of(mixed, form), metric=metric, quantizer=quantizer)
    before = made(coding, metric, form=form)
    ways = found(replace(after, form=form), way, asked), found(before, way, queries)
    if way != "exact" and (coding[2] or coding[0] == "one_and_half_bits"):
        truth = found(before, "exact", queries)
        recalls = [shared(truth, each) for each in ways]
        assert abs(recalls[0] - recalls[1]) < 0.06, recalls
    else:
        assert shared(*ways) > (0.999 if way == "exact" else 0.97 if way.startswith("walk") else 0.99)


@lru_cache
def shuffled(coding, metric):
    """Another order of the vectors of `made`, their codes in it, and the graph of these."""
    before, order = made(coding, metric), np.random.default_rng(6).permutation(N)
    words = np.ascontiguousarray(before.words[order])
    return order, words, grow(words, quantizer=before.quantizer)


@pytest.mark.sampled(4)
@every_coding
@every_metric
@every_way
@every_form
def test_the_order_of_insertion_is_nothing_to_what_is_found(form, way, metric, coding):
    """But for codes that are as near as others: the first of them are taken."""
    vectors, queries = vectors_of(metric)
    before, (order, words, graph) = made(coding, metric, form=form), shuffled(coding, metric)
    after = replace(before, words=words, records=records_of(vectors[order], form), graph=graph.view, alike=graph.alike)
    ordinals, scores = found(after, way, queries)
    expected = found(before, way, queries)
    if way == "scan of codes":
        np.testing.assert_array_equal(scores, expected[1])
    elif way == "walk on codes":
        assert (scores >= expected[1][:, -1:]).mean() > 0.95
    else:
        assert shared((order[ordinals], scores), expected) > {"exact": 0.999, "scan": 0.96, "walk": 0.95}[way]


# ---- batches and threads

# beams under a filter that accepts what lies together: around some queries they meet too few, and a scan is made
SHORT = {
    "a scan of codes instead": Plan("walk", False, K, 40, 400, sparse_below=300),
    "a scan instead": Plan("walk", True, 30, 40, 400, sparse_below=300, scan_candidates=60),
}


@every_coding
@every_metric
@pytest.mark.parametrize("way", [*WAYS, *SHORT])
@every_form
@pytest.mark.parametrize("ahead", [False, True], ids=["", "originals ahead"])
def test_an_answer_depended_on_its_batch_and_on_threads(ahead, form, way, metric, coding):
    data, queries = made(coding, metric, form=form), np.tile(vectors_of(metric)[1], (3, 1))
    plan = {**WAYS, **SHORT}[way]
    flags = np.random.default_rng(2).random(N) < 0.7
    if way in SHORT:
        near = queries[0] / np.linalg.norm(queries[0])
        flags = data_near(metric, near)
    search = Search(data, bitmap(flags), int(flags.sum()), K, plan, 4)
    prefetch = (lambda rows: None) if ahead else None
    together = search.nearest(queries, ALONE, prefetch)
    assert flags[together[0]].all()
    one = [search.nearest(queries[i : i + 1], ALONE, prefetch) for i in range(24)]
    same(together, tuple(np.tile(np.concatenate([each[i] for each in one]), (3, 1)) for i in range(2)))
    same(together, search.nearest(queries, ALONE))
    with ThreadPoolExecutor(8) as pool:
        same(together, search.nearest(queries, Workers(8, lambda: pool), prefetch))


def data_near(metric, direction):
    """bool (N,): the third of the vectors that is nearest to a direction."""
    vectors = vectors_of(metric)[0]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(vectors @ direction), kind="stable")
    return np.isin(np.arange(N), order[: N // 3])


def test_one_short_walk_had_its_whole_block_scanned():
    """Those that meet enough are answered by the walk, and the scan compares the codes with the others alone."""
    metric, plan = EUCLID, SHORT["a scan of codes instead"]
    data, queries = made(("two_bits", "rabitq", False), metric), vectors_of(metric)[1]
    flags = data_near(metric, queries[0] / np.linalg.norm(queries[0]))
    search, ways = Search(data, bitmap(flags), int(flags.sum()), K, plan, 4), []
    for query in queries:
        work = Work()
        search.nearest(query[None], ALONE, None, work)
        ways.append(work.way)
    assert 3 < ways.count("walk") < 21 and set(ways) == {"walk", "scan"}
    work = Work()
    search.nearest(queries, ALONE, None, work)
    scanned = ways.count("scan") * int(flags.sum())
    assert scanned < work.distances < scanned + 24 * 700


def test_a_kernel_says_which_queries_have_met_too_few():
    data, queries = made(("one_bit", "sign", False), COSINE), vectors_of(COSINE)[1]
    flags = data_near(COSINE, queries[0] / np.linalg.norm(queries[0]))
    search = Search(data, bitmap(flags), int(flags.sum()), K, SHORT["a scan of codes instead"], 4)
    hits = layout.Hits(np.full((24, K), 77, np.int32), np.full((24, K), 77, np.float32))
    scratch = search._take_scratch()
    assert api.search_graph(queries, *search._arrays, search.settings, scratch, hits) == layout.TOO_FEW
    short = hits.ordinals[:, 0] == layout.TOO_FEW
    assert 0 < short.sum() < 24
    assert (hits.ordinals[short, 1:] == -1).all() and np.isnan(hits.scores[short]).all()
    for i in range(24):
        own = layout.Hits(np.full((1, K), 77, np.int32), np.full((1, K), 77, np.float32))
        status = api.search_graph(queries[i : i + 1], *search._arrays, search.settings, scratch, own)
        assert status == (layout.TOO_FEW if short[i] else layout.OK)
        np.testing.assert_array_equal(own.ordinals[0], hits.ordinals[i])
        np.testing.assert_array_equal(own.scores[0], hits.scores[i])
