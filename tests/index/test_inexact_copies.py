"""Nodes that share no more than signs with the first of their list are counted: a walk may miss them."""

import numpy as np
import pytest

from bqstore.index import ALONE, HnswGraph, Plan, Quantizer, Search
from bqstore.index.quantizer import values_of
from bqstore.kernels.layout import COSINE, DOT, EUCLID
from tests.conftest import clustered
from tests.index.given import CODINGS, bytes_of, grow, lists_of, named, searchable

DIM = 96
ONE_BIT = ("one_bit", "rabitq", False)
METRICS = (COSINE, DOT, EUCLID)
every_metric = pytest.mark.parametrize("metric", METRICS)


def codes_of(vectors, metric=COSINE, coding=ONE_BIT):
    """A quantizer, and the codes; those of one bit linked by signs alone, as under cosine, or by older versions."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    made = Quantizer.train(vectors, *coding, metric)
    if coding == ONE_BIT:
        made.arrays = made.arrays._replace(linking=np.zeros(3, np.float32))
    return made, made.encode(vectors)


@pytest.mark.parametrize("metric", [DOT, EUCLID])
def test_linked_by_estimates_only_true_copies_are_copies(metric):
    """Hundreds that share their signs are nodes of their own, and a walk finds what a scan finds."""
    vectors = few().astype(np.float32)
    made = Quantizer.train(vectors, *ONE_BIT, metric)
    words = made.encode(np.concatenate([vectors[:2500], vectors[:500] * np.float32(1 + 1e-6)]))
    graph = grow(words, quantizer=made)
    assert graph.alike == 0
    assert 450 < sum(map(len, lists_of(graph).values())) < 600
    data = searchable(words, 8, graph, metric=metric, quantizer=made)
    scanned, walked = (
        Search(data, None, 3000, 10, Plan(way, False, 10, 128, 128), 4).nearest(vectors[2500:], ALONE)[1]
        for way in ("scan", "walk")
    )
    assert (walked >= scanned[:, -1:]).mean() > 0.98


def counted(graph, words, made):
    """How many are alike, one by one."""
    _, add, factor = values_of(words, made)
    return sum(
        not all(np.isclose(row[copy], row[node], rtol=0.01, atol=0) for row in (add, factor))
        for node, copies in lists_of(graph).items()
        for copy in copies
    )


def few(n=3000, dim=8):
    """Vectors of few dimensions: hundreds share their signs."""
    return clustered(n, dim, 1)


@every_metric
def test_copies_of_whole_codes_do_not_count(metric):
    vectors = np.random.default_rng(0).permutation(np.concatenate([clustered(300, DIM, 1)] * 10))
    made, words = codes_of(vectors, metric)
    graph = grow(words, quantizer=made)
    assert sum(map(len, lists_of(graph).values())) == 2700
    assert graph.alike == 0


@every_metric
def test_what_rounding_changes_does_not_count(metric):
    """A text that is embedded a second time; under cosine another length, too."""
    rng = np.random.default_rng(0)
    vectors = rng.permutation(np.concatenate([clustered(300, DIM, 1)] * 10))
    vectors = vectors * (1 + 1e-6 * rng.standard_normal(vectors.shape))
    if metric == COSINE:
        vectors *= rng.uniform(0.2, 5, (len(vectors), 1))
    made, words = codes_of(vectors, metric)
    graph = grow(words, quantizer=made)
    copies = sum(map(len, lists_of(graph).values()))
    assert copies > 2600 and len(np.unique(words, axis=0)) > 1000
    assert graph.alike < copies / 50


@pytest.mark.parametrize("metric", [DOT, EUCLID])
def test_other_lengths_count(metric):
    base = clustered(500, DIM, 1)
    vectors = np.concatenate([base, 2 * base, base, 3 * base])
    made, _ = codes_of(np.concatenate([vectors, -vectors]), metric)  # without a mean
    words = made.encode(vectors)
    graph = grow(words, quantizer=made)
    assert graph.alike == counted(graph, words, made) == 1000


@pytest.mark.sampled(3)
@every_metric
@pytest.mark.parametrize("coding", CODINGS, ids=named)
def test_only_lists_that_go_by_signs_alone_hold_any(metric, coding):
    made, words = codes_of(few(), metric, coding)
    graph = grow(words, quantizer=made)
    assert graph.alike == (counted(graph, words, made) if coding[:2] == ONE_BIT[:2] else 0)
    assert (graph.alike > 2000) == (coding[:2] == ONE_BIT[:2])


@every_metric
def test_however_a_graph_grows_and_whenever_it_was_restored(metric):
    made, words = codes_of(few(), metric)
    graph = grow(words, stop=1200, quantizer=made)
    assert 0 < graph.alike == counted(graph, words, made)
    again = HnswGraph(16, 64)
    again.restore(*graph.parts(), 1200)
    assert again.alike == graph.alike
    for each in (graph, again):
        grow(words, graph=each, step=700, threads=2, quantizer=made)
        assert each.alike == counted(each, words, made) == each.parts()[0]["alike"]
    assert bytes_of(graph) == bytes_of(again)


@every_metric
def test_parts_that_do_not_tell_are_taken_and_counted(metric):
    """Of a version that did not count."""
    made, words = codes_of(few(), metric)
    graph = grow(words, quantizer=made)
    numbers, arrays = graph.parts()
    del numbers["alike"]
    again = HnswGraph(16, 64)
    again.restore(numbers, arrays, len(words))
    assert again.alike == 0
    again.count(words, made)
    assert again.alike == graph.alike > 0
    assert bytes_of(again) == bytes_of(graph)


@pytest.mark.parametrize("coding", CODINGS, ids=named)
def test_counting_of_any_codes_and_of_no_nodes(coding):
    made, words = codes_of(few(500), COSINE, coding)
    graph = grow(words, quantizer=made)
    expected, graph.alike = graph.alike, 7
    graph.count(words, made)
    assert graph.alike == expected
    empty = HnswGraph(16, 64)
    empty.count(words, made)
    assert empty.alike == 0


@pytest.mark.parametrize("kind", ["to itself", "circle", "ascending"])
def test_counting_lists_that_are_damaged_ends(kind):
    made, words = codes_of(few(1000))
    graph = grow(words, quantizer=made)
    every = np.arange(1000, dtype=np.int32)
    lists = {"to itself": every, "circle": every ^ 1, "ascending": np.minimum(every + 1, 999)}[kind]
    numbers, arrays = graph.parts()
    again = HnswGraph(16, 64)
    again.restore(numbers, {**arrays, "same": lists}, 1000)
    again.count(words, made)
    assert 0 <= again.alike <= 1000
