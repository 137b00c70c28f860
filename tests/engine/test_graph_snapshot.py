"""The graph on disk: found again at opening, made again when it cannot be used, and never a wrong answer meanwhile."""

import errno
import gc
import os
import shutil
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

import bqstore
from bqstore import CorruptionError
from bqstore.engine import graph_builder, publisher
from bqstore.engine.graph_persistence import GraphPersistence
from bqstore.index import HnswGraph
from bqstore.storage import graph_snapshot as snapshot
from bqstore.storage.reading import Reading
from tests.conftest import FULL, HANGS
from tests.engine.given import BITS, ENOUGH, SIGNS, data_of, filled, let_walk, settle_early

N, DIM, K = ENOUGH + 252, 64, 10
BASE, QUERIES = data_of(N, DIM, queries=20)


@pytest.fixture(autouse=True)
def walk(monkeypatch):
    let_walk(monkeypatch)
    settle_early(monkeypatch, ENOUGH)


@pytest.fixture
def at_once(monkeypatch):
    """Any tail at opening is linked in the background, not only a long one."""
    monkeypatch.setattr(graph_builder, "TAIL", 0)
    monkeypatch.setattr(graph_builder, "TAIL_PART", 0.0)


@pytest.fixture
def no_links(monkeypatch):
    """Nothing is linked from here on."""

    def fail(*_):
        raise AssertionError("a graph was built")

    monkeypatch.setattr(HnswGraph, "link", fail)


def snapshots(path):
    return sorted((path / "default").glob("snap-*"))


def opened_without(path, **settings):
    """A collection whose snapshot is missing, as after a program that has ended before its kernels were compiled."""
    return bqstore.open(path, hnsw=BITS, quantization=SIGNS, **settings)


def wait(col):
    """Until the background thread is done."""
    worker = col._engine.graph.builder._thread
    if worker is not None:
        worker.join(HANGS)
        assert not worker.is_alive()


def answers(col, k=K):
    """What is found, the same whether walked or scanned, for k so large that no candidate is left out."""
    ids, scores = col.search_ids(QUERIES, k, oversampling=1000)
    return ids.tolist(), scores.tolist()


@pytest.fixture(scope="module")
def truth():
    with filled(None, BASE) as col:
        ids, scores = col.search_ids(QUERIES, K, exact=True)
        return ids.tolist(), scores.tolist()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A closed collection with a snapshot, made once."""
    path = tmp_path_factory.mktemp("built") / "store"
    with pytest.MonkeyPatch.context() as patch:
        settle_early(patch, ENOUGH)
        filled(path, BASE).close()
    assert len(snapshots(path)) == 1
    return path


@pytest.fixture
def store(tmp_path, built):
    """A copy of it."""
    shutil.copytree(built, tmp_path / "store")
    return tmp_path / "store"


@contextmanager
def opened(path, **settings):
    with bqstore.open(path, hnsw=BITS, quantization=SIGNS, **settings) as col:
        yield col


# ---- when it is taken


def test_closing_and_flushing_keep_the_graph(tmp_path):
    base, n = data_of(2300, DIM)[0], 2300  # of fewer than 2,048 a tail of one is kept
    with filled(tmp_path, base) as col:
        assert snapshots(tmp_path) == []
        col.flush()
        first = snapshots(tmp_path)
        assert len(first) == 1
        col.flush()
        assert snapshots(tmp_path) == first
        col.add(base[:100])
    second = snapshots(tmp_path)
    assert len(second) == 1 and second != first
    with opened(tmp_path) as col:
        assert col.info().linked == n + 100 and col.verify().ok
        col.delete(["d5"])  # nothing that a snapshot holds
    assert snapshots(tmp_path) == second
    with opened(tmp_path) as col:
        col.add(base[:1])  # a tail of one is not worth writing all again
    assert snapshots(tmp_path) == second
    with opened(tmp_path) as col:
        assert (len(col), col.info().linked) == (n + 100, n + 100)
        assert col.search(base[0], 2)[1].score > 0.999
        col.flush()  # asked for
        assert col.info().linked == n + 101
    assert snapshots(tmp_path) != second


def test_a_snapshot_is_taken_when_much_has_been_added_since(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "TAIL", 300)
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        seen, first = [], ENOUGH // 100
        for at in range(0, 100 * first + 1000, 100):
            col.add(np.random.default_rng(at).standard_normal((100, 16)))
            seen.append([int(path.name.split("-")[2][:-4]) for path in snapshots(tmp_path)])
        assert seen[:first] == [[]] * first
        assert all(len(found) == 1 for found in seen[first:])
        assert len({found[0] for found in seen[first:]}) == 4  # a graph, and every 300
    assert len(snapshots(tmp_path)) == 1


def test_small_collections_and_those_in_memory_have_none(tmp_path):
    filled(tmp_path, BASE[: N - 300]).close()
    assert snapshots(tmp_path) == []
    with filled(None, BASE) as col:
        col.flush()
        assert col.info().linked == N


# ---- found again


def test_opening_takes_graph_and_ids_from_the_snapshot(store, no_links, monkeypatch, truth):
    read = []
    real = Reading.column_since

    def column_since(self, rid, column):
        for rows in real(self, rid, column):
            read.append((column, len(rows)))
            yield rows

    monkeypatch.setattr(Reading, "column_since", column_since)
    for read_only in (False, True):
        with opened(store, read_only=read_only) as col:
            assert (col.info().linked, col.info().way, col.info().count) == (N, "walk", N)
            assert answers(col) == truth
            assert col.search(QUERIES[0], 3)[0].id == truth[0][0][0]
            assert [record.id for record in col.scroll()] == [f"d{i}" for i in range(N)]
    assert sum(count for _, count in read) == 0


def test_ids_of_every_kind_come_back_from_the_snapshot(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{'é漢🙂x'[i % 4] * (i % 7 + 1)}{i}" for i in range(N - 100)] + ["a" * 1024, "\x01", "'; --", "a\x00b"]
    base = rng.standard_normal((len(names), 32))
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        col.add(base, names)
        col.delete(names[10:200])
        col.flush()
        col.delete(names[:5])
        col.add(base[5:7] * -1, names[5:7])
    with opened(tmp_path) as col:
        left = names[5:10] + names[200:]
        ids, _ = col.search_ids(base[0], 10_000)
        assert {id_ for id_ in ids[0] if id_} == set(left)
        for i in (5, 6):
            assert col.search_ids(-base[i], 1)[0][0, 0] == names[i]
        assert col.search_ids(base[200:], 1)[0][:, 0].tolist() == names[200:]


def test_what_came_after_the_snapshot_is_searched_at_once_and_linked_by_the_next_write(store, truth):
    extra, more = data_of(300, DIM, seed=5, queries=10)
    with opened(store) as col:
        col._engine.graph.save_at_close = lambda: None  # as after a kill
        col.add(extra, [f"e{i}" for i in range(300)])
        col.delete(["d7"])
    with opened(store) as col:
        assert (col.info().linked, col.info().count) == (N, N + 299)
        got = col.search(QUERIES[0], explain=True).explanation
        assert (got.way, got.linked, got.tail) == ("walk", N, 300)
        ids, _ = col.search_ids(extra, 1)
        assert ids[:, 0].tolist() == [f"e{i}" for i in range(300)]
        assert col.search(BASE[7], 1)[0].id != "d7"
        assert [i for i in col.search_ids(BASE[:1], 5000)[0][0] if i == "e299"] == ["e299"]
        col.add(more, [f"f{i}" for i in range(10)])
        assert col.info().linked == N + 310
        assert col.search_ids(more, 1)[0][:, 0].tolist() == [f"f{i}" for i in range(10)]
        assert col.search_ids(extra, 1)[0][:, 0].tolist() == [f"e{i}" for i in range(300)]


# ---- missing


def test_few_are_linked_again_without_a_word(store, truth):
    for path in snapshots(store):
        path.unlink()
    for read_only in (True, False):
        with opened(store, read_only=read_only) as col:
            assert answers(col) == truth
            wait(col)
            assert col.info().linked == N and answers(col) == truth
    assert len(snapshots(store)) == 1


def test_a_reader_says_nothing_of_a_snapshot_that_is_on_its_way(tmp_path, monkeypatch, truth):
    """A writer makes it after the commit: who looks in between finds none."""
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col, opened(tmp_path, read_only=True) as reader:
        col.add(BASE[:10], [f"d{i}" for i in range(10)])
        assert len(reader) == 10
        monkeypatch.setattr(graph_builder, "TAIL", 100)
        monkeypatch.setattr(GraphPersistence, "save", lambda *_: None)
        col.add(BASE[10:], [f"d{i}" for i in range(10, N)])
        assert len(reader) == N and answers(reader) == truth
        wait(reader)
        assert reader.info().linked == N
        col.delete(["d0"])
        col.compact()
        assert len(reader) == N - 1
        wait(reader)
        assert reader.info().linked == N - 1


def test_a_lost_snapshot_is_made_again_in_the_background(store, at_once, monkeypatch, truth):
    for path in snapshots(store):
        path.unlink()
    go, real = threading.Semaphore(0), HnswGraph.link

    def link(self, *arguments):
        assert go.acquire(timeout=HANGS)
        return real(self, *arguments)

    monkeypatch.setattr(HnswGraph, "link", link)
    with opened_without(store) as col:
        assert (col.info().linked, col.info().way) == (0, "scan")
        assert answers(col) == truth
        seen = []
        while col._engine.graph.builder.at_work:  # some batches, an answer, some batches
            go.release(20 if FULL else 5)
            assert answers(col) == truth
            assert len(col.search(QUERIES[0], 3000)) == N and len(col) == N
            ids, _ = col.search_ids(BASE[::50], 1)
            assert (ids[:, 0] == [f"d{i}" for i in range(0, N, 50)]).all()
            got = col.search(QUERIES[0], explain=True).explanation
            seen.append(got.linked)
            assert got.way == "scan" or got.tail == N - got.linked
        go.release(10_000)
        wait(col)
        assert seen == sorted(seen) and len(set(seen)) > 3
        assert (col.info().linked, col.info().way) == (N, "walk")
        assert len(snapshots(store)) == 1  # not to do it again after a kill
    with opened(store) as col:
        assert col.info().linked == N and answers(col) == truth and col.verify().ok


def test_a_reader_makes_its_own_graph_and_writes_nothing(store, at_once, truth):
    for path in snapshots(store):
        path.unlink()
    with opened_without(store, read_only=True) as col:
        wait(col)
        assert col.info().linked == N and answers(col) == truth
    assert snapshots(store) == []


def test_writes_go_on_while_a_lost_graph_is_made_again(store, at_once, monkeypatch):
    for path in snapshots(store):
        path.unlink()
    extra, _ = data_of(200, DIM, seed=3)
    began, real = threading.Event(), HnswGraph.link

    def link(self, *arguments):
        began.set()
        return real(self, *arguments)

    monkeypatch.setattr(HnswGraph, "link", link)
    with opened_without(store) as col:
        assert began.wait(HANGS)
        for i in range(0, 200, 20):
            col.add(extra[i : i + 20], [f"e{j}" for j in range(i, i + 20)])
            ids, _ = col.search_ids(extra[: i + 20], 1)
            assert ids[:, 0].tolist() == [f"e{j}" for j in range(i + 20)]
            col.delete([f"d{i}"])
        wait(col)
        col.flush()
        assert col.info().linked == N + 200 and len(col) == N + 190 and col.verify().ok
        assert not {f"d{i}" for i in range(0, 200, 20)} & set(col.search_ids(QUERIES[0], 5000)[0][0])


# ---- damaged, or of something else


def flipped(path, place):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 0x41
    path.write_bytes(data)


def check_rebuilt(store, truth, match):
    """A warning, right answers before and after, and a good snapshot in the end."""
    with pytest.warns(RuntimeWarning, match=match) as caught:
        col = bqstore.open(store, hnsw=BITS, quantization=SIGNS)
    assert len(caught) == 1 and "rebuilt" in str(caught[0].message)
    with col:
        assert answers(col) == truth
        wait(col)
        assert col.info().linked == N and answers(col) == truth
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with opened(store) as col:
            assert col.info().linked == N and answers(col) == truth and col.verify().ok


@pytest.mark.sampled(3)
@pytest.mark.parametrize("damage", ["header", "table", "links", "ids", "half", "empty", "zeros", "longer"])
def test_a_damaged_snapshot_is_told_of_and_made_again(store, at_once, truth, damage):
    file = snapshots(store)[0]
    data = file.read_bytes()
    if damage in ("header", "table", "links", "ids"):
        flipped(file, {"header": 20, "table": 90, "links": len(data) // 4, "ids": data.index(b"d500d501")}[damage])
    else:
        file.write_bytes(
            {"half": data[: len(data) // 2], "empty": b"", "zeros": bytes(len(data)), "longer": data + b"x"}[damage]
        )
    with pytest.warns(RuntimeWarning), opened(store, read_only=True) as reader:
        wait(reader)
        report = reader.verify()
    assert not report.ok and len(report.problems) == 1
    assert file.name in report.problems[0] and "answers are not affected" in report.problems[0]
    check_rebuilt(store, truth, "snap-0")


def test_an_opening_that_the_warning_ends_leaves_nothing_behind(store, at_once, truth):
    """With warnings as errors: no lock, no thread."""
    file = snapshots(store)[0]
    flipped(file, 20_000)
    for read_only in (False, True):
        with pytest.raises(RuntimeWarning, match="rebuilt"):
            bqstore.open(store, hnsw=BITS, quantization=SIGNS, read_only=read_only)
        gc.collect()
        assert not [thread for thread in threading.enumerate() if thread.name == "bqstore-linking"]
    check_rebuilt(store, truth, "snap-0")


def rewritten(store, numbers=(), **arrays):
    """The snapshot again, with other contents, which agree with its checksums."""
    with opened(store) as col:
        own, parts = col._engine.graph.builder.graph.parts()
        parts = {name: array.copy() for name, array in parts.items()}
        parts["id_bytes"], parts["id_ends"] = (part.copy() for part in col._engine.acceptor.with_ids().ids.parts(N))
        parts.update({name: change(parts[name]) for name, change in arrays.items()})
        parts = {name: array for name, array in parts.items() if array is not None}
        col._engine.store.write_snapshot(N, col._engine.store.head.seq, {**own, **dict(numbers)}, parts)


def changed(place, value):
    def change(array):
        array.reshape(-1)[place] = value
        return array

    return change


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "changes",
    [
        {"numbers": {"m": 8}},
        {"numbers": {"ef_construct": 64}},
        {"numbers": {"seed": 1}},
        {"numbers": {"entry": N}},
        {"numbers": {"entry": -1}},
        {"numbers": {"top": 9}},
        {"numbers": {"rows": 3}},
        {"links": changed(0, N)},
        {"links": changed(50, -2)},
        {"links": changed(32 * 100, 100)},  # to itself
        {"upper": changed(0, 2**31 - 1)},
        {"first": lambda a: np.where(a >= 0, 10**6, a).astype(np.int32)},
        {"levels": changed(17, 200)},
        {"links": lambda a: a[:-1]},
        {"links": lambda a: a.astype(np.int64)},
        {"links": lambda a: a.reshape(-1)},
        {"links": lambda a: None},
        {"levels": lambda a: None},
    ],
    ids=lambda changes: "-".join(f"{k}{n}" if isinstance(n, dict) else k for k, n in changes.items()),
)
def test_a_snapshot_that_holds_no_graph_to_walk_on_is_made_again(store, at_once, truth, changes):
    rewritten(store, **changes)
    check_rebuilt(store, truth, "does not hold a graph")


@pytest.mark.parametrize(
    "changes",
    [
        {"id_ends": lambda a: None},
        {"id_ends": changed(5, 10**9)},
        {"id_ends": changed(N, 1)},
        {"id_ends": lambda a: a[:-1]},
        {"id_bytes": lambda a: a[:-1]},
        {"id_bytes": lambda a: a.view(np.int8)},
    ],
    ids="-".join,
)
def test_ids_that_a_snapshot_does_not_hold_are_read_from_the_rows(store, at_once, truth, changes):
    rewritten(store, **changes)
    with (
        pytest.warns(RuntimeWarning, match="does not hold the ids.*; they will be read from the rows"),
        opened(store) as col,
    ):
        assert answers(col) == truth and col.info().linked == N


def test_an_older_snapshot_is_a_beginning(tmp_path, at_once, truth):
    """The folder's files from two backups: the graph of the first half, the documents of all."""
    with filled(tmp_path / "store", BASE[: N - 200]) as col:
        col.flush()
        old = snapshots(tmp_path / "store")[0]
        shutil.copy(old, tmp_path / "old")
        col.add(BASE[N - 200 :], [f"d{i}" for i in range(N - 200, N)])
    for path in snapshots(tmp_path / "store"):
        path.unlink()
    shutil.copy(tmp_path / "old", old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with opened(tmp_path / "store") as col:
            assert answers(col) == truth
            wait(col)
            assert col.info().linked == N and answers(col) == truth


@pytest.mark.parametrize("read_only", [True, False])
def test_a_snapshot_of_a_future_that_never_was_is_not_believed(tmp_path, at_once, read_only):
    """Documents from an older copy of the folder, the snapshot from a newer one; then the same commits, other rows."""
    path = tmp_path / "store"
    filled(path, BASE[: N - 100]).close()
    shutil.copytree(path, tmp_path / "copy")
    with opened(path) as col:
        col.add(BASE[N - 100 : N - 50], [f"d{i}" for i in range(N - 100, N - 50)])
        col.flush()
        col.add(BASE[N - 50 :], [f"d{i}" for i in range(N - 50, N)])
    newest = snapshots(path)[-1]
    shutil.copy(newest, tmp_path / "copy" / "default" / newest.name)
    path = tmp_path / "copy"
    with filled(None, BASE[: N - 100]) as col:
        truth = col.search_ids(QUERIES, K, exact=True)[0].tolist()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with opened(path, read_only=read_only) as col:
            assert len(col) == N - 100 and answers(col)[0] == truth
            wait(col)
            assert answers(col)[0] == truth
    assert all("the graph will be rebuilt" in str(w.message) for w in caught)
    shutil.copy(newest, path / "default" / newest.name)
    other = -BASE[N - 100 :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        col = bqstore.open(path, hnsw=BITS, quantization=SIGNS)
    with col:
        col._engine.graph.save_at_close = lambda: None
        col.add(other[:50], [f"o{i}" for i in range(50)])
        col.add(other[50:], [f"o{i}" for i in range(50, 100)])
    shutil.copy(newest, path / "default" / newest.name)  # of the same number of commits and records
    with pytest.warns(RuntimeWarning, match="derived from other records|covers|another"):
        col = bqstore.open(path, hnsw=BITS, quantization=SIGNS)
    with col:
        assert col.search_ids(other, 1)[0][:, 0].tolist() == [f"o{i}" for i in range(100)]
        assert len(col.search(QUERIES[0], 5000)) == N
        wait(col)
        assert col.search_ids(other, 1)[0][:, 0].tolist() == [f"o{i}" for i in range(100)]


def test_a_snapshot_of_another_collection_is_not_believed(store, tmp_path, at_once, truth):
    filled(tmp_path / "other", BASE[::-1].copy()).close()
    shutil.copy(snapshots(tmp_path / "other")[0], snapshots(store)[0])
    check_rebuilt(store, truth, "of another collection")


# ---- the disk refuses


def refuse(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["flush", "add", "close", "compact"])
def test_a_full_disk_costs_the_snapshot_and_nothing_else(tmp_path, monkeypatch, call, truth):
    path = tmp_path / "store"
    col = filled(path, BASE[: N - 300])
    if call == "compact":
        col.add(-BASE[:1], ["d0"])
        col.add(BASE[:1], ["d0"])
    monkeypatch.setattr(graph_builder, "TAIL", 200 if call in ("add", "compact") else 10_000)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "write_all", refuse(errno.ENOSPC))
        rest = (BASE[N - 300 :], [f"d{i}" for i in range(N - 300, N)])
        if call == "add":
            with pytest.warns(RuntimeWarning, match=r"no snapshot of the graph was kept.*No space left"):
                assert len(col.add(*rest)) == 300
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                col.add(*rest)
            with pytest.warns(RuntimeWarning, match="No space left"):
                {"flush": col.flush, "close": col.close, "compact": col.compact}[call]()
        assert not snapshots(path)
    monkeypatch.setattr(graph_builder, "TAIL", 10_000)  # too few for a warning
    if call != "close":
        assert len(col) == N and col.info().linked >= N and col.verify().ok
        assert {"d0"} < set(col.search_ids(BASE[0], N)[0][0]) and answers(col)[1] == truth[1]
        col.flush()
        assert len(snapshots(path)) == 1
        col.close()
    with opened(path) as col:
        assert len(col) == N and col.verify().ok and answers(col)[1] == truth[1]
        wait(col)
        assert col.info().linked == N


def test_a_snapshot_that_the_disk_refuses_is_not_tried_at_every_add(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "TAIL", 100)
    monkeypatch.setattr(graph_builder, "TAIL_PART", 0.0)
    tried = []

    def fail(*_):
        tried.append(col._engine.store.head.n_live)
        raise OSError(errno.ENOSPC, "full")

    with filled(tmp_path, BASE[: N - 300]) as col, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with monkeypatch.context() as patch:
            patch.setattr(snapshot, "write_all", fail)
            for at in range(N - 300, N, 10):
                col.add(BASE[at : at + 10], [f"d{i}" for i in range(at, at + 10)])
            assert tried == [N - 250, N - 150, N - 50]
            col.flush()
            assert tried[3:] == [N]
        col.add(BASE[:100])
        assert len(snapshots(tmp_path)) == 1


def test_an_old_snapshot_stays_when_the_new_one_cannot_be_written(store, monkeypatch):
    before = snapshots(store)
    with monkeypatch.context() as patch, opened(store) as col:
        col.add(BASE[:100])
        patch.setattr(snapshot, "write_all", refuse(errno.EIO))
        for call in (col.flush, col.close):
            with pytest.warns(RuntimeWarning, match="no snapshot"):
                call()
    assert snapshots(store) == before
    with opened(store) as col:
        assert (col.info().linked, len(col)) == (N, N + 100)


# ---- readers


def test_a_reader_takes_the_writers_newer_snapshot(tmp_path, monkeypatch, truth):
    monkeypatch.setattr(graph_builder, "TAIL", 100)
    with filled(tmp_path, BASE[: N - 200]) as col, opened(tmp_path, read_only=True) as reader:
        assert reader.info().linked == N - 200
        col.add(BASE[N - 200 : N - 150], [f"d{i}" for i in range(N - 200, N - 150)])
        assert len(reader) == N - 150 and reader.info().linked == N - 200  # a short tail is scanned
        col.add(BASE[N - 150 :], [f"d{i}" for i in range(N - 150, N)])
        with monkeypatch.context() as patch:
            patch.setattr(HnswGraph, "link", lambda *_: pytest.fail("the reader builds"))
            assert len(reader) == N and reader.info().linked == N
        assert answers(reader) == truth


def test_a_reader_does_not_go_back_to_an_older_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "TAIL", 100)
    monkeypatch.setattr(graph_builder, "TAIL_PART", 0.0)
    with filled(tmp_path, BASE[: N - 200]) as col:
        old = snapshots(tmp_path)[0]
        kept = old.read_bytes()
        with opened(tmp_path, read_only=True) as reader:
            col.add(BASE[N - 200 :], [f"d{i}" for i in range(N - 200, N)])
            for path in snapshots(tmp_path):
                path.unlink()
            old.write_bytes(kept)
            assert len(reader) == N
            wait(reader)
            assert reader.info().linked == N
            col._engine.graph.persistence._saved = (0, 10**6)  # no new one
            col.add(np.concatenate([BASE, -BASE])[: graph_builder.TAIL + 1])
            linked = []
            real = GraphPersistence.restore

            def restore(self, state):
                out = real(self, state)
                linked.append(out.data.linked)
                return out

            monkeypatch.setattr(GraphPersistence, "restore", restore)
            assert len(reader) == N + 101
            assert linked == [N]


def test_a_writer_that_commits_while_a_reader_opens(store, monkeypatch):
    """The ids that the snapshot lacks were read at a later commit than the state's: "rows that have no vector"."""
    with opened(store) as col:
        col.add(BASE[:5], [f"e{i}" for i in range(5)])
        real = GraphPersistence.restore

        def restore(self, state):
            if self._store.read_only:
                col.add(BASE[:2])
            return real(self, state)

        monkeypatch.setattr(GraphPersistence, "restore", restore)
        with opened(store, read_only=True) as reader:
            assert len(reader) == N + 7 and reader.info().linked == N
            assert reader.search_ids(BASE[0], 5000)[0][0].tolist().count(None) == 5000 - N - 7


def test_a_dropped_collection_gives_its_lock_back_at_once(tmp_path):
    """The graph's way to the pool of threads made a circle, which only the garbage collector could end."""
    gc.disable()
    try:
        for _ in range(2):
            col = filled(tmp_path, BASE)
            col.search_batch(QUERIES, 3, threads=2)
            del col
            col = bqstore.open(tmp_path)
            assert len(col) == N
            del col
        assert len(snapshots(tmp_path)) == 1
    finally:
        gc.enable()


def test_a_snapshot_that_was_cut_while_it_was_mapped_ended_the_process(tmp_path, monkeypatch):
    filled(tmp_path, BASE).close()
    monkeypatch.setattr(publisher, "_LOOK", 0.0)
    with bqstore.open(tmp_path) as col:
        assert col.search(QUERIES[0], K) and col.info().linked
        file = snapshots(tmp_path)[0]
        os.truncate(file, file.stat().st_size - 1)
        for ask in (lambda: col.search(QUERIES[0], K), lambda: col.search_ids(QUERIES, K), lambda: col.delete(["0"])):
            with pytest.raises(CorruptionError, match=r"was cut from .* nothing is lost: close the collection"):
                ask()
    with pytest.warns(RuntimeWarning, match="snap-"), bqstore.open(tmp_path) as col:
        assert len(col) == N and len(col.search(QUERIES[0], K)) == K


def test_a_snapshot_that_is_replaced_while_it_is_mapped_stays_whole(tmp_path, monkeypatch):
    filled(tmp_path, BASE).close()
    monkeypatch.setattr(publisher, "_LOOK", 0.0)
    with bqstore.open(tmp_path, read_only=True) as col:
        file = snapshots(tmp_path)[0]
        (tmp_path / "other").write_bytes(b"")
        (tmp_path / "other").rename(file)
        assert len(col.search(QUERIES[0], K)) == K
        file.unlink()
        assert len(col.search(QUERIES[1], K)) == K
