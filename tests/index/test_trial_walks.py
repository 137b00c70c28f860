"""Walks are tried on codes that are about to be linked; where they miss much, the planner scans."""

from itertools import pairwise

import numpy as np
import pytest

from bqstore.index import HnswGraph, Quantizer, graph, plan, trial_walks
from bqstore.index.trial_walks import MOST, QUERIES, Trial, decoded, missed_by_walks
from bqstore.kernels.layout import COSINE, DOT, EUCLID
from tests import naive
from tests.index.given import CODINGS, data_of, grow, named

N = 5000
every_coding = pytest.mark.parametrize("coding", CODINGS, ids=named)


@every_coding
@pytest.mark.parametrize("metric", [COSINE, DOT, EUCLID])
@pytest.mark.parametrize("dim", [64, 100])
def test_codes_stand_for_about_what_was_encoded(dim, metric, coding):
    vectors = data_of(400, dim)[0] + np.float32(0.3)
    quantizer = Quantizer.train(vectors, *coding, metric)
    found = decoded(quantizer.encode(vectors), quantizer)
    assert found.shape == vectors.shape and found.dtype == np.float32
    expected = np.array([naive.unit(vector, metric) for vector in vectors])
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    least = {"one_bit": 0.75, "one_and_half_bits": 0.75, "two_bits": 0.8, "four_bits": 0.97}[coding[0]]
    assert cosines.min() > least - 0.15 and cosines.mean() > least


@pytest.mark.sampled(3)
@every_coding
def test_a_sound_graph_misses_next_to_nothing_and_one_with_nodes_out_of_reach_does(coding):
    vectors, _ = data_of(N, 48)
    quantizer = Quantizer.train(vectors, *coding, EUCLID)
    words = quantizer.encode(vectors)
    linked = grow(words, quantizer=quantizer, stop=N - 100)
    ordinals = np.arange(N - 100, N, 2)
    assert missed_by_walks(linked.view, words, quantizer, 64, ordinals) <= 0.01
    cut = np.isin(linked.view.links, np.random.default_rng(0).permutation(N)[: N // 3])
    hurt = linked.view._replace(links=np.where(cut, -1, linked.view.links))
    assert missed_by_walks(hurt, words, quantizer, 64, ordinals) > 0.1
    assert missed_by_walks(hurt, words, quantizer, 64, ordinals[:0]) == 0


@pytest.mark.parametrize(
    ("metric", "coding"),
    [(EUCLID, ("two_bits", "rabitq", False)), (DOT, ("one_bit", "rabitq", False))],
    ids=["euclid", "dot"],
)
def test_sparse_vectors_were_walked_to_as_what_their_codes_stand_for_is_found(metric, coding):
    """Walks found half of what scans did, and a trial that asked with codes all of it."""
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((N, 64)) * (rng.random((N, 64)) < 0.05)).astype(np.float32)
    vectors[~vectors.any(1), 0] = 1
    quantizer = Quantizer.train(vectors, *coding, metric)
    words = quantizer.encode(vectors)
    linked, ordinals = grow(words, ef=128, quantizer=quantizer, stop=N - 100), np.arange(N - 100, N, 2)
    assert missed_by_walks(linked.view, words, quantizer, 128, ordinals) <= 0.02
    assert missed_by_walks(linked.view, words, quantizer, 128, ordinals, lambda of: vectors[of]) > 0.2


def test_what_usual_walks_miss_was_not_looked_at(monkeypatch):
    """Of heavy tails .075, and wide ones nothing: it is told of, and kept with the graph."""

    class Found:
        def __init__(self, data, accept, accepted, k, plan, planes):
            self.missed = {64: 0.075, 256: 0}[plan.ef]

        def nearest(self, queries, workers):
            scores = np.ones((len(queries), 10), np.float32)
            scores.flat[: round(self.missed * scores.size)] = 0
            return None, scores

    vectors, _ = data_of(400, 48)
    quantizer = Quantizer.train(vectors, "two_bits", "rabitq", False, DOT)
    words = quantizer.encode(vectors)
    monkeypatch.setattr(graph, "_TRIED_FROM", 300)
    monkeypatch.setattr(trial_walks, "QUERIES", 25)
    monkeypatch.setattr(trial_walks, "Search", Found)
    grown = grow(words, quantizer=quantizer, stop=300)
    grown = grow(words, quantizer=quantizer, graph=grown, originals=lambda of: vectors[of])
    assert (grown.missed, grown.narrow) == (0, pytest.approx(75, abs=2))
    again = HnswGraph(16, 64)
    again.restore(*grown.parts(), 400)
    assert again.narrow == grown.narrow


@pytest.mark.parametrize(
    ("narrow", "queries", "times"),
    [(0, QUERIES, 1), (0.009, 256, 1), (0.012, 256, 1), (0.013, 256, 2), (0.03, QUERIES, 2), (0.2, QUERIES, 4)],
)
def test_what_usual_walks_miss_was_told_by_few_queries(narrow, queries, times, monkeypatch):
    """By 64, where all that wide ones miss was clear: of .03 they told anything from .01 to .06."""
    asked, lost = [], []
    monkeypatch.setattr(graph, "missed_by_walks", lambda *given: lost.append(len(given[4])) or 0.0)
    monkeypatch.setattr(graph, "missed_by_narrow_walks", lambda *given: asked.append(len(given[4])) or narrow)
    monkeypatch.setattr(graph, "_TRIED_FROM", 600)
    monkeypatch.setattr(trial_walks, "MOST", 256)
    words = Quantizer.signs(48).encode(data_of(1000, 48)[0])
    grown = grow(words, stop=600)
    grown._try(words, 899, Quantizer.signs(48), None, None)
    assert (sum(lost), sum(asked), grown.times) == (QUERIES, queries, times)
    again = HnswGraph(16, 64)
    again.restore(*grown.parts(), 600)
    assert (again.narrow, again.times) == (grown.narrow, times)
    asked.clear()
    last = grow(words, stop=600)
    last._try(words, 900, Quantizer.signs(48), None, None)
    assert (sum(asked), last.times) == (QUERIES, times)  # as another trial follows in the same call


@pytest.mark.parametrize(("missed", "times"), [(0.01, 2), (0.011, 4)])
def test_walks_twice_as_wide_missed_what_wide_ones_miss_and_more(missed, times, monkeypatch):
    """Of sparse vectors .021 where wide ones missed .007 and usual ones .047 of the rest."""
    monkeypatch.setattr(graph, "missed_by_walks", lambda *given: missed)
    monkeypatch.setattr(graph, "missed_by_narrow_walks", lambda *given: 0.03)
    monkeypatch.setattr(graph, "_TRIED_FROM", 600)
    words = Quantizer.signs(48).encode(data_of(700, 48)[0])
    grown = grow(words, stop=600)
    grown._try(words, 700, Quantizer.signs(48), None, None)
    assert grown.times == times


def test_where_all_is_scanned_no_more_queries_tell_of_widths():
    trial = Trial(goes_on=True)
    assert trial.tells(QUERIES, 0.1, 0.013) and not trial.goes_on


@pytest.mark.parametrize(("narrow", "kept"), [(40, 0), (41, 41)])
def test_what_older_versions_told_by_few_queries_is_not_taken_for_more(narrow, kept):
    numbers, arrays = grow(Quantizer.signs(48).encode(data_of(300, 48)[0])).parts()
    del numbers["times"]
    again = HnswGraph(16, 64)
    again.restore(numbers | {"narrow": narrow}, arrays, 300)
    assert (again.narrow, again.times) == (kept, 1)
    for times in (0, 5):
        with pytest.raises(ValueError, match=f"{times} times as wide"):
            HnswGraph(16, 64).restore(numbers | {"times": times}, arrays, 300)


def test_codes_are_asked_with_where_no_original_can_be_read():
    vectors, _ = data_of(2000, 48)
    quantizer = Quantizer.train(vectors, "two_bits", "rabitq", False, EUCLID)
    words, ordinals = quantizer.encode(vectors), np.arange(1900, 2000)
    cut = grow(words, quantizer=quantizer, stop=1900).view
    cut = cut._replace(links=np.where(np.arange(len(cut.links))[:, None] % 3 > 0, -1, cut.links))
    expected = missed_by_walks(cut, words, quantizer, 64, ordinals)
    assert 0 < expected == missed_by_walks(cut, words, quantizer, 64, ordinals, lambda of: vectors[:0])
    tiny = np.zeros((2, 48), np.float32)
    assert missed_by_walks(cut, words, quantizer, 64, ordinals, lambda of: tiny) == 0


def test_walks_are_tried_whenever_the_graph_has_grown_by_an_eighth(monkeypatch):
    """And what they missed is kept with the graph."""
    vectors, _ = data_of(2000, 48)
    quantizer, asked = Quantizer.train(vectors, "two_bits", "rabitq", False, DOT), []

    def read(ordinals):
        return vectors[ordinals]

    def missed(view, words, of, ef, ordinals, originals):
        asked.append((view.n, len(ordinals)))
        assert originals is read
        assert of is quantizer and ef == 64 and (ordinals >= view.n).all() and (ordinals < len(words)).all()
        return 0.0604

    monkeypatch.setattr(trial_walks, "QUERIES", 25)
    monkeypatch.setattr(graph, "_TRIED_FROM", 300)
    monkeypatch.setattr(graph, "_OFTEN_FROM", 300)
    monkeypatch.setattr(graph, "missed_by_walks", missed)
    words = quantizer.encode(vectors)
    grown = grow(words, quantizer=quantizer, stop=1500, step=500, originals=read)
    sizes = [n for n, _ in asked]
    assert 300 <= sizes[0] < 330 and sizes[-1] * 5 / 4 > 1500
    assert all(a * 9 / 8 - 1 <= b < a * 5 / 4 for a, b in pairwise(sizes))
    assert all(count == 25 for _, count in asked) and grown.missed == 60
    again = HnswGraph(16, 64)
    again.restore(*grown.parts(), 1500)
    assert again.missed == 60
    asked.clear()
    grow(words, quantizer=quantizer, graph=again, stop=sizes[-1] * 9 // 8 - 1)
    assert asked == []


def test_a_trial_of_vectors_that_come_one_by_one_was_over_after_one_of_them(monkeypatch):
    """So one unlucky query had a collection scanned until it had doubled; and an opening counted as a trial."""
    vectors, _ = data_of(700, 48)
    quantizer, asked = Quantizer.train(vectors, "two_bits", "rabitq", False, DOT), []

    def missed(view, words, of, ef, ordinals, originals):
        asked.extend(ordinals.tolist())
        return 0.1 if view.n % 2 else 0.0

    monkeypatch.setattr(trial_walks, "QUERIES", 40)
    monkeypatch.setattr(trial_walks, "MOST", 50)
    monkeypatch.setattr(graph, "_TRIED_FROM", 500)
    monkeypatch.setattr(graph, "_OFTEN_FROM", 500)
    monkeypatch.setattr(graph, "missed_by_walks", missed)
    words = quantizer.encode(vectors)
    grown = grow(words, quantizer=quantizer, stop=520, step=500)
    assert 0 < len(asked) < 40 and grown.missed == 0  # few queries say little
    again = HnswGraph(16, 64)
    again.restore(*grown.parts(), 520)
    asked.clear()
    grow(words, quantizer=quantizer, graph=again, stop=580, step=1)
    assert asked == list(range(520, 570)) and again.missed == 50  # not clear: on to the most
    last = HnswGraph(16, 64)
    last.restore(*again.parts(), 580)
    asked.clear()
    grow(words, quantizer=quantizer, graph=last, stop=700, step=7)
    assert asked[0] >= 520 * 9 // 8 and last.missed > 0


@pytest.mark.parametrize(("missed", "queries"), [(0, QUERIES), (0.001, QUERIES), (0.01, MOST), (0.5, QUERIES)])
def test_a_trial_asks_on_while_it_is_not_clear(missed, queries):
    trial, asked = Trial(goes_on=True), []
    for ordinals in trial.queries(5000, 7000):
        assert (np.diff(ordinals) > 0).all() and ordinals[0] >= 5000 and ordinals[-1] < 7000
        asked += ordinals.tolist()
        assert trial.tells(len(ordinals), missed)
    assert len(set(asked)) == len(asked) == queries and trial.missed == round(1000 * missed)
    assert not list(trial.queries(5000, 7000)) and not list(Trial().queries(0, 10))


def test_a_trial_asks_with_those_alone_whose_originals_are_held():
    held = np.array([3, 4990, 5000, 5001, 5100, 6999, 7000])
    trial = Trial(goes_on=True)
    (asked,) = trial.queries(5000, 7000, held)
    assert asked.tolist() == [5000, 5001, 5100, 6999]
    assert not list(trial.queries(5101, 6999, held))
    assert len(next(trial.queries(0, 10**6, np.arange(0, 10**6, 2)))) == QUERIES


@pytest.mark.parametrize("given", [False, True])
def test_a_trial_without_originals_had_what_was_known_forgotten(given, monkeypatch):
    """It asks with what codes stand for, of which nothing may be missed where much is of queries."""
    monkeypatch.setattr(trial_walks, "QUERIES", 25)
    monkeypatch.setattr(graph, "_TRIED_FROM", 300)
    monkeypatch.setattr(graph, "_OFTEN_FROM", 300)
    asked = []
    monkeypatch.setattr(graph, "missed_by_walks", lambda view, words, of, ef, some, read: asked.append(read) or 0.0)
    vectors, _ = data_of(2000, 48)
    quantizer = Quantizer.train(vectors, "two_bits", "rabitq", False, DOT)
    read = (lambda ordinals: vectors[ordinals]) if given else None
    grown = HnswGraph(16, 64)
    grown.begin_with(300, 0)
    grow(quantizer.encode(vectors), quantizer=quantizer, graph=grown, originals=read)
    assert asked and set(asked) == {read}
    assert grown.missed == (0 if given else 300)


def test_what_walks_miss_is_scanned():
    settings = {"n": 10**6, "accepted": 10**6, "dim": 64, "k": 10, "oversampling": 3.0, "rescore": True, "bits": 1}
    settings |= {"hnsw_ef": None, "planes": 4, "width": 1, "m": 16, "ef_construct": 128, "exact": False}
    settings |= {"linked": 10**6, "full_scan_threshold": 0, "originals": True}
    assert plan(**settings, missed=12).way == "walk"
    assert plan(**settings, missed=13).way == "scan"


def test_a_trial_of_what_came_last_had_what_was_missed_before_forgotten(monkeypatch):
    """Sparse vectors were scanned, until others came, of which nothing was missed: then walks found a tenth of them."""
    told = {300: 0.6, 480: 0.0}  # by the size of the graph

    def missed(view, words, of, ef, ordinals, originals):
        return next(part for least, part in reversed(told.items()) if view.n >= least)

    monkeypatch.setattr(trial_walks, "QUERIES", 25)
    monkeypatch.setattr(graph, "_TRIED_FROM", 300)
    monkeypatch.setattr(graph, "_OFTEN_FROM", 300)
    monkeypatch.setattr(graph, "missed_by_walks", missed)
    vectors, _ = data_of(2000, 48)
    quantizer = Quantizer.train(vectors, "two_bits", "rabitq", False, DOT)
    words = quantizer.encode(vectors)
    ask = {"quantizer": quantizer, "originals": lambda ordinals: vectors[ordinals]}
    grown = grow(words, stop=470, step=500, **ask)
    assert grown.missed == 600
    again = HnswGraph(16, 64)
    again.restore(*grown.parts(), 470)
    for each in (grown, again):
        grow(words, graph=each, stop=1900, **ask)
        assert 100 < each.missed < 200  # of a fourth of the nodes


def test_a_collection_that_is_walked_was_tried(monkeypatch):
    """From 2,048 documents on there may be walks, and the first trial came at 4,096."""
    asked = []
    monkeypatch.setattr(graph, "missed_by_walks", lambda view, *given: asked.append(view.n) or 0.3)
    vectors, _ = data_of(2300, 48)
    grown = grow(Quantizer.signs(48).encode(vectors), stop=2300)
    assert asked and min(asked) >= 2048 and grown.missed == 300


def test_a_trial_that_was_over_drew_random_numbers_for_each_batch_all_the_same(monkeypatch):
    """That took as long as a commit's own statements."""
    monkeypatch.setattr(np.random, "default_rng", lambda seed: pytest.fail("random numbers for nothing"))
    assert list(Trial().queries(5000, 5001)) == []
