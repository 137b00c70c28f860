"""`Collection.requantize`, and the automatic one: the same documents with other codes, or everything as it was.

Whatever comes in the middle: searches, readers, writes, Ctrl-C, kill -9.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import Quantization
from bqstore.engine import fetch, graph_builder, maintenance, search
from bqstore.index import HnswGraph, Quantizer
from bqstore.storage import compaction
from bqstore.storage.store import Store
from tests.conftest import FULL, HANGS, child, exact_scores, often
from tests.engine.given import BITS, data_of, filled, let_walk, recall, settle_early
from tests.engine.test_quantization import (
    CORRECTED,
    SIGNED,
    SIGNS,
    WAYS,
    adder,
    asked,
    check_choice,
    check_codes,
    documents,
    named,
    named_ids,
    opened,
    points,
    run_all,
    way_of,
)

ROOT = Path(bqstore.__file__).parents[1]
N, LIVE, DIM, K = 700, 600, 24, 10
ENOUGH = 450
BASE, QUERIES = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in data_of(2600, DIM, queries=40))


@pytest.fixture(autouse=True)
def chosen_and_linked_early(monkeypatch):
    """As of 2,048 documents, of fewer: what may go wrong does not depend on how many there are."""
    settle_early(monkeypatch, ENOUGH)


pytestmark = pytest.mark.one_place


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "store"


def worn(path, **given):
    """700 slots of which 600 live: some deleted, some replaced, some changed."""
    col = filled(path, BASE[: N - 50], **{"encoding": None, **given})
    col.delete(named_ids(100, 150))
    col.add(BASE[N - 50 : N], named_ids(0, 50), metadatas=[{"new": i} for i in range(50)])
    col.update_metadata(["d500"], {"changed": True})
    assert (col.info().count, col.info().deleted) == (LIVE, N - LIVE)
    return col


def bins(path):
    return {p.name: p.stat().st_size for p in (path / "default").iterdir() if p.suffix == ".bin"}


def state(col):
    info = col.info()
    return (info.count, info.deleted, info.linked, info.generation, info.quantization, info.choice, info.memory_bytes)


def check_settings(col):
    """What is stored of the codes is what they are; nothing is due that would change them again."""
    used, stored = col.info().quantization, Quantization(**col._engine.store.head.settings["quantization"])
    coding = col._engine.store.head.settings.get(
        "coding", {"encoding": "one_bit", "estimator": "sign", "rotate": False}
    )
    assert (coding["encoding"], coding["estimator"], coding["rotate"]) == (used.encoding, used.estimator, used.rotate)
    for name in ("encoding", "estimator", "rotate"):
        assert getattr(stored, name) in ("auto", None, getattr(used, name))


# ---- what it does


@pytest.mark.sampled(1)
def test_to_every_kind_of_code_and_back(path, monkeypatch):
    let_walk(monkeypatch)
    with worn(path, threads=2) as col:
        before, size = documents(col), col.info().disk_bytes
        truth, exact = col.search_ids(QUERIES, K, exact=True)
        for generation, way in enumerate([*WAYS, *(WAYS[:3] if FULL else ()), SIGNED[0]], 1):
            given = col.requantize(**asked(way))
            info = col.info()
            assert (given.encoding, given.estimator, given.rotate) == way and given == info.quantization
            assert (info.generation, info.deleted, info.count, info.linked) == (generation, 0, LIVE, LIVE)
            assert info.choice is None and info.format_version == 1 + (way != SIGNED[0])
            assert documents(col) == before
            check_codes(col)
            check_settings(col)
            again = col.search_ids(QUERIES, K, exact=True)
            assert again[0].tolist() == truth.tolist()
            np.testing.assert_array_equal(again[1], exact)
            found = recall(col.search_ids(QUERIES, K, oversampling=8)[0], truth)
            assert found >= {"four_bits": 0.99, "two_bits": 0.85}.get(way[0] if way[1] == "rabitq" else "", 0.5)
            if path is not None:
                assert {name.split("-")[1][0:2].strip("-.") for name in bins(path)} == {str(generation)}
        assert path is None or info.disk_bytes < size
        assert col.verify().ok
        col.close()
    if path is not None:
        with bqstore.open(path) as col:
            assert way_of(col) == SIGNED[0] and col.info().linked == LIVE and documents(col) == before
            check_codes(col)


def test_without_arguments_it_is_chosen_by_the_vectors_there_are(path):
    with worn(path, **asked(SIGNED[0])) as col:
        before = documents(col)
        given = col.requantize()
        assert (given.encoding, given.estimator) != SIGNED[0][:2] and given == col.info().quantization
        check_choice(col)
        check_codes(col)
        check_settings(col)
        assert documents(col) == before and col.info().deleted == 0
        first = col.info().choice
        col.delete(named_ids(1, 2600))
        col.add(points(600, DIM, 30, shift=4), named_ids(0, 600))
        assert col.info().choice == first  # what has changed in kind is measured when it is asked for
        given = col.requantize()
        assert given.estimator == "rabitq" and col.info().choice != first
        check_choice(col)
        check_codes(col)
    if path is not None:
        with bqstore.open(path) as col:
            assert col.info().quantization == given


def test_what_is_chosen_is_what_a_fresh_collection_would_choose(path):
    with worn(path, **asked(SIGNED[0])) as col, opened() as fresh:
        records = col.get([r.id for r in col.scroll()], with_vectors=True)
        fresh.add(np.array([r.vector for r in records]), [r.id for r in records])
        col.requantize()
        assert col.info().quantization == fresh.info().quantization
        figures = [[(t.quantization, t.recall, t.raw_recall) for t in c.info().choice.trials] for c in (col, fresh)]
        assert figures[0] == figures[1]
        ids, scores = col.search_ids(QUERIES, K, rescore=False)
        other = fresh.search_ids(QUERIES, K, rescore=False)
        assert ids.tolist() == other[0].tolist()
        np.testing.assert_array_equal(scores, other[1])


@pytest.mark.sampled(20)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 40])
@pytest.mark.parametrize("way", [None, *WAYS], ids=lambda way: named(way) if way else "auto")
def test_on_very_few_documents(n, way):
    """With less than four there was none to ask with, and the recall of no queries is no number."""
    with opened() as col:
        col.add(BASE[:n], named_ids(0, n))
        given = col.requantize(**asked(way) if way else {})
        assert given == col.info().quantization and (way is None or way_of(col) == way)
        assert len(col.search(QUERIES[0], 100)) == n and len(col.search(QUERIES[0], 100, rescore=False)) == n
        assert col.search(BASE[0], 1)[0].id == "d0"
        check_codes(col)
        check_settings(col)
        col.add(BASE[n : n + 10])
        check_codes(col)


def test_too_few_to_tell_are_chosen_for_when_there_are_more(path):
    with worn(path) as col:
        col.delete(named_ids(50, 2600))
        assert col.requantize() == SIGNS and (len(col), col.info().choice) == (50, None)
        col.add(BASE[50:300], named_ids(50, 300))
        assert (col.info().quantization, col.info().choice) == (SIGNS, None)
        col.add(BASE[300:700], named_ids(300, 700))
        assert col.info().choice is not None and len(col) == 700
        check_codes(col)
        check_settings(col)


def test_what_was_tuned_was_tuned_for_other_codes(path):
    with worn(path, search={"oversampling": 2.5}) as col:
        col.tune(0.8, k=5)
        assert col.info().search.oversampling != 2.5
        col.requantize(encoding="two_bits", estimator="rabitq")
        assert col.info().search == bqstore.SearchParams(2.5)
        tuned = col.tune(0.8, k=5)
        col.compact()
        assert col.info().search == tuned
    if path is not None:
        with bqstore.open(path) as col:
            assert col.info().search == tuned
            col.requantize()
            assert col.info().search == bqstore.SearchParams(2.5)
        with bqstore.open(path) as col:
            assert col.info().search == bqstore.SearchParams(2.5)


@pytest.mark.parametrize("originals", ["float32", "none"])
def test_a_collection_that_was_emptied_settles_anew(path, originals):
    with opened(path, originals=originals) as col:
        col.add(BASE[:600], named_ids(0, 600))
        used = col.info()
        assert used.choice is not None
        col.delete(named_ids(0, 599))
        col.add(BASE[:1], ["d0"])
        assert col.info().quantization == used.quantization
        col.delete(["d0", "d599"])
        vectors = points(600, DIM, 30, shift=4)
        col.add(vectors, named_ids(0, 600))
        assert col.info().choice not in (used.choice, None) and len(col) == 600
        check_codes(col, dict(zip(named_ids(0, 600), vectors, strict=True)))
        assert col.verify().ok


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "way", [None, CORRECTED[3], SIGNED[2], SIGNED[0]], ids=lambda way: named(way) if way else "auto"
)
@pytest.mark.parametrize("how", ["never filled", "deleted", "cleared", "compacted"])
def test_on_an_empty_collection_it_settles_what_comes(tmp_path, how, way):
    with opened(tmp_path) as col:
        if how != "never filled":
            col.add(BASE[:600], named_ids(0, 600))
            if how == "cleared":
                col.clear()
            else:
                col.delete(named_ids(0, 600))
            if how == "compacted":
                col.compact()
        given = col.requantize(**asked(way) if way else {})
        assert given == col.info().quantization and len(col) == 0
        assert col.search(QUERIES[0]) == [] and col.verify().ok
    with opened(tmp_path) as col:
        col.add(BASE[:300], named_ids(0, 300))
        assert way_of(col) == (way or SIGNED[0])
        check_codes(col)
        col.add(BASE[300:600], named_ids(300, 600))
        assert way_of(col) == way if way else col.info().choice is not None
        check_codes(col)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("originals", ["float16", "int8"])
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
def test_from_originals_in_fewer_bytes(tmp_path, originals, distance):
    with worn(tmp_path if distance == "dot" else None, originals=originals, distance=distance) as col:
        before = documents(col)
        truth, exact = col.search_ids(QUERIES, K, exact=True)
        for way in (CORRECTED[0], SIGNED[2], CORRECTED[5]):
            col.requantize(**asked(way))
            check_codes(col)  # of what is kept
            assert documents(col) == before
            ids, scores = col.search_ids(QUERIES, K, exact=True)
            assert ids.tolist() == truth.tolist()
            np.testing.assert_array_equal(scores, exact)
        assert recall(col.search_ids(QUERIES, K)[0], truth) > 0.97
        col.requantize()
        check_choice(col)
        assert documents(col) == before and col.verify().ok


def test_without_originals_there_is_nothing_to_make_codes_of(path):
    for n in (0, 100, 600):
        with opened(path and path / str(n), originals="none") as col:
            col.add(BASE[:n], named_ids(0, n))
            head = col._engine.store.head
            for given in ({}, {"encoding": "two_bits"}, {"encoding": "one_bit"}):
                with pytest.raises(bqstore.InvalidInputError, match=r"requantize\(\) needs the originals"):
                    col.requantize(**given)
            assert col._engine.store.head == head and len(col.search(QUERIES[0], 3000)) == n


def test_who_may_not(tmp_path):
    worn(tmp_path).close()
    before = bins(tmp_path)
    with bqstore.open(tmp_path, read_only=True) as reader:
        with pytest.raises(bqstore.ReadOnlyError):
            reader.requantize()
        with pytest.raises(bqstore.ReadOnlyError):
            reader.requantize(encoding="two_bits")
    with pytest.raises(bqstore.ClosedError):
        reader.requantize()
    col = opened()
    with pytest.raises(bqstore.UnknownKeywordError, match="did you mean 'encoding'"):
        col.requantize(encodin="one_bit")
    with pytest.raises(TypeError):
        col.requantize("one_bit")
    col.close()
    with pytest.raises(bqstore.ClosedError):
        col.requantize()
    assert bins(tmp_path) == before


def test_it_is_what_later_openings_have(tmp_path):
    with worn(tmp_path) as col:
        given = col.requantize(encoding="two_bits", query_encoding="scalar8bits", estimator="rabitq", rotate=True)
        assert given == Quantization("two_bits", "scalar8bits", "rabitq", True)
        hits = col.search(QUERIES[0], K, rescore=False, explain=True)
        assert hits.explanation.query_encoding == "scalar8bits"
    for read_only in (True, False):
        with bqstore.open(tmp_path, read_only=read_only) as col:
            assert col.info().quantization == given
            assert col.search(QUERIES[0], K, rescore=False) != []
    with bqstore.open(tmp_path, hnsw=BITS) as col:
        col.clear()
        col.add(BASE[:100])
        assert col.info().quantization == given
        check_codes(col)
        col.requantize(query_encoding="binary")
        assert col.info().quantization.query_encoding == "binary"
        assert col.requantize() == SIGNS


def test_a_second_time_changes_nothing_but_the_generation(path):
    with worn(path) as col:
        col.requantize(encoding="two_bits", estimator="rabitq")
        one = col.search_ids(QUERIES, K, rescore=False)
        words = col._engine.publisher.current().data.words[:LIVE].copy()
        col.requantize(encoding="two_bits", estimator="rabitq")
        two = col.search_ids(QUERIES, K, rescore=False)
        assert one[0].tolist() == two[0].tolist() and (words == col._engine.publisher.current().data.words[:LIVE]).all()


def test_compaction_afterwards_keeps_the_codes(path):
    with worn(path) as col:
        col.requantize()
        info = col.info()
        col.delete(named_ids(300, 400))
        before = documents(col)
        col.compact()
        assert (col.info().quantization, col.info().choice, col.info().deleted) == (info.quantization, info.choice, 0)
        assert documents(col) == before and col.verify().ok
        check_codes(col)
    if path is not None:
        with bqstore.open(path) as col:
            assert (col.info().quantization, col.info().choice) == (info.quantization, info.choice)
            check_codes(col)


def test_reports_are_of_the_new_codes():
    with worn(None) as col:
        col.requantize(encoding="four_bits", estimator="rabitq")
        report = col.recall(sample=50, settings=[{"oversampling": 2}])
        assert report.current.quantization == col.info().quantization and report.current.stored
        assert report.recall > 0.97
        assert col.tune(0.9, k=5).oversampling < 4


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", [*SIGNED[1:], *CORRECTED], ids=named)
def test_what_was_trained_on_few_is_trained_once_more(way):
    with opened(**asked(way)) as col:
        col.add(BASE[:30], named_ids(0, 30))
        assert way_of(col) == way
        for at in range(30, 2030, 400):
            col.add(BASE[at : at + 400], named_ids(at, at + 400))
            assert (way_of(col), col.info().generation) == (way, int(at + 400 >= 1024))
            check_codes(col)
            check_settings(col)


def test_signs_are_not_trained_and_so_not_once_more():
    """Asked for on a few documents, they were all made again when there were a thousand."""
    with opened() as col:
        col.add(BASE[:100], named_ids(0, 100))
        col.requantize(encoding="one_bit")
        for at in range(100, 1300, 400):
            col.add(BASE[at : at + 400], named_ids(at, at + 400))
        assert (col.info().generation, way_of(col)) == (1, SIGNED[0])


# ---- others go on


def check_answers(who, live, vectors, query):
    """A search is whole, and right by what the documents are."""
    hits = who.search(query, 20, with_vectors=True)
    assert len({hit.id for hit in hits}) == 20
    for hit in hits:
        np.testing.assert_array_equal(hit.vector, vectors[hit.id])
        cosine = hit.vector @ query / np.linalg.norm(hit.vector) / np.linalg.norm(query)
        assert hit.score == pytest.approx(cosine, abs=1e-5)
    true = who.search(query, K, exact=True)
    wide = who.search(query, K, oversampling=30)
    assert len({hit.id for hit in wide} & {hit.id for hit in true}) >= 5  # whatever the codes are
    assert wide[0].score <= true[0].score + 1e-6
    ids, scores = who.search_ids(query, N, rescore=False)
    assert {id_ for id_ in ids[0] if id_} == live and np.isfinite(scores[0, : len(live)]).all()


@pytest.mark.slow
def test_threads_and_a_reader_search_during_and_after_it(tmp_path):
    with worn(tmp_path) as col, bqstore.open(tmp_path, read_only=True, hnsw=BITS) as reader:
        live = {record.id for record in col.scroll()}
        vectors = {r.id: r.vector for r in col.get(sorted(live), with_vectors=True)}
        done, errors, rounds = threading.Event(), [], [0, 0, 0]

        def search(number, who):
            try:
                while not done.is_set() or not rounds[number]:
                    check_answers(who, live, vectors, QUERIES[rounds[number] % len(QUERIES)])
                    rounds[number] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=search, args=(i, who)) for i, who in enumerate((col, col, reader))]
        for thread in threads:
            thread.start()
        ways = (*SIGNED, CORRECTED[0], CORRECTED[3], CORRECTED[4]) if FULL else (SIGNED[2], CORRECTED[0], CORRECTED[4])
        for way in ways:
            col.requantize(**asked(way))
            assert way_of(col) == way == way_of(reader)
            assert not errors, errors[0]
        done.set()
        for thread in threads:
            thread.join()
        assert not errors, errors[0]
        assert min(rounds) >= 1 and reader.info().generation == len(ways) and reader.verify().ok
        check_codes(reader)


READER = """
import sys, numpy as np, bqstore
from tests.engine.test_requantize import QUERIES, check_answers, check_codes
from bqstore.engine import graph_builder
graph_builder.TAIL = 500
col = bqstore.open(sys.argv[1], read_only=True, hnsw={"full_scan_threshold": 0})
live = {r.id for r in col.scroll()}
vectors = {r.id: r.vector for r in col.get(sorted(live), with_vectors=True)}
rounds = 0
while "stop" not in col:
    try:
        check_answers(col, live, vectors, QUERIES[rounds % len(QUERIES)])
    except AssertionError:
        if "stop" not in col:
            raise
    rounds += 1
    print(*col.info().quantization.__dict__.values(), flush=True)
check_codes(col)
assert col.verify().ok
"""


def process(code, *arguments):
    return child(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_reader_in_another_process_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "TAIL", 500)  # so that there are snapshots to take
    with worn(tmp_path) as col, process(READER, tmp_path) as reader:
        lines = [reader.stdout.readline()]
        for way in (*CORRECTED[:3], SIGNED[0], CORRECTED[4], SIGNED[2]) if FULL else (*CORRECTED[:2], SIGNED[2]):
            col.requantize(**asked(way))
            now = " ".join(map(str, col.info().quantization.__dict__.values())) + "\n"
            end = time.monotonic() + HANGS
            while lines[-1] != now:  # until it has seen them come
                assert time.monotonic() < end
                lines.append(reader.stdout.readline())
                assert lines[-1], reader.stderr.read()
        col.add(BASE[:1], ["stop"])
        out, errors = reader.communicate(timeout=HANGS)
        assert (reader.returncode, errors) == (0, ""), errors
        assert len(set(lines + out.splitlines(keepends=True)) - {""}) >= 3


def test_a_search_that_began_before_it_ends_after_it(tmp_path, monkeypatch):
    """The state it took has the codes, the quantizer and the files of its generation."""
    with worn(tmp_path) as col:
        old = col._engine.publisher.current()
        options = col._engine.options(K)
        expected = col.search_ids(QUERIES, K)
        for way in (CORRECTED[3], SIGNED[2], CORRECTED[4]):
            col.requantize(**asked(way))
            _, prepared = search.prepared(col._engine, old, None, options)
            _, scores = prepared.nearest(QUERIES)
            np.testing.assert_array_equal(scores, expected[1])


def test_writes_wait_for_it_and_closing_too(tmp_path, monkeypatch):
    with worn(tmp_path) as col:
        inside, go, real = threading.Event(), threading.Event(), HnswGraph.link

        def link(self, *arguments):
            inside.set()
            assert go.wait(HANGS)
            return real(self, *arguments)

        monkeypatch.setattr(HnswGraph, "link", link)
        tasks = [threading.Thread(target=col.requantize, kwargs={"encoding": "two_bits", "estimator": "rabitq"})]
        tasks[0].start()
        assert inside.wait(HANGS)
        tasks += [
            threading.Thread(target=col.add, args=(BASE[:1], ["new"])),
            threading.Thread(target=col.delete, args=(["d7"],)),
        ]
        for task in tasks[1:]:
            task.start()
        assert len(col.search(QUERIES[0], N)) == LIVE and "new" not in col and "d7" in col  # searches do not
        assert col.info().generation == 0
        go.set()
        for task in tasks:
            task.join(HANGS)
        assert (len(col), col.info().generation, "new" in col, "d7" in col) == (LIVE, 1, True, False)
        check_codes(col)
        inside.clear()
        go.clear()
        tasks = [threading.Thread(target=col.requantize, kwargs={"encoding": "one_bit"})]
        tasks[0].start()
        assert inside.wait(HANGS)
        tasks += [threading.Thread(target=col.close)]
        tasks[1].start()
        go.set()
        for task in tasks:
            task.join(HANGS)
    with bqstore.open(tmp_path, hnsw=BITS) as col:
        assert len(col) == LIVE and way_of(col) == SIGNED[0] and col.verify().ok
        check_codes(col)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("step", [13, 150])
def test_adding_from_threads_while_codes_are_made_anew(path, step):
    with opened(path) as col:
        col.add(BASE[:400], named_ids(0, 400))

        def change():
            for way in (CORRECTED[2], SIGNED[2], None, CORRECTED[1]):
                col.requantize(**asked(way) if way else {})

        def delete():
            for i in range(0, 400, 20):
                assert col.delete([f"d{i}"]) == 1

        tasks = [adder(col, at, at + 300, step, BASE) for at in range(400, 1300, 300)]
        run_all(change, delete, *tasks)
        gone = set(range(0, 400, 20))
        assert {r.id for r in col.scroll()} == {f"d{i}" for i in range(1300) if i not in gone}
        assert way_of(col) == CORRECTED[1]
        check_codes(col)
        check_settings(col)
        wanted = exact_scores(BASE[:1300], QUERIES[:5], "cosine")
        ids, scores = col.search_ids(QUERIES[:5], 1280, rescore=False)
        for row, estimates, true in zip(ids, scores, wanted, strict=True):
            assert np.corrcoef(estimates, true[[int(id_[1:]) for id_ in row]])[0, 1] > 0.75
        assert col.verify().ok
        generation = col.info().generation
        col.add(BASE[:1], ["last"])
        assert (col.info().generation, way_of(col)) == (generation, CORRECTED[1])


def test_two_threads_ask_for_different_codes(path):
    with worn(path) as col:
        before = documents(col)
        asked_for = [CORRECTED[2], SIGNED[2], SIGNED[0]]
        run_all(*(lambda way=way: col.requantize(**asked(way)) for way in asked_for))
        assert way_of(col) in asked_for and documents(col) == before and col.info().generation == 3
        check_codes(col)
        check_settings(col)
        used = way_of(col)
        col.add(BASE[:1], ["new"])
        assert way_of(col) == used and col.info().generation == 3


# ---- a dictionary says the same


def lead_a_life(path, seed, steps):
    """A collection and a dictionary; codes are asked for, chosen, and trained again as it grows and shrinks."""
    rng, truth, reader = random.Random(seed), {}, None
    kinds = ["add", "fill", "delete", "requantize", "compact", "update", "reopen", "follow", "clear"]
    col, asked_for = opened(path), None
    for step in range(steps):
        kind = rng.choices(kinds, [20, 8, 8, 14, 3, 4, 5, 3, 1])[0]
        some = rng.sample(sorted(truth), min(len(truth), rng.choice([1, 10, 100])))
        used, generation = way_of(col), col.info().generation
        if kind in ("add", "fill"):
            at = [rng.randrange(1200) for _ in range(rng.choice([1, 7, 60]) if kind == "add" else 300)]
            col.add(BASE[at], [f"d{i}" for i in at], metadatas=[{"step": step}] * len(at))
            truth.update((f"d{i}", (None, {"step": step}, BASE[i].tobytes())) for i in at)
        elif kind == "delete":
            assert col.delete(some) == len(some)
            for id_ in some:
                del truth[id_]
        elif kind == "requantize":
            asked_for = rng.choice([*WAYS, None, None])
            col.requantize(**asked(asked_for) if asked_for else {})
            assert col.info().deleted == 0 and (not asked_for or not truth or way_of(col) == asked_for)
        elif kind == "compact":
            col.compact()
            assert col.info().deleted == 0
        elif kind == "update":
            col.update_metadata(some, {"changed": step})
            truth.update((id_, (None, {**truth[id_][1], "changed": step}, truth[id_][2])) for id_ in some)
        elif kind == "clear":
            col.clear()
            truth.clear()
        elif kind == "reopen" and path is not None:
            col.close()
            col = opened(path)
            assert way_of(col) == used
        elif kind == "follow" and path is not None:
            if reader is not None:
                reader.close()
            reader = opened(path, read_only=True)
        if kind not in ("add", "fill", "requantize", "clear") and truth:
            assert way_of(col) == used
        if asked_for and truth:
            assert way_of(col) == asked_for
        for who in filter(None, (col, reader)):
            assert len(who) == len(truth) and {r.id for r in who.scroll()} == truth.keys()
            check_codes(who)
            check_settings(who)
            assert len(who.search(QUERIES[0], 2000)) == len(truth)
            if step % 7 == 0:
                assert documents(who) == truth
                assert who.verify().ok
        # of how the codes are now is due no other
        generation = col.info().generation
        if step % 5 == 0 and truth:
            col.add(BASE[:1], ["d0"], metadatas=[{"step": step}])
            truth["d0"] = (None, {"step": step}, BASE[0].tobytes())
            assert col.info().generation == generation
    col.close()
    if reader is not None:
        reader.close()


@pytest.mark.parametrize("seed", range(2))
def test_a_collection_whose_codes_change_agrees_with_a_dictionary(path, seed):
    lead_a_life(path, seed, often(50))


# ---- interrupted


def after(number, real, error=KeyboardInterrupt):
    """The function, interrupted at the n-th call."""
    calls = []

    def call(*arguments, **keywords):
        calls.append(1)
        if len(calls) == number:
            raise error
        return real(*arguments, **keywords)

    return call


BEFORE = [
    (Quantizer, "train", 1),
    (Quantizer, "encode_all", 1),
    (fetch, "sample", 1),
    (fetch, "vectors", 1),
    (HnswGraph, "link", 1),
    (HnswGraph, "link", 15),
    (HnswGraph, "_merge", 10),
    (Store, "begin_compaction", 1),
    (Store, "commit_compaction", 1),
    (compaction, "_copy", 1),
    (maintenance.Progress, "__call__", 1),
    (graph_builder.Progress, "__exit__", 2),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("owner", "name", "when"), BEFORE, ids=lambda value: value if isinstance(value, (str, int)) else ""
)
def test_ctrl_c_leaves_everything_as_it_was(path, monkeypatch, owner, name, when):
    way = None if name in ("train", "sample") or when > 1 else CORRECTED[2]
    with worn(path, **asked(CORRECTED[1])) as col:
        before, documents_before = state(col), documents(col)
        on_disk = bins(path) if path else None
        found = col.search_ids(QUERIES, K)[0].tolist()
        with monkeypatch.context() as patch:
            real = getattr(owner, name)
            if name == "train":  # a method of the class
                patch.setattr(owner, name, classmethod(after(when, real.__func__)))
            else:
                patch.setattr(owner, name, after(when, real))
            with pytest.raises(KeyboardInterrupt):
                col.requantize(**asked(way) if way else {})
        assert state(col) == before
        if path and name != "commit_compaction":  # too late to sweep
            assert bins(path) == on_disk
        assert col.search_ids(QUERIES, K)[0].tolist() == found
        assert documents(col) == documents_before
        check_codes(col)
        check_settings(col)
        col.add(BASE[:1], ["new"])
        assert way_of(col) == CORRECTED[1] and col.info().generation == 0
        check_codes(col)
        col.delete(["new"])
        col.requantize(**asked(way) if way else {})
        assert (col.info().deleted, col.info().linked, col.info().generation) == (0, LIVE, 1)
        assert documents(col) == documents_before and col.verify().ok
        check_codes(col)
        check_settings(col)
        assert path is None or {file.split("-")[1][0] for file in bins(path)} == {"1"}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("to", [CORRECTED[2], SIGNED[0], None], ids=["two_bits", "signs", "auto"])
@pytest.mark.parametrize(
    ("name", "was"),
    [("adopt", None), ("adopt", SIGNED[0]), ("adopt", CORRECTED[4]), ("attached", SIGNED[0]), ("link", None)],
    ids=lambda value: value if isinstance(value, str) else named(value) if value else "auto",
)
def test_ctrl_c_after_the_commit_leaves_it_done(tmp_path, monkeypatch, name, was, to):
    """The next write took it back: it went by what had been asked for before."""
    path = None if name == "link" else tmp_path / "store"
    with worn(path, **(asked(was) if was else {})) as col:
        documents_before = documents(col)
        real, commit = getattr(graph_builder.GraphBuilder, name), Store.commit_compaction
        with monkeypatch.context() as patch:

            def commit_then_interrupt(self, prepared):
                head = commit(self, prepared)
                patch.setattr(graph_builder.GraphBuilder, name, after(1, real))
                return head

            patch.setattr(Store, "commit_compaction", commit_then_interrupt)
            try:
                col.requantize(**asked(to) if to else {})
            except KeyboardInterrupt:
                pass
            else:  # linked already, and there is nothing left to interrupt
                assert name == "link"
        assert documents(col) == documents_before and col.verify().ok
        info = col.info()
        assert (info.deleted, info.generation) == (0, 1)
        assert way_of(col) == to if to else info.choice is not None
        check_codes(col)
        check_settings(col)
        assert len(col.search(QUERIES[0], N)) == LIVE
        col.add(BASE[:1], ["new"])  # links what is not linked
        assert (col.info().linked, len(col)) == (LIVE + 1, LIVE + 1)
        assert (col.info().quantization, col.info().generation) == (info.quantization, 1)
        check_codes(col)
        check_settings(col)
    if path is not None:
        with bqstore.open(path, hnsw=BITS) as col:
            assert col.info().quantization == info.quantization
            col.add(BASE[:1], ["newer"])
            assert (col.info().quantization, col.info().generation) == (info.quantization, 1)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [*BEFORE, (graph_builder.GraphBuilder, "adopt", 1)],
    ids=lambda value: value if isinstance(value, (str, int)) else "",
)
def test_ctrl_c_in_the_automatic_one_loses_nothing(path, monkeypatch, owner, name, when):
    """The documents are durable before it begins; it is done with the next add if it was not."""
    with opened(path) as col:
        col.add(BASE[: ENOUGH - 50], named_ids(0, ENOUGH - 50))
        with monkeypatch.context() as patch:
            real = getattr(owner, name)
            if name == "train":
                patch.setattr(owner, name, classmethod(after(when, real.__func__)))
            elif name in ("encode_all", "__exit__"):  # the add itself has its turn before
                patch.setattr(owner, name, after(when + 1, real))
            else:
                patch.setattr(owner, name, after(when, real))
            try:
                col.add(BASE[ENOUGH - 50 : 600], named_ids(ENOUGH - 50, 600))
            except KeyboardInterrupt:
                pass
            else:
                pytest.fail("nothing was interrupted")
        assert len(col) == 600 and {r.id for r in col.scroll()} == set(named_ids(0, 600))
        check_codes(col)
        check_settings(col)
        assert (col.info().choice is None) == (way_of(col) == SIGNED[0]) and col.verify().ok
        col.add(BASE[600:610], named_ids(600, 610))
        assert (col.info().generation, len(col)) == (1, 610)
        check_choice(col)
        check_codes(col)
    if path is not None:
        with opened(path) as col:
            assert len(col) == 610 and col.info().linked == 610 and col.info().generation == 1
            check_codes(col)


@pytest.mark.sampled(1)
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(2))
def test_ctrl_c_at_any_moment(tmp_path, seed):
    interrupted = interrupt_often(tmp_path, seed, 25)
    assert interrupted > 3


def interrupt_often(path, seed, times):
    """Requantize and add under a timer that interrupts; returns how often it did."""
    rng, interrupted, known = np.random.default_rng(seed), 0, {}
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        col = opened(path, threads=1 + seed % 2)
        col.add(BASE[:N], named_ids(0, N))
        known = {f"d{i}": i for i in range(N)}
        for number in range(times):
            old, generation = way_of(col), col.info().generation
            way = WAYS[rng.integers(0, len(WAYS))]
            try:
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-3, 0.1)))
                col.requantize(**asked(way))
                signal.setitimer(signal.ITIMER_REAL, 0)
                for _ in range(2):  # a signal that has arrived is answered in a loop, at the latest
                    pass
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            moved = col.info().generation - generation
            assert moved in (0, 1) and way_of(col) == (way if moved else old)
            check_codes(col)
            check_settings(col)
            at = int(rng.integers(0, 2600))
            col.add(BASE[at : at + 1], [f"e{number}"])
            known[f"e{number}"] = at
            assert (way_of(col), col.info().generation) == (way if moved else old, generation + moved)
            assert len(col) == len(known) and col.info().linked == len(known) + col.info().deleted
            if number % 8 == 7:
                assert col.verify().ok
                col.close()
                col = opened(path)
                assert (way_of(col), col.info().generation) == (way if moved else old, generation + moved)
                check_codes(col)
        assert {id_: BASE[at].tobytes() for id_, at in known.items()} == {
            id_: vector for id_, (_, _, vector) in documents(col).items()
        }
        col.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return interrupted


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
@pytest.mark.parametrize("automatic", [False, True])
def test_whatever_a_signal_handler_calls_is_refused_and_changes_nothing(path, monkeypatch, automatic):
    col, real, seen = opened(path), HnswGraph.link, []
    col.add(BASE[: 400 if automatic else N])

    def look(call):
        try:
            seen.append(call())
        except bqstore.BqstoreError as error:
            seen.append(type(error))

    def handler(*_):
        look(lambda: len(col.search(QUERIES[0], 20)))
        look(lambda: col.info().generation)
        for call in (lambda: col.add(QUERIES), col.requantize, col.compact, col.clear, col.close):
            look(call)

    def link(self, *arguments):
        if len(self) > 200 and not seen and (not automatic or begun):
            signal.raise_signal(signal.SIGUSR1)
            for _ in range(2):  # where signals are answered
                pass
        return real(self, *arguments)

    begun, begin = [], Store.begin_compaction

    def beginning(self, *arguments):
        begun.append(1)
        return begin(self, *arguments)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(HnswGraph, "link", link)
            patch.setattr(Store, "begin_compaction", beginning)
            if automatic:
                col.add(BASE[400:N])
            else:
                col.requantize(encoding="two_bits", estimator="rabitq")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [bqstore.LockedError] * 7
    assert len(col) == N and col.info().generation == 1 and col.verify().ok
    assert automatic or way_of(col)[:2] == ("two_bits", "rabitq")
    check_codes(col)
    col.close()
    if path is not None:
        with opened(path) as again:
            assert len(again) == N and again.info().generation == 1 and again.verify().ok
            check_codes(again)


# ---- kill -9

KILLED = """
import os, sys, numpy as np
import bqstore
from tests.engine.test_requantize import BASE, asked, kills, opened
path, seed, skip = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
col = opened(path)
os.write(1, b"ready\\n")
for number, (kind, what) in enumerate(kills(seed)):
    if number >= skip:
        os.write(1, b"begin %d\\n" % number)
        if kind == "add":
            col.add(BASE[what], ["d%d" % i for i in what], metadatas=[{"step": number}] * len(what))
        elif kind == "delete":
            col.delete(["d%d" % i for i in what])
        else:
            col.requantize(**asked(what) if what else {})
        os.write(1, b"done %d\\n" % number)
"""


def kills(seed):
    """Adds past the threshold, upserts, deletes, and most of all other codes, without end."""
    rng = random.Random(seed)
    first = rng.choice([1500, 2000, 2040])
    yield "add", list(range(first))
    yield "add", list(range(first, 2100))
    while True:
        kind = rng.choices(["add", "delete", "requantize"], [2, 1, 4])[0]
        if kind == "requantize":
            yield kind, rng.choice([*WAYS, None])
        else:
            yield kind, sorted(rng.sample(range(2600), rng.choice([1, 5, 60])))


def play(known, operation, number):
    """What a dictionary of documents says after an operation."""
    kind, what = operation
    if kind == "add":
        return {**known, **{f"d{i}": number for i in what}}
    return {id_: step for id_, step in known.items() if kind != "delete" or int(id_[1:]) not in what}


def kill_often(path, seed, times, wait):
    """Kill a process that writes, as often as that; what it had acknowledged is there each time.

    The first time while the second add has codes made anew, then in the middle of anything.
    """
    rng = random.Random(seed)
    operations, done, known = [], 0, {}
    generator = kills(seed)
    for round_ in range(times):
        until = b"begin %d\n" % (1 if round_ == 0 else done + rng.randint(0, 4))
        with process(KILLED, path, seed, done) as writer:
            lines = [writer.stdout.readline().encode()]
            while lines[-1] != until:
                assert lines[-1], writer.stderr.read()
                lines.append(writer.stdout.readline().encode())
            time.sleep(rng.uniform(0, wait))
            writer.kill()
            lines += writer.stdout.read().encode().splitlines(keepends=True)
        told = [line.split() for line in lines if line.endswith(b"\n") and line.count(b" ") == 1]
        finished = [int(number) for word, number in told if word == b"done"]
        begun = [int(number) for word, number in told if word == b"begin"]
        while len(operations) <= begun[-1]:
            operations.append(next(generator))
        for number in range(done, max(finished, default=done - 1) + 1):
            known = play(known, operations[number], number)
        done = max(finished, default=done - 1) + 1
        with opened(path) as col:
            assert col.verify().ok
            found = {r.id: r.metadata["step"] for r in col.scroll()}
            if found != known:
                assert begun[-1] == done and found == play(known, operations[done], done)
            for record in col.get(sorted(found), with_vectors=True):
                np.testing.assert_array_equal(record.vector, BASE[int(record.id[1:])])
            check_codes(col)
            check_settings(col)
            codes = [what for kind, what in operations[: done + 1] if kind == "requantize"]
            # what was asked for last; or, if that was being done, what was before; or what was chosen
            last, before = (codes[-1], codes[-2:-1]) if codes else (None, [])
            if operations[: done + 1][-1][0] == "requantize" and done == begun[-1]:
                allowed = [last, *(before or [None])]
            else:
                allowed = [last]
            assert way_of(col) in allowed or None in allowed
            assert len(col.search(QUERIES[0], 3000)) == len(found)
            assert {name.split("-")[1].split(".")[0] for name in bins(path)} == {str(col.info().generation)}
    return done


@pytest.mark.filterwarnings("ignore:there is no snapshot of the graph:RuntimeWarning")
def test_kill(tmp_path):
    assert kill_often(tmp_path, 0, 4 if FULL else 1, 0.4) >= 1
