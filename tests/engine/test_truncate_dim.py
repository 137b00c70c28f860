"""Codes of the first values of each vector: less memory, candidates of a part, and the scores of the whole.

The data is as Matryoshka models make it: the first values hold the most. Each collection is compared with brute force,
and with one that was given nothing but the first values.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError, Quantization, SettingsConflictError
from bqstore.index import Quantizer
from bqstore.storage.format import Layout
from tests.conftest import FULL, exact_scores
from tests.engine.given import let_walk, recall, settle_early
from tests.engine.test_quantization import (
    CORRECTED,
    DISTANCES,
    SIGNED,
    WAYS,
    asked,
    check_choice,
    check_codes,
    documents,
    named,
    named_ids,
    opened,
    way_of,
)

N, DIM, PART, K = 700, 160, 65, 10
ENOUGH = 450
EVERYTHING = N / K  # oversampling that leaves no document out


def matryoshka(n, seed=0):
    """float32 (n, DIM): clusters, and the standard deviation of a value falls with its place."""
    rng = np.random.default_rng(7)
    falls = 1 / (1 + np.arange(DIM) / 12)
    centres, rng = rng.standard_normal((30, DIM)), np.random.default_rng(seed)
    return ((centres[rng.integers(0, 30, n)] + 0.8 * rng.standard_normal((n, DIM))) * falls).astype(np.float32)


BASE, QUERIES = matryoshka(N + 300), matryoshka(40, 1)
ROWS = np.arange(N)


@pytest.fixture(autouse=True)
def chosen_and_linked_early(monkeypatch):
    """As of 2,048 documents, of fewer."""
    settle_early(monkeypatch, ENOUGH)


pytestmark = pytest.mark.one_place


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "store"


def filled(path=None, part=PART, n=N, **settings):
    col = opened(path, truncate_dim=part, **settings)
    col.add(BASE[:n], named_ids(0, n), metadatas=[{"third": i % 3 == 0} for i in range(n)])
    return col


def best(scores, k=K, among=ROWS):
    """The ids of the nearest, and their scores, of float64 (m, n)."""
    order = among[np.argsort(-scores[:, among], axis=1, kind="stable")[:, :k]]
    ids = np.array([[f"d{o}" for o in row] for row in order], object)
    return ids, np.take_along_axis(scores, order, 1)


def check_found(col, base, known, least, **keywords):
    """Searches find so much of the truth, with the exact scores of whole vectors, however they are asked."""
    distance, among = col.info().distance, np.array(sorted(known))
    scores = exact_scores(base, QUERIES, distance)
    truth, _ = best(scores, among=among)
    ids, found = col.search_ids(QUERIES, K, **keywords)
    assert recall(ids, truth) >= least
    places = np.array([[known_id(id_) for id_ in row] for row in ids])
    np.testing.assert_allclose(found, np.take_along_axis(scores, places, 1), rtol=1e-5, atol=2e-5)
    assert (np.diff(found, axis=1) <= 0).all()
    for row, hits in zip(ids[:9], col.search_batch(QUERIES[:9], K, **keywords), strict=True):
        assert [hit.id for hit in hits] == row.tolist()
    for row, query in zip(ids[:5], QUERIES[:5], strict=True):
        assert [hit.id for hit in col.search(query, K, **keywords)] == row.tolist()
    return ids


def known_id(id_):
    return int(id_[1:])


# ---- what it finds, and what it takes


@pytest.mark.sampled(5)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("way", WAYS, ids=named)
def test_the_whole_is_found_by_codes_of_a_part(path, way, distance):
    with filled(path, distance=distance, **asked(way)) as col:
        info = col.info()
        assert way_of(col) == way and info.quantization.truncate_dim == PART and info.dim == DIM
        bits = PART + {"one_and_half_bits": 33, "two_bits": PART}.get(way[0], 0) if way[1] == "sign" else PART
        planes = {"two_bits": 2, "four_bits": 4}.get(way[0], 1) if way[1] == "rabitq" else 1
        assert info.code_bytes == 8 * (planes * -(-bits // 64) + (way[1] == "rabitq"))
        assert info.vector_bytes == info.original_bytes == 4 * DIM and info.format_version == 3
        assert info.memory_bytes == N * info.code_bytes + info.graph_bytes
        known = range(N)
        ids = check_found(col, BASE, known, 0.75 if way[1] == "sign" else 0.85, oversampling=8)
        check_found(col, BASE, known, 0.75 if way[1] == "sign" else 0.85, oversampling=8, hnsw_ef=N + 1)
        truth, scores = col.search_ids(QUERIES, K, exact=True)
        assert truth.tolist() == best(exact_scores(BASE[:N], QUERIES, distance))[0].tolist()
        found = col.search_ids(QUERIES, K, oversampling=EVERYTHING)
        assert found[0].tolist() == truth.tolist()
        np.testing.assert_allclose(found[1], scores, rtol=1e-6, atol=1e-6)
        check_codes(col)
        report = col.verify()
        assert report.ok and report.vectors == N
        used, whole = info.quantization, documents(col)
    if path is None:
        return
    for read_only in (False, True):  # a reader follows below
        with bqstore.open(path, read_only=read_only, hnsw={"full_scan_threshold": 0}) as col:
            assert col.info().quantization == used and documents(col) == whole and col.verify().ok
            assert col.search_ids(QUERIES, K, oversampling=8)[0].tolist() == ids.tolist()
            check_codes(col)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("way", WAYS, ids=named)
@pytest.mark.parametrize("part", [1, 64, PART, 100])
def test_codes_and_their_scores_are_those_of_the_part_alone(part, way, distance):
    """Of a collection that was never given more; training, graph and walks among it."""
    with (
        filled(None, part, distance=distance, threads=1, **asked(way)) as col,
        opened(distance=distance, threads=1, **asked(way)) as alone,
    ):
        alone.add(BASE[:N, :part], named_ids(0, N))
        states = [each._engine.publisher.current() for each in (col, alone)]
        same = states[0].data.words[:N] == states[1].data.words[:N]
        assert same.all()
        assert states[0].data.quantizer.parameters.tolist() == states[1].data.quantizer.parameters.tolist()
        assert col.info().memory_bytes == alone.info().memory_bytes and col.info().linked == alone.info().linked == N
        for query_encoding in ("binary", "scalar4bits", "scalar8bits"):
            for each in (col, alone):
                each._engine.query_encoding = query_encoding
                each._engine._options.clear()
            (ids, scores), (expected, near) = (
                each.search_ids(queries, K, rescore=False)
                for each, queries in ((col, QUERIES), (alone, QUERIES[:, :part]))
            )
            # of unit length before the rest is cut off, or after: the last bit of a query may differ
            exactly = distance != "cosine"
            assert (ids == expected).mean() > (1 - 1e-9 if exactly else 0.9 if part > 1 else 0)
            np.testing.assert_allclose(scores, near, rtol=1e-5, atol=0 if exactly else 2e-3)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("way", [SIGNED[0], SIGNED[2], CORRECTED[0], CORRECTED[3]], ids=named)
def test_all_of_the_values_are_the_whole(way, tmp_path):
    """The same codes and answers, and estimates bound the score again; only the setting tells them apart."""
    with filled(tmp_path, DIM, **asked(way)) as col, opened(**asked(way)) as plain:
        plain.add(BASE[:N], named_ids(0, N))
        words = [each._engine.publisher.current().data.words[:N] for each in (col, plain)]
        np.testing.assert_array_equal(*words)
        assert [each.info().quantization.truncate_dim for each in (col, plain)] == [DIM, None]
        for keywords in ({}, {"rescore": False}, {"filter": {"third": True}}):
            if keywords.get("filter"):
                plain.add(BASE[:N], named_ids(0, N), metadatas=[{"third": i % 3 == 0} for i in range(N)])
                plain.compact()
            found, expected = (each.search_ids(QUERIES, K, **keywords) for each in (col, plain))
            np.testing.assert_array_equal(found[1], expected[1])
        explained = [each.search(QUERIES[0], explain=True, oversampling=5).explanation for each in (col, plain)]
        assert explained[0].rescored == explained[1].rescored


def test_less_is_found_by_less():
    """And all of it is found again with more candidates."""
    found = []
    truth = best(exact_scores(BASE[:N], QUERIES, "cosine"))[0]
    for part in (4, 16, 65, 160):
        with filled(None, part, **asked(CORRECTED[2])) as col:
            found.append([recall(col.search_ids(QUERIES, K, oversampling=o)[0], truth) for o in (1, 3, 10, EVERYTHING)])
    assert np.all(np.diff(found[:3], axis=0)[:, :2] > 0) and np.all(np.diff(found, axis=1) >= 0)
    assert found[-1][1] > 0.95 and found[0][0] < 0.5 and all(row[-1] == 1 for row in found)


@pytest.mark.parametrize("walk", [False, True], ids=["scan", "walk"])
def test_what_is_far_in_the_part_and_near_in_the_whole_is_read(tmp_path, monkeypatch, walk):
    """By estimates of four bits nothing is left unread: not from memory, not from a cold disk, not in a walk."""
    rng = np.random.default_rng(0)
    base = np.zeros((600, 64), np.float32)
    base[:, :32] = rng.standard_normal(32) + 0.2 * rng.standard_normal((600, 32))
    base[:, 32:] = 5 * rng.standard_normal((600, 32))
    query = np.concatenate([base[0, :32], np.ones(32, np.float32)]).astype(np.float32)
    if walk:
        let_walk(monkeypatch)
    given = {"k": K, "oversampling": 20, "hnsw_ef": 300}
    with opened(tmp_path, truncate_dim=32, distance="dot", **asked(CORRECTED[4])) as col:
        col.add(base, named_ids(0, 600))
        hits = col.search(query, **given, explain=True)
        assert hits.explanation.way == ("walk" if walk else "scan") and hits.explanation.rescored == 200
        candidates = np.array([known_id(hit.id) for hit in col.search(query, 200, rescore=False, hnsw_ef=300)])
        nearest = candidates[np.argsort(-(base[candidates] @ query), kind="stable")[:K]]
        assert max(np.flatnonzero(np.isin(candidates, nearest))) > 100, "the part tells nothing of these"
        found = [f"d{o}" for o in nearest]
        assert [hit.id for hit in hits] == found
        ahead = col._engine.publisher.current().vectors.read_ahead
        for cold in (True, False):
            ahead.unsampled, ahead.left = (0, 100) if cold else (1000, 0)
            assert col.search_ids(query, **given)[0][0].tolist() == found


# ---- its life


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", [SIGNED[0], SIGNED[1], CORRECTED[0], CORRECTED[3]], ids=named)
@pytest.mark.parametrize("originals", ["float32", "float16", "int8", "none"])
def test_everything_else_goes_on_as_ever(path, monkeypatch, way, originals):
    """Adding, replacing, deleting, filters, compaction; scanned and walked."""
    kept = originals != "none"
    with filled(path, originals=originals, **asked(way)) as col:
        col.add(BASE[N:], named_ids(N, N + 300), metadatas=[{"third": True}] * 300)
        col.add(BASE[:50], named_ids(N, N + 50), metadatas=[{"third": False}] * 50)
        assert col.delete(named_ids(50, 150)) == 100
        base = np.concatenate([BASE[:N], BASE[:50], BASE[N + 50 :]])
        known = [i for i in range(N + 300) if not 50 <= i < 150]
        thirds = [i for i in known if (i % 3 == 0 if i < N else i >= N + 50)]
        for compacted in (False, True):
            if compacted:
                col.compact()
                assert col.info().deleted == 0 and col.info().generation == 1
            assert col.info().count == len(known) and col.info().quantization.truncate_dim == PART
            for walk in (False, True):
                with monkeypatch.context() as patch:
                    if walk:
                        let_walk(patch)
                    if not kept:
                        ids = col.search_ids(QUERIES, K)[0]
                        assert recall(ids, best(exact_scores(base, QUERIES, "cosine"), among=np.array(known))[0]) > 0.3
                        assert {known_id(i) for i in ids.ravel()} <= set(known)
                        ids = col.search_ids(QUERIES, K, filter={"third": True})[0]
                        assert {known_id(i) for i in ids.ravel()} <= set(thirds)
                        continue
                    if originals == "float32":
                        check_found(col, base, known, 0.75, oversampling=8)
                        check_found(col, base, thirds, 0.75, oversampling=8, filter={"third": True})
                        check_found(col, base, thirds, 0.75, filter={"third": True})
                    found = col.search(QUERIES[0], oversampling=8, explain=True, filter={"third": True})
                    assert found.explanation.truncate_dim == PART
                    few = {"third": True, "$or": [{"third": True}]}
                    assert len(col.search(QUERIES[0], 1000, filter=few)) == len(thirds)
            check_codes(col, {f"d{i}": base[i] for i in known})
            assert col.verify().ok
        if kept:
            (record,) = col.get(["d3"], with_vectors=True)
            assert record.vector.shape == (DIM,)
            np.testing.assert_allclose(record.vector, BASE[3], atol=0.05)
            assert len(col.max_marginal_relevance(QUERIES[0], 3, with_vectors=True)[0].vector) == DIM
        col.clear()
        assert col.info().format_version == 1 and col.info().quantization.truncate_dim == PART
        assert col.info().dim is None  # another may follow
        col.add(BASE[:N], named_ids(0, N))
        assert col.info().format_version == 3 and way_of(col) == way
        check_codes(col, {f"d{i}": BASE[i] for i in range(N)})


def test_without_originals_the_part_is_all_there_is(tmp_path):
    for way in (SIGNED[0], CORRECTED[2]):
        with filled(tmp_path / way[1], originals="none", **asked(way)) as col:
            info = col.info()
            assert info.original_bytes == 0
            assert info.disk_bytes - info.catalogue_bytes < N * (info.code_bytes + 16) + 5000
            truth = best(exact_scores(BASE[:N, :PART], QUERIES[:, :PART], "cosine"))[0]
            assert recall(col.search_ids(QUERIES, K)[0], truth) > (0.3 if way[1] == "sign" else 0.6)
            for call in (
                lambda col=col: col.requantize(truncate_dim=32),
                lambda col=col: col.search(QUERIES[0], exact=True),
                lambda col=col: col.get(["d0"], with_vectors=True),
                lambda col=col: col.search(QUERIES[0], with_vectors=True),
                lambda col=col: col.max_marginal_relevance(QUERIES[0]),
                lambda col=col: col.recall(settings=[{"truncate_dim": 32}]),
            ):
                with pytest.raises(InvalidInputError, match="originals"):
                    call()
        for part in (32, DIM):
            with pytest.raises(SettingsConflictError, match=f"truncate_dim={part} .* truncate_dim={PART}"):
                opened(tmp_path / way[1], truncate_dim=part)
        with opened(tmp_path / way[1]) as col:
            assert col.info().quantization.truncate_dim == PART and col.verify().ok


def test_queries_and_vectors_stay_whole():
    with filled(**asked(CORRECTED[0])) as col:
        for wrong in (QUERIES[0, :PART], QUERIES[0, :-1]):
            with pytest.raises(InvalidInputError, match=f"{len(wrong)} dimensions; this collection holds {DIM}"):
                col.search(wrong)
            with pytest.raises(InvalidInputError, match=f"{len(wrong)} dimensions; this collection holds {DIM}"):
                col.add([wrong])


@pytest.mark.parametrize("way", [SIGNED[0], SIGNED[1], CORRECTED[1]], ids=named)
def test_a_part_of_zeros_is_searched_all_the_same(way):
    """It has no direction, and is far from everything; rescored it is what it is."""
    vectors = BASE[:N].copy()
    vectors[5, :PART], vectors[6, :PART] = 0, 1e-30
    query = np.zeros(DIM, np.float32)
    query[PART:] = vectors[5, PART:]
    with opened(truncate_dim=PART, **asked(way)) as col:
        col.add(vectors, named_ids(0, N))
        for rescore in (True, False):
            hits = col.search(query, N, rescore=rescore)
            assert {hit.id for hit in hits} == set(named_ids(0, N)) and np.isfinite([hit.score for hit in hits]).all()
        assert col.search(query, 1, oversampling=N)[0].id == "d5"
        check_codes(col)


# ---- to and fro


def settings_in(col):
    return col._engine.store.head.settings


@pytest.mark.slow
def test_requantize_there_and_back(path):
    with filled(path, None, **asked(SIGNED[0])) as col:
        before, plain = documents(col), settings_in(col)
        exact = col.search_ids(QUERIES, K, exact=True)
        assert "truncate_dim" not in str(plain) and col.info().format_version == 1
        steps = [({"truncate_dim": 32}, 32)]
        steps += [
            ({**asked(way), "truncate_dim": part}, part) for way in (*WAYS[:5], WAYS[8]) for part in (1, PART, DIM)
        ]
        steps += [({"encoding": "two_bits"}, None), ({"truncate_dim": np.int64(9)}, 9), (asked(SIGNED[0]), None)]
        for generation, (given, part) in enumerate(steps, 1):
            used = col.requantize(**given)
            info = col.info()
            assert used == info.quantization and used.truncate_dim == part and info.generation == generation
            assert all(getattr(used, name) == value for name, value in given.items())
            assert info.format_version == (3 if part else 1 if used.encoding == "one_bit" else 2)
            assert settings_in(col)["quantization"].get("truncate_dim") == part
            assert ("truncate_dim" in str(settings_in(col))) == (part is not None)
            assert type(used.truncate_dim) in (int, type(None))
            found = col.search_ids(QUERIES, K, oversampling=EVERYTHING)
            assert found[0].tolist() == exact[0].tolist()
            check_codes(col)
            if path is not None and generation % 5 == 1:
                with bqstore.open(path, read_only=True) as reader:
                    assert reader.info().quantization == used and documents(reader) == before
        assert documents(col) == before and col.verify().ok
        assert settings_in(col) == plain | {"quantization": settings_in(col)["quantization"]} | (
            {"coding": settings_in(col)["coding"]} if "coding" in settings_in(col) else {}
        )


def test_a_reader_follows(tmp_path):
    with filled(tmp_path, None, **asked(CORRECTED[0])) as col, opened(tmp_path, read_only=True) as reader:
        for part in (PART, 100, None):
            col.requantize(**asked(CORRECTED[2]), truncate_dim=part)
            assert reader.info().quantization.truncate_dim == part
            expected = col.search_ids(QUERIES, K, oversampling=8)
            found = reader.search_ids(QUERIES, K, oversampling=8)
            assert found[0].tolist() == expected[0].tolist() and found[1].tolist() == expected[1].tolist()
            check_codes(reader)


@pytest.mark.sampled(1)
def test_searches_go_on_meanwhile(path):
    truth = best(exact_scores(BASE[:N], QUERIES, "cosine"))[0].tolist()
    done, wrong = threading.Event(), []

    def search():
        while not done.is_set():
            found = col.search_ids(QUERIES, K, oversampling=EVERYTHING)[0].tolist()
            if found != truth:
                wrong.append(found)

    with filled(path, None, **asked(CORRECTED[0])) as col:
        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for part in (PART, None, 1, 100, DIM, 33) if FULL else (PART, None, 33):
                col.requantize(**asked(CORRECTED[0]), truncate_dim=part)
                time.sleep(0.02)
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert not wrong


@pytest.mark.parametrize("to", [(PART, None), (None, PART), (PART, 32)])
def test_an_interruption_leaves_everything_as_it_was(path, monkeypatch, to):
    way = asked(CORRECTED[2])
    with filled(path, to[0], **way) as col:
        before, found = documents(col), col.search_ids(QUERIES, K)[0].tolist()
        settings = settings_in(col)
        with monkeypatch.context() as patch:

            def fail(self, vectors, workers):
                raise KeyboardInterrupt

            patch.setattr(Quantizer, "encode_all", fail)
            with pytest.raises(KeyboardInterrupt):
                col.requantize(**way, truncate_dim=to[1])
        assert col.info().quantization.truncate_dim == to[0] and settings_in(col) == settings
        assert col.search_ids(QUERIES, K)[0].tolist() == found and documents(col) == before
        col.add(BASE[N : N + 1], ["new"])
        check_codes(col)
        assert col.requantize(**way, truncate_dim=to[1]).truncate_dim == to[1]
        check_codes(col)
        assert col.verify().ok


# ---- chosen by measuring


def test_auto_measures_the_part_against_the_whole(path):
    with filled(path, 24) as col:
        check_choice(col)
        check_codes(col)
        choice, info = col.info().choice, col.info()
        assert {trial.quantization.truncate_dim for trial in choice.trials} == {
            24
        } and "first 24 values" in choice.reason
        stored = settings_in(col)["coding"]
        assert stored["truncate_dim"] == info.quantization.truncate_dim == 24
        for part, least in ((None, 0.97), (100, 0.9)):
            with filled(None, part) as other:
                top = max(trial.recall for trial in other.info().choice.trials)
                assert top >= least and top > max(trial.recall for trial in choice.trials)
        # and as the truth is of the whole, no more is found by raw codes than the part can tell
        part = best(exact_scores(BASE[:N, :24], QUERIES[:, :24], "cosine"))[0]
        limit = recall(part, best(exact_scores(BASE[:N], QUERIES, "cosine"))[0])
        assert abs(max(trial.raw_recall for trial in choice.trials) - limit) < 0.12 and limit < 0.9
    if path is not None:
        with opened(path) as col:
            assert col.info().choice == choice and col.info().quantization == info.quantization


def test_few_vectors_are_signs_of_the_part_until_there_are_more(path):
    with opened(path, truncate_dim=PART) as col:
        assert col.info().quantization == Quantization("one_bit", "binary", "sign", False, PART)
        col.add(BASE[:100], named_ids(0, 100))
        assert col.info().quantization == Quantization("one_bit", "binary", "sign", False, PART)
        assert (col.info().choice, col.info().code_bytes, col.info().format_version) == (None, 16, 3)
        check_codes(col)
        col.add(BASE[100:300], named_ids(100, 300))
        assert col.info().choice is None
        col.add(BASE[300:N], named_ids(300, N))
        assert col.info().choice is not None and col.info().quantization.truncate_dim == PART
        check_choice(col)
        check_codes(col)
        check_found(col, BASE, range(N), 0.9, oversampling=8)


def test_a_part_asked_for_while_nothing_was_chosen_is_what_will_be(tmp_path):
    """As any other setting of the codes."""
    with opened(tmp_path) as col:
        col.add(BASE[:100], named_ids(0, 100))
    with opened(tmp_path, truncate_dim=PART) as col:
        assert col.info().quantization.truncate_dim is None  # the codes there are
        check_found(col, BASE, range(100), 0.5)
        col.add(BASE[100:110], named_ids(100, 110))
        assert col.info().quantization.truncate_dim == PART
        check_codes(col)
    with opened(tmp_path) as col:
        assert col.info().quantization.truncate_dim == PART
        col.add(BASE[110:N], named_ids(110, N))
        assert col.info().quantization.truncate_dim == PART and col.info().choice is not None
    with pytest.raises(SettingsConflictError, match=f"truncate_dim=32 .* truncate_dim={PART}"):
        opened(tmp_path, truncate_dim=32)


# ---- what may be asked for


@pytest.mark.sampled(2)
@pytest.mark.parametrize("way", [SIGNED[0], CORRECTED[0], None], ids=named)
def test_an_opening_that_contradicts_is_refused(tmp_path, way):
    given = asked(way) if way else {}
    for name, stored, others in (("part", PART, (1, 64, 66, DIM)), ("whole", None, (1, PART, DIM))):
        with filled(tmp_path / name, stored, **given) as col:
            used, found = col.info().quantization, col.search_ids(QUERIES, K)[0].tolist()
        files = {file: file.read_bytes() for file in (tmp_path / name).rglob("*.bin")}
        for other in others:
            for read_only in (True, False):
                words = f"truncate_dim={other} contradicts .*truncate_dim={stored}.*requantize"
                with pytest.raises(SettingsConflictError, match=words):
                    opened(tmp_path / name, truncate_dim=other, read_only=read_only)
        for agreeing in (None, stored, np.int64(stored) if stored else None):
            with opened(tmp_path / name, truncate_dim=agreeing) as col:
                assert col.info().quantization == used and col.search_ids(QUERIES, K)[0].tolist() == found
        with bqstore.open(tmp_path / name, quantization=Quantization(truncate_dim=stored)) as col:
            assert col.info().quantization == used
        assert {file: file.read_bytes() for file in (tmp_path / name).rglob("*.bin")} == files


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, 64.0, "64", [64], float("nan"), 16_385, 10**30])
def test_what_is_no_number_of_values_is_refused(tmp_path, wrong):
    words = "truncate_dim is .*; expected an integer from 1 to 16,384"
    with pytest.raises(InvalidInputError, match=words):
        Quantization(truncate_dim=wrong)
    for given in ({"quantization": {"truncate_dim": wrong}}, {"truncate_dim": wrong}):
        with pytest.raises(InvalidInputError, match=words):
            bqstore.open_flat(tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()
    with filled(**asked(SIGNED[0])) as col:
        for change in (col.requantize, lambda **given: col.recall(settings=[given])):
            with pytest.raises(InvalidInputError, match=words):
                change(truncate_dim=wrong)
        assert col.info().quantization.truncate_dim == PART


def test_more_values_than_there_are_is_refused_before_anything_is_written(tmp_path):
    words = r"truncate_dim is 1,000, and vectors of this collection have {dim} dimensions"
    with pytest.raises(InvalidInputError, match=words.format(dim=160)):
        opened(tmp_path / "new", dim=DIM, truncate_dim=1000)
    assert not (tmp_path / "new").exists()
    # the first vectors settle it
    with opened(tmp_path / "first", truncate_dim=1000) as col:
        for _ in range(2):
            with pytest.raises(InvalidInputError, match=words.format(dim=160)):
                col.add(BASE[:5])
            assert len(col) == 0 and col.info().dim is None
        assert not list((tmp_path / "first/default").glob("*.bin"))
        assert len(col.add(np.random.default_rng(0).standard_normal((5, 1000)))) == 5
    # known since
    with opened(tmp_path / "first", truncate_dim=1000) as col:
        assert col.info().quantization.truncate_dim == 1000
    # empty, and made without
    with opened(tmp_path / "later", truncate_dim=1000):
        pass
    before = (tmp_path / "later/default/meta.db").read_bytes()
    for given in ({"dim": DIM}, {"dim": DIM, "truncate_dim": 1000}):
        with pytest.raises(InvalidInputError, match=words.format(dim=160)):
            opened(tmp_path / "later", **given)
    assert (tmp_path / "later/default/meta.db").read_bytes() == before
    for n in (0, 5):
        with opened(tmp_path / f"full{n}", dim=DIM) as col:
            col.add(BASE[:n])
            for change in (col.requantize, lambda col=col, **given: col.recall(settings=[given])):
                expected = "at least 2 documents" if n == 0 and change != col.requantize else words.format(dim=160)
                with pytest.raises(InvalidInputError, match=expected):
                    change(truncate_dim=1000)
            assert col.info().quantization.truncate_dim is None and len(col) == n
        for read_only in (True, False):
            with pytest.raises(InvalidInputError, match=words.format(dim=160)):
                opened(tmp_path / f"full{n}", truncate_dim=1000, read_only=read_only)


def test_requantize_of_an_empty_collection_says_what_will_be(path):
    with opened(path) as col:
        assert col.requantize(truncate_dim=PART, encoding="two_bits").truncate_dim == PART
        assert col.info().quantization.truncate_dim == PART and col.info().format_version == 1
        col.add(BASE[:N], named_ids(0, N))
        assert (col.info().quantization.truncate_dim, col.info().format_version) == (PART, 3)
        check_codes(col)
        col.delete(named_ids(0, N))
        assert col.requantize().truncate_dim is None
        col.add(BASE[:N], named_ids(0, N))
        assert (col.info().quantization.truncate_dim, "truncate_dim" in str(settings_in(col))) == (None, False)


# ---- said and measured


def test_explained():
    with filled(**asked(CORRECTED[0])) as col:
        assert col.search(QUERIES[0], explain=True).explanation.truncate_dim == PART
        col.requantize(encoding="one_bit")
        assert col.search(QUERIES[0], explain=True).explanation.truncate_dim is None


def test_tried_in_memory_before(path, monkeypatch):
    """What the report says of a part is what is found after `requantize`."""
    let_walk(monkeypatch)
    with filled(path, None, **asked(CORRECTED[2])) as col:
        asked_for = [{"truncate_dim": 16}, {"truncate_dim": PART, "oversampling": 8}, {"encoding": "two_bits"}]
        asked_for += [{"truncate_dim": PART, "encoding": "one_bit", "estimator": "rabitq"}, {"rescore": False}]
        report = col.recall(QUERIES, K, settings=asked_for)
        used = col.info().quantization
        points = report.points[1 : 1 + len(asked_for)]
        assert [point.quantization.truncate_dim for point in points] == [16, PART, None, PART, None]
        assert [point.stored for point in points] == [False, False, False, False, True]
        first = points[0].quantization
        assert (first.encoding, first.estimator, first.query_encoding) == (used.encoding, "rabitq", used.query_encoding)
        links = points[4].memory_bytes - N * col.info().code_bytes
        assert points[0].memory_bytes - links == N * 8 * 3 and points[1].memory_bytes - links == N * 8 * 5
        truth = best(exact_scores(BASE[:N], QUERIES, "cosine"))[0]
        for given, point in zip(asked_for[:2], points[:2], strict=True):
            with filled(None, given["truncate_dim"], **asked(CORRECTED[2])) as other:
                ids = other.search_ids(QUERIES, K, oversampling=given.get("oversampling"), hnsw_ef=10 * N)[0]
                assert point.recall == pytest.approx(recall(ids, truth), abs=0.01)
        assert col.info().quantization == used
        # of a collection of a part, others are of the part too, but one that is asked for whole
        col.requantize(**asked(CORRECTED[2]), truncate_dim=PART)
        points = col.recall(QUERIES, K).points
        assert {point.quantization.truncate_dim for point in points} == {PART} and any(not p.stored for p in points)
        whole = col.recall(QUERIES, K, settings=[{"truncate_dim": DIM}, {"encoding": "four_bits"}]).points[1:3]
        assert [point.quantization.truncate_dim for point in whole] == [DIM, None]
        assert min(point.recall for point in whole) > 0.95


def test_tuned_for_a_part():
    with filled(**asked(CORRECTED[2])) as col:
        params = col.tune(0.9)
        assert col.info().search == params and col.info().quantization.truncate_dim == PART
        found = recall(col.search_ids(QUERIES, K)[0], best(exact_scores(BASE[:N], QUERIES, "cosine"))[0])
        assert found > 0.85


# ---- damage


@pytest.mark.parametrize("way", [SIGNED[0], CORRECTED[2]], ids=named)
def test_a_flipped_bit_is_found(tmp_path, way):
    filled(tmp_path, **asked(way)).close()
    file = tmp_path / "default/codes-0.bin"
    data = bytearray(file.read_bytes())
    record = Layout("codes", PART, {"sign": 1, "rabitq": 5}[way[1]]).record_bytes
    with bqstore.open(tmp_path) as col:
        assert col.verify().ok
        data[-record * 3 + 17] ^= 4
        file.write_bytes(data)
        report = col.verify()
        assert not report.ok and f"record {N - 3}" in report.problems[0]
    with pytest.warns(RuntimeWarning, match="1 codes in"), bqstore.open(tmp_path) as col:  # made anew from the original
        assert col.verify().ok
    data[-record * 3 + 17] ^= 4
    assert file.read_bytes() == data


def test_a_sound_code_of_another_vector_is_found(tmp_path):
    """Signs are compared with the first values of the original: no more, no less."""
    filled(tmp_path, **asked(SIGNED[0])).close()
    with bqstore.open(tmp_path) as col:
        assert col.verify().ok
        flat = col._engine.store.flat
        rids, codes = flat.read_codes(0, 2)
        from bqstore.storage.format import code_records

        flat.codes.write(0, code_records(flat.codes.layout, rids, codes[::-1].copy()))
        problems = col.verify().problems
        assert any("is not the code of its vector" in problem for problem in problems)


@pytest.mark.slow
def test_real_embeddings(embeddings):
    """OpenAI's third generation: half of the values tell nearly as much."""
    base, queries = embeddings("openai_3large_3072.npz")
    base, queries = base[:2200], queries[:100]
    truth = best(exact_scores(base, queries, "dot"), among=np.arange(len(base)))[0]
    found = []
    for part in (None, 1536, 512):
        with opened(truncate_dim=part, encoding="one_bit", estimator="rabitq") as col:
            col.add(base, named_ids(0, len(base)))
            assert col.info().code_bytes == (part or 3072) // 8 + 8
            found.append(recall(col.search_ids(queries, K, oversampling=8)[0], truth))
    assert found[0] > 0.99 and found[1] > 0.98 and found[2] > 0.9
