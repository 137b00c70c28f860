"""Every operator by examples and against the slow evaluation of `tests.slow_filters`, every mistake by its message."""

import datetime
import random
import re
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bqstore
from bqstore.metadata import filter_grammar
from tests.conftest import often
from tests.slow_filters import matches

LISTS = ("$in", "$nin", "$any", "$all")
DAY, MOMENT = datetime.date(2024, 5, 6), datetime.datetime(2024, 5, 6, 7, 8, 9, 120000)
UTC = datetime.datetime(2024, 5, 6, 7, tzinfo=datetime.timezone.utc)
NEPAL = UTC.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=45)))
BIG = 2**53
HUGE = 10**400  # beyond every float

# ---- by examples: metadata, filters that match it, filters that do not

EXAMPLES: list[tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = [
    # equality
    ({"a": 1}, [{"a": 1}, {"a": 1.0}, {"a": {"$eq": 1}}, {"a": np.int8(1)}, {"a": np.float32(1)}],
     [{"a": True}, {"a": "1"}, {"a": 2}, {"a": None}, {"a": np.bool_(True)}, {"A": 1}, {"a ": 1}]),
    ({"a": True}, [{"a": True}, {"a": np.bool_(True)}, {"a": {"$in": [1, True]}}],
     [{"a": 1}, {"a": 1.0}, {"a": "True"}, {"a": False}]),
    ({"a": "1"}, [{"a": "1"}, {"a": np.str_("1")}], [{"a": 1}, {"a": True}, {"a": ""}]),
    ({"a": None}, [{"a": None}, {"a": {"$eq": None}}, {"a": [1, None]}, {"a": {"$exists": True}}, {"a": {"$ne": 0}}],
     [{"a": 0}, {"a": ""}, {"a": False}, {"a": {"$ne": None}}, {"a": {"$exists": False}}, {"a": "None"}]),
    ({}, [{"a": {"$ne": 1}}, {"a": {"$ne": None}}, {"a": {"$nin": [1]}}, {"a": {"$nin": []}}, {"a": {"$exists": False}},
          {"$not": {"a": 1}}, {"a": {"$not": {"$gt": 1}}}, {"a": {"$not": {"$all": []}}}, {}],
     [{"a": None}, {"a": {"$exists": True}}, {"a": {"$in": [None]}}, {"a": {"$all": []}}, {"a": {"$any": [None]}},
      {"a": {"$like": "%"}}, {"a": {"$contains": ""}}, {"a": {"$lte": 0}}, {"a": {"$between": ["", "z"]}},
      {"a": {"$not": {"$ne": 1}}}, {"$not": {"a": {"$exists": False}}}]),
    ({"a": 0}, [{"a": 0}, {"a": -0.0}, {"a": {"$lte": -0.0}}, {"a": {"$gte": -0.0}}], [{"a": False}, {"a": None}]),
    ({"a": -0.0}, [{"a": 0}, {"a": 0.0}, {"a": {"$between": [0, 0]}}], [{"a": {"$lt": 0}}, {"a": {"$ne": 0}}]),
    ({"a": BIG + 1}, [{"a": BIG + 1}, {"a": {"$gt": float(BIG)}}, {"a": {"$gt": BIG}}, {"a": {"$lt": BIG + 2}},
                      {"a": {"$ne": float(BIG)}}, {"a": {"$between": [BIG + 1, BIG + 1]}}],
     [{"a": BIG}, {"a": float(BIG)}, {"a": {"$lte": float(BIG)}}, {"a": [BIG, BIG + 2]}]),
    ({"a": float(BIG)}, [{"a": BIG}, {"a": {"$lt": BIG + 1}}, {"a": {"$between": [BIG, BIG]}}],
     [{"a": BIG + 1}, {"a": {"$gte": BIG + 1}}]),
    ({"a": 2**64 + 1}, [{"a": 2**64 + 1}, {"a": {"$gt": 2**64}}, {"a": {"$gt": float(2**64)}}, {"a": {"$gt": 2**63}}],
     [{"a": 2**64}, {"a": 1}, {"a": {"$lt": 2}}, {"a": float(2**64)}]),
    ({"a": -(2**64)}, [{"a": {"$lt": -(2**63)}}, {"a": -float(2**64)}], [{"a": {"$gt": 0}}, {"a": 0}]),
    ({"a": HUGE}, [{"a": HUGE}, {"a": {"$gt": 1.7e308}}, {"a": {"$lt": HUGE + 1}}],
     [{"a": HUGE + 1}, {"a": {"$lte": 1.7e308}}]),
    ({"a": -HUGE}, [{"a": {"$lt": -1.7e308}}, {"a": {"$between": [-HUGE, 0.5]}}], [{"a": {"$gt": -1e300}}]),
    ({"a": 0.1}, [{"a": 0.1}, {"a": {"$between": [0.1, 0.1]}}, {"a": {"$gt": 0}}], [{"a": np.float32(0.1)}, {"a": 0}]),
    # order
    ({"a": 5}, [{"a": {"$gt": 4}}, {"a": {"$gte": 5}}, {"a": {"$lt": 5.5}}, {"a": {"$lte": 5}}, {"a": {"$lte": 5.0}},
                {"a": {"$gt": -1, "$lt": 6}}, {"a": {"$between": [5, 5]}}, {"a": {"$between": (4.5, 9)}}],
     [{"a": {"$gt": 5}}, {"a": {"$lt": 5}}, {"a": {"$gte": "5"}}, {"a": {"$lt": "9"}}, {"a": {"$between": [6, 4]}},
      {"a": {"$between": ["4", "6"]}}, {"a": {"$gt": 4, "$lt": 5}}, {"a": {"$between": [5.1, 6]}}]),
    ({"a": True}, [{"a": {"$ne": 1}}], [{"a": {"$gt": 0}}, {"a": {"$gte": 1}}, {"a": {"$between": [0, 2]}}]),
    ({"a": None}, [{"a": {"$not": {"$gt": 0}}}], [{"a": {"$lt": 9}}, {"a": {"$lt": "z"}}]),
    ({"a": {"b": 1}}, [{"a.b": {"$gt": 0}}], [{"a": {"$gt": 0}}, {"a": {"$lt": "z"}}, {"a.b.c": {"$gt": 0}}]),
    ({"a": "b"}, [{"a": {"$gt": "a"}}, {"a": {"$gt": "B"}}, {"a": {"$lt": "ba"}}, {"a": {"$gte": ""}},
                  {"a": {"$between": ["a", "b"]}}], [{"a": {"$gt": "b"}}, {"a": {"$lt": "b"}}, {"a": {"$gt": 0}}]),
    ({"a": "\U00010000"}, [{"a": {"$gt": "\uffff"}}], [{"a": {"$lt": "\uffff"}}]),  # as UTF-16 it would be less
    ({"a": "é"}, [{"a": {"$gt": "z"}}], [{"a": "e\u0301"}, {"a": {"$between": ["d", "f"]}}]),
    ({"a": "a\0b"}, [{"a": "a\0b"}, {"a": {"$gt": "a"}}, {"a": {"$like": "a_b"}}], [{"a": "a"}, {"a": "ab"}]),
    # dates are ISO 8601 strings
    ({"a": DAY}, [{"a": DAY}, {"a": "2024-05-06"}, {"a": {"$lt": MOMENT}}, {"a": {"$gte": DAY}}, {"a": [DAY]},
                  {"a": {"$between": [datetime.date(2024, 1, 1), datetime.datetime(2024, 12, 31)]}},
                  {"a": {"$any": [DAY]}}, {"a": {"$like": "2024-%"}}, {"a": np.datetime64("2024-05-06")}],
     [{"a": MOMENT}, {"a": {"$gt": DAY}}, {"a": {"$gt": 0}}]),
    ({"a": MOMENT}, [{"a": MOMENT}, {"a": {"$gt": DAY}}, {"a": "2024-05-06T07:08:09.120000"}], [{"a": DAY}]),
    # with a time zone they are instants, whatever the zone; a string of the filter's may name one
    ({"a": UTC}, [{"a": UTC}, {"a": NEPAL}, {"a": {"$in": [NEPAL, DAY]}}, {"a": {"$lte": NEPAL}},
                  {"a": {"$gte": NEPAL}}, {"a": {"$between": [NEPAL, UTC]}}, {"a": {"$any": [NEPAL]}},
                  {"a": {"$all": [NEPAL]}},
                  {"a": "2024-05-06T07:00:00+00:00"}, {"a": "2024-05-06T12:45:00+05:45"},
                  {"a": {"$gte": "2024-05-06T07:00:00+00:00"}}, {"a": {"$lt": "2024-05-06T07:00:01+00:00"}},
                  {"a": {"$between": ["2024-05-06T07:00:00+00:00", "2024-05-06T12:45:00+05:45"]}}],
     [{"a": DAY}, {"a": {"$lt": MOMENT}}, {"a": {"$gt": NEPAL}}, {"a": {"$lt": NEPAL}}, {"a": {"$gte": DAY}},
      {"a": {"$gte": ""}}, {"a": {"$like": "%"}}, {"a": UTC.replace(tzinfo=None)},
      {"a": {"$gt": "2024-05-06T12:45:00+05:45"}}]),
    ({"a": NEPAL}, [{"a": UTC}, {"a": {"$gt": UTC - datetime.timedelta(microseconds=1)}}], [{"a": {"$gt": UTC}}]),
    ({"a": [UTC, "x"]}, [{"a": NEPAL}, {"a": {"$contains": NEPAL}}, {"a": {"$all": [NEPAL, "x"]}},
                         {"a": {"$eq": [NEPAL, "x"]}}], [{"a": {"$contains": DAY}}]),
    ({"a": UTC.replace(tzinfo=None)}, [{"a": {"$lte": "2024-05-06T07:00:00"}}], [{"a": UTC}, {"a": {"$lte": UTC}}]),
    ({"a": "2024-05-06T07:00:00+00:00"}, [{"a": {"$gt": DAY}}], [{"a": UTC}, {"a": {"$lte": UTC}}]),
    ({"a": "2024-05-06"}, [{"a": DAY}, {"a": {"$lte": DAY}}], [{"a": MOMENT}]),
    # lists
    ({"a": ["x", 2, None]},
     [{"a": "x"}, {"a": 2.0}, {"a": None}, {"a": {"$gt": 1}}, {"a": {"$lt": "y"}}, {"a": {"$like": "_"}},
      {"a": {"$gt": 1, "$lt": "y"}}, {"a": {"$eq": ["x", 2.0, None]}}, {"a": {"$in": [["x", 2, None]]}},
      {"a": {"$ne": ["x", 2]}}, {"a": {"$contains": 2}}, {"a": {"$contains": None}}, {"a": {"$any": [9, "x"]}},
      {"a": {"$all": [None, "x"]}}, {"a": {"$all": []}}, {"a": {"$between": [2, 2]}}, {"a": {"$ilike": "X"}}],
     [{"a": {"$eq": ["x", None, 2]}}, {"a": {"$eq": ["x", 2]}}, {"a": {"$eq": []}}, {"a": {"$ne": "x"}},
      {"a": {"$nin": [5, 2]}}, {"a": {"$gt": 2}}, {"a": {"$all": ["x", 3]}}, {"a": {"$any": []}}, {"a": {"$in": []}},
      {"a": {"$contains": True}}, {"a": {"$any": [["x", 2, None]]}}, {"a": {"$like": "x2"}}, {"a": {"$any": ["X"]}}]),
    ({"a": [1, 9]}, [{"a": {"$gt": 5, "$lt": 5}}], [{"a": {"$between": [4, 6]}}]),  # one element for each operator
    ({"a": []}, [{"a": {"$eq": []}}, {"a": {"$all": []}}, {"a": {"$exists": True}}, {"a": {"$ne": None}},
                 {"a": {"$in": [[]]}}, {"a": {"$in": [()]}}, {"a": {"$nin": [None]}}],
     [{"a": None}, {"a": {"$any": [None, []]}}, {"a": {"$all": [None]}}, {"a": {"$like": "%"}}, {"a": {"$any": []}}]),
    ({"a": [["x"], "y"]}, [{"a": [["x"]]}, {"a": {"$any": [["x"]]}}, {"a": {"$all": [["x"], "y"]}}, {"a": "y"},
                           {"a": {"$eq": [["x"], "y"]}}, {"a": {"$gt": "x"}}, {"a": {"$in": [[["x"], "y"]]}}],
     [{"a": "x"}, {"a": {"$any": ["x"]}}, {"a": {"$eq": ["x"]}}, {"a": {"$lt": "y"}}, {"a": {"$like": "x"}},
      {"a": {"$contains": "x"}}]),
    ({"a": [["x"]]}, [{"a": {"$in": [["x"]]}}, {"a": {"$in": [[["x"]]]}}], [{"a": {"$eq": ["x"]}}, {"a": "x"}]),
    ({"a": [True, 0]}, [{"a": True}, {"a": 0}, {"a": {"$all": [0, True]}}, {"a": {"$lt": 1}}],
     [{"a": 1}, {"a": False}, {"a": {"$gt": 0}}, {"a": {"$eq": [1, False]}}]),
    ({"a": ("x", DAY)}, [{"a": DAY}, {"a": {"$eq": ["x", "2024-05-06"]}}, {"a": {"$eq": ("x", DAY)}}], [{"a": "y"}]),
    ({"a": "x"}, [{"a": {"$any": ["x", "y"]}}, {"a": {"$all": ["x"]}}, {"a": {"$all": []}}, {"a": {"$all": ["x", "x"]}},
                  {"a": {"$in": {"x", "y"}}}, {"a": {"$in": frozenset("x")}}, {"a": ("x",)}],
     [{"a": {"$all": ["x", "y"]}}, {"a": {"$any": []}}, {"a": {"$any": [["x"]]}}, {"a": {"$eq": ["x"]}}, {"a": []}]),
    ({"a": None}, [{"a": {"$all": [None]}}, {"a": {"$any": [None]}}, {"a": {"$all": []}}], [{"a": {"$any": []}}]),
    # dictionaries
    ({"a": {"b": 1, "c": [2]}}, [{"a": {"$eq": {"c": [2.0], "b": 1.0}}}, {"a": {"$in": [{"b": 1, "c": [2]}]}},
                                 {"a.c": 2}, {"a.b": 1}, {"a": {"$exists": True}},
                                 {"a": {"$any": [{"c": [2], "b": 1}]}}],
     [{"a": {"$eq": {"b": 1}}}, {"a": {"$eq": {"b": True, "c": [2]}}}, {"a": {"$eq": {}}}, {"a": 1}, {"a.d": None}]),
    ({"a": [{"b": 1}]}, [{"a": [{"b": 1}]}, {"a": {"$any": [{"b": 1.0}]}}, {"a": {"$eq": [{"b": 1}]}}],
     [{"a.b": 1}, {"a.0.b": 1}, {"a": {"$eq": {"b": 1}}}, {"a": {"$any": [{"b": "1"}]}}]),
    ({"a": {"b": None}}, [{"a.b": None}, {"a.b": {"$exists": True}}], [{"a.c": None}, {"a.b.c": {"$exists": True}}]),
    ({"a": {}}, [{"a": {"$eq": {}}}, {"a": {"$all": [{}]}}], [{"a": {"$eq": []}}, {"a.b": {"$exists": True}}]),
    # keys: the exact one comes first
    ({"a.b": 1, "a": {"b": 2}}, [{"a.b": 1}, {"a": {"$eq": {"b": 2}}}], [{"a.b": 2}, {"a.b": {"$in": [2]}}]),
    ({"a": {"b": 2}}, [{"a.b": 2}], [{"a.b": 1}, {"b": 2}]),
    ({"a.b": {"c": 1}}, [{"a.b": {"$eq": {"c": 1}}}], [{"a.b.c": 1}, {"a": {"$exists": True}}]),
    ({"a": {"b.c": 1, "b": {"c": 2}}}, [{"a.b.c": 2}], [{"a.b.c": 1}]),
    ({"a.b": None, "a": {"b": 2}}, [{"a.b": None}], [{"a.b": 2}]),
    # pieces
    ({"a": "haystack"}, [{"a": {"$contains": "sta"}}, {"a": {"$contains": ""}}, {"a": {"$contains": "haystack"}}],
     [{"a": {"$contains": "Sta"}}, {"a": {"$contains": "s_a"}}, {"a": {"$contains": 1}}, {"a": {"$contains": None}}]),
    ({"a": ["haystack", ""]}, [{"a": {"$contains": "haystack"}}, {"a": {"$contains": ""}}],
     [{"a": {"$contains": "hay"}}]),
    ({"a": [1, False]}, [{"a": {"$contains": 1.0}}, {"a": {"$contains": False}}],
     [{"a": {"$contains": True}}, {"a": {"$contains": 0}}, {"a": {"$contains": "1"}}]),
    ({"a": 5}, [{"a": {"$not": {"$contains": 5}}}], [{"a": {"$contains": 5}}, {"a": {"$contains": ""}}]),
    ({"a": {"b": 1}}, [], [{"a": {"$contains": "b"}}]),
    ({"a": f"on {DAY}"}, [{"a": {"$contains": DAY}}], [{"a": {"$contains": MOMENT}}]),
    # patterns
    ({"a": "straße"}, [{"a": {"$like": "straße"}}, {"a": {"$like": "%"}}, {"a": {"$like": "str%"}},
                       {"a": {"$like": "%e"}},
                       {"a": {"$like": "s%a%e"}}, {"a": {"$like": "str_ße"}}, {"a": {"$like": "______"}},
                       {"a": {"$like": "%%_%"}}, {"a": {"$ilike": "STRASSE"}}, {"a": {"$ilike": "stra_e"}},
                       {"a": {"$ilike": "STRAẞE"}}, {"a": {"$ilike": "______"}}, {"a": {"$ilike": "%SS_"}}],
     [{"a": {"$like": "STRAßE"}}, {"a": {"$like": "strasse"}}, {"a": {"$like": "traße"}}, {"a": {"$like": "stra"}},
      {"a": {"$like": ""}}, {"a": {"$like": "_____"}}, {"a": {"$like": "stra%x%e"}}, {"a": {"$ilike": "stra__e"}},
      {"a": {"$ilike": "_______"}}, {"a": {"$ilike": "stras_e"}},
      {"a": {"$like": "stra[ß]e"}}, {"a": {"$like": "stra.e"}}, {"a": {"$like": "s*"}}]),
    ({"a": "100%"}, [{"a": {"$like": r"100\%"}}, {"a": {"$like": "100_"}}, {"a": {"$ilike": r"\1\0\0\%"}}],
     [{"a": {"$like": r"100\_"}}, {"a": {"$like": r"100\%_"}}]),
    ({"a": "a_b"}, [{"a": {"$like": r"a\_b"}}, {"a": {"$like": r"\a\_\b"}}], [{"a": {"$like": r"a\%b"}}]),
    ({"a": "a\\b"}, [{"a": {"$like": r"a\\b"}}, {"a": {"$like": "a_b"}}, {"a": {"$like": r"%\\%"}}, {"a": "a\\b"}],
     [{"a": {"$like": r"a\b"}}]),
    ({"a": "a\\"}, [{"a": {"$like": r"a\\"}}, {"a": {"$ilike": r"A\\"}}], [{"a": {"$like": "a"}}]),
    ({"a": "one\ntwo\n"}, [{"a": {"$like": "one%"}}, {"a": {"$like": "one_two_"}}, {"a": {"$like": "%two%"}}],
     [{"a": {"$like": "one"}}, {"a": {"$like": "%two"}}, {"a": {"$like": "one_two"}}]),
    ({"a": ""}, [{"a": {"$like": ""}}, {"a": {"$like": "%%"}}, {"a": {"$ilike": ""}}, {"a": {"$contains": ""}}],
     [{"a": {"$like": "_"}}, {"a": {"$like": "%_"}}, {"a": None}]),
    ({"a": "İ\u017f\u212a"}, [{"a": {"$ilike": "i\u0307sk"}}, {"a": {"$ilike": "_Sk"}}, {"a": {"$ilike": "___"}}],
     [{"a": {"$ilike": "isk"}}, {"a": {"$ilike": "__Sk"}}, {"a": {"$like": "İSK"}}]),
    ({"a": "👩‍👧"}, [{"a": {"$like": "___"}}], [{"a": {"$like": "_"}}]),  # three code points
    ({"a": ["zab", 5]}, [{"a": {"$like": "z%"}}, {"a": {"$ilike": "ZA_"}}], [{"a": {"$like": "5"}}]),
    ({"a": 5}, [{"a": {"$not": {"$like": "%"}}}], [{"a": {"$like": "%"}}, {"a": {"$ilike": "5"}}]),
    # trees
    ({"a": 1, "b": 2}, [{"a": 1, "b": 2}, {"$and": [{"a": 1}, {"b": 2}]}, {"$or": [{"a": 9}, {"b": 2}]},
                        {"$not": {"a": 1, "b": 3}}, {"$not": {"$or": [{"a": 2}, {"b": 1}]}}, {"$and": [{}]},
                        {"$or": [{"a": 9}, {}]}, {"a": {"$not": {"$gt": 0, "$lt": 1}}},
                        {"$or": [{"a": 1}], "$not": {"b": 0}}, {"a": {"$not": {"$not": {"$eq": 1}}}},
                        {"$not": {"$not": {"a": 1}}}, {"$and": [{"$or": [{"a": 1, "b": 2}]}], "a": {"$lt": 2}},
                        {"a": {"$eq": 1, "$not": {"$eq": 2}}}, {"$and": ({"a": 1},)}],
     [{"a": 1, "b": 3}, {"$and": [{"a": 1}, {"b": 3}]}, {"$or": [{"a": 9}, {"b": 9}]}, {"$not": {"a": 1, "b": 2}},
      {"a": 1, "$not": {"b": 2}}, {"a": {"$not": {"$gt": 0}}}, {"$or": [{"a": 1}], "b": 3},
      {"a": {"$eq": 1, "$ne": 1}}]),
]  # fmt: skip


@pytest.mark.sampled(150)
@pytest.mark.parametrize(
    ("metadata", "condition", "wanted"),
    [(m, condition, wanted) for m, yes, no in EXAMPLES for wanted, some in ((1, yes), (0, no)) for condition in some],
)
def test_examples(metadata, condition, wanted):
    assert matches(metadata, condition) == wanted  # the slow evaluation is held to the examples, too
    with bqstore.open() as col:
        col.add(np.eye(2), ["other", "this"], metadatas=[{"other": 1}, metadata])
        others = matches({"other": 1}, condition)
        assert [record.id for record in col.scroll(condition)] == ["other"] * others + ["this"] * wanted
        assert col.count(condition) == others + wanted


def test_examples_in_one_collection():
    """A column of every type at once, and equal filters of unequal types one after the other."""
    documents = {str(i): metadata for i, (metadata, _, _) in enumerate(EXAMPLES)}
    with bqstore.open() as col:
        col.add(np.ones((len(documents), 2)), list(documents), metadatas=list(documents.values()))
        for condition in [c for _, yes, no in EXAMPLES for c in yes + no]:
            agree(col, documents, condition)


def test_a_filter_that_was_changed_since_is_another():
    with bqstore.open() as col:
        col.add(np.eye(4), list("abcd"), metadatas=[{"x": 1}, {"x": True}, {"x": "1"}, {"x": [1]}])
        condition: dict[str, Any] = {"x": {"$in": [1]}}
        assert [r.id for r in col.scroll(condition)] == ["a", "d"]
        condition["x"]["$in"][0] = True
        assert [r.id for r in col.scroll(condition)] == ["b"]
        condition["x"]["$in"][0] = "1"
        assert [r.id for r in col.scroll(condition)] == ["c"]
        condition["x"]["$in"].append([1.0])
        assert [r.id for r in col.scroll(condition)] == ["c", "d"]
        condition["x"] = {"$eq": (1,)}
        assert [r.id for r in col.scroll(condition)] == ["d"]
        assert [col.count({"x": v}) for v in (1, True, 1.0, "1", np.int64(1), np.bool_(True))] == [2, 1, 2, 1, 2, 1]


def test_ids_and_source_documents():
    with bqstore.open() as col:
        col.add(np.eye(3), ["a", "b", "c"], metadatas=[{"_bq_ref_doc_id": "D", "x": 1}, {"_bq_ref_doc_id": "E"}, {}])
        for condition, found in [
            ({"_bq_id": "a"}, "a"),
            ({"_bq_id": {"$eq": "b"}}, "b"),
            ({"_bq_id": ["a", "c", "nobody"]}, "ac"),
            ({"_bq_id": {"$in": []}}, ""),
            ({"_bq_id": "a", "x": 2}, ""),
            ({"$not": {"_bq_id": "a"}}, "bc"),
            ({"$or": [{"_bq_id": "c"}, {"x": 1}]}, "ac"),
            ({"_bq_ref_doc_id": "D"}, "a"),
            ({"_bq_ref_doc_id": {"$in": ["D", "E", "F"]}}, "ab"),
            ({"$not": {"_bq_ref_doc_id": "D"}}, "bc"),
            ({"_bq_ref_doc_id": {"$like": "D%"}}, "a"),
            ({"_bq_ref_doc_id": {"$contains": "E"}}, "b"),
            ({"_bq_ref_doc_id": {"$any": ["D", "F"]}}, "a"),
            ({"_bq_ref_doc_id": {"$gte": "D"}}, "ab"),
            ({"_bq_ref_doc_id": {"$exists": False}}, "c"),
            ({"_bq_ref_doc_id": {"$ne": 3}}, "abc"),
        ]:
            assert "".join(record.id for record in col.scroll(condition)) == found, condition
            assert col.count(condition) == len(found)


# ---- mistakes

A = r"'a'"
MISTAKES: list[tuple[Any, tuple[str, ...]]] = [
    # what the filter is
    ("lang", ("filter is (a )?str", "expected")),
    ([{"a": 1}], ("filter is (a )?list", "expected")),
    (3, ("filter is (an? )?int", "expected")),
    ({3: 1}, ("key of type int", "expected")),
    ({None: 1}, ("key of type NoneType", "expected")),
    ({"a\ud800": 1}, ("lone surrogate",)),
    # operators
    ({"a": {"$gtt": 1}}, (A, r"'\$gtt'", r"did you mean '\$gte?'")),
    ({"a": {"$equals": 1}}, (A, r"'\$equals'")),
    ({"a": {"$betwen": [1, 2]}}, (A, r"'\$betwen'", r"did you mean '\$between'")),
    ({"a": {"$eq": 1, "$exist": True}}, (A, r"'\$exist'", r"did you mean '\$exists'")),
    ({"a": {"$EQ": 1}}, (A, r"'\$EQ'")),
    ({"a": {"$": 1}}, (A, r"'\$'")),
    ({"$nor": [{"a": 1}]}, (r"'\$nor'", r"did you mean '\$n?or?t?'")),
    ({"$eq": 1}, (r"'\$eq'", "field")),
    ({"$in": [1]}, (r"'\$in'", "field")),
    ({"$exists": True}, (r"'\$exists'", "field")),
    ({"$and": [{"$gt": 1}]}, (r"'\$gt'", "field")),
    ({"$": 1}, (r"'\$'",)),
    ({"a": {"$and": [{"b": 1}]}}, (A, r"'\$and'")),
    ({"a": {"$or": [{"b": 1}]}}, (A, r"'\$or'")),
    ({"a": {"b": 1}}, (r"'a\.b'",)),
    ({"a": {"$gt": 1, "b": 1}}, (A, "'?b'?")),
    ({"a": {"b": 1, "$gt": 1}}, (A, "'?b'?")),
    ({"a": {3: 1}}, (A,)),
    ({"a": {}}, (A, "empty")),
    # trees
    ({"$and": []}, (r"\$and", "empty|at least one|no ")),
    ({"$or": []}, (r"\$or", "empty|at least one|no ")),
    ({"$and": {"a": 1}}, (r"\$and", "dict", "list")),
    ({"$or": "a"}, (r"\$or", "str", "list")),
    ({"$or": None}, (r"\$or", "NoneType|None", "list")),
    ({"$or": [{"a": 1}, 3]}, (r"\$or", "int|3", "expected")),
    ({"$or": [{"a": 1}, None]}, (r"\$or", "None", "expected")),
    ({"$and": [[{"a": 1}]]}, (r"\$and", "list", "expected")),
    ({"$not": {}}, (r"\$not", "empty")),
    ({"$not": [{"a": 1}]}, (r"\$not", "list", "expected")),
    ({"$not": 1}, (r"\$not", "int|1", "expected")),
    ({"$not": None}, (r"\$not", "None", "expected")),
    ({"a": {"$not": {}}}, (A, r"\$not", "expected")),
    ({"a": {"$not": 1}}, (A, r"\$not", "int|1", "expected")),
    ({"a": {"$not": [1]}}, (A, r"\$not", "list", "expected")),
    ({"a": {"$not": {"b": 1}}}, (A,)),
    ({"a": {"$not": {"$or": [{"b": 1}]}}}, (A, r"\$or")),
    # operands of an order
    *[({"a": {name: value}}, (A, re.escape(name), shown, "expected"))
      for name in ("$gt", "$gte", "$lt", "$lte")
      for value, shown in ((True, "bool|True"), (None, "None"), ([1], "list"), ({"b": 1}, "dict"), ({1}, "set"),
                           (np.bool_(False), "bool|False"), (b"a", "bytes"), (1j, "complex"))],
    *[({"a": {"$between": value}}, (A, r"\$between", "expected"))
      for value in (1, "ab", None, [], [1], [1, 2, 3], {1, 2}, {"low": 1, "high": 2}, [1, "2"], ["1", 2], [True, 2],
                    [1, None], [None, None], [[1], [2]], [1, False], [DAY, 1])],
    # operands of the others
    *[({"a": {name: value}}, (A, re.escape(name), shown, "list"))
      for name in LISTS
      for value, shown in (("x", "str"), (1, "int"), (None, "None"), ({"x": 1}, "dict"), (True, "bool"),
                           (b"x", "bytes"))],
    *[({"a": {name: value}}, (A, re.escape(name), "expected"))
      for name in ("$like", "$ilike") for value in (1, None, True, ["x"], {"x": 1}, b"x")],
    ({"a": {"$like": "x\\"}}, (A, r"\$like", "backslash")),
    ({"a": {"$ilike": "x\\\\\\"}}, (A, r"\$ilike", "backslash")),
    ({"a": {"$like": "\\"}}, (A, r"\$like", "backslash")),
    *[({"a": {"$exists": value}}, (A, r"\$exists", "expected")) for value in (1, 0, None, "true", [True], {"b": 1})],
    *[({"a": {"$contains": value}}, (A, r"\$contains", "expected")) for value in (["x"], [], {"b": 1})],
    *[({"a": {"$contains": value}}, (A, "expected")) for value in ({"x"}, b"x")],
    # values that no stored one is
    *[({"a": {name: value}}, (A, repr(value)))
      for name in ("$eq", "$ne", "$contains")
      for value in (float("nan"), float("inf"), -float("inf"))],
    *[({"a": {name: float("nan")}}, (A, "nan")) for name in ("$gt", "$gte", "$lt", "$lte")],
    *[({"a": {name: [1.0, float("nan")]}}, (A, "nan")) for name in (*LISTS, "$between", "$eq", "$ne")],
    ({"a": {"$between": [DAY, UTC]}}, (A, "both with a time zone or both without")),
    ({"a": [float("inf")]}, (A, "inf")),
    ({"a": np.float64("nan")}, (A, "nan")),
    ({"a": np.float32("inf")}, (A, "inf")),
    ({"a": {"$eq": {"b": [float("nan")]}}}, (A, "nan")),
    ({"$and": [{"$not": {"a": float("nan")}}]}, (A, "nan")),
    *[({"a": {name: "x\udfff"}}, (A, "lone surrogate"))
      for name in ("$eq", "$ne", "$gt", "$lte", "$contains", "$like", "$ilike")],
    *[({"a": {name: ["x", "\ud800"]}}, (A, "lone surrogate")) for name in (*LISTS, "$between", "$eq")],
    ({"a": {"$eq": {"b\ud800": 1}}}, (A, "lone surrogate")),
    ({"a": object()}, (A, "object")),
    ({"a": {"$eq": {1, 2}}}, (A, "set")),
    ({"a": [object()]}, (A, "object")),
    ({"a": {"$eq": b"x"}}, (A, "bytes")),
    ({"a": {"$in": [b"x"]}}, (A, "bytes")),
    ({"a": 1j}, (A, "complex")),
    ({"a": np.datetime64("NaT", "s")}, (A,)),
    ({"a": np.arange(2)}, (A, "ndarray")),
    # keys of the adapters
    ({"_bq_node": 1}, ("'_bq_node'",)),
    ({"_bq_": 1}, ("'_bq_'",)),
    ({"_bq_id.x": 1}, ("'_bq_id.x'",)),
    ({"$or": [{"a": 1}, {"$not": {"_bq_node": {"$exists": True}}}]}, ("'_bq_node'",)),
    ({"_bq_id": {"$gt": "a"}}, ("_bq_id", r"\$gt")),
    ({"_bq_id": {"$like": "a%"}}, ("_bq_id", r"\$like")),
    ({"_bq_id": {"$exists": True}}, ("_bq_id", r"\$exists")),
    ({"_bq_id": 3}, ("_bq_id", "int|3", "string")),
    ({"_bq_id": None}, ("_bq_id", "None", "string")),
    ({"_bq_id": ["a", 3]}, ("_bq_id", "int|3", "string")),
]  # fmt: skip


@pytest.fixture(scope="module")
def three():
    with bqstore.open() as col:
        col.add(np.eye(3), ["x", "y", "z"], metadatas=[{"a": 1}, {"a": "x"}, {}])
        yield col


@pytest.mark.parametrize(("condition", "words"), MISTAKES)
def test_a_mistake_is_named(three, condition, words):
    calls = [
        lambda: three.count(condition),
        lambda: three.scroll(condition),
        lambda: three.search([1.0, 0, 0], filter=condition),
        lambda: three.search_batch(np.eye(3), filter=condition),
        lambda: three.search_ids([1.0, 0, 0], filter=condition),
        lambda: three.max_marginal_relevance([1.0, 0, 0], filter=condition),
        lambda: three.delete(filter=condition),
        lambda: three.delete(["x"], filter=condition),
    ]
    for call in calls:
        with pytest.raises(bqstore.InvalidInputError) as caught:
            call()
        message = str(caught.value)
        assert [word for word in words if not re.search(word, message)] == [], message
        assert len(message) < 1000
    assert len(three) == 3


def test_a_mistake_counts_in_an_empty_collection_and_beside_what_matches_nothing(three):
    with bqstore.open() as empty, pytest.raises(bqstore.InvalidInputError, match=r"\$gtt"):
        empty.count({"a": {"$gtt": 1}})
    for condition in (
        {"none": {"$in": []}, "a": {"$gtt": 1}},
        {"$and": [{"none": 1}, {"a": {"$gt": None}}]},
        {"$or": [{}, {"a": {"$gt": None}}]},
    ):
        with pytest.raises(bqstore.InvalidInputError, match=r"\$gt"):
            three.count(condition)


# ---- at random

NUMBERS = [
    *(0, 1, 2, -1, 0.0, -0.0, 1.0, 2.0, 0.5, -1.5, BIG, BIG + 1, float(BIG), -BIG - 1, -float(BIG), 2**63 - 1, 2**63),
    *(float(2**63), 2**64 - 1, 2**64, 2**64 + 1, float(2**64), -(2**63), -(2**63) - 1, 10**30, 1e30, HUGE, -HUGE),
    *(1.7976931348623157e308, 5e-324, 2.2250738585072014e-308),
]
STRINGS = [
    *(
        "",
        "a",
        "A",
        "ab",
        "abc",
        "AB",
        "b",
        "ss",
        "SS",
        "ß",
        "ẞ",
        "İ",
        "i",
        "i\u0307",
        "\u0131",
        "\u017f",
        "s",
        "\u212a",
    ),
    *("k", "\ufb01", "fi", "\u03a3", "\u03c2", "\u03c3", "%", "_", "\\", "a%b", "a_b", "a\\b", "%_\\", "é", "e\u0301"),
    *("ä", "😀", "\uffff", "\U00010000", "\n", "a\nb", "a\n", "\0", "a\0", "a b", " a", "a" * 40, "a" * 39 + "b"),
    *("1", "1.0", "True", "null", "None", "2024", "2024-05-06", "2024-05-06T07:08:09.120000"),
    "2024-05-06T07:00:00+00:00",
]
DATES = [DAY, MOMENT, UTC, NEPAL, datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]
OFTEN = [0, 1, 2, 1.0, -1.5, True, None, "a", "A", "ab", "b", "1", BIG, BIG + 1, float(BIG), "ß", "a%b", DAY]
KEYS = ["a", "b", "c", "a.b", "a.b.c", "ä"]
PATHS = ["a", "a", "b", "b", "c", "c", "a.b", "a.b", "a.c", "a.b.c", "b.a", "c.a.b", "ä", "missing"]
ORDERS = ["$gt", "$gte", "$lt", "$lte"]
OPERATORS = ["$eq", "$ne", *ORDERS, *LISTS, "$between", "$exists", "$like", "$ilike", "$contains", "$not"]


def some_scalar(rng: random.Random) -> Any:
    return rng.choice(rng.choice([OFTEN, OFTEN, OFTEN, NUMBERS, STRINGS, [*DATES, None, True, False]]))


def some_list(rng: random.Random, depth: int = 2) -> list[Any]:
    return [some_value(rng, depth - 1) for _ in range(rng.randrange(4))]


def some_value(rng: random.Random, depth: int = 2) -> Any:
    which = rng.randrange(10) if depth else 0
    if which < 6:
        return some_scalar(rng)
    if which < 8:
        return some_list(rng, depth)
    return {rng.choice("abc"): some_value(rng, depth - 1) for _ in range(rng.randrange(3))}


def some_metadata(rng: random.Random) -> dict[str, Any]:
    return {key: some_value(rng) for key in KEYS if rng.randrange(4) < (3 if key in "abc" else 1)}


def some_pattern(rng: random.Random) -> str:
    """A string of the pool with some of it made wild, or escaped; never with half an escape at its end."""
    out = ""
    for character in rng.choice(STRINGS)[:8]:
        which = rng.randrange(8)
        plain = character if character != "\\" else "\\\\"
        out += ["%", "_", "\\" + character, "%" + plain, "", plain, plain, plain][which]
    return out + rng.choice(["", "", "%", "_"])


def some_operand(rng: random.Random, name: str) -> Any:
    if name in LISTS:
        return rng.choice([list, list, tuple])(some_value(rng) for _ in range(rng.randrange(5)))
    if name in ORDERS:
        return rng.choice(rng.choice([NUMBERS, [*STRINGS, *DATES]]))
    if name == "$between":
        pool = rng.choice([NUMBERS, [*STRINGS, *(each for each in DATES if each not in (UTC, NEPAL))], [UTC, NEPAL]])
        return [rng.choice(pool), rng.choice(pool)]
    if name == "$exists":
        return rng.choice([True, False])
    if name in ("$like", "$ilike"):
        return some_pattern(rng)
    if name == "$not":
        return some_operators(rng)
    return some_scalar(rng) if name == "$contains" else some_value(rng)


def some_operators(rng: random.Random) -> dict[str, Any]:
    names = [rng.choice(OPERATORS) for _ in range(1 + (rng.randrange(4) == 0))]
    return {name: some_operand(rng, name) for name in names}


def some_condition(rng: random.Random) -> Any:
    which = rng.randrange(8)
    if which == 0:
        return some_scalar(rng)
    return some_list(rng) if which == 1 else some_operators(rng)


def some_filter(rng: random.Random, depth: int = 4) -> dict[str, Any]:
    """A tree of up to ``depth`` levels of $and, $or and $not; now and then one that restricts nothing."""
    out: dict[str, Any] = {}
    for _ in range(rng.choice([1, 1, 1, 1, 1, 1, 2, 2, 2, 0])):
        name = rng.choice(["$and", "$or", "$or", "$not", None, None, None]) if depth > 1 else None
        if name is None:
            out[rng.choice(PATHS)] = some_condition(rng)
        elif name == "$not":
            out[name] = some_filter(rng, depth - 1) or {rng.choice(PATHS): some_scalar(rng)}
        else:
            out[name] = [some_filter(rng, depth - 1) for _ in range(rng.randrange(1, 4))]
    return out


def agree(col: bqstore.Collection, documents: dict[str, dict[str, Any]], condition: dict[str, Any]) -> None:
    """The collection finds what the slow evaluation finds, in the order in which the documents came."""
    wanted = [id_ for id_, metadata in documents.items() if matches(metadata, condition, id_)]
    assert [record.id for record in col.scroll(condition)] == wanted, condition
    assert col.count(condition) == len(wanted), condition


MANY = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=often(60), **MANY)
@given(st.randoms(use_true_random=False))
def test_a_filter_finds_what_the_slow_evaluation_finds(rng):
    documents = {f"d{i}": some_metadata(rng) for i in range(1 + rng.randrange(10))}
    with bqstore.open() as col:
        col.add(np.ones((len(documents), 2)), list(documents), metadatas=list(documents.values()))
        for _ in range(4):
            agree(col, documents, some_filter(rng))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", range(3))
def test_many_filters_on_many_documents(seed):
    rng = random.Random(seed)
    documents = {f"d{i}": some_metadata(rng) for i in range(200)}
    with bqstore.open() as col:
        col.add(np.ones((len(documents), 2)), list(documents), metadatas=list(documents.values()))
        for _ in range(300):
            agree(col, documents, some_filter(rng))


def live(col: bqstore.Collection, documents: dict[str, dict[str, Any]], rng: random.Random) -> None:
    """One change, of the collection and of the dictionary that stands for it."""
    some = [id_ for id_ in documents if rng.randrange(3) == 0]
    what = rng.choice(["add", "add", "upsert", "delete", "delete by filter", "merge", "replace", "compact"])
    if what in ("add", "upsert"):
        names = some if what == "upsert" else [f"n{len(documents)}-{rng.randrange(10**6)}-{i}" for i in range(4)]
        new = {id_: some_metadata(rng) for id_ in names}
        col.add(np.ones((len(new), 2)), list(new), metadatas=list(new.values()))
        for id_, metadata in new.items():
            documents.pop(id_, None)
            documents[id_] = metadata
    elif what == "delete":
        assert col.delete(some) == len(some)
        for id_ in some:
            del documents[id_]
    elif what == "delete by filter":
        condition = {rng.choice(PATHS): some_condition(rng)}
        gone = [id_ for id_, metadata in documents.items() if matches(metadata, condition)]
        if len(gone) < 0.7 * len(documents):
            assert col.delete(filter=condition) == len(gone)
            for id_ in gone:
                del documents[id_]
    elif what == "compact":
        col.compact()
    else:
        changes = [some_metadata(rng) for _ in some]
        assert col.update_metadata(some, changes, replace=what == "replace") == len(some)
        for id_, change in zip(some, changes, strict=True):
            documents[id_] = change if what == "replace" else {**documents[id_], **change}


@settings(max_examples=often(30), **MANY)
@given(st.randoms(use_true_random=False))
def test_a_changing_collection(rng):
    a_life(rng, 5)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(10))
def test_a_collection_that_changes_many_times(seed):
    a_life(random.Random(seed), 60)


def a_life(rng, steps):
    conditions = [some_filter(rng) for _ in range(4)]  # asked again after every change
    documents = {f"d{i}": some_metadata(rng) for i in range(8)}
    with bqstore.open() as col:
        col.add(np.ones((len(documents), 2)), list(documents), metadatas=list(documents.values()))
        for _ in range(steps):
            for condition in [*conditions, some_filter(rng)]:
                agree(col, documents, condition)
            condition = rng.choice(conditions)
            began = [id_ for id_, metadata in documents.items() if matches(metadata, condition)]
            reading = col.scroll(condition, batch=3)
            live(col, documents, rng)
            # what matched at the start and still is: the state of the start answers, however the columns have grown
            assert sorted(record.id for record in reading) == sorted(set(began) & documents.keys())
        for condition in conditions:
            agree(col, documents, condition)


@pytest.mark.slow
def test_columns_of_more_than_seventy_thousand_values():
    n, before = 70_100, 60_000  # the first as long as the values can be numbered by 16 bits
    documents = {
        f"d{i}": {"n": BIG + i if i % 2 else i / 4, "s": f"S{i * 7919 % n:05d}", "t": [i, f"t{i}"], "x": {"y": -i}}
        for i in range(n)
    }
    few, many = {*range(9_000), BIG + 65_537, BIG + 70_001}, {*range(-70_099, -69_000)}
    conditions = [
        ({"n": {"$gt": BIG + 66_000}}, lambda d: d["n"] > BIG + 66_000),
        ({"n": {"$in": list(few)}}, lambda d: d["n"] in few),
        ({"n": {"$between": [0, 0.5]}}, lambda d: 0 <= d["n"] <= 0.5),
        ({"s": {"$between": ["S69000", "S69100"]}}, lambda d: "S69000" <= (d["s"] or "") <= "S69100"),
        ({"s": {"$ilike": "s%77_"}, "n": {"$lt": 1e4}}, lambda d: d["n"] < 1e4 and (d["s"] or "")[-3:-1] == "77"),
        ({"t": {"$any": [65_535, "t65536", 65_537, 70_000]}}, lambda d: {*d["t"]} & {65_535, "t65536", 65_537, 70_000}),
        ({"t": {"$all": [66_666, "t66666"]}}, lambda d: {*d["t"]} >= {66_666, "t66666"}),
        ({"x.y": {"$lt": -69_990}}, lambda d: d["x"]["y"] < -69_990),
        (
            {"x.y": {"$nin": list(many)}, "s": {"$gte": "S7"}},
            lambda d: d["x"]["y"] not in many and (d["s"] or "") >= "S7",
        ),
        ({"s": None}, lambda d: d["s"] is None),
        ({"t": ["t65536", "t0"]}, lambda d: {*d["t"]} & {"t65536", "t0"}),
    ]
    vectors = np.random.default_rng(0).standard_normal((n, 2))
    with bqstore.open(distance="dot", hnsw={"m": 2, "ef_construct": 4}) as col:
        ids, metadata = list(documents), list(documents.values())

        def check(stored: list[str]) -> None:
            for condition, holds in conditions:
                wanted = [id_ for id_ in stored if holds(documents[id_])]
                assert [record.id for record in col.scroll(condition)] == wanted, condition

        col.add(vectors[:before], ids[:before], metadatas=metadata[:before])
        check(ids[:before])
        col.add(vectors[before:], ids[before:], metadatas=metadata[before:])
        check(ids)
        col.update_metadata(ids[::1000], {"n": HUGE, "t": ["t65536"], "s": None})
        for id_ in ids[::1000]:
            documents[id_] = {**documents[id_], "n": HUGE, "t": ["t65536"], "s": None}
        check(ids)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("n", [250, 65_530])
def test_columns_whose_codes_grow_by_a_byte(n):
    """One new value after the other, past the largest number of one byte and of two."""
    with bqstore.open(distance="dot", hnsw={"m": 2, "ef_construct": 4}) as col:
        vectors = np.random.default_rng(0).standard_normal((n, 2))
        col.add(vectors, metadatas=[{"n": i, "s": f"s{i}", "t": [i, "x"]} for i in range(n)])
        assert col.count({"n": 0, "s": "s0", "t": 0}) == 1
        for i in range(n, n + 12):
            reading = col.scroll({"s": {"$like": "s" + str(i)[:-1] + "_"}})
            col.add([[1.0, 2.0]], [f"d{i}"], metadatas=[{"n": i, "s": f"s{i}", "t": [i, "x"]}])
            for condition in ({"n": i}, {"s": f"s{i}"}, {"t": i}, {"n": {"$gt": i - 1}}, {"t": {"$all": [i, "x"]}}):
                assert [record.id for record in col.scroll(condition)] == [f"d{i}"]
            for condition in ({"n": 0}, {"s": "s1"}, {"t": n - 1}):
                assert col.count(condition) == 1
            assert col.count({"n": {"$exists": False}}) == col.count({"s": {"$nin": ["s0"]}}) - i == 0
            assert col.count({"n": {"$gte": n}}) == col.count({"t": {"$between": [n, 1e9]}}) == i - n + 1
            assert len(list(reading)) == i % 10 or str(i)[:-1] != str(n)[:-1]


def test_threads_ask_while_the_columns_grow():
    """Each commit adds ten documents with new values: whatever state a reader meets has all of them or none."""
    wrong, stop = [], threading.Event()
    with bqstore.open() as col:
        col.add(np.ones((10, 2)), metadatas=[{"v": 0, "s": "s0", "t": [0, "x"]}] * 10)

        def read():
            while not stop.is_set():
                for condition in (
                    {"v": {"$gte": 0}},
                    {"s": {"$like": "s%"}},
                    {"t": {"$any": ["x", "y"]}},
                    {"v": {"$ne": 3}, "s": {"$nin": ["s5", "s6"]}},
                    {"$not": {"v": {"$lt": 7}}},
                ):
                    if col.count(condition) % 10:
                        wrong.append(condition)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(1, 30):
            col.add(np.ones((10, 2)), metadatas=[{"v": i, "s": f"s{i}", "t": [i, "y"]}] * 10)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert col.count({"v": {"$gte": 0}}) == col.count({"t": ["x", "y"]}) == 300


def test_a_remembered_filter_is_not_taken_for_one_of_another_type(monkeypatch):
    monkeypatch.setattr(filter_grammar, "_trees", {})
    monkeypatch.setattr(filter_grammar, "_REMEMBERED", 2)
    assert filter_grammar.parse({"a": "1"}) is filter_grammar.parse({"a": "1"})
    assert filter_grammar.parse({"a": "1"}) != filter_grammar.parse({"a": 1})
    assert len({filter_grammar.parse({"a": value}) for value in (1, True, "1", "True", None)}) == 5
    for _ in range(2):  # what is refused is refused again
        with pytest.raises(bqstore.InvalidInputError, match="lone surrogate"):
            filter_grammar.parse({"a": "\ud800"})
        with pytest.raises(bqstore.InvalidInputError, match="a list of filters"):
            filter_grammar.parse({"$or": "a"})
    for i in range(9):
        assert filter_grammar.parse({"a": str(i), "b": "x"}) == filter_grammar.parse(
            {"$and": [{"a": str(i)}, {"b": "x"}]}
        )
    assert 0 < len(filter_grammar._trees) <= 2
    assert filter_grammar.parse({}) is None
