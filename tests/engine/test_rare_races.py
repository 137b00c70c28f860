"""What another thread or process does between two steps of a call, and files that hold what no commit has written."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

import bqstore
from bqstore import CorruptionError, FolderReplacedError, InvalidInputError
from bqstore import opening as opening_module
from bqstore.engine import core as core_module
from bqstore.engine import graph_builder, listing, search
from bqstore.storage.head import Row
from bqstore.storage.staging import staging
from tests.conftest import clustered

from . import crafted
from .given import settle_early


@pytest.fixture
def col():
    with bqstore.open(text_index=True) as col:
        col.add(np.eye(4) + 0.1, list("abcd"), ["red fox", "dog", "red dog", "fish"], [{"n": i} for i in range(4)])
        yield col


def at_first(monkeypatch, owner, name, change):
    """What a function returns is changed the first time; the calls."""
    real, calls = getattr(owner, name), []

    def called(*arguments, **keywords):
        calls.append(arguments)
        found = real(*arguments, **keywords)
        return change(found) if len(calls) == 1 else found

    monkeypatch.setattr(owner, name, called)
    return calls


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        (lambda col: col.search_ids(texts="fox", k=1)[0].tolist(), [["a"]]),
        (lambda col: col.ids({"n": 3}), ["d"]),
        (lambda col: [record.id for record in col.scroll(order_by="n", descending=True)], list("dcba")),
    ],
)
def test_a_state_that_was_replaced_before_it_was_used_is_asked_for_again(col, monkeypatch, ask, found):
    calls = at_first(monkeypatch, type(col._engine.acceptor), "with_ids", lambda state: replace(state, ids=None))
    assert ask(col) == found and calls


def test_a_search_of_both_sides_that_was_overtaken_is_made_again(col, monkeypatch):
    wanted = [hit.id for hit in col.search([0, 0, 0, 1], text="fox", k=2)]
    calls = at_first(monkeypatch, search, "outgrown", lambda _: True)
    assert [hit.id for hit in col.search([0, 0, 0, 1], text="fox", k=2)] == wanted and len(calls) > 1


def test_matching_documents_of_no_ids_are_asked_for_until_there_are(col, monkeypatch):
    at_first(monkeypatch, listing, "matching", lambda found: (replace(found[0], ids=None), found[1]))
    assert col.ids({"n": 2}) == ["c"]
    at_first(monkeypatch, listing, "matching", lambda found: (replace(found[0], ids=None), found[1]))
    assert [record.id for record in col.scroll(order_by="n")] == list("abcd")


def test_what_is_published_while_a_change_is_made_is_changed_too(col):
    publisher, changes = col._engine.publisher, []

    def change(state):
        changes.append(state)
        if len(changes) == 1:  # a signal handler
            publisher.amend(lambda state: replace(state, columns={}))
        return replace(state, ids=None)

    assert publisher.amend(change).ids is None and len(changes) == 2
    assert changes[1].columns == {} and publisher.state.ids is None


def test_a_folder_that_is_replaced_right_after_the_commit_is_told(col, monkeypatch):
    before, publisher = col._engine.store.head.seq, type(col._engine.publisher)
    real = publisher.follow

    def follow(self):
        if self.store.head.seq > before:
            raise FolderReplacedError("another folder stands there")
        return real(self)

    monkeypatch.setattr(publisher, "follow", follow)
    with pytest.raises(FolderReplacedError):
        col.delete(["a"])
    monkeypatch.undo()
    assert col.ids() == list("bcd")


def test_a_query_of_another_dimension_is_refused_by_the_search_itself(col):
    engine = col._engine
    _, way = search.prepared(engine, engine.publisher.current(), None, engine.options(3))
    with pytest.raises(InvalidInputError, match="the query vector has 7 dimensions"):
        way.nearest(np.ones((1, 7), np.float32))


# ---- openings


def test_two_threads_that_open_a_folder_at_once_share_what_one_has_opened(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as first:
        first.add([[1.0, 0.0]], ["a"])
        with monkeypatch.context() as patch:
            patch.setattr(opening_module, "joined", lambda folder: None)  # the first has opened it after that look
            second = bqstore.open(tmp_path)
        assert second._engine.core is first._engine.core
        second.add([[0.0, 1.0]], ["b"])
        second.close()
        assert len(first) == 2


def test_a_folder_that_is_opened_while_it_is_being_closed_stays_open(tmp_path, monkeypatch):
    first, joined = bqstore.open(tmp_path), []
    first.add([[1.0, 0.0]], ["a"])
    core = first._engine.core
    monkeypatch.setattr(core.graph, "save_at_close", lambda: joined.append(core_module.joined(tmp_path / "default")))
    first.close()
    monkeypatch.undo()
    assert joined == [core] and not core.lifecycle.closed
    with bqstore.open(tmp_path) as second:
        assert second._engine.core is core and len(second) == 1
    core.close()
    assert core.lifecycle.closed


# ---- what is kept


def test_choosing_again_what_is_in_use_makes_nothing_anew(monkeypatch):
    settle_early(monkeypatch, 40)
    with bqstore.open() as col:
        col.add(clustered(120, 16))
        engine = col._engine
        engine.write(engine.encoder.choose_again)
        before = engine.store.head.generation
        engine.write(engine.encoder.choose_again)
        engine.write(lambda: engine.core.graph.after_write(lagged=True))
        assert engine.store.head.generation == before and col.verify().ok


def test_a_snapshot_that_a_copy_has_already_is_not_copied_again(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "SMALLEST_GRAPH", 64)
    crafted.make(tmp_path / "store")
    with bqstore.open(tmp_path / "store", threads=1) as col:
        assert col.backup(tmp_path / "copy").bytes_written > 0
        assert col.backup(tmp_path / "copy", incremental=True).bytes_written == 0
    assert len(list((tmp_path / "copy/default").glob("snap-*"))) == 1


def test_staged_vectors_that_are_not_where_they_were_put_are_damage(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 0.0]])
        with staging(col._engine.store, "new") as stage:
            stage.add([3, 4], ["three", "four"], np.eye(2, dtype=np.float32))
            assert stage.vectors(np.zeros(0, np.int64)).shape == (0, 2)
            assert stage.vectors(np.array([4, 3])).tolist() == [[0, 1], [1, 0]]
            stage._slots = {3: 1, 4: 0}
            with pytest.raises(CorruptionError, match="is damaged; remove it, and embed again"):
                stage.vectors(np.array([3, 4]))
            stage.remove()


def test_records_out_of_order_are_refused(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(3), list("abc"))
        places = {f.name: (f.header_length, f.layout.record_bytes) for f in col._engine.store.flat.both()}
    for name, (start, size) in places.items():
        file = tmp_path / "default" / name
        data = bytearray(file.read_bytes())
        first, second = data[start : start + size], data[start + size : start + 2 * size]
        data[start : start + 2 * size] = second + first
        file.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"out of order|restore the collection from a copy"):
        bqstore.open(tmp_path)


def test_a_row_without_a_vector_is_damage_of_the_filter_that_reads_it(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(4), list("abcd"), metadatas=[{"n": i} for i in range(4)])
        col.delete(["c"])
        col.compact()
        row = col._engine.store.rows("rid", [1])[0]
    moved = Row(*row)._replace(rid=2).stored()
    with closing(sqlite3.connect(tmp_path / "default/meta.db")) as raw, raw:
        names = [each[1] for each in raw.execute("PRAGMA table_info(rows)")]
        raw.execute("DELETE FROM rows WHERE rid = 1")
        columns = dict(zip([*Row._fields, "crc", "key_crc"], moved, strict=True))
        marks = ", ".join(f":{name}" for name in names)
        raw.execute(f"INSERT INTO rows ({', '.join(names)}) VALUES ({marks})", columns)
    with bqstore.open(tmp_path) as col:
        with pytest.raises(CorruptionError, match="rows that have no vector"):
            col.ids({"n": 1})
        assert [hit.id for hit in col.search([1, 0, 0, 0], 1)] == ["a"]
