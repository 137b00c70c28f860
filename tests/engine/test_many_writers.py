"""Many processes and many handles write in one folder, and all see what the others have committed."""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore import BqstoreError, InvalidInputError, LockedError, StorageError, opening
from bqstore.engine import graph_builder, publisher, writes
from bqstore.engine.publisher import Publisher
from bqstore.storage import Store, catalogue, head_table, lock
from bqstore.storage.flat import FlatFiles
from bqstore.storage.lock import WriterLock
from bqstore.storage.sequence import CommitNumber
from tests.conftest import HANGS, clustered, end_if_it_hangs, often, wait_until
from tests.engine.given import BITS, SIGNS, let_walk, settle_early
from tests.engine.other_process import ROOT, other_process

DIM = 8
EYE = np.eye(DIM, dtype=np.float32)


@pytest.fixture(scope="module")
def shared_process():
    with other_process(None) as other:
        yield other


@pytest.fixture
def other(shared_process, tmp_path):
    """Another process with the store open."""
    shared_process(f"col = bqstore.open({str(tmp_path)!r})")
    yield shared_process
    shared_process("col.close()")


@contextlib.contextmanager
def writing(other):
    """The other process is in the middle of a write until the block ends, however long that takes."""
    other("writes = col._engine.core.publisher.write")
    waiting = "(print(repr((True, 'inside')), flush=True), sys.stdin.readline())"
    other.send(f"writes(lambda: {waiting}, lambda lagged: None)")
    assert other.answer() == "inside"
    try:
        yield
    finally:
        other("go on")


def put(col, *ids, at=0):
    """Documents with unit vectors."""
    col.add(EYE[at : at + len(ids)], list(ids), metadatas=[{"n": i} for i in range(len(ids))])


# ---- two processes


def test_each_sees_what_the_other_has_committed(tmp_path, other):
    with bqstore.open(tmp_path) as col:
        for step in range(10):
            put(col, f"mine {step}", at=step % DIM)
            assert other("len(col)") == 2 * step + 1 and other(f"'mine {step}' in col")
            other(f"col.add(np.eye({DIM})[:1], ['its {step}'], metadatas=[{{'n': {step}}}])")
            assert len(col) == 2 * step + 2 and f"its {step}" in col
            assert other("col.count({'n': 0})") == col.count({"n": 0})
        hits = [hit.id for hit in col.search(EYE[0], k=30)]
        assert sorted(hits) == sorted(other(f"[h.id for h in col.search(np.eye({DIM})[0], k=30)]")) and len(hits) == 20
        assert other("col.delete(['mine 0'])") == 1 and "mine 0" not in col
        assert other("col.update_metadata(['mine 1'], {'n': 77})") == 1 and col.count({"n": 77}) == 1
        assert col.verify().ok and other("col.verify().ok")


def test_both_write_over_each_others_documents(tmp_path, other):
    with bqstore.open(tmp_path) as col:
        for step in range(6):
            col.add(EYE[:1], ["one"], [f"mine {step}"])
            assert other("col.get(['one'])[0].text") == f"mine {step}"
            other(f"col.add(np.eye({DIM})[1:2], ['one'], ['its {step}'])")
            record = col.get(["one"], with_vectors=True)[0]
            assert record.text == f"its {step}" and record.vector.tolist() == EYE[1].tolist() and len(col) == 1


def test_upkeep_by_one_is_followed_by_the_other(tmp_path, other):
    base = clustered(600, 32)
    with bqstore.open(tmp_path, hnsw=BITS) as col:
        col.add(base, [f"d{i}" for i in range(600)], metadatas=[{"n": i % 5} for i in range(600)])
        col.delete([f"d{i}" for i in range(100)])
        other(f"q = np.frombuffer({base[300].tobytes()!r}, np.float32)")
        ask = "[h.id for h in col.search(q, k=5, filter={'n': [0, 1, 2]})]"
        before = other(ask)
        assert before == [hit.id for hit in col.search(base[300], k=5, filter={"n": [0, 1, 2]})]
        col.compact()
        assert (other("col.info().deleted"), other("col.info().generation")) == (0, 1) and other(ask) == before
        used = col.requantize(encoding="two_bits", query_encoding="scalar8bits", estimator="rabitq")
        assert other("repr(col.info().quantization)") == repr(used) and other(ask) == before
        other("col.requantize(encoding='four_bits')")
        assert col.info().quantization.encoding == "four_bits"
        assert [hit.id for hit in col.search(base[300], k=5, filter={"n": [0, 1, 2]})] == before
        other("tuned = col.tune(0.9)")
        assert repr(col.info().search) == other("repr(tuned)")
        col.clear()
        assert other("len(col)") == 0 and other(ask) == []
        other("col.add([q], ['new'])")
        assert [hit.id for hit in col.search(base[300])] == ["new"] and col.verify().ok


def test_settings_that_another_stored_in_another_order_refused_all_later_writes(tmp_path, other):
    """Equal ones: "expires" came before "untuned" here, and after it there, while this one did not look."""
    with bqstore.open(tmp_path) as col:
        col.add(EYE[:1], ["a"], expires_at=timedelta(hours=1))
        col._engine.set_search_defaults(bqstore.SearchParams(oversampling=5.0))
        other("col.clear()")
        other("col.add(np.eye(8, dtype=np.float32)[:1], ['b'], expires_at=3600) and None")
        for name in ("c", "d"):
            col.add(EYE[1:2], [name])
        assert sorted(col.ids()) == ["b", "c", "d"]


def test_what_an_opening_was_given_goes_before_what_another_stores(tmp_path, other):
    with bqstore.open(tmp_path, search={"oversampling": 7.0}, quantization={"query_encoding": "binary"}) as col:
        put(col, *"abcd")
        other("col._engine.set_search_defaults(bqstore.SearchParams(oversampling=5.0, hnsw_ef=99))")
        assert (col.info().search.oversampling, col.info().search.hnsw_ef) == (7.0, 99)
        other("col.requantize(query_encoding='scalar8bits')")
        assert col.info().quantization.query_encoding == "binary"
        assert col.requantize(query_encoding="scalar4bits").query_encoding == "scalar4bits"
        assert other("col.info().quantization.query_encoding") == "scalar4bits"


def test_two_processes_settle_the_dimension_and_the_model_once(tmp_path, other):
    with bqstore.open(tmp_path) as col:
        other(f"col.check_model('a', {DIM}, remember=True)")
        with pytest.raises(bqstore.SettingsConflictError, match="'a'"):
            col.check_model("b", DIM, remember=True)
        other(f"col.add(np.eye({DIM}))")
        with pytest.raises(InvalidInputError, match=f"{DIM}"):
            col.add(np.ones((1, DIM + 1)))
        assert len(col) == DIM


def test_a_tail_of_the_other_process_is_taken_from_its_snapshot_or_linked(tmp_path, monkeypatch):
    """Its graph is not ours: what it has added is scanned here, until it is too much."""
    let_walk(monkeypatch)
    settle_early(monkeypatch, 500)
    monkeypatch.setattr(graph_builder, "TAIL", 200)
    base = clustered(1500, 16)
    opening = f"hnsw={BITS!r}, quantization={SIGNS!r}"
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        col.add(base[:600], [f"d{i}" for i in range(600)])
        assert col.info().linked == 600
        with other_process(tmp_path, opening) as other:
            other("from bqstore.engine import graph_builder as g; g.SMALLEST_GRAPH, g.TAIL = 500, 200")
            other(f"base = np.frombuffer({base.tobytes()!r}, np.float32).reshape(-1, 16)")
            other("col.add(base[600:700], [f'd{i}' for i in range(600, 700)])")
            assert len(col) == 700 and col.info().linked in (600, 700)  # scanned, unless its snapshot is there by now
            assert [h.id for h in col.search(base[650], k=1)] == ["d650"]
            other("col.add(base[700:1400], [f'd{i}' for i in range(700, 1400)])")
            assert [h.id for h in col.search(base[1350], k=1)] == ["d1350"]
            end = time.monotonic() + HANGS
            while col.info().linked < 1400 and time.monotonic() < end:
                time.sleep(0.01)
            assert col.info().linked == 1400
            col.add(base[1400:], [f"d{i}" for i in range(1400, 1500)])
            assert col.info().linked == 1500 == len(col)
            ids = col.search_ids(base[::50], 1)[0][:, 0].tolist()  # of 16 bits, which some share
            assert sum(id_ == f"d{50 * i}" for i, id_ in enumerate(ids)) > 25 and col.verify().ok


def test_only_one_keeps_a_snapshot_at_a_time(tmp_path, monkeypatch):
    settle_early(monkeypatch, 100)
    with bqstore.open(tmp_path, quantization=SIGNS) as col, other_process(None) as other:
        col.add(clustered(300, DIM))
        other("from bqstore.storage.lock import WriterLock; import pathlib")
        other(f"lock = WriterLock(pathlib.Path({str(tmp_path / 'default' / 'SAVE')!r})); file = lock.open()")
        other("lock.wait(file, 0)")
        col.flush()  # and no warning, as another one is at it
        assert not list((tmp_path / "default").glob("snap-*"))
        other("file.close()")
        col.flush()
        assert len(list((tmp_path / "default").glob("snap-*"))) == 1


# ---- how a commit is noticed


def test_a_search_asks_sqlite_for_nothing_while_nobody_commits(tmp_path, monkeypatch):
    for given in ({}, {"read_only": True}, {"exclusive": True}):
        with bqstore.open(tmp_path, **given) as col:
            if not col.info().count:
                put(col, *"abcd")
            col.search_ids(EYE[0])
            monkeypatch.setattr("bqstore.engine.publisher._LOOK", 1e9)
            col._engine.publisher._next_look = time.monotonic() + 1e9
            with monkeypatch.context() as patch:
                patch.setattr(catalogue.Catalogue, "data_version", None)
                patch.setattr(catalogue.Catalogue, "reading", None)
                assert col.search_ids(EYE[0])[0][0, 0] == "a"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_number_that_was_not_published_costs_a_delay(tmp_path, other, read_only):
    """The writer was killed between its commit and the number."""
    with bqstore.open(tmp_path, read_only=read_only) as col:
        other(
            "from bqstore.storage.sequence import CommitNumber as C; publish = C.publish; C.publish = lambda *_: None"
        )
        other(f"col.add(np.eye({DIM})[:1], ['lost'])")
        end = time.monotonic() + HANGS
        while not len(col) and time.monotonic() < end:
            time.sleep(0.05)
        assert len(col) == 1
        other(f"col.add(np.eye({DIM})[:1], ['again'])")
        if not read_only:
            put(col, "mine")  # a write looks itself
            assert len(col) == 3
        other("C.publish = publish")
        other(f"col.add(np.eye({DIM})[:1], ['seen'])")
        assert "seen" in col and len(col) == 4 - read_only


@pytest.mark.parametrize("content", [b"", b"1", b"\xff" * 8, b"\0" * 8, b"x" * 5000, None])
def test_whatever_the_number_says_the_answers_are_right(tmp_path, content):
    with bqstore.open(tmp_path) as col:
        put(col, "a", "b")
    number = tmp_path / "default" / "SEQ"
    if content is None:
        number.unlink()
    else:
        number.write_bytes(content)
    with bqstore.open(tmp_path, read_only=True) as reader, bqstore.open(tmp_path) as col:
        for step in range(3):
            put(col, f"new {step}")
            assert len(reader) == len(col) == 3 + step
    assert int.from_bytes(number.read_bytes()[:8], "little") > 0


def test_without_a_number_file_every_search_looks(tmp_path, monkeypatch):
    """A full disk, or a folder of an older release that is only read."""
    monkeypatch.setattr(CommitNumber, "refresh", lambda self: None)
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, read_only=True) as reader:
        for step in range(3):
            put(col, f"new {step}")
            assert len(reader) == step + 1


# ---- handles of one process


def test_openings_of_a_process_share_all_but_their_settings(tmp_path):
    one = bqstore.open(tmp_path)
    two = bqstore.open(tmp_path, search={"oversampling": 9.0}, lock_timeout=0)
    (tmp_path / "link").symlink_to(tmp_path)
    three = bqstore.open(tmp_path / "link")
    assert one._engine.core is two._engine.core is three._engine.core
    put(one, "a")
    put(two, "b")
    assert len(one) == len(two) == len(three) == 2
    assert (one.info().search.oversampling, two.info().search.oversampling) == (3.0, 9.0)
    one.close()
    one.close()
    with pytest.raises(bqstore.ClosedError):
        len(one)
    put(two, "c")
    three.close()
    assert len(two) == 3
    two.close()
    with bqstore.open(tmp_path) as again:
        assert len(again) == 3 and again._engine.core is not two._engine.core


def test_many_threads_open_and_close_at_once(tmp_path):
    """In a web worker: each request opens, adds and closes."""
    errors = []

    def work(number):
        try:
            for step in range(5):
                with bqstore.open(tmp_path) as col:
                    col.add(EYE[:1], [f"{number} {step}"])
                    assert f"{number} {step}" in col
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with bqstore.open(tmp_path) as col:
        assert len(col) == 40 and col.verify().ok


def test_a_collection_that_failed_is_opened_anew_beside_it(tmp_path, monkeypatch):
    """A failed sync poisons what it failed on; the next opening must not join it."""

    def fail(self):
        raise OSError(5, "Input/output error")

    with bqstore.open(tmp_path) as old:
        put(old, "a")
        with monkeypatch.context() as patch:
            patch.setattr("bqstore.storage.files.DiskFile.sync", fail)
            with pytest.raises(StorageError):
                put(old, "b")
        with pytest.raises(StorageError, match="open it again"):
            put(old, "b")
        with bqstore.open(tmp_path) as new:
            put(new, "c")
            assert len(new) == 2 and "a" in new


def test_another_store_at_the_path_is_not_the_one_that_is_open(tmp_path):
    with bqstore.open(tmp_path / "store") as old:
        put(old, "a")
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        with bqstore.open(tmp_path / "store") as new:
            assert len(new) == 0
            put(new, "x", "y")
        with pytest.raises(bqstore.FolderReplacedError):
            put(old, "b")
    with bqstore.open(tmp_path / "elsewhere") as moved:
        assert [r.id for r in moved.scroll()] == ["a"]


# ---- threads share commits


def commits_of(col):
    return col._engine.store.head.seq


def together(col, calls):
    """Run calls in threads that all wait for their turn before the first of them gets it."""
    outcomes = [None] * len(calls)
    core = col._engine.core

    def run(i, call):
        try:
            outcomes[i] = call()
        except BaseException as error:
            outcomes[i] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    with core.lifecycle.turn:
        for thread in threads:
            thread.start()
        end = time.monotonic() + HANGS
        while len(core.group.waiting) < len(calls) and time.monotonic() < end:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    return outcomes


def test_adds_of_many_threads_are_one_commit(tmp_path):
    with bqstore.open(tmp_path) as col:
        put(col, "first")
        before = commits_of(col)
        outcomes = together(col, [lambda i=i: col.add(EYE[i : i + 1], [f"t{i}"], [f"text {i}"]) for i in range(8)])
        assert sorted(outcomes) == [[f"t{i}"] for i in range(8)] and commits_of(col) == before + 1
        for i in range(8):
            record = col.get([f"t{i}"], with_vectors=True)[0]
            assert record.text == f"text {i}" and record.vector.tolist() == EYE[i].tolist()
        assert not col._engine.core.group.waiting and col.verify().ok


def test_threads_that_add_the_same_ids_leave_one_of_each(tmp_path):
    with bqstore.open(tmp_path) as col:
        put(col, "same", "first")
        calls = [lambda i=i: col.add(EYE[[i, i]], ["same", f"own {i}"], [f"text {i}"] * 2) for i in range(4)]
        together(col, calls)
        record = col.get(["same"], with_vectors=True)[0]
        assert record.vector.tolist() == EYE[int(record.text[-1])].tolist()
        assert len(col) == 6 and col.verify().ok


def test_what_one_thread_does_wrong_is_its_own(tmp_path):
    with bqstore.open(tmp_path) as col:
        put(col, "first")
        with pytest.raises(InvalidInputError):
            col.add(EYE[:1], [""])
        assert not col._engine.core.group.waiting
    with bqstore.open() as col:  # nothing settles the dimension yet: two threads want different ones
        outcomes = together(col, [lambda: col.add([[1.0, 2.0]], ["a"]), lambda: col.add([[1.0, 2.0, 3.0]], ["b"])])
        assert sorted(type(each).__name__ for each in outcomes) == ["AddResult", "InvalidInputError"] and len(col) == 1


def test_a_full_disk_refuses_one_commit_and_the_next_thread_tries_again(tmp_path, monkeypatch):
    real, left = FlatFiles.write, [1]

    def full_once(self, *arguments):
        if left:
            left.pop()
            raise StorageError(28, "No space left on device")
        real(self, *arguments)

    with bqstore.open(tmp_path) as col:
        put(col, "first")
        with monkeypatch.context() as patch:
            patch.setattr(FlatFiles, "write", full_once)
            outcomes = together(col, [lambda i=i: col.add(EYE[i : i + 1], [f"t{i}"]) for i in range(4)])
        refused = [i for i, each in enumerate(outcomes) if isinstance(each, StorageError)]
        assert len(refused) == 1
        assert [f"t{i}" in col for i in range(4)] == [i not in refused for i in range(4)] and col.verify().ok


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_thread_that_dies_with_the_documents_of_others_loses_none(tmp_path, monkeypatch, moment):
    """The one that commits for all is interrupted: before its commit the others do it, after it it is done."""
    write_head, left = head_table.write_head, [1]

    def die(connection, head):
        if left:
            left.pop()
            if moment == "before":
                raise KeyboardInterrupt
        write_head(connection, head)

    real, once = CommitNumber.publish, [1]

    def die_late(self, seq):
        real(self, seq)
        if once and moment == "after":
            once.pop()
            raise KeyboardInterrupt

    with bqstore.open(tmp_path) as col:
        put(col, "first")
        with monkeypatch.context() as patch:
            patch.setattr(head_table, "write_head", die)
            patch.setattr(CommitNumber, "publish", die_late)
            outcomes = together(col, [lambda i=i: col.add(EYE[i : i + 1], [f"t{i}"]) for i in range(4)])
        died = [i for i, each in enumerate(outcomes) if isinstance(each, KeyboardInterrupt)]
        assert len(died) == 1
        assert [f"t{i}" in col for i in range(4)] == [moment == "after" or i not in died for i in range(4)]
        assert commits_of(col) == 2 and col.verify().ok


@pytest.mark.parametrize("works", [True, False])
def test_an_add_was_refused_while_another_thread_committed_it(tmp_path, monkeypatch, works):
    """It had waited for long enough, and was in the commit of a thread that had come to its turn."""
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, lock_timeout=0) as impatient:
        put(col, "first")
        waits, is_in_commit = threading.Event(), threading.Event()
        append, outcome = Store.append, []

        def wait_no_longer(self, end):
            if threading.current_thread() is thread:
                waits.set()
                is_in_commit.wait(HANGS)
                raise LockedError("another process writes")

        def committing(self, rows, *given):
            is_in_commit.set()
            thread.join(0.1)  # it gets its error meanwhile
            if not works:
                raise StorageError(28, "the disk is full")
            return append(self, rows, *given)

        def add():
            try:
                outcome.append(impatient.add(EYE[1:2], ["impatient"]))
            except LockedError:
                outcome.append("refused")

        thread = threading.Thread(target=add)
        monkeypatch.setattr(Publisher, "_wait_no_longer_than", wait_no_longer)
        monkeypatch.setattr(Store, "append", committing)
        thread.start()
        waits.wait(HANGS)
        with contextlib.nullcontext() if works else pytest.raises(StorageError):
            put(col, "patient")
        thread.join(HANGS)
        assert outcome == [["impatient"] if works else "refused"]
        assert ("impatient" in col) == works and not col._engine.core.group.waiting


# ---- waiting for the lock


def test_a_writer_waits_and_an_impatient_one_is_told_who_writes(tmp_path, other):
    pid = other("os.getpid()")
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, lock_timeout=0.1) as impatient:
        put(col, "a")
        waiter = threading.Thread(target=put, args=(col, "c"))
        with writing(other):
            for call in (
                lambda: put(impatient, "b"),
                lambda: impatient.delete(["a"]),
                impatient.clear,
                impatient.compact,
            ):
                with pytest.raises(LockedError, match=rf"process {pid} .*after waiting for \d+\.\d"):
                    call()
            assert len(impatient) == 1  # searches need no lock
            waiter.start()
            waiter.join(0.3)
            assert waiter.is_alive()
        waiter.join(HANGS)
        assert len(col) == 2


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_an_impatient_opening_waited_as_long_as_a_patient_one_of_its_process(tmp_path, other, timeout):
    with bqstore.open(tmp_path, lock_timeout=HANGS) as col, bqstore.open(tmp_path, lock_timeout=timeout) as impatient:
        put(col, "a")
        patient = threading.Thread(target=col.delete, args=(["a"],))
        with writing(other):
            patient.start()
            wait_until(lambda: col._engine.publisher._waits[0] <= time.monotonic())
            for call in (lambda: put(impatient, "b"), lambda: impatient.delete(["a"]), impatient.clear):
                with pytest.raises(LockedError, match="has a writer already: process"):
                    call()
            assert patient.is_alive()
        patient.join(HANGS)
        assert len(col) == 0 and impatient.clear() is None


def test_a_thread_waited_for_longer_than_its_lock_timeout_behind_patient_ones_of_its_process(
    tmp_path, other, monkeypatch
):
    """It had come to wait for its turn before one of those did, and who had it waited for another process then."""
    patient = bqstore.open(tmp_path, lock_timeout=HANGS)
    put(patient, "a", "b", "c")
    short = [bqstore.open(tmp_path, lock_timeout=seconds) for seconds in (0, 0.1)]
    life, asked, wait = patient._engine.lifecycle, [], Publisher._wait_no_longer_than

    def noticed(self, end):
        asked.append(threading.get_ident())
        wait(self, end)

    monkeypatch.setattr(Publisher, "_wait_no_longer_than", noticed)
    refused = []

    def refuse(call):
        with pytest.raises(LockedError, match="has a writer already: process"):
            call()
        refused.append(call)

    calls = [
        call
        for col in short
        for call in (
            lambda col=col: put(col, "short"),
            lambda col=col: col.delete(["a"]),
            lambda col=col: col.update_metadata(["a"], {"short": True}),
            col.flush,
            col.compact,
            col.clear,
        )
    ]
    waiters = [threading.Thread(target=patient.delete, args=([name],)) for name in "bc"]
    threads = [threading.Thread(target=refuse, args=(call,)) for call in calls]
    with writing(other):
        with life.turn:
            for i, thread in enumerate(waiters + threads):
                thread.start()
                wait_until(lambda i=i: len(set(asked)) > i)
        for thread in threads:
            thread.join(HANGS)
        assert len(refused) == len(calls) and all(thread.is_alive() for thread in waiters)
        patient.close()  # what is open is left to the others
        short[0].close()
        refuse(short[1].close)
        assert all(thread.is_alive() for thread in waiters)
    for thread in waiters:
        thread.join(HANGS)
    assert [(record.id, record.metadata) for record in short[1].scroll()] == [("a", {"n": 0})]
    assert short[1].verify().ok
    short[1].close()


def test_ctrl_c_while_waiting_for_the_lock_leaves_nothing(tmp_path, other, monkeypatch):
    with bqstore.open(tmp_path) as col:
        put(col, "a")
        begun, wait = threading.Event(), WriterLock.wait

        def noticed(self, *arguments, **keywords):
            begun.set()
            wait(self, *arguments, **keywords)

        def interrupt():
            assert begun.wait(HANGS)
            time.sleep(0.1)
            signal.raise_signal(signal.SIGINT)

        with writing(other):
            monkeypatch.setattr(WriterLock, "wait", noticed)
            threading.Thread(target=interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                put(col, "b")
        assert len(col) == 1 and not col._engine.core.group.waiting
        put(col, "c")
        assert other("len(col)") == 2
        other(f"col.add(np.eye({DIM})[:1], ['d'])")


def test_an_exception_inside_a_write_leaves_no_lock(tmp_path, other, monkeypatch):
    """Nor does a thread that dies there."""
    with bqstore.open(tmp_path) as col:
        put(col, "a")
        for error in (RuntimeError, KeyboardInterrupt, SystemExit):

            def fail(*_, error=error):
                raise error

            def die():
                with contextlib.suppress(BaseException):
                    put(col, "b")

            with monkeypatch.context() as patch:
                patch.setattr(FlatFiles, "write", fail)
                with pytest.raises(error):
                    put(col, "b")
                thread = threading.Thread(target=die)
                thread.start()
                thread.join()
            other(f"bqstore.open({str(tmp_path)!r}, lock_timeout=0).add(np.eye({DIM})[:1], ['x'])")
        assert len(col) == 2


def test_a_filter_function_that_writes_is_told_so(tmp_path):
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path) as twin:
        put(col, "a", "b")
        for write in (col, twin):
            with pytest.raises(LockedError, match="inside a write"):
                col.delete(filter=lambda record, write=write: put(write, "c"))
        assert len(col) == 2


def test_two_threads_never_wait_for_their_own_process(tmp_path):
    """Handles of one process with locks of their own would: one in its turn, the other in the folder's."""
    with bqstore.open(tmp_path, lock_timeout=0) as one, bqstore.open(tmp_path, lock_timeout=0) as two:
        put(one, "first")
        errors = []

        def add(col, name):
            try:
                for i in range(30):
                    col.add(EYE[:1], [f"{name} {i}"])
            except BqstoreError as error:
                errors.append(error)

        threads = [threading.Thread(target=add, args=(col, f"{i}")) for i, col in enumerate((one, two, one, two))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and len(two) == 121


# ---- processes as they come


def _add_in_a_worker(col, number):
    col.add(EYE[number : number + 1], [f"w{number}"])
    return os.getpid(), len(col) > 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_store_goes_to_the_workers_of_a_pool(tmp_path, method):
    with bqstore.open(tmp_path, search={"oversampling": 4.0}) as col:
        put(col, "first")
        again = pickle.loads(pickle.dumps(col))
        assert again.info().search == col.info().search and again._engine.core is col._engine.core
        again.close()
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
            done = list(pool.map(_add_in_a_worker, [col] * 4, range(4)))
        assert all(there for _, there in done) and os.getpid() not in {pid for pid, _ in done}
        assert sorted(r.id for r in col.scroll()) == ["first", "w0", "w1", "w2", "w3"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on Windows")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_is_refused_and_opens_for_itself(tmp_path):
    with bqstore.open(tmp_path) as col:
        put(col, "a")
        pid = os.fork()
        if pid == 0:
            end_if_it_hangs()
            status = 1
            try:
                try:
                    put(col, "b")
                except bqstore.ClosedError as error:
                    assert "open the folder here again" in str(error)
                    with bqstore.open(tmp_path) as own:
                        put(own, "c")
                        status = 0 if "c" in own and "a" in own else 2
            finally:
                os._exit(status)
        put(col, "d")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert sorted(r.id for r in col.scroll()) == ["a", "c", "d"] and col.verify().ok


FORKED = """
import os, subprocess, sys, time
import numpy as np
import bqstore
path, eye = sys.argv[1], np.eye(8, dtype=np.float32)
col = bqstore.open(path)
col.add(eye[:1], ["parent"])
(read, write), (hear, tell) = os.pipe(), os.pipe()
if os.fork() == 0:
    own = bqstore.open(path)
    own.add(eye[1:2], ["before"])
    os.write(write, b"1")
    os.read(hear, 1)  # the parent has closed, and a stranger has opened and closed
    own.add(eye[2:3], ["after"])
    print(sorted(record.id for record in own.scroll()), flush=True)
    own.close()
    os._exit(0)
os.read(read, 1)
col.close()
stranger = "import bqstore, sys; c = bqstore.open(sys.argv[1]); c.add([[1.0] * 8], ['stranger']); c.close()"
subprocess.run([sys.executable, "-c", stranger, path], check=True)
os.write(tell, b"1")
os.wait()
print(sorted(record.id for record in bqstore.open(path).scroll()), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on Windows")
def test_what_a_fork_had_written_was_lost_when_another_process_closed_last(tmp_path):
    """SQLite in the fork took the locks of its parent for its own, and the stranger removed the log under it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [str(["after", "before", "parent", "stranger"])] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on Windows")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_read_cannot_open_the_store(tmp_path):
    """SQLite's state is half changed then, and the thread that would go on is not there."""
    with bqstore.open(tmp_path) as col:
        put(col, "a")
        with col._engine.store.catalogue.reading():
            pid = os.fork()
            if pid == 0:
                end_if_it_hangs()
                status = 1
                try:
                    bqstore.open(tmp_path)
                except StorageError as error:
                    status = 0 if "forked while another thread" in str(error) else 2
                finally:
                    os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        put(col, "b")
        assert len(col) == 2 and col.verify().ok


FORK_BESIDE_A_LOG = """
import os, subprocess, sys
import numpy as np
import bqstore
path, ends = sys.argv[1:]
col = bqstore.open(path)
col.add(np.eye(8)[:1], ["parent"])
read, write = os.pipe()
if os.fork() == 0:
    os.read(read, 1)
    if ends == "opens":
        with bqstore.open(path) as own:
            print(len(own), flush=True)
        os._exit(0)
    sys.exit()  # with all its clean-up
col.close()
killed = '''
import os, sys
import numpy as np
import bqstore
bqstore.open(sys.argv[1]).add(np.eye(8), list("abcdefgh"))
os.kill(os.getpid(), 9)
'''
subprocess.run([sys.executable, "-c", killed, path])
os.write(write, b"1")
os.wait()
print(len(bqstore.open(path)), flush=True)
"""


@pytest.mark.sampled(1)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs forks, and locks of descriptors: Linux")
@pytest.mark.parametrize("ends", ["opens", "exits"])
def test_a_fork_removed_the_log_of_a_process_that_was_killed(tmp_path, ends):
    """The connections it had inherited took themselves for the last ones, and tidied up."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", FORK_BESIDE_A_LOG, str(tmp_path), ends]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["9"] * (1 + (ends == "opens"))


def test_a_folder_that_is_replaced_while_it_is_opened(tmp_path, monkeypatch):
    """By a copy, which has the same numbers in it: it was written into, and destroyed."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    with bqstore.open(store) as col:
        put(col, "a", "b")
    shutil.copytree(store, copy)
    first = opening.first

    def then_replaced(opened):
        state = first(opened)
        store.rename(tmp_path / "old")
        copy.rename(store)
        return state

    with monkeypatch.context() as patch:
        patch.setattr(opening, "first", then_replaced)
        with pytest.raises(bqstore.FolderReplacedError):
            bqstore.open(store)
    with bqstore.open(store) as col:
        put(col, "c")
        assert len(col) == 3 and col.verify().ok


def test_what_get_has_found_the_next_call_finds(tmp_path, other):
    """Between a commit and its number a look-up by id was newer than a search, which then went back."""
    with bqstore.open(tmp_path) as col:
        put(col, "a")
        other("from bqstore.storage.sequence import CommitNumber as C")
        other("publish = C.publish; C.publish = lambda *_: None")
        for step in range(5):
            other(f"col.add(np.eye({DIM})[:1], ['{step}'])")
            found = bool(col.get([f"{step}"])) if step % 2 else f"{step}" in col
            assert len(col) == 2 + step and found
        other("C.publish = publish")


def test_a_call_by_many_threads_waits_no_longer_than_by_one(tmp_path, other, monkeypatch):
    """Each began to count when it was its turn: the eighth waited eight times as long."""
    now, asked, refused, wait = [time.monotonic()], set(), [], Publisher._wait_no_longer_than

    def noticed(self, end):
        asked.add(threading.get_ident())
        wait(self, end)

    def go_by(seconds):  # only of waiting, and once all have begun to wait: a machine may be slow
        wait_until(lambda: asked >= {thread.ident for thread in threads})
        now[0] += seconds

    def add(number):
        try:
            put(col, f"t{number}")
        except LockedError:
            refused.append(now[0])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    with bqstore.open(tmp_path, lock_timeout=1.5) as col, bqstore.open(tmp_path, lock_timeout=0) as impatient:
        put(col, "a")
        with writing(other), monkeypatch.context() as patch:
            patch.setattr(Publisher, "_wait_no_longer_than", noticed)
            for module in (publisher, writes, lock):
                patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=go_by))
            for thread in threads:
                thread.start()
            with pytest.raises(LockedError):
                put(impatient, "b")
            for thread in threads:
                thread.join()
        assert len(refused) == 6 and max(refused) - min(refused) < 4.5  # not 6 * 1.5 s one after the other


def test_a_transaction_that_an_interrupt_left_open_hid_what_others_committed(tmp_path, other):
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, read_only=True) as reader:
        put(col, "a")
        assert len(reader) == 1
        for each in (col, reader):
            main = each._engine.store.catalogue.main()
            main.execute("BEGIN")
            main.execute("SELECT count(*) FROM rows").fetchone()  # at this commit
        other(f"col.add(np.eye({DIM})[:1], ['b'])")
        assert len(reader) == 2 and len(col) == 2
        col._engine.store.catalogue.main().execute("BEGIN")
        col._engine.store.catalogue.main().execute("SELECT count(*) FROM rows").fetchone()
        other(f"col.add(np.eye({DIM})[:1], ['c'])")
        put(col, "d")
        assert len(col) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an alarm in a finalizer
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that interrupt on Windows")
def test_an_interrupted_look_at_others_keeps_no_lock(tmp_path, other):
    """An exception of a signal handler came between taking the lock and noting it, once in a thousand."""
    with bqstore.open(tmp_path) as col:
        put(col, "a")
        other("import threading; stop = []")
        adding = f"[col.add(np.eye({DIM})[:1], ['x']) for _ in iter(lambda: bool(stop), True)]"
        other(f"thread = threading.Thread(target=lambda: {adding}); thread.start()")

        class AlarmError(Exception):
            pass

        def interrupt(*_):
            raise AlarmError

        before = signal.signal(signal.SIGALRM, interrupt)
        interrupts = 0
        try:
            while interrupts < often(5000):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.001 * (interrupts % 7) / 7)
                    end = time.monotonic() + 1
                    while time.monotonic() < end:  # an exception may end in a finalizer
                        len(col)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except AlarmError:
                    interrupts += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        other("stop.append(1); thread.join()")
        life = col._engine.lifecycle
        assert not any(lock._is_owned() for lock in (life.lock, life.turn, life.changing))
        put(col, "b")
        assert other("'b' in col")
