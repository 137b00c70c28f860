"""The nodes that searches begin at: the same of the same graph, whole nodes, from everywhere."""

from dataclasses import replace

import numpy as np
import pytest

from bqstore.index import HnswGraph, Quantizer
from bqstore.index.threads import ALONE
from bqstore.kernels.layout import COSINE, NO_SEEDS, NO_SIGNS
from tests.index.given import CODINGS, data_of, encode, grow, named, recall, searchable, walk

N, DIM = 3000, 128


@pytest.fixture(scope="module")
def data():
    vectors, queries = data_of(N, DIM)
    return vectors, queries


@pytest.mark.parametrize("coding", CODINGS[::4], ids=named)
def test_a_graph_that_was_built_and_one_that_was_restored_have_the_same(data, coding):
    quantizer = Quantizer.train(data[0], *coding, COSINE)
    words = quantizer.encode(data[0])
    width = quantizer.arrays.width
    built = grow(words, step=700, quantizer=quantizer)
    again = HnswGraph(16, 64)
    again.restore(*built.parts(), N)
    assert len(again.view.seeds) == 0
    again.sample(words, width)
    assert len(built.view.seeds) == 32
    assert (again.view.seeds == built.view.seeds).all()
    assert (again.view.seed_signs == words[built.view.seeds, :width]).all()
    assert (again.view.seed_signs == built.view.seed_signs).all()


def test_they_are_chosen_anew_as_the_graph_grows(data):
    words, seen = encode(data[0]), {}
    graph = HnswGraph(16, 64)
    while len(graph) < N:
        n = graph.link(words, N, ALONE)
        seen[n] = tuple(graph.view.seeds.tolist())
        assert all(seed < n for seed in seen[n])
        assert bool(seen[n]) == (n >= 1024)
    assert 5 < len(set(seen.values())) < 30


def test_copies_are_none():
    words = np.repeat(encode(data_of(300, DIM)[0]), 10, axis=0)
    graph = grow(words)
    assert 0 < len(graph.view.seeds) <= 32
    assert (graph.view.links[graph.view.seeds, 0] >= 0).all()


def test_a_sample_of_documents_that_come_in_turns_is_of_all_topics():
    """Evenly spaced ordinals were all of one topic, where every hundredth document is of it."""
    vectors, _ = data_of(4000, DIM)
    graph = grow(encode(vectors))
    assert len(set((graph.view.seeds % 100).tolist())) > 20


def test_the_descent_led_into_a_wrong_cluster():
    """Far clusters and a short list: from the nearest of a sample a walk finds more than from the entry point."""
    random = np.random.default_rng(5)
    centers = random.standard_normal((200, DIM)).astype(np.float32)
    near = 0.3 * random.standard_normal((8200, DIM)).astype(np.float32)
    vectors = centers[random.integers(0, 200, 8200)] + near
    words, queries = encode(vectors[:8000]), vectors[8000:]
    graph = grow(words, m=4, ef=20)
    state = searchable(words, DIM, graph)
    descended = replace(state, graph=graph.view._replace(seeds=NO_SEEDS, seed_signs=NO_SIGNS))
    found, before = (recall(words, queries, walk(each, queries, 10, 12)) for each in (state, descended))
    assert found > before + 0.05, (found, before)
