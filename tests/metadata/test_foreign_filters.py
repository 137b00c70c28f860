"""Functions beside conditions, and filters of Qdrant and Chroma, checked against Qdrant's own evaluation."""

import random
from typing import Any

import numpy as np
import pytest
from qdrant_client import models as q
from qdrant_client.local.payload_filters import check_filter

import bqstore
from bqstore.metadata.qdrant_filters import translated
from tests.slow_filters import matches

TEXTS = ["bits are small", "floats are exact", None, "Bits of text"]
METADATAS = [{"n": 1, "lang": "en"}, {"n": 2, "lang": "en"}, {"n": 3, "lang": "de"}, {"n": 4}]


@pytest.fixture(scope="module")
def four():
    with bqstore.open() as col:
        col.add(np.eye(4), list("abcd"), TEXTS, METADATAS)
        yield col


def test_a_function_beside_conditions_is_asked_about_what_matches_them(four):
    seen = []

    def second(record):
        seen.append(record.id)
        return record.metadata["n"] != 1

    both = {"$and": [{"lang": "en"}, second]}
    for call in (
        lambda: four.ids(both),
        lambda: [hit.id for hit in four.search([1, 1, 1, 1], filter=both)],
        lambda: [hit.id for hit in four.search([1, 1, 1, 1], filter=both, allow_damaged=True)],
        lambda: [record.id for record in four.scroll({"lang": "en", "$and": [{"$and": [second]}]})],
        lambda: four.ids({"$and": [second, {"lang": "en"}, lambda record: record.id != "a"]}),
    ):
        seen.clear()
        assert call() == ["b"] and seen == ["a", "b"]
    assert four.ids({"$and": [second]}) == ["b", "c", "d"]
    with bqstore.open() as col:
        col.add(np.eye(4), list("abcd"), TEXTS, METADATAS)
        assert col.delete(filter=both) == 1 and col.ids() == ["a", "c", "d"]


@pytest.mark.parametrize("tree", [{"$or": [{"n": 1}, bool]}, {"$not": {"$and": [{"n": 1}, len]}}, {"n": {"$not": len}}])
def test_a_function_below_or_and_not_is_refused(four, tree):
    tree = {"$or": [{"n": 1}, lambda record: True]} if "$or" in tree else tree
    with pytest.raises(bqstore.InvalidInputError, match=r"only \$and joins functions|expected operators"):
        four.ids(tree)


# ---- Qdrant


def some_value(rng: random.Random, depth: int = 0) -> Any:
    if depth == 0 and rng.random() < 0.3:
        return [some_value(rng, 1) for _ in range(rng.randrange(3))]
    return rng.choice([None, True, False, 0, 1, 7, 2.5, "a", "ab", "a%b", "b_"])


def some_condition(rng: random.Random, depth: int = 0) -> Any:
    key = rng.choice(["a", "b", "c.d"])
    where = {"key": key}
    kind = rng.randrange(9 if depth < 2 else 8)
    if kind == 0:
        return q.FieldCondition(**where, match=q.MatchValue(value=rng.choice([True, False, 0, 1, 7, "a", "ab"])))
    if kind == 1:
        return q.FieldCondition(**where, match=q.MatchAny(any=rng.choice([["a", "b_"], [0, 7], []])))
    if kind == 2:
        ends = rng.sample([("gt", 0), ("gte", 1), ("lt", 7), ("lte", 2.5)], rng.choice([1, 2]))
        return q.FieldCondition(**where, range=q.Range(**dict(ends)))
    if kind == 3:
        return q.IsNullCondition(is_null=q.PayloadField(key=key))
    if kind == 4:
        return q.IsEmptyCondition(is_empty=q.PayloadField(key=key))
    if kind == 5:
        return q.HasIdCondition(has_id=rng.sample(range(4), 2))
    if kind == 6:
        return q.FieldCondition(**where, is_null=rng.choice([True, False]))
    if kind == 7:
        return q.FieldCondition(**where, is_empty=rng.choice([True, False]))
    return some_filter(rng, depth + 1)


def some_filter(rng: random.Random, depth: int = 0) -> q.Filter:
    clauses: dict[str, Any] = {}
    for name in rng.sample(["must", "should", "must_not"], rng.randrange(4)):
        parts = [some_condition(rng, depth) for _ in range(rng.randrange(4))]
        clauses[name] = parts[0] if parts and rng.random() < 0.2 else parts
    if rng.random() < 0.2:
        parts = [some_condition(rng, depth) for _ in range(3)]
        clauses["min_should"] = q.MinShould(conditions=parts, min_count=rng.randrange(1, 4))
    return q.Filter(**clauses)


def test_filters_of_qdrant_match_what_they_match_there():
    rng, asked = random.Random(1), 0
    for _ in range(1500):
        payload = {key: some_value(rng) for key in rng.sample(["a", "b"], rng.randrange(3))}
        if rng.random() < 0.5:
            payload["c"] = rng.choice([{"d": some_value(rng)}, {}])
        given = some_filter(rng)
        tree: Any = translated(given)
        wanted = check_filter(given, payload, point_id=2, has_vector={})
        assert matches(payload, tree, "2") == wanted, (payload, given, tree)
        asked += wanted
    assert 400 < asked < 1100


def test_prefixes_and_pieces_of_strings():
    for name, value in (("prefix", "a%"), ("substring", "%b"), ("substring", "_"), ("prefix", "\\")):
        kind = getattr(q, f"Match{name.title()}", None)
        if kind is None:  # of later versions of qdrant-client
            continue
        given = q.Filter(must=q.FieldCondition(key="a", match=kind(**{name: value})))
        for text in ("a%b", "ab", "b_", "\\x"):
            assert matches({"a": text}, translated(given)) == check_filter(given, {"a": text}, 1, {}), (given, text)


def test_a_filter_of_qdrant_is_taken_by_every_call_and_within_and(four):
    english = q.Filter(must=[q.FieldCondition(key="lang", match=q.MatchValue(value="en"))])
    assert four.ids(english) == ["a", "b"] == [hit.id for hit in four.search([1, 0.5, 0, 0], filter=english)]
    assert four.count({"$and": [english, {"n": 2}, lambda record: True]}) == 1
    assert len(four.search([1, 0, 0, 0], filter=q.Filter())) == 4
    with bqstore.open() as col, pytest.raises(bqstore.InvalidInputError, match="filter that restricts"):
        col.delete(filter=q.Filter())
    under = q.Filter(must=q.FieldCondition(key="metadata.lang", match=q.MatchValue(value="en")))
    assert bqstore.translate_filter(under, prefix="metadata.") == {"lang": {"$eq": "en"}}


@pytest.mark.parametrize(
    ("condition", "ours"),
    [
        (q.FieldCondition(key="a", match=q.MatchExcept(**{"except": [1]})), r"'\$nin': \[1\]"),
        (q.FieldCondition(key="a", match=q.MatchText(text="x")), r"'\$ilike': '%word%'"),
        (q.FieldCondition(key="a", range=q.DatetimeRange(gt="2024-01-01T00:00:00Z")), r"'\$gt': datetime"),
        (q.FieldCondition(key="a[].b", is_null=True), "list of dicts; use lambda"),
        (q.FieldCondition(key="a", values_count=q.ValuesCount(gt=1)), "'values_count' on 'a' has no counterpart; use"),
        (q.FieldCondition(key="a", is_null=True, match=q.MatchValue(value=1)), "has 2 tests"),
        (q.HasVectorCondition(has_vector="v"), "'has_vector' of Qdrant has no counterpart"),
        (q.Filter(min_should=q.MinShould(conditions=[q.HasIdCondition(has_id=[1])], min_count=2)), "asks for 2 of 1"),
    ],
)
def test_what_qdrant_means_otherwise_is_refused_with_ours_shown(four, condition, ours):
    with pytest.raises(bqstore.InvalidInputError, match=ours):
        four.ids(q.Filter(must=[condition]))
    with pytest.raises(bqstore.InvalidInputError, match="of Qdrant; expected its Filter"):
        four.ids(q.SearchParams())


def test_search_params_of_qdrant_are_taken_where_they_mean_the_same():
    given = q.SearchParams(hnsw_ef=64, quantization=q.QuantizationSearchParams(rescore=True, oversampling=2.0))
    assert bqstore.search_keywords(given) == {"hnsw_ef": 64, "rescore": True, "oversampling": 2.0}
    with pytest.raises(bqstore.UnknownKeywordError, match="'indexed_only'"):
        bqstore.search_keywords(q.SearchParams(indexed_only=True))


# ---- Chroma


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"$contains": "are"}, "ab"),
        ({"$not_contains": "are"}, "cd"),
        ({"$and": [{"$contains": "are"}, {"$not_contains": "exact"}]}, "a"),
        ({"$or": [{"$contains": "exact"}, {"$contains": "Bits"}]}, "bd"),
    ],
)
def test_where_document_tests_the_text(four, condition, found):
    assert "".join(four.ids(bqstore.translate_filter(None, condition))) == found
    among = set(four.ids({"lang": "en"})) & set(found)
    assert set(four.ids(bqstore.translate_filter({"lang": "en"}, condition))) == among


@pytest.mark.parametrize("condition", [{}, "x", {"$contains": 1}, {"$regex": "a"}, {"$and": []}, {"$contains": ""}])
def test_where_document_with_a_mistake_is_refused(condition):
    with pytest.raises(bqstore.InvalidInputError, match="where_document"):
        bqstore.translate_filter(None, condition)


def test_a_range_without_an_end_is_refused_and_a_field_may_be_called_operator(four):
    with pytest.raises(bqstore.InvalidInputError, match="the range on 'n' has no end; expected gt, gte, lt or lte"):
        four.ids(q.Filter(must=[q.FieldCondition(key="n", range=q.Range())]))
    with bqstore.open() as col:
        col.add(np.eye(2), ["a", "b"], metadatas=[{"operator": "AND"}, {"operator": "Equal", "n": 1}])
        assert col.ids({"operator": "AND"}) == ["a"] and col.ids({"operator": "Equal", "n": 1}) == ["b"]


def test_filters_of_llama_index_were_known_to_its_adapter_alone() -> None:
    store = pytest.importorskip("llama_index.core.vector_stores")
    year = store.MetadataFilter(key="year", value=2020, operator=">")
    both = store.MetadataFilters(filters=[year, store.MetadataFilter(key="doc_id", value="a.txt")])
    assert bqstore.translate_filter(year) == {"year": {"$gt": 2020}}
    plain = {"$and": [{"year": {"$gt": 2020}}, {"doc_id": {"$eq": "a.txt"}}]}
    assert bqstore.translate_filter(both) == plain
    told = bqstore.translate_filter(both, otherwise={"doc_id": bqstore.REF_DOC_ID_KEY})
    with bqstore.open() as col:
        newer = {"year": 2021, bqstore.REF_DOC_ID_KEY: "a.txt"}
        col.add([[1, 0], [0, 1]], ["a", "b"], metadatas=[newer, {**newer, "doc_id": "b.txt"}])
        assert col.ids(told) == ["a"] and col.ids(plain) == []
