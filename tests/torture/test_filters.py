"""A hundred thousand filtered searches, and as many random filters: none misses a hit, none finds one too many."""

import random

import numpy as np
import pytest

import bqstore
from bqstore.engine import graph_builder
from tests.engine.given import let_walk
from tests.engine.test_filter_search import check_trials, plain, worn  # noqa: F401 (fixtures)
from tests.engine.test_filter_writes import live_through
from tests.metadata.test_filter_grammar import a_life, agree, some_filter, some_metadata

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("walk", [False, True], ids=["planned", "walk"])
@pytest.mark.parametrize("name", ["plain", "worn"])
def test_as_many_hits_as_match(request, monkeypatch, name, walk, seed):
    if walk:
        let_walk(monkeypatch)
    check_trials(*request.getfixturevalue(name), trials=5000, seed=1000 + 2 * seed + walk)


@pytest.mark.parametrize("seed", range(100))
def test_random_filters(seed):
    rng = random.Random(1000 + seed)
    documents = {f"d{i}": some_metadata(rng) for i in range(150)}
    with bqstore.open() as col:
        col.add(np.ones((len(documents), 2)), list(documents), metadatas=list(documents.values()))
        for _ in range(1000):
            agree(col, documents, some_filter(rng))


@pytest.mark.parametrize("seed", range(200))
def test_lives(seed):
    a_life(random.Random(1000 + seed), 100)


@pytest.mark.filterwarnings("ignore:there is no snapshot of the graph:RuntimeWarning")
@pytest.mark.parametrize("worth", [8, 2048], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_filters_agree_with_a_dictionary(monkeypatch, on_disk, worth):
    monkeypatch.setattr(graph_builder, "SMALLEST_GRAPH", worth)
    live_through(on_disk, 1500)
