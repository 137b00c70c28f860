"""Minutes of kills, interrupts and threads while codes are made anew, and every kind of code on everything."""

from itertools import product

import numpy as np
import pytest

import bqstore
from tests.conftest import clustered, exact_scores
from tests.engine.given import let_walk, settle_early
from tests.engine.test_quantization import (
    BASE,
    DISTANCES,
    ORIGINALS,
    WAYS,
    adder,
    asked,
    build,
    check_choice,
    check_codes,
    check_searches,
    named,
    named_ids,
    opened,
    run_all,
    way_of,
)
from tests.engine.test_requantize import interrupt_often, kill_often, lead_a_life

NO_SNAPSHOT = "ignore:there is no snapshot of the graph:RuntimeWarning"
pytestmark = [pytest.mark.torture, pytest.mark.filterwarnings(NO_SNAPSHOT)]


@pytest.mark.parametrize("seed", range(10, 18))
def test_kill(tmp_path, seed):
    """In the first choice, in every kind of recoding, in adds and deletes between them."""
    assert kill_often(tmp_path, seed, 15, 0.7) >= 10


@pytest.mark.parametrize("seed", range(20, 40))
def test_kill_while_the_first_choice_is_made(tmp_path, seed):
    kill_often(tmp_path, seed, 1, 1.2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(10, 16))
def test_ctrl_c_at_any_moment(tmp_path, monkeypatch, seed):
    settle_early(monkeypatch, 450)
    interrupt_often(tmp_path, seed, 150)  # how often depends on the machine


@pytest.mark.parametrize("seed", range(10, 16))
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_collection_whose_codes_change_agrees_with_a_dictionary(tmp_path, monkeypatch, where, seed):
    settle_early(monkeypatch, 450)
    lead_a_life(tmp_path if where == "disk" else None, seed, 200)


@pytest.mark.parametrize("way", WAYS, ids=named)
@pytest.mark.parametrize("distance", DISTANCES)
def test_every_kind_of_code_from_all_originals(way, distance, monkeypatch, tmp_path):
    let_walk(monkeypatch)
    for originals, where in product(ORIGINALS, ("memory", "disk")):
        with build(BASE, way, originals, distance, tmp_path / originals if where == "disk" else None) as col:
            assert (col.info().linked, way_of(col)) == (len(BASE), way)
            check_codes(col, dict(zip(named_ids(0, len(BASE)), BASE, strict=True)))
            check_searches(col, BASE, distance, originals, way)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_adding_from_threads_while_codes_are_chosen_and_made_anew(tmp_path, where, seed):
    rng = np.random.default_rng(seed)
    ways = [WAYS[i] for i in rng.integers(0, len(WAYS), 5)]
    unit = BASE / np.linalg.norm(BASE, axis=1, keepdims=True)
    with opened(tmp_path if where == "disk" else None) as col:

        def change():
            for way in ways:
                col.requantize(**asked(way))

        run_all(change, *(adder(col, at, at + 650, int(rng.integers(5, 300)), unit) for at in range(0, 2600, 650)))
        assert len(col) == 2600 and way_of(col) == ways[-1]
        check_codes(col)
        col.requantize()
        check_choice(col)
        check_codes(col)
        assert col.verify().ok


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_largest_dimension_is_chosen_for(distance):
    base = clustered(2048, 16_384)
    with bqstore.open(distance=distance, hnsw={"full_scan_threshold": 0}) as col:
        col.add(base, named_ids(0, 2048))
        check_choice(col)
        ids, scores = col.search_ids(base[::100], 10)
        true = -np.sort(-exact_scores_of(base, base[::100], distance), axis=1)[:, :10]
        assert np.isfinite(scores).all() and np.mean(scores >= true[:, 9:] - 1e-3 * np.abs(true[:, 9:])) > 0.9
        assert distance == "dot" or ids[:, 0].tolist() == [f"d{i}" for i in range(0, 2048, 100)]


def exact_scores_of(base, queries, distance):
    """`exact_scores` in pieces: every pair of these takes gigabytes."""
    return np.concatenate([exact_scores(base, query[None], distance) for query in queries])
