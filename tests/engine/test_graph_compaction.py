"""Compaction of a collection: the same documents in fewer bytes and on a new graph, or everything as it was."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.engine import graph_builder
from bqstore.index import HnswGraph
from bqstore.storage import compaction
from bqstore.storage.store import Store
from tests.conftest import FULL, HANGS, child
from tests.engine.given import (
    BITS,
    ENOUGH,
    SIGNS,
    data_of,
    filled,
    hammings,
    let_walk,
    recall,
    recall_on_bits,
    settle_early,
)

N, DIM, K = ENOUGH + 552, 96, 10
LIVE = N - 400
TAIL = 500 if FULL else 100  # so that there are snapshots to take
BASE, QUERIES = data_of(N, DIM, queries=100)
ROOT = Path(bqstore.__file__).parents[1]


@pytest.fixture(autouse=True)
def walk(monkeypatch):
    let_walk(monkeypatch)
    settle_early(monkeypatch, ENOUGH)


pytestmark = pytest.mark.one_place


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "store"


def worn(path, **settings):
    """N slots of which 400 are dead: some deleted, some replaced, some changed."""
    col = filled(path, BASE[: N - 150], **settings)
    col.delete([f"d{i}" for i in range(100, 400)])
    col.add(BASE[N - 150 :], [f"d{i}" for i in range(150)], metadatas=[{"new": i} for i in range(150)])
    col.update_metadata(["d500"], {"changed": True})
    info = col.info()
    assert (info.count, info.deleted, info.linked) == (LIVE, N - LIVE, N)
    return col


def files(path):
    return {p.name: p.stat().st_size for p in (path / "default").iterdir() if p.suffix == ".bin"}


def documents(col):
    records = list(col.scroll())
    vectors = col.get([record.id for record in records], with_vectors=True)
    return [(r.id, r.text, r.metadata, r.vector.tobytes()) for r in vectors]


def state(col):
    info = col.info()
    return (info.count, info.deleted, info.linked, info.generation, info.disk_bytes, info.memory_bytes)


# ---- what it does


@pytest.mark.parametrize("originals", ["float32", "int8"])
def test_the_living_stay_and_the_dead_are_gone(path, originals):
    with worn(path, originals=originals) as col:
        before, documents_before = col.info(), documents(col)
        truth = col.search_ids(QUERIES, K, exact=True)
        assert col.compact() is None
        after = col.info()
        assert (after.count, after.deleted, after.linked) == (LIVE, 0, LIVE)
        assert after.generation == before.generation + 1 and after.way == "walk"
        assert after.memory_bytes < before.memory_bytes and after.graph_bytes < before.graph_bytes
        assert documents(col) == documents_before and col.verify().ok
        again = col.search_ids(QUERIES, K, exact=True)
        assert again[0].tolist() == truth[0].tolist()
        np.testing.assert_array_equal(again[1], truth[1])
        assert col.count({"changed": True}) == 1 and col.count({"new": [1, 2]}) == 2
        if path is not None:
            assert after.disk_bytes < before.disk_bytes * 0.9
            assert {name.split("-")[1][0] for name in files(path)} == {"1"}
            col.close()
            with bqstore.open(path, hnsw=BITS, quantization=SIGNS) as opened:
                assert documents(opened) == documents_before and opened.verify().ok
                assert (opened.info().linked, opened.info().deleted) == (LIVE, 0)
                assert opened.search_ids(QUERIES, K, exact=True)[0].tolist() == truth[0].tolist()


def test_recall_and_graph_are_those_of_a_fresh_build(tmp_path):
    with worn(tmp_path) as col:
        col.compact()
        records = col.get([r.id for r in col.scroll()], with_vectors=True)
        vectors = np.array([r.vector for r in records])
        with bqstore.open(hnsw=BITS, quantization=SIGNS) as fresh:
            fresh.add(vectors, [r.id for r in records])
            graphs = [c._engine.graph.builder.graph.parts() for c in (col, fresh)]
            assert graphs[0][0] == graphs[1][0]
            for name in HnswGraph.ARRAYS:
                np.testing.assert_array_equal(graphs[0][1][name], graphs[1][1][name])
            for settings in ({"rescore": False}, {}, {"hnsw_ef": 32}):
                ids, other = (c.search_ids(QUERIES, K, **settings)[0] for c in (col, fresh))
                assert ids.tolist() == other.tolist()


def test_recall_after_many_deletions_and_a_compaction(tmp_path):
    rng = np.random.default_rng(0)
    n, dead = (6000, 3500) if FULL else (2000, 1200)
    base, queries = data_of(n, 128, queries=200)
    with filled(tmp_path, base) as col:
        gone = rng.permutation(n)[:dead]
        col.delete([f"d{i}" for i in gone])
        truth, _ = col.search_ids(queries, K, exact=True)
        before = recall(col.search_ids(queries, K)[0], truth)
        col.compact()
        assert recall(col.search_ids(queries, K)[0], truth) >= before - 0.005
        distances = hammings(base, queries)
        distances[:, gone] = 10**6
        assert recall_on_bits(col.search_ids(queries, K, rescore=False)[0], distances) >= 0.98
        assert col.info().linked == n - dead


def test_nothing_deleted_nothing_done(path, monkeypatch):
    with filled(path, BASE) as col:
        before = state(col)
        monkeypatch.setattr(HnswGraph, "link", lambda *_: pytest.fail("linked anew"))
        col.compact()
        *after, memory = state(col)
        assert (*after[:4], memory) == (*before[:4], before[5]) and col.info().generation == 0
        assert after[4] <= before[4]  # the catalogue and its log give back what they do not need
    with bqstore.open() as empty:
        empty.compact()
        assert empty.info().generation == 0


def test_everything_deleted(path):
    with filled(path, BASE) as col:
        col.delete([f"d{i}" for i in range(N)])
        col.compact()
        info = col.info()
        assert (info.count, info.deleted, info.linked, info.generation) == (0, 0, 0, 1)
        assert info.memory_bytes == 0 and (path is None or files(path) == {})
        assert col.search(QUERIES[0]) == [] and list(col.scroll()) == []
        assert col.search_ids(QUERIES[0], 2)[0].tolist() == [[None, None]] and col.verify().ok
        col.compact()
        assert col.info().generation == 1
        col.add(BASE[:10], [f"d{i}" for i in range(10)])
        assert len(col.search(QUERIES[0], 50)) == 10
        col.add(BASE, [f"d{i}" for i in range(N)])
        assert (col.info().linked, len(col)) == (N + 10, N)
        col.compact()
        ids, _ = col.search_ids(BASE[::100], 1)
        assert ids[:, 0].tolist() == [f"d{i}" for i in range(0, N, 100)] and col.verify().ok
    if path is not None:
        with bqstore.open(path, hnsw=BITS, quantization=SIGNS) as col:
            assert (col.info().linked, len(col)) == (N, N) and col.verify().ok


def test_too_few_are_left_for_a_graph(path):
    few = ENOUGH * 2 // 3
    with filled(path, BASE) as col:
        col.delete([f"d{i}" for i in range(few, N)])
        col.compact()
        assert (col.info().linked, col.info().way, len(col)) == (0, "scan", few)
        assert len(col.search(QUERIES[0], few + 100)) == few
        ids, _ = col.search_ids(QUERIES, K, rescore=False)
        assert recall_on_bits(ids, hammings(BASE[:few], QUERIES)) == 1
        col.add(BASE[few:], [f"d{i}" for i in range(few, N)])
        assert col.info().linked == N


def test_again_and_again(tmp_path):
    """What is linked, loaded and saved follows each new generation."""
    rng = np.random.default_rng(0)
    filled(tmp_path, BASE).close()
    live = set(range(N))
    for round_ in range(1, 6):
        with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
            if round_ > 1:
                assert col.info().linked == len(live)
            col.count({"m": 3})  # ids and a column are kept up from here on
            some = rng.integers(0, N, 100)
            col.delete([f"d{i}" for i in some])
            live -= set(some.tolist())
            back = np.unique(rng.integers(0, N, 150))
            col.add(BASE[back], [f"d{i}" for i in back], metadatas=[{"i": int(i), "m": int(i % 200)} for i in back])
            live |= set(back.tolist())
            col.compact()
            info = col.info()
            assert (info.generation, info.deleted, info.linked, info.count) == (round_, 0, len(live), len(live))
            assert {int(r.id[1:]) for r in col.scroll()} == live
            assert col.count({"m": 3}) == sum(i % 200 == 3 for i in live)
            sample = sorted(live)[::50]
            ids, _ = col.search_ids(BASE[sample], 1)
            assert ids[:, 0].tolist() == [f"d{i}" for i in sample] and col.verify().ok


def test_a_reader_may_not(tmp_path):
    worn(tmp_path).close()
    with bqstore.open(tmp_path, read_only=True) as reader, pytest.raises(bqstore.ReadOnlyError):
        reader.compact()
    with pytest.raises(bqstore.ClosedError):
        reader.compact()


# ---- readers go on


def test_threads_and_a_reader_search_during_and_after_it(tmp_path):
    with worn(tmp_path) as col, bqstore.open(tmp_path, read_only=True, hnsw=BITS, quantization=SIGNS) as reader:
        live = {record.id for record in col.scroll()}
        vectors = {r.id: r.vector for r in col.get(sorted(live), with_vectors=True)}
        done, errors, rounds = threading.Event(), [], [0, 0, 0]

        def search(number, who):
            try:
                while not done.is_set() or not rounds[number]:
                    query = QUERIES[rounds[number] % 100]
                    hits = who.search(query, 20, with_vectors=True)
                    assert len({hit.id for hit in hits}) == 20
                    for hit in hits:
                        np.testing.assert_array_equal(hit.vector, vectors[hit.id])
                        cosine = hit.vector @ query / np.linalg.norm(hit.vector) / np.linalg.norm(query)
                        assert hit.score == pytest.approx(cosine, abs=1e-5)
                    ids, _ = who.search_ids(query, N)
                    assert {id_ for id_ in ids[0] if id_} == live
                    rounds[number] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=search, args=(i, who)) for i, who in enumerate((col, col, reader))]
        for thread in threads:
            thread.start()
        times = 4 if FULL else 2
        for round_ in range(times):
            col.compact()
            assert col.info().generation == round_ + 1
            col.add(vectors["d500"][None], ["d500"], metadatas=[{"round": round_}])
        done.set()
        for thread in threads:
            thread.join()
        assert not errors, errors[0]
        assert min(rounds) >= 1 and reader.info().generation == times and reader.verify().ok


READER = """
import sys, numpy as np, bqstore
from bqstore.engine import graph_builder
graph_builder.TAIL, graph_builder.SMALLEST_GRAPH = map(int, sys.argv[3:])
col = bqstore.open(sys.argv[1], read_only=True, hnsw={"full_scan_threshold": 0})
queries = np.load(sys.argv[2])
live = {r.id for r in col.scroll()}
print("ready", flush=True)
generations, rounds = set(), 0
while "stop" not in col:
    rounds += 1
    query = queries[rounds % len(queries)]
    hits = col.search(query, 10, with_vectors=True)
    assert len({h.id for h in hits}) == 10
    for h in hits:
        score = h.vector @ query / np.linalg.norm(h.vector) / np.linalg.norm(query)
        assert abs(score - h.score) < 1e-5, (h.id, h.score, score)
    ids, _ = col.search_ids(query, 5000)
    found = {i for i in ids[0] if i}
    assert live <= found <= live | {"stop"}, (len(found), len(live))
    assert len(col.search(query, 5000)) >= len(live)
    generations.add(col.info().generation)
report = col.verify()
assert report.ok, report.problems
print("rounds", rounds, "generations", *sorted(generations))
"""


def test_a_reader_in_another_process_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "TAIL", TAIL)
    np.save(tmp_path / "queries.npy", QUERIES)
    with worn(tmp_path / "store") as col:
        vector = col.get(["d500"], with_vectors=True)[0].vector
        given = [str(tmp_path / "store"), str(tmp_path / "queries.npy"), str(TAIL), str(ENOUGH)]
        with child(
            [sys.executable, "-c", READER, *given],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            times = 6 if FULL else 3
            for _ in range(times):
                col.compact()
                col.add(vector[None], ["d500"])
            col.add(BASE[:1], ["stop"])
            out, errors = process.communicate(timeout=HANGS)
        assert process.returncode == 0, errors
        assert errors == "" and len(out.split()) >= 4
        assert col.info().generation == times


# ---- interrupted


def interrupt(*_, **__):
    raise KeyboardInterrupt


def after(number, real):
    """The function, interrupted at the n-th call."""
    calls = []

    def call(*arguments, **keywords):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    return call


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (HnswGraph, "link", 1),
        (HnswGraph, "link", 30 if FULL else 15),
        (HnswGraph, "_merge", 20 if FULL else 10),
        (Store, "begin_compaction", 1),
        (Store, "commit_compaction", 1),
        (compaction, "_copy", 1),
        (graph_builder.Progress, "__call__", 2),
        (graph_builder.Progress, "__exit__", 2),
    ],
    ids=lambda value: value if isinstance(value, (str, int)) else "",
)
def test_ctrl_c_leaves_everything_as_it_was(path, monkeypatch, owner, name, when):
    with worn(path) as col:
        before, documents_before = state(col), documents(col)
        on_disk = files(path) if path else None
        truth = col.search_ids(QUERIES, K)[0].tolist()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, after(when, getattr(owner, name)))
            with pytest.raises(KeyboardInterrupt):
                col.compact()
        assert state(col) == before
        if (
            path and name != "commit_compaction"
        ):  # too late to sweep: those files go with the next compaction or opening
            assert files(path) == on_disk
        assert col.search_ids(QUERIES, K)[0].tolist() == truth
        assert documents(col) == documents_before and col.verify().ok
        col.add(BASE[:1], ["new"])
        col.delete(["new"])
        col.compact()
        assert (col.info().deleted, col.info().linked, col.info().generation) == (0, LIVE, 1)
        assert documents(col) == documents_before and col.verify().ok
        assert path is None or {file.split("-")[1][0] for file in files(path)} == {"1"}
        ids, _ = col.search_ids(QUERIES, K)
        assert np.mean([len(set(a) & set(b)) / K for a, b in zip(ids, truth, strict=True)]) > 0.97


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["adopt", "attached", "link"])
def test_ctrl_c_after_the_commit_leaves_it_done(path, monkeypatch, name):
    with worn(path) as col:
        documents_before = documents(col)
        real, commit = getattr(graph_builder.GraphBuilder, name), Store.commit_compaction
        with monkeypatch.context() as patch:

            def commit_then_interrupt(self, prepared):
                head = commit(self, prepared)
                patch.setattr(graph_builder.GraphBuilder, name, after(1, real))
                return head

            patch.setattr(Store, "commit_compaction", commit_then_interrupt)
            with pytest.raises(KeyboardInterrupt):
                col.compact()
        assert documents(col) == documents_before and col.verify().ok
        assert (col.info().deleted, col.info().generation) == (0, 1)
        assert len(col.search(QUERIES[0], N)) == LIVE
        col.add(BASE[:1], ["new"])  # links what is not linked
        assert (col.info().linked, len(col)) == (LIVE + 1, LIVE + 1)
        ids, _ = col.search_ids(BASE[500:600], 1)
        assert ids[:, 0].tolist() == [f"d{i}" for i in range(500, 600)]
        col.delete(["new"])
        col.compact()
        assert col.info().generation == 2 and documents(col) == documents_before


def test_writes_wait_for_it_and_closing_too(tmp_path, monkeypatch):
    with worn(tmp_path) as col:
        inside, go, real = threading.Event(), threading.Event(), HnswGraph.link

        def link(self, *arguments):
            inside.set()
            assert go.wait(HANGS)
            return real(self, *arguments)

        monkeypatch.setattr(HnswGraph, "link", link)
        tasks = [threading.Thread(target=col.compact)]
        tasks[0].start()
        assert inside.wait(HANGS)
        tasks += [threading.Thread(target=col.add, args=(BASE[:1], ["new"]))]
        tasks[1].start()
        assert len(col.search(QUERIES[0], N)) == LIVE and "new" not in col  # searches do not
        go.set()
        for task in tasks:
            task.join(HANGS)
        assert (len(col), col.info().linked, col.info().generation) == (LIVE + 1, LIVE + 1, 1)
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        assert len(col) == LIVE + 1 and col.verify().ok


def test_compact_is_due_where_walks_would_be_a_tenth_quicker(path):
    """The work of walks beside what is dead, and after it: distances, which no busy machine changes."""

    def distances(col):
        return sum(col.search(query, K, explain=True).explanation.distances for query in QUERIES)

    with filled(path, BASE) as col:
        col.delete([f"d{i}" for i in range(N // 9)])
        assert not col.info().compact_due
        col.delete([f"d{i}" for i in range(N // 9, N // 9 + 2)])
        assert col.info().compact_due
        before = distances(col)
        col.compact()
        assert not col.info().compact_due and 1.05 < before / distances(col) < 1.2
    with bqstore.open() as small:
        small.add(BASE[:10], [f"d{i}" for i in range(10)])
        small.delete([f"d{i}" for i in range(5)])
        assert not small.info().compact_due, "nothing is walked"
