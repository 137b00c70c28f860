"""`Collection.tune`: what it promises holds for queries it has not seen, and it says so where it cannot be kept."""

from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore import SearchParams
from bqstore.quality import tune as tuning
from tests.conftest import FULL, clustered, exact_scores
from tests.engine.given import data_of, filled, let_walk
from tests.quality.test_recall_report import brute_recall, with_duplicates


def recall_of(col: bqstore.Collection, base: np.ndarray, queries: np.ndarray, params: SearchParams, k: int) -> float:
    assert params.rescore
    return brute_recall(col, base, queries, k, oversampling=params.oversampling, hnsw_ef=params.hnsw_ef)


slow = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distance", "target", "half"),
    [
        ("euclid", 0.98, 300),
        pytest.param("cosine", 0.9, 300, marks=slow),
        *(pytest.param(name, share, 1000, marks=slow) for name in ("cosine", "euclid") for share in (0.9, 0.98)),
    ],
)
def test_the_target_is_reached_on_new_queries(monkeypatch, distance, target, half):
    monkeypatch.setattr(tuning, "_HALF", half)
    base, queries = data_of(3000, 48, queries=500)
    with filled(None, base, encoding="one_bit", distance=distance) as col:
        params = col.tune(target, k=10)
        assert recall_of(col, base, queries, params, 10) >= target - 0.01
        assert isinstance(params, SearchParams) and 1 <= params.oversampling <= 64


@pytest.mark.parametrize(
    ("encoding", "n", "half"),
    [
        ("one_bit", 3000, 300),
        pytest.param("one_bit", 6000, 1000, marks=slow),
        pytest.param("two_bits", 6000, 1000, marks=slow),
    ],
)
@pytest.mark.long
def test_the_target_is_reached_by_walks(monkeypatch, encoding, n, half):
    let_walk(monkeypatch)
    monkeypatch.setattr(tuning, "_HALF", half)
    base, queries = data_of(n, 48, queries=500)
    with filled(None, base, encoding=encoding, estimator="rabitq") as col:
        params = col.tune(0.95)
        hits = col.search(queries[0], explain=True, oversampling=params.oversampling, hnsw_ef=params.hnsw_ef)
        assert hits.explanation.way == "walk"
        assert recall_of(col, base, queries, params, 10) >= 0.94


def test_on_disk_with_deletions_and_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_HALF", 1000 if FULL else 300)
    base = with_duplicates(3000, 32)
    live = [i for i in range(3000) if i % 3]
    queries = clustered(300, 32, seed=0)[:300]
    with filled(tmp_path, base, encoding="one_bit") as col:
        col.delete([f"d{i}" for i in range(0, 3000, 3)])
        params = col.tune(0.9, k=5)
        scores = exact_scores(base[live], queries, "cosine")
        least = np.sort(scores, axis=1)[:, -5]
        found = 0
        for i, query in enumerate(queries):
            hits = col.search(query, 5, oversampling=params.oversampling, hnsw_ef=params.hnsw_ef)
            found += sum(hit.score >= least[i] - 1e-6 for hit in hits)
    assert found / (5 * len(queries)) >= 0.89


def test_what_is_found_becomes_the_default_also_at_the_next_opening(tmp_path):
    base, queries = data_of(1500, 32)
    with filled(tmp_path, base, encoding="one_bit") as col:
        params = col.tune(0.9)
        assert params != SearchParams() and col.info().search == params
        expected = col.search_ids(queries, oversampling=params.oversampling, hnsw_ef=params.hnsw_ef)[0].tolist()
        assert col.search_ids(queries)[0].tolist() == expected
    with bqstore.open(tmp_path, read_only=True, hnsw={"full_scan_threshold": 0}) as col:
        assert col.info().search == params and col.search_ids(queries)[0].tolist() == expected
        with pytest.raises(bqstore.ReadOnlyError):
            col.tune(0.9)


def test_a_small_collection_is_tuned_for_when_it_has_grown():
    base = clustered(1000, 32)
    with bqstore.open(quantization={"encoding": "one_bit"}) as col:
        col.add(base)
        assert col.info().way == "exact"
        small = col.tune(0.5)
        large = col.tune(0.97)
    assert 1 <= small.oversampling < large.oversampling


def test_the_least_that_is_enough_is_taken():
    """Nothing much cheaper would have done: recall grows with the oversampling, and the last step is needed."""
    base, queries = data_of(3000, 32, queries=1000)
    with filled(None, base, encoding="one_bit") as col:
        params = col.tune(0.95, queries=queries)
        assert recall_of(col, base, queries, params, 10) >= 0.95
        assert recall_of(col, base, queries, SearchParams(params.oversampling * 0.7), 10) < 0.95


def test_the_winner_is_validated_on_other_queries(monkeypatch):
    """The half that settings are found with is easy, the other hard: what is enough for the first is not kept."""
    base, hard = data_of(3000, 96, queries=400)
    easy = base[:400]
    with filled(None, base, encoding="one_bit") as col:
        monkeypatch.setattr(tuning, "_shuffled", lambda vectors: vectors)
        both = col.tune(0.8, k=1, queries=np.concatenate([easy, hard]))
        assert recall_of(col, base, hard, both, 1) >= 0.8
        assert col.tune(0.8, k=1, queries=np.concatenate([easy, easy])).oversampling < both.oversampling


def test_a_target_that_cannot_be_reached(monkeypatch):
    half = 1000 if FULL else 300
    monkeypatch.setattr(tuning, "_HALF", half)
    base = np.random.default_rng(0).standard_normal((4000, 4)).astype(np.float32)  # 4 bits for 4,000 directions
    with filled(None, base, encoding="one_bit") as col:
        before = col.info().search
        with pytest.raises(bqstore.TargetNotReachedError) as caught:
            col.tune(0.99)
        assert col.info().search == before
    message = str(caught.value)
    for part in ("0.99", "k=10", "oversampling=64", f"{half:,} queries", "requantize", "four_bits"):
        assert part in message
    assert isinstance(caught.value, bqstore.BqstoreError)


def test_too_few_documents_to_be_sure():
    with filled(None, clustered(100, 32), encoding="one_bit") as col:
        for target, queries, message in (
            (
                0.98,
                None,
                "too few documents to tell: to show recall 0.98 with 95% confidence takes 298 queries, half of them to "
                "find settings with and half to validate them, and this collection has 100 documents to ask with; "
                "add documents, or ask for at most 0.94",
            ),
            (0.98, 40, "298 queries, .* and there are 40; give more, or ask for at most 0.86$"),
            (0.98, 5, "there are 5; give more, or ask for less$"),
            (1.0, None, "takes more queries than there can be: more than the 2,000 that are measured; ask for at most"),
            (0.9999, 2500, "takes 59,912 queries, .*: more than the 2,000 that are measured; ask for at most 0.99$"),
        ):
            with pytest.raises(bqstore.TargetNotReachedError, match=message):
                col.tune(target, queries=None if queries is None else clustered(queries, 32, seed=1))
        assert col.tune(0.9).oversampling > 1


def test_five_documents_are_too_few_to_tell():
    with bqstore.open() as col:
        col.add(clustered(5, 16))
        with pytest.raises(bqstore.TargetNotReachedError, match=r"has 5 documents to ask with; add documents, or ask"):
            col.tune()


@pytest.mark.parametrize("target", [0, -0.1, 1.01, 98, float("nan"), "0.9", None, True])
def test_targets_that_make_no_sense(target):
    with filled(None, clustered(50, 16), encoding="one_bit") as col, pytest.raises(bqstore.InvalidInputError) as error:
        col.tune(target)
    assert "target_recall" in str(error.value) and "above 0" in str(error.value)


def test_what_cannot_be_tuned():
    base = clustered(50, 16)
    with bqstore.open(dim=16) as col:
        for n in (0, 1):
            with pytest.raises(bqstore.InvalidInputError, match=rf"tune\(\) needs at least 2 documents.*has {n}"):
                col.tune()
            col.add(base[n : n + 1])
    with bqstore.open(originals="none") as col:
        col.add(base)
        with pytest.raises(bqstore.InvalidInputError, match=r"tune\(\) needs the originals"):
            col.tune()
    with filled(None, base, encoding="one_bit") as col:
        with pytest.raises(bqstore.InvalidInputError, match="at least 2 queries"):
            col.tune(queries=base[0])
        with pytest.raises(bqstore.InvalidInputError, match="k is 0"):
            col.tune(k=0)
        with pytest.raises(bqstore.InvalidInputError, match="8 dimensions"):
            col.tune(queries=base[:, :8])


@pytest.mark.parametrize(
    ("k", "n", "last"), [(10, 100_000, 64), (10, 320, 32), (300, 100_000, 10_000 / 300), (10, 5, 1)]
)
def test_the_ladder_ends_at_all_documents_or_ten_thousand(k, n, last):
    ladder = tuning._ladder(k, n)
    assert ladder[-1] == last and ladder == sorted(set(ladder)) and ladder[0] >= 1
    candidates = [np.ceil(k * step - 1e-9) for step in ladder]
    assert len(set(candidates)) == len(ladder)


def test_the_least_that_is_enough_is_found_in_few_steps():
    rising = [SearchParams(1.0 + step) for step in range(37)]
    for least in range(38):
        asked: list[float] = []

        def enough(params: SearchParams, least: int = least, asked: list[float] = asked) -> bool:
            asked.append(params.oversampling)
            return params.oversampling >= 1.0 + least

        expected = rising[least] if least < 37 else None
        assert tuning._least(enough, rising) == expected
        assert len(asked) <= 12
    assert tuning._least(lambda _: True, rising[:1]) == rising[0]
    assert tuning._least(lambda _: False, rising[:1]) is None


@slow
def test_real_embeddings(embeddings):
    """The promise on queries of another kind than the documents: held out of both halves."""
    base, queries = embeddings("mpnet_base_v2_768.npz")
    with bqstore.open_flat(full_scan_threshold=0, encoding="one_bit") as col:
        col.add(base, [f"d{i}" for i in range(len(base))])
        for target in (0.9, 0.97):
            params = col.tune(target)
            assert recall_of(col, base, queries, params, 10) >= target - 0.01


def test_of_four_bits_a_better_graph_is_what_helps():
    params = SearchParams(oversampling=64.0, hnsw_ef=128)
    measured = SimpleNamespace(
        known={params: (0.9, 0.85, 0.95)},
        quantization=SimpleNamespace(encoding="four_bits"),
        evaluator=SimpleNamespace(k=10, truth=range(300)),
    )
    said = str(tuning._not_reached(0.99, measured))
    assert "oversampling=64, hnsw_ef=128, find 0.9000" in said and "a larger m and ef_construct" in said
