"""Numbers of odd types, dates, deep metadata, text that is no text: refused by name, or right."""

import datetime
import enum
import sqlite3
from decimal import Decimal

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError, validate
from bqstore.engine import publisher


def nested(depth, kind):
    value = 1
    for _ in range(depth - 1):
        value = [value] if kind == "list" else {"a": value}
    return {"k": value}


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_deep_metadata_was_committed_and_then_broke_every_filter(kind):
    with bqstore.open() as col:
        col.add([[1.0, 2.0]], ["ok"], metadatas=[nested(100, kind)])
        assert col.count({"k": 1}) == 0 and col.count({"k": {"$eq": nested(100, kind)["k"]}}) == 1
        for depth in (101, 500, 900):
            with pytest.raises(InvalidInputError, match="nests more than 100 deep"):
                col.add([[1.0, 2.0]], metadatas=[nested(depth, kind)])
            with pytest.raises(InvalidInputError, match="nests more than 100 deep"):
                col.update_metadata(["ok"], nested(depth, kind))
            with pytest.raises(InvalidInputError, match="nests more than 100 deep"):
                col.count({"k": {"$eq": nested(depth, kind)}})
        assert len(col) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k", np.array([2])),
        pytest.param("k", 10**5000, id="huge"),
        ("k", np.bool_(True)),
        ("k", "3"),
        pytest.param("oversampling", 10**400, id="beyond floats"),
        ("oversampling", np.True_),
        ("oversampling", Decimal("sNaN")),
        ("oversampling", np.array([2.0])),
        ("oversampling", "2"),
        ("oversampling", float("inf")),
        pytest.param("score_threshold", 10**400, id="beyond floats too"),
        ("score_threshold", np.array(1.0)),
        ("score_threshold", False),
    ],
)
def test_odd_numbers_raised_errors_of_their_own(name, value):
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError, match=f"{name} is ") as caught:
            col.search([1.0], **{name: value})
        assert len(str(caught.value)) < 300


def test_numbers_of_other_kinds_are_numbers():
    with bqstore.open_flat(full_scan_threshold=0) as col:
        col.add(np.eye(5) + 0.1)
        query = [1.0, 0, 0, 0, 0]
        assert len(col.search(query, np.int64(2), oversampling=np.float32(2), score_threshold=Decimal("-2"))) == 2
        assert len(col.search(query, oversampling=1e308)) == 5
        assert len(col.search(query, score_threshold=-1e300)) == 5 and col.search(query, score_threshold=1e300) == []
        for hit in col.search(query, score_threshold=0.3):
            assert hit.score >= 0.3


def test_a_hit_at_the_threshold_is_above_it_as_the_caller_compares():
    with bqstore.open(distance="dot") as col:
        col.add([[0.9]], ["a"])  # as float32, 0.9 is a little less
        assert col.search([1.0], score_threshold=0.9) == []
        assert len(col.search([1.0], score_threshold=float(np.float32(0.9)))) == 1


def test_each_hit_has_a_vector_of_its_own():
    with bqstore.open() as col:
        col.add([[1.0, 2.0]], ["a"])
        (one,), (other,) = col.search_batch([[1.0, 2.0], [2.0, 1.0]], with_vectors=True)
        one.vector[:] = 7
        assert other.vector.tolist() == [1.0, 2.0] == col.get(["a"], with_vectors=True)[0].vector.tolist()


def test_numpy_dates_are_dates():
    moments = {
        "s": np.datetime64("2020-01-02T03:04:05", "ns"),
        "d": np.datetime64("2020-01-02"),
        "y": np.datetime64("2020"),
    }
    with bqstore.open() as col:
        col.add([[1.0]], ["a"], metadatas=[moments])
        assert col.get(["a"])[0].metadata == {
            "s": datetime.datetime(2020, 1, 2, 3, 4, 5),
            "d": datetime.date(2020, 1, 2),
            "y": datetime.date(2020, 1, 1),
        }
        assert col.count({"s": moments["s"]}) == col.count({"s": datetime.datetime(2020, 1, 2, 3, 4, 5)}) == 1
        for value in (np.datetime64("NaT", "s"), np.timedelta64(3, "s")):
            with pytest.raises(InvalidInputError):
                col.add([[1.0]], metadatas=[{"x": value}])
            with pytest.raises(InvalidInputError):
                col.count({"x": value})


@pytest.mark.parametrize(
    "condition",
    [
        {"a": np.float32("nan")},
        {"a": {"$eq": ["\ud800"]}},
        {"\ud800": 1},
        {"a": [float("inf")]},
        {"a": {"$eq": [[1j]]}},
    ],
)
def test_mistakes_deep_in_a_filter_are_mistakes(condition):
    with bqstore.open() as col, pytest.raises(InvalidInputError):
        col.count(condition)


def test_an_id_that_is_no_text_is_not_in_a_collection():
    with bqstore.open() as col:
        assert "\ud800" not in col and 5 not in col
        with pytest.raises(InvalidInputError, match="surrogate") as caught:
            col.add([[1.0]], texts=["secret words \ud800"])
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(
    "error", [sqlite3.DatabaseError("malformed"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")]
)
@pytest.mark.parametrize("tries", [3, 0])  # 0: the read that holds writers off
def test_an_error_of_a_filter_function_was_taken_for_damage(tmp_path, monkeypatch, error, tries):
    def broken(record):
        raise error

    monkeypatch.setattr(publisher, "_TRIES", tries)
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 0.0]], ["a"])
        for call in (
            lambda: col.search([1.0, 0.0], filter=broken),
            lambda: col.count(broken),
            lambda: col.delete(filter=broken),
        ):
            with pytest.raises(type(error)) as caught:
                call()
            assert caught.value is error
        assert len(col) == 1 and col.verify().ok


class Key(str, enum.Enum):
    COLOR = "color"


def test_a_key_of_an_enumeration_was_looked_up_by_its_name(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(2), ["a", "b"], metadatas=[{"top": {Key.COLOR: 1}, Key.COLOR: "red"}, None])
        wanted = [{"top": {"$eq": {Key.COLOR: 1}}}, {"top": [{Key.COLOR: 1}]}, {Key.COLOR: "red"}, {"color": "red"}]
        assert [[record.id for record in col.scroll(filter)] for filter in wanted] == [["a"]] * 4
        col.update_metadata(["a"], {Key.COLOR: "blue"})
        assert col.get(["a"])[0].metadata == {"top": {"color": 1}, "color": "blue"}
        assert col._engine.store.rows("id", ["a"])[0].metadata.count("color") == 2


@pytest.mark.parametrize(
    "filter",
    [
        {"a": {"$nin": []}},
        {"a": {"$not": {"$in": []}}},
        {"$not": {"a": {"$any": []}}},
        {"$or": [{"a": 1}, {"_bq_id": {"$nin": []}}]},
        {"$not": {"$not": {"a": {"$nin": []}}}},
    ],
)
def test_a_filter_that_excludes_nothing_deleted_everything(filter):
    with bqstore.open() as col:
        col.add(np.eye(2), ["a", "b"], metadatas=[{"a": 1}, None])
        with pytest.raises(InvalidInputError, match="a filter that restricts; clear"):
            col.delete(filter=filter)
        assert col.count(filter) == len(col) == 2 and len(col.search([1.0, 0.0], filter=filter)) == 2
        assert col.delete(filter={"a": {"$in": []}}) == col.delete(filter={"$not": {"a": {"$nin": []}}}) == 0
        assert col.delete(["b"], filter=filter) == 1


def test_a_text_that_sqlite_does_not_take_was_reported_as_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(validate, "MAX_TEXT_BYTES", 1000)
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(2), ["a", "b"], ["x" * 1000, "é" * 500])
        for text in ("x" * 1001, "é" * 501):
            with pytest.raises(InvalidInputError, match=r"text 1 has 1,00\d bytes; at most 1,000 are kept: split it"):
                col.add(np.eye(2), ["c", "d"], ["short", text])
        assert len(col) == 2 and col.verify().ok


@pytest.mark.torture
def test_the_longest_text_there_may_be(tmp_path):
    with bqstore.open(tmp_path) as col:
        metadata = {"x": "y" * 65_000, "_bq_x": "z" * 1_048_000, "_bq_ref_doc_id": "r"}
        col.add([[1.0]], ["i" * 1024], ["x" * validate.MAX_TEXT_BYTES], [metadata])
        assert len(col.get(["i" * 1024])[0].text) == validate.MAX_TEXT_BYTES
        with pytest.raises(InvalidInputError, match="split it"):
            col.add([[1.0]], ["b"], ["x" * (validate.MAX_TEXT_BYTES + 1)])
