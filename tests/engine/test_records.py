"""`Collection.records`: what a record manager keeps of documents, in one commit with them, whatever is done to them."""

import asyncio
import copy
import math
import pickle
import shutil
import sqlite3
import threading
import time
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bqstore
from bqstore.engine import records as engine_records
from bqstore.storage import head as heads
from bqstore.storage import record_table, text_index
from tests.conftest import often
from tests.engine.other_process import other_process
from tests.storage.damage import flip


def source_of(document):
    return document.metadata.get("source")


def filled(col, *names, namespace="n"):
    """Documents with records, each of the source that is the first letter of its id."""
    records = col.records(namespace)
    records.expect(names, source_of, certain=True)
    col.add(np.eye(8)[: len(names)], list(names), list(names), [{"source": name[0]} for name in names])
    return records


def seq_of(col):
    return col._engine.store.head.seq


def catalogue(path):
    return closing(sqlite3.connect(path / "default" / "meta.db", isolation_level=None))


def test_an_expected_document_is_one_commit_with_its_record_and_told_again_none(tmp_path):
    with bqstore.open(tmp_path) as col:
        before, start = seq_of(col), col.records("n").now()
        records = filled(col, "a1", "a2", "b1")
        assert seq_of(col) == before + 1
        assert records.exist(["a1", "b1", "c1"]) == [True, True, False]
        assert records.keys(groups=["a"]) == ["a1", "a2"] and records.keys(guessed=True) == []
        records.put(["a1", "b1"], ["a", "b"], not_before=start)
        assert seq_of(col) == before + 1
        records.put(["a1", "b1"], ["a", "c"], not_before=start)
        assert seq_of(col) == before + 2 and records.keys(groups=["c"]) == ["b1"]
        col.add(np.eye(8)[:1], ["a1"])  # expected no longer: replaced, and the record stays
        assert records.keys(groups=["a"]) == ["a1", "a2"] and records.delete(["unknown"]) == 0
        assert seq_of(col) == before + 3
        assert records.delete(["a1", "a1"]) == 1 and "a1" in col


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_record_goes_with_its_document_in_every_namespace(tmp_path, on_disk):
    with bqstore.open(tmp_path if on_disk else None) as col:
        both = [filled(col, "a1", "a2", "b1", "b2", namespace=name) for name in "nm"]
        both[0].put(["elsewhere"])
        left = {"a1", "a2", "b1", "b2"}
        for gone, way in (
            ("a1", lambda: col.delete(["a1"])),
            ("b1", lambda: col.delete(["b1"], filter={"source": "b"})),
            ("a2", lambda: (col.update_metadata(["a2"], expires_at=1e-6), time.sleep(0.001), col.expire())),
        ):
            way()
            left -= {gone}
            assert set(col.ids()) == left == set(both[1].keys()) == set(both[0].keys()) - {"elsewhere"}
        col.compact()
        assert both[1].keys() == ["b2"] and col.verify().ok
        col.clear()
        assert both[0].keys() == both[1].keys() == []
        assert filled(col, "c1").keys() == ["c1"]


def test_only_a_record_with_a_document_counts_where_that_is_asked(tmp_path):
    with bqstore.open(tmp_path) as col:
        records = filled(col, "a1", "a2")
        records.put(["z"])
        col.update_metadata(["a2"], expires_at=1e-6)
        time.sleep(0.001)
        assert records.exist(["a1", "a2", "z"]) == [True, True, True]
        assert records.exist(["a1", "a2", "z", "a1"], documents=True) == [True, False, False, True]


def test_adds_of_threads_and_of_an_event_loop_bring_their_records(tmp_path):
    with bqstore.open(tmp_path) as col:
        records = filled(col, "a0")
        names = [f"{'abc'[i % 3]}{i}" for i in range(1, 31)]
        records.expect(names, source_of, certain=True)
        how = [((np.ones((1, 8)), [name], None, [{"source": name[0]}])) for name in names]
        threads = [threading.Thread(target=col.add, args=each) for each in how[:15]]
        for thread in threads:
            thread.start()

        async def rest():
            await asyncio.gather(*(bqstore.writing(col.add, *each) for each in how[15:]))

        asyncio.run(rest())
        for thread in threads:
            thread.join()
        assert records.keys() == sorted(["a0", *names])
        assert len(records.keys(groups=["c"])) == 10


def test_a_guess_is_marked_until_it_is_told_and_believed_behind_a_batch_that_was_right():
    col = bqstore.open()
    records = col.records("n")

    def batch(name, told):
        before = seq_of(col)
        records.expect([name], source_of)
        col.add([[1.0]], [name], metadatas=[{"source": "a"}])
        guessed = records.keys(guessed=True) == [name]
        records.put([name], [told], not_before=start)
        assert records.keys(guessed=True) == []
        assert name in records.keys(groups=["a", "b"]) or told is None
        return guessed, seq_of(col) - before

    for told in ("a", None):  # None: no source is told, whatever the guess
        start = records.now()  # as each run of `index` begins
        assert batch(f"1{told}", told) == (True, 2)
        assert batch(f"2{told}", told) == batch(f"3{told}", told) == (False, 1)
    start = records.now()
    assert batch("4", "b") == batch("5", "b") == (True, 2)  # never right
    start = records.now()
    assert [batch(name, told)[0] for name, told in (("6", "a"), ("7", "b"), ("8", "b"))] == [True, False, True]


def test_a_guess_stays_one_where_the_key_that_it_is_of_is_not_proven():
    """ "source" and "path" are the same of the first documents, and what is told is one of them, or computed."""
    col = bqstore.open()
    records = col.records("n")
    start, seen = records.now(), []
    for name, source, path in (("1", "a", "a"), ("2", "b", "b"), ("3", "c#1", "c"), ("4", "d#1", "d"), ("5", 7, 7)):
        before = seq_of(col)
        records.expect([name], lambda document: str(document.metadata["source"]))
        col.add([[1.0]], [name], metadatas=[{"source": source, "path": path}])
        seen.append(records.keys(guessed=True) == [name])
        records.put([name], [str(path)], not_before=start)
        seen.append(seq_of(col) - before)
    assert seen == [True, 2, False, 1, True, 2, True, 2, True, 2]


def test_a_guess_that_is_proven_again_is_believed_again():
    col = bqstore.open()
    records = col.records("n")
    start, seen = records.now(), []
    for name, source, path in (("1", "a", "a"), ("2", "b", "c"), ("3", "d", "e")):
        records.expect([name], source_of)
        col.add([[1.0]], [name], metadatas=[{"source": source, "path": path}])
        seen.append(records.keys(guessed=True) == [name])
        records.put([name], [source], not_before=start)
    assert seen == [True, True, False]
    for names in ("45", "67"):  # without any source, and none is told
        start, before = records.now(), seq_of(col)
        for name in names:
            records.expect([name], source_of)
            col.add([[1.0]], [name])
            records.put([name], [None], not_before=start)
        assert seq_of(col) == before + 3


def test_without_groups_those_that_there_are_stay_also_as_guesses():
    col = bqstore.open()
    records = col.records("n")
    records.expect(["a"], source_of)
    col.add([[1.0]], ["a"], metadatas=[{"source": "x"}])
    at = records.now()
    records.put(["a", "b"], not_before=at)
    assert records.keys(groups=["x"], guessed=True) == ["a"] and records.keys(before=at) == []
    assert records.keys(after=at - 1, limit=1) == ["a"] and records.keys(groups=[]) == []


def test_time_goes_on_where_a_clock_was_set_back(monkeypatch):
    records = bqstore.open().records("n")
    records.put(["a"])
    between, real = records.now(), time.time
    monkeypatch.setattr(time, "time", lambda: min(between, real()) - 3600)
    between = records.now()
    records.put(["b"])
    assert records.keys(before=between) == ["a"] and records.keys(before=records.now()) == ["a", "b"]
    with pytest.raises(bqstore.InvalidInputError, match="clock of this machine is behind"):
        records.put(["c"], not_before=records.now() + 60)
    assert records.exist(["c"]) == [False]


def test_a_function_that_fails_refuses_the_add_and_a_failed_add_leaves_no_record(tmp_path):
    with bqstore.open(tmp_path) as col:
        records = filled(col, "a1")
        records.expect(["a2"], lambda document: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            col.add(np.eye(8)[:1], ["a2"])
        records.expect(["a2"], lambda document: 5)
        with pytest.raises(bqstore.InvalidInputError, match="a group is an int"):
            col.add(np.eye(8)[:1], ["a2"])
        records.expect(["a2"], source_of)
        with pytest.raises(bqstore.InvalidInputError, match="has 3 dimensions"):
            col.add(np.eye(3)[:1], ["a2"])
        assert col.ids() == records.keys() == ["a1"]
        col.add(np.eye(8)[:1], ["a2"])
        assert records.keys() == ["a1", "a2"]


def test_records_go_to_another_process_with_their_collection(tmp_path):
    with bqstore.open(tmp_path) as col:
        records = filled(col, "a1")
        assert copy.deepcopy(records) is records is copy.copy(records)
        other = pickle.loads(pickle.dumps(records))
        other.put(["b"])
        assert records.keys() == ["a1", "b"]


def test_few_are_expected_at_a_time(monkeypatch):
    monkeypatch.setattr(engine_records, "_MOST", 10)
    col = bqstore.open()
    records = col.records("n")
    for i in range(40):
        records.expect([str(i)], source_of)
    assert 5 <= len(col._engine.core.expected._by_id) <= 10
    col.add([[1.0], [1.0]], ["0", "39"])
    assert records.keys() == ["39"]


def test_a_batch_is_expected_whole_however_large_and_what_is_asked_for_again_is_the_newest(monkeypatch):
    monkeypatch.setattr(engine_records, "_MOST", 4)
    col = bqstore.open()
    records, keys = col.records("n"), list("abcdefgh")
    records.expect(keys, source_of)
    col.add(np.eye(8), keys)
    assert records.keys() == keys
    for names in ("ijkl", "i", "mn"):
        records.expect(list(names), source_of)
    col.add(np.eye(8)[:1], ["i"])
    assert records.exist(["i"]) == [True]


def test_what_is_expected_in_another_namespace_while_a_document_is_added_stays_expected():
    col = bqstore.open()
    records, others = col.records("n"), col.records("m")

    def announcing(document):
        others.expect(["a"], source_of)

    records.expect(["a"], announcing)
    col.add([[1.0]], ["a"])
    assert records.keys() == ["a"] and others.keys() == []
    col.add([[1.0]], ["a"])
    assert others.keys() == ["a"]


IDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)
GROUP = st.none() | st.sampled_from("xyz")
STEP = st.one_of(
    st.tuples(st.just("add"), IDS, GROUP),
    st.tuples(st.just("index"), IDS, GROUP),
    st.tuples(st.just("put"), IDS, GROUP),
    st.tuples(st.sampled_from(["renew", "delete", "forget", "only forget"]), IDS, st.none()),
    st.tuples(
        st.sampled_from(["delete by filter", "clear", "compact", "backup", "reopen", "words"]), st.just([]), GROUP
    ),
)


@settings(max_examples=often(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=12))
def test_records_are_those_of_a_dictionary(tmp_path_factory, steps):
    """Ids to source, and keys to group; whatever is done to documents and records, and to which copy of them."""
    path, documents, truth, words = tmp_path_factory.mktemp("store"), {}, {}, False
    col = bqstore.open(path)
    for kind, ids, group in steps:
        records = col.records("n")
        if kind in ("add", "index"):
            if kind == "index":
                records.expect(ids, source_of, certain=True)
                truth |= dict.fromkeys(ids, group)
            col.add(np.eye(8)[: len(ids)], ids, ids, [{"source": group}] * len(ids))
            documents |= dict.fromkeys(ids, group)
        elif kind == "put":
            records.put(ids, [group] * len(ids), not_before=1.0)
            truth |= dict.fromkeys(ids, group)
        elif kind == "renew":
            at = records.now()
            records.put(ids, not_before=at)
            truth = dict.fromkeys(ids) | truth
            assert set(records.keys(before=at)) == truth.keys() - set(ids)
        elif kind == "only forget":
            assert records.delete(ids) == len(truth.keys() & set(ids))
            truth = {key: each for key, each in truth.items() if key not in ids}
        elif kind in ("delete", "forget", "delete by filter", "clear"):
            gone = {"delete by filter": {id_ for id_, each in documents.items() if each == group}, "clear": {*truth}}
            gone = gone.get(kind, set(ids) & documents.keys())
            if kind == "clear":
                col.clear()
                documents.clear()
            else:
                col.delete(filter={"source": group}) if kind == "delete by filter" else col.delete(ids)
            truth = {key: each for key, each in truth.items() if key not in gone}
            documents = {id_: each for id_, each in documents.items() if id_ not in gone}
        elif kind == "words":
            words = not words
            col.set_text_index(words)
        elif kind == "reopen":
            col.close()
            col = bqstore.open(path)
        elif kind == "backup":
            col.backup(path / "copy", incremental=True)
        else:
            col.compact()
    col.backup(path / "copy", incremental=True)
    for each in (col, bqstore.open(path / "copy"), bqstore.load(path)):
        records = each.records("n")
        assert set(records.keys()) == truth.keys() and set(each.ids()) == documents.keys()
        for group in "xyz":
            assert set(records.keys(groups=[group])) == {key for key in truth if truth[key] == group}
        found = records.exist(list("abcdef"), documents=True)
        assert found == [key in truth and key in documents for key in "abcdef"]
        assert each.verify().ok
        each.close()


# ---- whole collections


@pytest.mark.parametrize("originals", ["float32", "none"])
def test_copies_have_the_records_of_their_documents(tmp_path, originals):
    path = tmp_path / "store"
    with bqstore.open(path, originals=originals) as col:
        filled(col, "a1", "a2", "b1", "b2")
        col.backup(tmp_path / "backup", incremental=True)
        col.delete(["a1"])
        records = filled(col, "b2", "c1", namespace="m")
        col.records("n").put(["b1"], ["told"])
        expected = [records.keys(), col.records("n").keys(), col.records("n").keys(groups=["told"])]
        assert expected == [["b2", "c1"], ["a2", "b1", "b2"], ["b1"]]
        assert col.backup(tmp_path / "backup", incremental=True).documents == 4
        col.backup(tmp_path / "backup", incremental=True)
        col.save(tmp_path / "saved")
        bqstore.copy(path, "default", "copied")
        bqstore.rename(path, "copied", "renamed")
    bqstore.repair(path, tmp_path / "repaired")
    places = [(tmp_path / name, "default") for name in ("backup", "saved", "repaired")]
    opened = [bqstore.open(*place) for place in [*places, (path, "default"), (path, "renamed")]]
    in_memory = bqstore.load(path)
    for col in [*opened, in_memory, pickle.loads(pickle.dumps(in_memory))]:
        mine = col.records("n")
        assert [col.records("m").keys(), mine.keys(), mine.keys(groups=["told"])] == expected
        assert col.verify().ok and col.info().format_version == 7
        col.delete(["a2"])
        assert mine.keys() == ["b1", "b2"]
        col.close()


def test_an_older_copy_without_the_table_gets_it_with_and_without_words(tmp_path):
    for words in (False, True):
        with bqstore.open(tmp_path / f"{words}", text_index=words or None) as col:
            col.add(np.eye(8)[:1], ["a"], ["horse"])
            col.backup(tmp_path / f"copy {words}", incremental=True)
            filled(col, "a1")
            if words:
                col.set_text_index(False)
            else:
                col.set_text_index(True)
            col.backup(tmp_path / f"copy {words}", incremental=True)
        with bqstore.open(tmp_path / f"copy {words}") as copy:
            assert copy.records("n").keys() == ["a1"] and copy.verify().ok
            assert (copy.info().text_index is None) == words


def test_a_copy_with_records_follows_a_collection_that_was_restored_from_before_them(tmp_path):
    """It said that all was well, and could not be opened any more."""
    with bqstore.open(tmp_path / "store") as col:
        col.add(np.eye(8)[:1], ["x"])
        col.backup(tmp_path / "early")
        filled(col, "a1")
        col.backup(tmp_path / "copy", incremental=True)
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(tmp_path / "early", tmp_path / "store")
    with bqstore.open(tmp_path / "store") as col:
        for name in ("b", "c", "d"):
            col.add(np.eye(8)[:1], [name])
        col.backup(tmp_path / "copy", incremental=True)
        for _ in range(2):
            with bqstore.open(tmp_path / "copy", read_only=True) as copy:
                assert copy.records("n").keys() == col.records("n").keys() and copy.verify().ok
                assert copy.ids() == col.ids() and copy.info().format_version == col.info().format_version
            filled(col, "e1")
            col.backup(tmp_path / "copy", incremental=True)


@pytest.mark.parametrize("originals", ["float32", "none"])
def test_repair_keeps_the_records_of_what_it_saves_and_no_others(tmp_path, originals):
    with bqstore.open(tmp_path, originals=originals) as col:
        filled(col, "a1", "a2", "b1")
        col.records("n").put(["b1"], ["told"])
    for kind in ("codes",) if originals == "none" else ("vectors", "codes"):
        file = tmp_path / "default" / f"{kind}-0.bin"
        data = file.read_bytes()
        file.write_bytes(flip(data, 64 + (len(data) - 64) // 3 + 20))  # the second
    report = bqstore.repair(tmp_path, tmp_path / "new")
    assert [lost.id for lost in report.lost] == ["a2"]
    with bqstore.open(tmp_path / "new") as col:
        records = col.records("n")
        assert records.keys() == ["a1", "b1"] and records.keys(groups=["told"]) == ["b1"] and col.verify().ok


def test_repair_keeps_the_records_of_documents_that_are_kept_elsewhere(tmp_path):
    with bqstore.open(tmp_path) as col:
        filled(col, "a1", "a2")
        col.records("elsewhere").put(["e1", "e2"], ["x", None])
    bqstore.repair(tmp_path, tmp_path / "whole")
    file = tmp_path / "default" / "vectors-0.bin"
    file.write_bytes(file.read_bytes()[:-20])
    bqstore.repair(tmp_path, tmp_path / "short")
    for name, left in (("whole", ["a1", "a2"]), ("short", ["a1"])):
        with bqstore.open(tmp_path / name) as col:
            assert col.records("n").keys() == left and col.records("elsewhere").keys() == ["e1", "e2"]
            assert col.records("elsewhere").keys(groups=["x"]) == ["e1"]


def test_records_are_read_from_the_pages_where_sqlite_cannot(tmp_path):
    with bqstore.open(tmp_path) as col:
        filled(col, "a1", "a2", "b1")
    meta = tmp_path / "default" / "meta.db"
    meta.write_bytes(bytes(100) + meta.read_bytes()[100:])
    assert bqstore.repair(tmp_path, tmp_path / "new").lost == []
    with bqstore.open(tmp_path / "new") as col:
        assert col.records("n").keys(groups=["a"]) == ["a1", "a2"]


def test_a_damaged_record_is_told_of_and_never_an_answer(tmp_path):
    with bqstore.open(tmp_path) as col:
        filled(col, "a1", "a2")
    with catalogue(tmp_path) as db:
        db.execute("UPDATE records SET part = 'z' WHERE key = 'a2'")
    with bqstore.open(tmp_path) as col:
        records = col.records("n")
        assert records.keys(groups=["a"]) == ["a1"]
        for ask in (records.keys, lambda: records.exist(["a2"]), lambda: records.keys(groups=["z"])):
            with pytest.raises(bqstore.CorruptionError, match=r"record 'a2' of 'n' in meta\.db is damaged"):
                ask()
        assert [problem for problem in col.verify().problems if "record 'a2'" in problem]
    assert bqstore.repair(tmp_path, tmp_path / "new").problems == ["meta.db: 1 of 2 records of index() are damaged"]
    with bqstore.open(tmp_path / "new") as col:
        assert col.records("n").keys() == ["a1"] and len(col) == 2


@pytest.mark.parametrize("how", ["DROP TABLE records", "DROP INDEX records_by_time", "PRAGMA user_version = 1"])
def test_a_collection_without_its_table_is_damaged(tmp_path, how):
    with bqstore.open(tmp_path) as col:
        filled(col, "a1")
    with catalogue(tmp_path) as db:
        db.execute(how)
    with pytest.raises(bqstore.CorruptionError, match="does not have the tables of a collection"):
        bqstore.open(tmp_path)


class Model:
    """Another embedding model."""

    model = "another"

    def embed(self, texts):
        return np.ones((len(texts), 3), np.float32) * [[len(text)] for text in texts]


def test_new_codes_and_words_leave_the_records(tmp_path):
    with bqstore.open(tmp_path, text_index=True) as col:
        records = filled(col, "a1", "a2")
        for change in (
            lambda: col.set_text_index(False),
            lambda: col.set_text_index(True),
            lambda: col.requantize(encoding="two_bits"),
            lambda: col.update(["a1"], vectors=np.eye(8)[:1], texts=["new"]),
            col.compact,
            lambda: col.reembed(Model()),
        ):
            change()
            assert records.keys() == ["a1", "a2"] and col.verify().ok
            assert col.info().format_version == 7
    with catalogue(tmp_path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)


# ---- releases


def test_a_collection_without_records_stays_readable_and_one_with_them_is_refused_by_older_releases(
    tmp_path, monkeypatch
):
    with bqstore.open(tmp_path) as col:
        records = col.records("n", earlier=("old", "begun"))
        records.expect(["a"], source_of)
        assert records.keys() == [] and records.exist(["a"], documents=True) == [False]
        records.now(), records.delete(["a"])
        col.add(np.eye(8)[:1], ["b"])
        assert col.info().format_version == 1
        with catalogue(tmp_path) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (1,)
        filled(col, "a1")
        assert col.info().format_version == 7
    with monkeypatch.context() as older:
        older.setattr(heads, "FORMAT_VERSION", 6)
        with pytest.raises(bqstore.FormatVersionError, match=r"meta\.db is in format 7; .* upgrade bqstore"):
            bqstore.open(tmp_path)
    with monkeypatch.context() as older:  # from before words
        older.setattr(text_index, "TABLES_VERSION", 1)
        with pytest.raises(bqstore.FormatVersionError, match=r"meta\.db is in format 2; .* up to 1: upgrade"):
            bqstore.open(tmp_path)


class KilledError(BaseException):
    """What no code catches, as a kill."""


@pytest.mark.parametrize("killed", [False, True])
def test_records_of_an_earlier_release_are_moved_also_behind_a_kill(tmp_path, monkeypatch, killed):
    with bqstore.open(tmp_path) as col, bqstore.open_key_values(tmp_path) as values:
        col.add(np.eye(8)[:3], ["a", "b", "c"])
        values.put({"a": b"", "gone": b""}, "old", groups=["x", None])
        values.put({"b": b"", "noted": b""}, "begun")  # b was added and has no record; the other was never added
        values.put({"kept": b"1"}, "mine")
        old = values.now()
    with bqstore.open(tmp_path, read_only=True) as col:
        records = col.records("n", earlier=("old", "begun"))
        assert records.keys() == ["a", "b", "gone", "noted"] and records.keys(groups=["x"]) == ["a"]
        assert records.exist(["a", "gone", "c"], documents=True) == [True, False, False]
        assert records.keys(guessed=True) == ["b", "noted"] and records.now() > old - 1
        assert records.keys(before=1.0) == [] and records.keys(limit=1) == ["a"]
    if killed:
        with bqstore.open(tmp_path) as col, monkeypatch.context() as patched:
            patched.setattr(engine_records, "open_key_values", lambda *given: (_ for _ in ()).throw(KilledError()))
            with pytest.raises(KilledError):
                col.records("n", earlier=("old", "begun"))
            col.records("n").put(["a"], ["newer"])
    with bqstore.open(tmp_path) as col:
        for _ in range(2):
            records = col.records("n", earlier=("old", "begun"))
            assert records.keys() == ["a", "b", "gone"] and records.keys(guessed=True) == ["b"]
            assert records.keys(groups=["newer" if killed else "x"]) == ["a"]
            assert bool(records.keys(before=old)) and records.keys(before=records.now()) == ["a", "b", "gone"]
        assert col.verify().ok
    with bqstore.open_key_values(tmp_path) as values:
        assert values.keys("old") == values.keys("begun") == [] and values.keys("mine") == ["kept"]


def test_what_another_manager_has_moved_and_deleted_meanwhile_does_not_come_back(tmp_path, monkeypatch):
    look = engine_records.Records._in_earlier
    with bqstore.open(tmp_path) as col, bqstore.open_key_values(tmp_path) as values:
        values.put({"a": b"", "b": b""}, "old")

        def slow(records):
            found = look(records)
            monkeypatch.undo()
            assert col.records("n", earlier=("old", "begun")).delete(["a"]) == 1
            return found

        monkeypatch.setattr(engine_records.Records, "_in_earlier", slow)
        assert col.records("n", earlier=("old", "begun")).keys() == ["b"]


def test_a_reader_follows_records_from_before_there_was_a_table_on(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(8)[:1], ["x"])
        with bqstore.open(tmp_path, read_only=True) as reader:
            seen = reader.records("n")
            assert seen.keys() == [] and seen.exist(["a1"], documents=True) == [False]
            filled(col, "a1")
            assert seen.keys() == ["a1"] and seen.exist(["a1", "x"], documents=True) == [True, False]
            col.delete(["a1"])
            assert seen.keys() == []
            with pytest.raises(bqstore.ReadOnlyError):
                seen.put(["a1"])
            seen.expect(["a1"], source_of)  # of nothing


@pytest.mark.slow  # a process is started
def test_another_process_makes_the_table_and_writes_beside_this_one(tmp_path):
    with bqstore.open(tmp_path) as col, other_process(tmp_path) as other:
        col.add(np.eye(8)[:1], ["a"])
        mine = col.records("n")
        assert mine.keys() == []
        other("r = col.records('n')")
        other("r.expect(['b'], lambda document: 'g', certain=True)")
        other("col.add([[1.0] * 8], ['b'])")
        assert mine.keys(groups=["g"]) == ["b"] and mine.exist(["b"], documents=True) == [True]
        filled(col, "a1")
        assert other("r.keys()") == ["a1", "b"]
        other("col.delete(['a1'])")
        assert mine.keys() == ["b"] and mine.now() > 0


def test_what_cannot_be_stored_is_refused_by_name():
    col = bqstore.open()
    records = col.records("n")
    for wrong, words in (
        (lambda: col.records(""), "namespace is empty"),
        (lambda: col.records(5), "namespace is an int"),
        (lambda: col.records("n", earlier=["one"]), "earlier has 1 entry"),
        (lambda: bqstore.Records("n"), "use Collection.records"),
        (lambda: records.put("abc"), "keys is"),
        (lambda: records.put([""]), "key 0 is empty"),
        (lambda: records.put(["a"], ["x", "y"]), "2 entries for 1 key"),
        (lambda: records.put(["a"], ["é" * 600]), "1,200 bytes"),
        (lambda: records.put(["a"], not_before=math.nan), "not_before is nan"),
        (lambda: records.expect(["a"], "source"), "group_of is a str"),
        (lambda: records.keys(groups=[None]), "group 0 is"),
        (lambda: records.keys(limit=-1), "limit is -1"),
    ):
        with pytest.raises(bqstore.InvalidInputError, match=words):
            wrong()
    assert records.keys(before=1e300) == records.keys(after=-1e300) == []
    col.close()
    for ask in (records.keys, records.now, lambda: records.put(["a"]), lambda: records.delete(["a"])):
        with pytest.raises(bqstore.ClosedError):
            ask()


def test_a_key_and_many_keys_are_found_whatever_characters_they_have():
    records = bqstore.open().records("n")
    keys = [f"{i}'%_\x00é\U0010ffff" for i in range(1200)]
    records.put(keys, [f"g{i % 600}" for i in range(1200)])
    assert records.exist([*keys, "x"]) == [True] * 1200 + [False]
    assert records.keys(groups=[f"g{i}" for i in range(600)]) == sorted(keys) == records.keys()
    assert records.delete(keys[:1100]) == 1100 and len(records.keys()) == 100


def test_the_format_document_has_the_table_and_a_checksum_as_they_are():
    text = (Path(record_table.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
    assert all(statement in text for statement in record_table.STATEMENTS)
    crc = record_table.KeyRecord("n", "a", "é", 5).stored()[-1]
    assert crc == zlib.crc32("1,1,1,5,0:naé".encode()) and f"of which the crc is {crc}" in text
