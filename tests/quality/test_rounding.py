"""What float16 and int8 lose of the nearest is measured, and health() says where it is more than a target allows."""

import numpy as np
import pytest

import bqstore
from bqstore.engine.target import RUNGS, Calibration, Rung, calibration_of
from bqstore.quality.rounding import kept
from bqstore.storage.format import FORMS, Layout, vector_records, vectors_of
from tests.adversarial.generators import topics
from tests.conftest import exact_scores
from tests.engine.given import BITS

K, DIM = 10, 64


def rounded(vectors, form):
    layout = Layout("vectors", vectors.shape[1], FORMS[form])
    return vectors_of(layout, vector_records(layout, np.arange(len(vectors)), vectors))


def found_and_kept(vectors, queries, form, distance):
    """The part of the true nearest that an exact search of rounded vectors finds, and what is said of it."""
    known, out = rounded(vectors, form), []
    for query in queries:
        true, scores = (exact_scores(each, query[None], distance)[0].astype(np.float64) for each in (vectors, known))
        near = np.argsort(-scores, kind="stable")[:64]
        least = np.partition(true, -K)[-K]
        told = kept(query, known[near], form, distance, K)
        out.append((np.mean(true[near[:K]] >= least - 1e-12), told))
    return np.mean(out, axis=0)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize(("form", "noise"), [("int8", 0.1), ("int8", 0.03), ("float16", 0.1), ("float16", 0.003)])
def test_rounding_once_more_tells_what_rounding_has_lost(form, noise, distance):
    vectors, queries = topics(noise, 20)(np.random.default_rng(0), 2000, DIM)
    found, told = found_and_kept(vectors, queries[:60], form, distance)
    # where rounding mixes up more than the documents that are looked at, the loss is greater than is told
    assert abs(found - told) < 0.04 or found < told < 0.6, (found, told)


def test_counts_categories_and_copies_lose_nothing():
    random = np.random.default_rng(1)
    fields = np.eye(4, dtype=np.float32)[random.integers(0, 4, (64, 16))].reshape(64, -1)
    some = np.zeros((64, DIM), np.float32)
    some[:, :20] = random.integers(1, 4, (64, 20))
    copies = np.tile(random.standard_normal(DIM).astype(np.float32), (64, 1))
    for vectors in (fields, some, copies, np.zeros((64, DIM), np.float32)):
        for form, distance in (("int8", "dot"), ("int8", "euclid"), ("float16", "euclid")):
            near = np.argsort(-exact_scores(vectors, vectors[:1], distance)[0], kind="stable")
            assert kept(vectors[0], vectors[near], form, distance, K) == 1
    beside = np.concatenate([copies[:20], np.zeros((20, DIM), np.float32)])  # which have no direction
    assert kept(copies[0], beside, "int8", "cosine", K) == 1


@pytest.mark.parametrize(("form", "enough"), [("float32", True), ("float16", True), ("int8", False)])
def test_a_collection_of_small_originals_was_healthy_and_lacked_what_rounding_takes(form, enough):
    """Of tight topics int8 finds .93, and .997 was said; exact searches find no more."""
    vectors, queries = topics(0.1, 20)(np.random.default_rng(0), 2000, DIM)
    with bqstore.open(originals=form, hnsw=BITS) as col:
        col.add(vectors, [str(i) for i in range(len(vectors))])
        col.flush()
        scores = exact_scores(vectors, queries, "cosine")
        least = np.partition(scores, -K, axis=1)[:, -K]
        ids = col.search_ids(queries, K)[0]
        found = np.mean([scores[i, list(map(int, row))] >= least[i] - 1e-6 for i, row in enumerate(ids)])
        health = col.health()
        assert health.measured is not None and abs(health.measured.recall - found) < 0.04
        assert (health.ok, found > 0.94) == (enough, enough), (found, health)
        assert enough or any("kept as int8" in each for each in health.problems), health


def test_more_candidates_make_up_for_what_rounding_takes():
    rungs = tuple(Rung(*RUNGS[i], recall, recall, recall) for i, recall in enumerate((0.9, 0.965, 0.992, 0.999)))
    for kept_part, first in ((1.0, 1), (0.98, 2), (0.955, 3), (0.9, 1)):
        known = Calibration(1000, 64, rungs, kept=kept_part)
        assert known.reaching(0.95) == first
        assert calibration_of({"calibration": known.stored()}) == known
    wrong = Calibration(1000, 64, rungs, kept=0.5).stored() | {"kept": 1.5}
    assert calibration_of({"calibration": wrong}) is None
