"""Columns and ids are loaded in portions: what they are does not depend on it, and memory stays bounded."""

import tracemalloc

import numpy as np
import pytest

import bqstore
from bqstore.metadata import dictionary
from bqstore.metadata.columns import Column
from bqstore.storage import row_table

N = 100


def add(col, start, stop, rng):
    metadatas = [
        {"v": int(i % 7), "t": [f"x{i % 5}", i % 3]} if i % 4 else {"w": "é" * (i % 9)} for i in range(start, stop)
    ]
    vectors = rng.standard_normal((stop - start, 4))
    col.add(vectors, [f"d{i}" for i in range(start, stop)], metadatas=metadatas)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rows, length", [(1, 10**9), (3, 10**9), (10**9, 0), (10**9, 60), (N, 10**9)])
def test_portions_of_any_size_give_the_same_columns(tmp_path, monkeypatch, rows, length):
    rng = np.random.default_rng(0)
    with bqstore.open(tmp_path) as col:
        add(col, 0, N, rng)
        col.delete([f"d{i}" for i in (0, 1, 2, 50, 51, N - 1)])
    monkeypatch.setattr(row_table, "_PORTION", rows)
    monkeypatch.setattr(row_table, "_PORTION_LENGTH", length)
    filters = [
        {"v": 3},
        {"t": "x1"},
        {"t": {"$contains": 2}},
        {"w": {"$exists": True}},
        {"w": "ééé"},
        {"v": {"$ne": 3}},
    ]

    def check(col):
        for filter in filters:
            expected = [r.id for r in everything(col) if col.count({"$and": [filter, {"_bq_id": r.id}]})]
            assert [record.id for record in col.scroll(filter)] == expected
            with bqstore.open() as other:
                records = everything(col)
                other.add(np.ones((len(records), 4)), [r.id for r in records], metadatas=[r.metadata for r in records])
                assert [record.id for record in other.scroll(filter)] == expected

    def everything(col):
        return list(col.scroll())

    with bqstore.open(tmp_path) as col:
        check(col)
        add(col, N, N + 20, rng)
        col.delete(["d30", f"d{N}", f"d{N + 19}"])
        col.update_metadata([f"d{i}" for i in range(60, 80)], {"v": 3})
        check(col)
        assert len(col) == N + 20 - 9 and col.count({"v": 3}) > 20


def test_lost_rows_are_noticed_in_any_portion(tmp_path, monkeypatch):
    monkeypatch.setattr(row_table, "_PORTION", 10)
    with bqstore.open(tmp_path) as col:
        add(col, 0, N, np.random.default_rng(0))
        real = row_table.read_column
        for missing in (0, 5, 9):

            def some(*arguments, missing=missing):
                for number, portion in enumerate(real(*arguments)):
                    yield portion if number != missing else portion[1:]

            monkeypatch.setattr(row_table, "read_column", some)
            with pytest.raises(bqstore.CorruptionError, match="lost rows"):
                col.count({f"x{missing}": 1})
        monkeypatch.setattr(row_table, "read_column", real)
        assert col.count({"v": 3}) == len([i for i in range(N) if i % 4 and i % 7 == 3])


def test_the_first_filter_held_all_metadata_in_memory(tmp_path):
    """A long field took 2.1 GB for a column of 405 MB; a short one read the others at once, too."""
    with bqstore.open(tmp_path) as col:
        for part in range(6):  # 24 MB in all
            long = [{"s": i % 3, "long": f"{part}-{i}" + "x" * 20_000} for i in range(200)]
            col.add(np.ones((200, 2)), metadatas=long)
    with bqstore.open(tmp_path) as col:
        tracemalloc.start()
        try:
            assert col.count({"s": 1}) == 6 * 67
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 20e6  # a portion is 8 MB of text; it grew with the collection


def test_long_values_are_not_remembered_all(monkeypatch):
    monkeypatch.setattr(dictionary, "_REMEMBERED_BYTES", 1000)
    column = Column("k")
    for i in range(50):
        column = column.extended([f"{i:03}" + "x" * 300, "short", f"{i:03}" + "x" * 300])
        assert column.dictionary._held <= 1000
        assert sum(len(key) for key in column.dictionary._known) <= 1000
    values = [column.dictionary._value(int(code)) for code in column.codes]
    assert values == [("string", v) for i in range(50) for v in (f"{i:03}" + "x" * 300, "short", f"{i:03}" + "x" * 300)]


def test_a_column_of_dictionaries_was_walked_at_every_write(tmp_path, monkeypatch):
    """`add` took 87 to 145 ms after reopening, 12 before."""
    monkeypatch.setattr("bqstore.engine.graph_builder.SMALLEST_GRAPH", 64)
    with bqstore.open(tmp_path) as col:
        col.add(np.random.default_rng(0).standard_normal((200, 4)), metadatas=[{"d": {"i": i}} for i in range(200)])
        assert col.count({"d": {"$exists": True}}) == 200
        col.flush()
    looked = []
    real = dictionary.Dictionary._value
    monkeypatch.setattr(dictionary.Dictionary, "_value", lambda self, n: looked.append(n) or real(self, n))
    with bqstore.open(tmp_path) as col:
        assert "d" in col.info().columns
        for i in range(5):
            col.add([[1.0, 0.0, 0.0, 0.0]], metadatas=[{"d": {"new": i}}])
        assert len(looked) <= 200
        assert col.count({"d": {"$eq": {"new": 3}}}) == col.count({"d": {"$eq": {"i": 3}}}) == 1


def test_deleting_by_source_document_read_every_row(tmp_path):
    """There is an index for it, which nothing used."""
    ref = "_bq_ref_doc_id"
    with bqstore.open(tmp_path) as col:
        col.add(np.ones((30, 2)), metadatas=[{"i": i, ref: f"doc{i % 5}"} if i % 6 else {"i": i} for i in range(30)])
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, read_only=True) as reader:
        assert col.delete(filter={ref: "doc1"}) == 5
        assert not col.info().columns
        with col._engine.store.catalogue.reading() as connection:
            asked = []
            connection.set_trace_callback(asked.append)
            assert len(row_table.rids_by_ref(connection, ["doc2"], "meta.db")) == 5
            connection.set_trace_callback(None)
            steps = connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}").fetchall()
            assert [step[3] for step in steps] == ["SEARCH rows USING INDEX rows_by_ref_doc_id (ref_doc_id=?)"]
        expected = {i for i in range(30) if i % 6 and i % 5 == 2}
        for each in (col, reader):
            assert {r.metadata["i"] for r in each.scroll({ref: "doc2"})} == expected
            assert {r.metadata["i"] for r in each.scroll({ref: ["doc2", "doc1", "nowhere"], "i": {"$gt": 9}})} == {
                i for i in expected if i > 9
            }
            assert each.count({ref: {"$ne": "doc2"}}) == 25 - len(expected) and ref not in each.info().columns
            many = ["doc2", *(f"x{i}" for i in range(200))]
            assert each.count({ref: many}) == len(expected) and ref in each.info().columns
            assert each.count({ref: "doc2"}) == len(expected) and each.count({ref: {"$exists": False}}) == 5
