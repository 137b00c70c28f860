"""`Collection.recall`: against brute force in numpy, with duplicates, deletions, few documents, and bad input."""

import threading
from dataclasses import replace

import numpy as np
import pytest

import bqstore
from bqstore.quality import ground_truth, recall_report, trial_codes
from tests.conftest import HANGS, clustered, exact_scores
from tests.engine.given import data_of, filled, let_walk

BITS = {"encoding": "one_bit", "full_scan_threshold": 0}
KNOWN = "oversampling", "hnsw_ef", "rescore"


def with_duplicates(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """float32 (n, dim): of every twentieth document there are four."""
    base = clustered(n, dim, seed)
    base[1::20], base[2::20], base[3::20] = base[::20], base[::20], base[::20]
    return base


def numbers(ids: np.ndarray) -> np.ndarray:
    return np.array([[int(id_[1:]) for id_ in row] for row in ids])


def brute_recall(col: bqstore.Collection, base: np.ndarray, queries: np.ndarray, k: int, **keywords) -> float:
    """Recall of a search, ties counted, without any of the code under test."""
    scores = exact_scores(base, queries, col.info().distance)
    least = np.sort(scores, axis=1)[:, -k][:, None]
    found = numbers(col.search_ids(queries, k, **keywords)[0])
    assert all(len(set(row)) == k for row in found.tolist())
    good = np.take_along_axis(scores, found, 1) >= least - 1e-6
    return float(np.minimum(good.sum(1), k).mean() / k)


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
def test_recall_agrees_with_brute_force(distance):
    base = with_duplicates(1200, 48)
    queries = np.concatenate([clustered(30, 48, seed=1), base[:20]])  # some are documents, with copies of them
    wanted = [{"oversampling": 1.5}, {"oversampling": 3.0}, {"rescore": False}, {"query_encoding": "scalar8bits"}]
    with filled(None, base, encoding="one_bit", distance=distance) as col:
        report = col.recall(queries, k=7, settings=wanted)
        for given, point in zip(wanted, report.points[1:], strict=False):
            keywords = {name: value for name, value in given.items() if name in KNOWN}
            if keywords:
                assert point.recall == pytest.approx(brute_recall(col, base, queries, 7, **keywords), abs=1e-9)
            assert point.stored and point.way == "scan" and point.low <= point.recall <= point.high
            assert 0 < point.milliseconds <= point.slowest
        assert report.recall == pytest.approx(brute_recall(col, base, queries, 7), abs=1e-9)
    assert (report.k, report.queries, report.held_out, report.documents) == (7, 50, False, 1200)
    assert (report.distance, report.dim) == (distance, 48)
    one, two, raw, better = report.points[1:5]
    assert one.recall < two.recall and raw.recall < one.recall and better.recall > two.recall


@pytest.mark.parametrize("originals", ["float32", "float16", "int8"])
def test_truth_is_the_exact_search_of_the_originals_that_are_kept(originals):
    """Of copies any will do, so scores must be equal to the bit, whichever way they were come by."""
    base = with_duplicates(600, 40)
    with filled(None, base, encoding="one_bit", originals=originals) as col:
        report = col.recall(base[:100], settings=[{"oversampling": 60}])
        everything = report.points[1]
    assert everything.recall == 1
    assert everything.low == pytest.approx(0.05 ** (1 / 100)) and everything.high == 1


def test_a_held_out_document_is_not_its_own_neighbor():
    """Documents far apart: the best score of another is far from that of a document with itself, which is 1."""
    base = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32)
    with filled(None, base, encoding="one_bit") as col:
        report = col.recall(k=1, sample=400)
    assert report.held_out and report.queries == 400
    scores = exact_scores(base, base, "cosine")
    np.fill_diagonal(scores, -1)
    assert report.scores.edges[-1] == pytest.approx(scores.max(), abs=1e-6)
    assert sum(report.scores.neighbors) == 400


@pytest.mark.sampled(1)
@pytest.mark.parametrize("walked", [False, True])
def test_recall_of_held_out_documents_agrees_with_brute_force(monkeypatch, walked):
    n = 3000 if walked else 900
    base = with_duplicates(n, 32)
    base[::30] = -base[::30]
    if walked:
        let_walk(monkeypatch)
    with filled(None, base, encoding="one_bit") as col:
        col.delete([f"d{i}" for i in range(0, n, 7)])
        report = col.recall(k=5, sample=150, settings=[{"oversampling": 2}, {"oversampling": n / 5}])
        state = col._engine.publisher.current()
        _, own = ground_truth.hold_out(state, 150)
        assert state.live[own].all() and len(set(own.tolist())) == 150
        hits = 0
        for o in own.tolist():
            others = [i for i in range(n) if i % 7 and i != o]
            scores = exact_scores(base[others], base[o : o + 1], "cosine")[0]
            found = numbers(col.search_ids(base[o], 5, filter={"i": {"$in": others}}, oversampling=2)[0])[0]
            assert o not in found
            good = scores[np.searchsorted(others, found)] >= np.sort(scores)[-5] - 1e-6
            hits += min(int(good.sum()), 5)
    two, everything = report.points[1:3]
    assert two.way == ("walk" if walked else "scan")
    # its links are cut while a node asks: a walk may find less, never more than a few in a hundred less
    assert hits / 750 - (0.05 if walked else 1e-9) <= two.recall <= hits / 750 + 1e-9
    assert everything.way == "scan" and everything.recall == 1


def test_measuring_leaves_the_graph_as_it_is(monkeypatch):
    let_walk(monkeypatch)
    base, _ = data_of(3000, 32)
    with filled(None, base, encoding="one_bit") as col:
        graph = col._engine.publisher.current().data.graph
        before = [part.copy() for part in graph[:5]]
        report = col.recall(sample=50)
        assert {point.way for point in report.points if point.stored} == {"walk"}
        assert {point.hnsw_ef for point in report.points if point.stored} == {None, 64, 256, 512}
        assert all(np.array_equal(a, b) for a, b in zip(before, graph[:5], strict=True))
        assert col._engine.publisher.current().data.graph is graph


def test_of_copies_any_will_do():
    base = np.repeat(clustered(10, 32), 30, axis=0)
    with filled(None, base, encoding="one_bit") as col:
        report = col.recall(sample=50)
    assert {point.recall for point in report.points} == {1.0}


@pytest.mark.parametrize("n", [2, 5])
def test_fewer_documents_than_asked_for(n):
    with filled(None, clustered(n, 16), encoding="one_bit") as col:
        report = col.recall(k=10)
    assert report.queries == n and report.recall == 1 and report.low < 1
    assert all(0 <= point.recall <= 1 for point in report.points)
    assert sum(report.scores.neighbors) == n * (n - 1)


def test_a_small_collection_is_answered_exactly_and_the_codes_are_measured_all_the_same():
    base = clustered(500, 32)
    with bqstore.open(quantization={"encoding": "one_bit"}) as col:
        col.add(base)
        report = col.recall(sample=80)
        info = col.info()
    assert report.current.way == info.way == "exact"
    assert report.recall == report.current.recall == 1 and report.current is report.points[0]
    assert {point.way for point in report.points[1:]} == {"scan"}
    own = [point for point in report.points[1:] if point.quantization == info.quantization]
    assert [point.oversampling for point in own] == [1, 2, 3, 4, 8] and all(point.stored for point in own)
    recalls = [point.recall for point in own]
    assert recalls == sorted(recalls) and recalls[0] < recalls[-1]
    assert {point.memory_bytes for point in own} == {info.memory_bytes}
    others = [point for point in report.points if not point.stored]
    assert {point.quantization.encoding for point in others} == {"one_bit", "two_bits", "four_bits"}
    assert report.scanned == report.documents == 500
    at_four = {point.quantization: point for point in report.points[1:] if point.oversampling == 4}
    best = max(point.recall for kind, point in at_four.items() if kind.encoding == "one_bit")
    assert report.suits_one_bit == (best >= 0.95)
    most = max(at_four.values(), key=lambda point: point.memory_bytes)
    assert most.quantization.encoding == "four_bits" and most.recall > recalls[3]


def test_the_defaults_of_the_collection_are_measured_first():
    base = clustered(400, 32)
    with bqstore.open_flat(**BITS, oversampling=2.5, query_encoding="scalar4bits") as col:
        col.add(base)
        report = col.recall(sample=40, settings=[])
    assert report.points[0] == report.current
    assert (report.current.oversampling, report.current.way) == (2.5, "scan")
    assert report.current.quantization.query_encoding == "scalar4bits"
    # whether one bit is enough is measured although nobody asked
    assert [point.oversampling for point in report.points] == [2.5, 4]
    assert report.suits_one_bit == (report.points[1].recall >= 0.95)


def test_defaults_that_are_not_in_the_grid_are_measured_by_codes_too():
    """Of a small collection, which is searched exactly, the verdict tells what they will find."""
    with bqstore.open_flat(encoding="one_bit", oversampling=2.5) as col:
        col.add(clustered(400, 32))
        report = col.recall(sample=80)
    assert (report.current.oversampling, report.current.way) == (2.5, "exact")
    (point,) = [point for point in report.points[1:] if point.oversampling == 2.5]
    assert point.stored and point.way == "scan" and f"they will find {100 * point.recall:.1f}%" in report.verdict


def test_settings_mean_what_they_mean_elsewhere():
    def of(**given):
        return recall_report.configurations_from([given], default)[0]

    stored = bqstore.Quantization("two_bits", "scalar8bits", "rabitq", True)
    default = recall_report.Configuration(stored, bqstore.SearchParams(5.0, False, 77))
    assert of() == default
    assert of(query_encoding="binary").quantization == replace(stored, query_encoding="binary")
    assert of(oversampling=2, rescore=True).params == bqstore.SearchParams(2.0, True, 77)
    assert of(hnsw_ef=np.int64(9)).params.hnsw_ef == 9
    assert of(encoding="one_bit").quantization == bqstore.Quantization("one_bit", "binary", "sign", False)
    assert of(encoding="four_bits").quantization == bqstore.Quantization("four_bits", "scalar8bits", "rabitq", False)
    assert of(estimator="rabitq").quantization == bqstore.Quantization("one_bit", "scalar4bits", "rabitq", False)
    assert of(rotate=True).quantization == bqstore.Quantization("one_bit", "scalar4bits", "rabitq", True)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ([{"oversamplin": 2}], bqstore.UnknownKeywordError, r"settings\[0\].*did you mean 'oversampling'"),
        ([{}, {"exact": True}], bqstore.UnknownKeywordError, r"settings\[1\] has no keyword 'exact'"),
        ([{"encoding": "four_bits", "estimator": "sign"}], bqstore.InvalidInputError, "needs estimator='rabitq'"),
        ([{"encoding": "one_and_half_bits", "estimator": "rabitq"}], bqstore.InvalidInputError, "one_and_half_bits"),
        ([{"rotate": True, "estimator": "sign"}], bqstore.InvalidInputError, "rotate=True"),
        ([{"encoding": "one_bits"}], bqstore.InvalidInputError, "did you mean 'one_bit'"),
        ([{"oversampling": 0.5}], bqstore.InvalidInputError, "at least 1"),
        ([{"hnsw_ef": 0}], bqstore.InvalidInputError, "hnsw_ef"),
        ([{"rescore": "yes"}], bqstore.InvalidInputError, "rescore"),
        ({"oversampling": 2}, bqstore.InvalidInputError, "expected a list of dicts"),
        (["oversampling"], bqstore.InvalidInputError, r"settings\[0\]"),
        (3, bqstore.InvalidInputError, "expected a list of dicts"),
    ],
)
def test_settings_that_cannot_be(settings, error, says):
    with filled(None, clustered(50, 16), encoding="one_bit") as col, pytest.raises(error, match=says):
        col.recall(settings=settings)


def test_what_cannot_be_measured():
    base = clustered(50, 16)
    with bqstore.open(dim=16) as col:
        for n in (0, 1):
            with pytest.raises(bqstore.InvalidInputError, match=rf"at least 2 documents.*has {n}"):
                col.recall()
            col.add(base[n : n + 1])
    with bqstore.open(originals="none") as col:
        col.add(base)
        with pytest.raises(bqstore.InvalidInputError, match=r"recall\(\) needs the originals"):
            col.recall()
    with filled(None, base, encoding="one_bit") as col:
        for bad in ({"k": 0}, {"k": 10_001}, {"sample": 0}, {"sample": 1.5}):
            with pytest.raises(bqstore.InvalidInputError, match=next(iter(bad))):
                col.recall(**bad)
        with pytest.raises(bqstore.InvalidInputError, match="16"):
            col.recall(base[:, :8])
        with pytest.raises(bqstore.InvalidInputError, match="queries is empty"):
            col.recall(base[:0])
        with pytest.raises(bqstore.InvalidInputError, match="NaN"):
            col.recall(np.full(16, np.nan, np.float32))
        with pytest.raises(bqstore.UnknownKeywordError, match="did you mean 'sample'"):
            col.recall(samples=3)


def test_intervals_cover_the_truth():
    """Nineteen of twenty do; of 400 samples fewer than 360 would be one in thousands of millions."""
    rng = np.random.default_rng(0)
    population = rng.binomial(10, rng.beta(9, 1, 100_000))  # hits of 10, queries of uneven difficulty
    covered = 0
    for _ in range(400):
        recall, low, high = ground_truth.interval(rng.choice(population, 150), 10)
        assert low <= recall <= high
        covered += low <= population.mean() / 10 <= high
    assert covered >= 360


def test_an_interval_of_queries_that_all_went_well_is_not_a_point():
    assert ground_truth.interval(np.full(200, 10), 10) == (1.0, pytest.approx(0.05 ** (1 / 200)), 1.0)
    assert ground_truth.interval(np.zeros(200, np.int64), 10) == (0.0, 0.0, pytest.approx(1 - 0.05 ** (1 / 200)))
    nearly = np.full(200, 10)
    nearly[0] = 9
    assert ground_truth.interval(nearly, 10)[1] == pytest.approx(0.05 ** (1 / 200))
    # queries that fail altogether, 1 in 100: the bound is below what is true in 19 samples of 20
    rng = np.random.default_rng(1)
    lows = [ground_truth.interval(np.where(rng.random(100) < 0.01, 0, 10), 10)[1] for _ in range(400)]
    assert np.mean(np.array(lows) <= 0.99) >= 0.94


def test_the_same_on_disk_read_only_and_again(tmp_path):
    base = with_duplicates(700, 32)
    with filled(None, base, encoding="one_bit") as col:
        col.delete([f"d{i}" for i in range(0, 700, 5)])
        expected = col.recall(sample=60)
    with filled(tmp_path, base, encoding="one_bit") as col:
        col.delete([f"d{i}" for i in range(0, 700, 5)])
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.bin")}
    with bqstore.open(tmp_path, read_only=True, hnsw={"full_scan_threshold": 0}) as col:
        for _ in range(2):
            report = col.recall(sample=60)
            assert report.documents == 560 and report.verdict == expected.verdict
            for a, b in zip(report.points, expected.points, strict=True):
                assert replace(a, milliseconds=0, slowest=0) == replace(b, milliseconds=0, slowest=0)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.bin")}


def test_damage_is_told(tmp_path):
    with filled(tmp_path, clustered(300, 32), encoding="one_bit"):
        pass
    file = next(tmp_path.rglob("vectors-*.bin"))
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(bytes(data))
    with bqstore.open(tmp_path, read_only=True) as col, pytest.raises(bqstore.CorruptionError, match="checksum"):
        col.recall()


@pytest.mark.parametrize("path", [False, True])
def test_of_a_large_collection_other_encodings_are_measured_on_a_sample(monkeypatch, tmp_path, path):
    monkeypatch.setattr(trial_codes, "MOST", 500)
    base = clustered(2000, 32)
    with filled(tmp_path if path else None, base, encoding="one_bit") as col:
        col.delete([f"d{i}" for i in range(100)])
        for queries in (None, clustered(60, 32, seed=1)):
            report = col.recall(queries, sample=60)
            assert (report.documents, report.scanned) == (1900, 500)
            best = [point for point in report.points if point.quantization.encoding == "four_bits"]
            assert [point.oversampling for point in best] == [1, 2, 3, 4, 8] and not any(p.stored for p in best)
            assert best[-1].recall == 1 and best[0].recall > 0.8
            assert best[0].memory_bytes > 2000 * 16


def test_a_sample_is_measured_as_a_collection_of_its_own_would_be(monkeypatch):
    """What is found in the sample is compared with what is true in the sample."""
    monkeypatch.setattr(trial_codes, "MOST", 300)
    base, queries = data_of(1200, 32)
    with filled(None, base, encoding="two_bits", estimator="rabitq") as col:
        state = col._engine.publisher.current()
        truth = ground_truth.exact_search(state, queries, None, 10, col._engine.workers)
        sample = trial_codes.Sample(state, truth, 10, col._engine.workers)
        assert sample.documents == 300
        chosen = sample._ordinals
        report = col.recall(queries, settings=[{"encoding": "one_bit", "oversampling": o} for o in (1, 4)])
    with filled(None, base[chosen], encoding="one_bit") as col:
        assert report.scanned == len(chosen) == 300
        for point in report.points:
            if not point.stored:
                expected = brute_recall(col, base[chosen], queries, 10, oversampling=point.oversampling)
                assert point.recall == pytest.approx(expected, abs=1e-9)


def test_recall_holds_up_no_writer_and_no_reader():
    with filled(None, clustered(300, 16), encoding="one_bit") as col:
        done = threading.Event()

        def measure() -> None:
            col.recall(sample=20)
            done.set()

        with col._engine.lifecycle.lock:  # as a writer in the middle of an add
            threading.Thread(target=measure, daemon=True).start()
            assert done.wait(HANGS)


def test_an_interrupt_leaves_the_collection_as_it_was(monkeypatch):
    let_walk(monkeypatch)
    base, queries = data_of(2500, 32)

    def interrupted(*_):
        raise KeyboardInterrupt

    with filled(None, base, encoding="one_bit") as col:
        before = col.search_ids(queries)[0].tolist()
        with monkeypatch.context() as patch:
            patch.setattr(ground_truth, "_count_near", interrupted)
            with pytest.raises(KeyboardInterrupt):
                col.recall(sample=20)
        assert col.search_ids(queries)[0].tolist() == before


@pytest.mark.slow
def test_real_models_that_suit_one_bit_and_that_do_not(embeddings):
    for name, suits in (("openai_3large_3072", True), ("minilm_l6_v2_384", False)):
        base, queries = embeddings(f"{name}.npz")
        with bqstore.open_flat(**BITS) as col:
            col.add(base[:6000])
            report = col.recall(
                queries[:200], settings=[{"oversampling": 4}, {"oversampling": 4, "encoding": "two_bits"}]
            )
        one, two = report.points[-2:]
        assert report.suits_one_bit == (one.recall >= 0.95) == suits and two.recall > one.recall
        assert report.verdict.startswith(f"Your searches find {100 * report.recall:.1f}% of the true 10 nearest [")
        assert report.verdict.endswith("nothing to do.") == suits
        assert ("Next step: requantize(encoding='two_bits', estimator='sign')" in report.verdict) != suits


def test_zero_vectors_alone_are_no_queries():
    with bqstore.open(distance="cosine") as col:
        col.add(np.zeros((30, 8)))
        with pytest.raises(bqstore.InvalidInputError, match="zero vectors, to which all are as near; give queries"):
            col.recall()
