"""With nothing set, searches find what the target promises, on data unlike a model's, or the collection says so."""

import numpy as np
import pytest

import bqstore
from tests.adversarial.generators import GENERATORS
from tests.conftest import FULL, exact_scores
from tests.engine.given import BITS

K, FLOOR = 10, 0.95
BEYOND = {"bimodal"}  # no code around one mean tells the dense half apart: exact searches take their place
OFTEN = {"topics, noise 1", "one-hot first", "bimodal", "sparse"}
KINDS = [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow) for kind in GENERATORS]
SIZES = [(4_000, 64)] if not FULL else [(12_000, 64), (30_000, 128), (20_000, 384)]


def found_of(col, vectors, queries, distance):
    """The share of hits that are as near as the true k-th nearest: of equals any will do."""
    got, ids = [], col.search_ids(queries, K)[0]
    for query, row in zip(queries, ids, strict=True):
        scores = exact_scores(vectors, query[None], distance)[0]
        least = np.partition(scores, len(scores) - K)[len(scores) - K]
        got.append(np.mean([scores[int(id_)] >= least - 1e-5 * abs(least) for id_ in row]))
    return float(np.mean(got))


def filled(vectors, **settings):
    col = bqstore.open(None, hnsw={**BITS, **settings.pop("hnsw", {})}, **settings)
    for at in range(0, len(vectors), 3000):
        part = vectors[at : at + 3000]
        col.add(part, [str(i) for i in range(at, at + len(part))])
    col.flush()
    return col


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("n", "dim"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_by_itself_it_finds_what_it_promises(kind, n, dim):
    vectors, queries = GENERATORS[kind](np.random.default_rng(1), n, dim)
    with filled(vectors) as col:
        found, health = found_of(col, vectors, queries, "cosine"), col.health()
        assert found >= FLOOR - 0.01, (found, health)
        assert health.ok == (kind not in BEYOND), health
        assert health.measured is not None and (health.measured.recall >= FLOOR) == health.ok


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["dot", "euclid"])
@pytest.mark.parametrize("kind", ["heavy-tailed lengths", "bimodal", "topics, noise 1"])
def test_in_other_distances(kind, distance):
    vectors, queries = GENERATORS[kind](np.random.default_rng(2), *SIZES[0])
    with filled(vectors, distance=distance) as col:
        assert found_of(col, vectors, queries, distance) >= FLOOR - 0.01, col.health()


@pytest.mark.long
def test_with_few_links():
    vectors, queries = GENERATORS["topics, noise 1"](np.random.default_rng(3), *SIZES[0])
    with filled(vectors, hnsw={"m": 4}) as col:
        assert found_of(col, vectors, queries, "cosine") >= FLOOR - 0.01
