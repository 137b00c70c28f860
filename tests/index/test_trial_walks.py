"""Walks are tried on codes that are about to be linked; where they miss much, the planner scans."""

from itertools import pairwise

import numpy as np
import pytest

from bqstore.index import HnswGraph, Quantizer, graph, plan
from bqstore.index.trial_walks import decoded, missed_by_walks
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


def test_walks_are_tried_whenever_the_graph_has_doubled(monkeypatch):
    """And what they missed is kept with the graph."""
    vectors, _ = data_of(2000, 48)
    quantizer, asked = Quantizer.train(vectors, "two_bits", "rabitq", False, DOT), []

    def missed(view, words, of, ef, ordinals):
        asked.append((view.n, len(ordinals)))
        assert of is quantizer and ef == 64 and (ordinals >= view.n).all() and (ordinals < len(words)).all()
        return 0.0304

    monkeypatch.setattr(graph, "_TRIED_FROM", 300)
    monkeypatch.setattr(graph, "missed_by_walks", missed)
    words = quantizer.encode(vectors)
    grown = grow(words, quantizer=quantizer, stop=1500, step=500)
    sizes = [n for n, _ in asked]
    assert len(sizes) >= 2 and sizes[0] >= 300 and all(b >= 2 * a for a, b in pairwise(sizes))
    assert all(0 < count <= 48 for _, count in asked) and grown.missed == 30
    again = HnswGraph(16, 64)
    again.restore(*grown.parts(), 1500)
    assert again.missed == 30
    asked.clear()
    grow(words, quantizer=quantizer, graph=again)
    assert asked == []


def test_what_walks_miss_is_scanned():
    settings = {"n": 10**6, "accepted": 10**6, "dim": 64, "k": 10, "oversampling": 3.0, "rescore": True, "bits": 1}
    settings |= {"hnsw_ef": None, "planes": 4, "width": 1, "m": 16, "ef_construct": 128, "exact": False}
    settings |= {"linked": 10**6, "full_scan_threshold": 0, "originals": True}
    assert plan(**settings, missed=20).way == "walk"
    assert plan(**settings, missed=21).way == "scan"
