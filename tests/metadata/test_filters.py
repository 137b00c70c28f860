"""The filter grammar on columns against the same grammar read document by document."""

import datetime
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqstore
from bqstore.bitmap import count, everything, to_bitmap, to_mask
from tests.conftest import often

DOCUMENTS = [
    {"lang": "en", "year": 2020, "tags": ["a", "b"], "nested": {"k": 1}},
    {"lang": "de", "year": 2021.0, "tags": [], "nested": {"k": "1"}},
    {"lang": "en", "year": "2020", "flag": True, "dotted.key": "exact"},
    {"lang": None, "year": 2**60 + 1, "flag": 1, "dotted": {"key": "path"}},
    {"year": True, "flag": 1.0, "tags": "a", "when": datetime.date(2024, 5, 6)},
    {"tags": [1, True, None, ["a"]], "nested": {"k": {"deep": 1}}, "when": datetime.datetime(2024, 5, 6, 7)},
    {},
]


@pytest.fixture(scope="module", params=["memory", "disk"])
def col(request, tmp_path_factory):
    path = None if request.param == "memory" else tmp_path_factory.mktemp("store")
    with bqstore.open(path) as col:
        ids = [str(i) for i in range(len(DOCUMENTS))]
        col.add(np.eye(len(DOCUMENTS)) + 0.1, ids, metadatas=DOCUMENTS)
        yield col


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"lang": "en"}, "02"),
        ({"lang": ["en", "de"]}, "012"),
        ({"lang": {"$in": ["en", None]}}, "023"),
        ({"lang": None}, "3"),
        ({"lang": {"$eq": "de"}}, "1"),
        ({"lang": "EN"}, ""),
        ({"lang": {"$in": []}}, ""),
        ({"year": 2020}, "0"),
        ({"year": 2020.0}, "0"),
        ({"year": 2021}, "1"),
        ({"year": "2020"}, "2"),
        ({"year": True}, "4"),
        ({"year": 1}, ""),
        ({"year": 2**60 + 1}, "3"),
        ({"year": 2**60}, ""),
        ({"year": float(2**60)}, ""),
        ({"flag": True}, "2"),
        ({"flag": 1}, "34"),
        ({"flag": np.int64(1)}, "34"),
        ({"flag": {"$in": [1, True]}}, "234"),
        ({"tags": "a"}, "04"),
        ({"tags": {"$eq": ["a", "b"]}}, "0"),
        ({"tags": {"$eq": ["b", "a"]}}, ""),
        ({"tags": {"$eq": []}}, "1"),
        ({"tags": {"$in": [["a"]]}}, "5"),
        ({"tags": 1}, "5"),
        ({"tags": True}, "5"),
        ({"tags": None}, "5"),
        ({"nested.k": 1}, "0"),
        ({"nested.k": "1"}, "1"),
        ({"nested.k.deep": 1}, "5"),
        ({"nested": {"$eq": {"k": 1.0}}}, "0"),
        ({"dotted.key": "exact"}, "2"),
        ({"dotted.key": "path"}, "3"),
        ({"when": "2024-05-06"}, "4"),
        ({"when": datetime.date(2024, 5, 6)}, "4"),
        ({"when": datetime.datetime(2024, 5, 6, 7)}, "5"),
        ({"lang": "en", "year": 2020}, "0"),
        ({"lang": {"$eq": "en", "$in": ["en", "de"]}}, "02"),
        ({"lang": "en", "year": 2021}, ""),
        ({"nothing": "here"}, ""),
        ({"_bq_id": ["1", "6", "77"]}, "16"),
        ({"_bq_id": "1", "lang": "en"}, ""),
        ({}, "0123456"),
        (None, "0123456"),
    ],
)
def test_the_grammar(col, condition, found):
    assert "".join(sorted(record.id for record in col.scroll(condition))) == found
    assert col.count(condition) == len(found)
    hits = col.search(np.ones(len(DOCUMENTS)), 10, filter=condition)
    assert "".join(sorted(hit.id for hit in hits)) == found


scalars = st.sampled_from(["a", "b", "", 0, 1, 2, 1.0, 0.5, True, False, None])
fields = st.sampled_from(["x", "y", "z"])
metadata = st.dictionaries(fields, scalars | st.lists(scalars, max_size=3), max_size=3)


def same(a, b):
    return isinstance(a, bool) == isinstance(b, bool) and (a is None) == (b is None) and a == b


def matches(document, key, operands):
    if key not in document:
        return False
    values = document[key] if isinstance(document[key], list) else [document[key]]
    return any(same(value, operand) for value in values for operand in operands)


@settings(max_examples=often(60), deadline=None)
@given(st.lists(metadata, max_size=20), st.lists(metadata, max_size=6), st.data())
def test_columns_agree_with_reading_documents(documents, added, data):
    condition = data.draw(st.dictionaries(fields, scalars | st.lists(scalars, max_size=3), min_size=1, max_size=2))

    def expected(stored):
        wanted = [(k, v if isinstance(v, list) else [v]) for k, v in condition.items()]
        return {i for i, document in stored.items() if all(matches(document, k, v) for k, v in wanted)}

    stored = {f"d{i}": document for i, document in enumerate(documents)}
    with bqstore.open() as col:
        col.add(np.ones((len(documents), 2)), list(stored), metadatas=documents)
        assert {r.id for r in col.scroll(condition)} == expected(stored)  # loads the columns
        more = {f"d{i + len(documents) // 2}": document for i, document in enumerate(added)}  # new ones and upserts
        col.add(np.ones((len(more), 2)), list(more), metadatas=list(more.values()))
        stored.update(more)
        assert {r.id for r in col.scroll(condition)} == expected(stored)
        changed = list(stored)[::3]
        new = {"x": data.draw(scalars)}
        assert col.update_metadata(changed, new) == len(changed)
        stored.update({id_: {**stored[id_], **new} for id_ in changed})
        assert {r.id for r in col.scroll(condition)} == expected(stored)
        assert col.delete(filter=condition) == len(expected(stored))
        assert col.count(condition) == 0 and len(col) == len(stored) - len(expected(stored))


def test_a_reader_keeps_its_columns_up_with_the_writer(tmp_path):
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, read_only=True) as reader:
        col.add(np.eye(3), ["a", "b", "c"], metadatas=[{"x": 1}, {"x": 2}, {}])
        assert reader.count({"x": 1}) == 1
        col.update_metadata(["b", "c"], {"x": 1})
        assert reader.count({"x": 1}) == 3
        col.add(np.eye(3), ["d", "a", "e"], metadatas=[{"x": 1}, {"x": 5}, {"x": 1}])
        assert {r.id for r in reader.scroll({"x": 1})} == {"b", "c", "d", "e"}
        assert reader.search_ids([1.0, 0, 0], 9, filter={"x": [1, 5]})[0].tolist()[0].count(None) == 4
        col.clear()
        col.add(np.eye(3), ["z", "a", "e"], metadatas=[{"x": 1}, {"x": 5}, {"x": 2}])
        assert {r.id for r in reader.scroll({"x": [1, 5]})} == {"z", "a"}


def test_a_missing_field_never_matches_while_values_are_being_added():
    """The entry that stands for "missing" must not be one that a new value has taken since."""
    with bqstore.open(threads=1) as col:
        col.add(np.ones((50, 2)), metadatas=[{"x": i % 5} if i % 2 else {} for i in range(50)])
        col.count({"x": 1})
        stop, wrong = threading.Event(), []

        def read():
            while not stop.is_set():
                wrong.extend(
                    h for h in col.search([1.0, 1.0], 100, filter={"x": [1, 2, 10**6]}) if "x" not in h.metadata
                )

        thread = threading.Thread(target=read)
        thread.start()
        for i in range(60):
            col.add([[1.0, 1.0]], metadatas=[{"x": 100 + i}])
        stop.set()
        thread.join()
        assert not wrong


def test_private_keys_stay_out_of_the_filters_but_for_the_source_document():
    with bqstore.open() as col:
        metadata = [{"_bq_node": {"a": 1}, "_bq_ref_doc_id": "D", "a": 2}, {"_bq_ref_doc_id": "E"}, {"a": 3}]
        col.add(np.eye(3), ["x", "y", "z"], metadatas=metadata)
        assert [r.id for r in col.scroll({"_bq_ref_doc_id": ["D", "F"]})] == ["x"]
        with pytest.raises(bqstore.InvalidInputError, match="the adapters' own"):
            col.count({"_bq_node": {"$eq": {"a": 1}}})
        assert col.get(["x"])[0].metadata == metadata[0]
        col.update_metadata(["x"], {"b": 1}, replace=True)
        assert col.get(["x"])[0].metadata == {"_bq_node": {"a": 1}, "_bq_ref_doc_id": "D", "b": 1}
        assert col.delete(filter={"_bq_ref_doc_id": "D"}) == 1 and len(col) == 2


@settings(max_examples=often(100), deadline=None)
@given(st.lists(st.booleans(), max_size=200))
def test_bitmaps_have_bit_o_of_word_o(mask):
    words = to_bitmap(np.array(mask, bool))
    assert len(words) == -(-len(mask) // 64)
    assert [bool(int(words[o // 64]) >> (o % 64) & 1) for o in range(len(mask))] == mask
    assert to_mask(words, len(mask)).tolist() == mask and count(words) == sum(mask)
    assert everything(len(mask)).tolist() == to_bitmap(np.ones(len(mask), bool)).tolist()


def test_a_long_pattern_ran_for_ever():
    """Its time was the product of the lengths, in a kernel that nothing interrupts."""
    with bqstore.open() as col:
        long = "a" * 60_000
        col.add(np.ones((3, 2)), list("abc"), metadatas=[{"s": long + "b"}, {"s": "b" + long}, {"s": "short"}])
        for name in ("$like", "$ilike"):
            with pytest.raises(bqstore.InvalidInputError, match="40,001 bytes"):
                col.count({"s": {name: "%" + "a_" * 20_000 + "b%"}})
            for pattern, ids in (
                ("%" + "a_" * 500 + "b%", ["a"]),
                ("a" * 50_000 + "%a", []),
                ("b" + "a" * 50_000 + "%a", ["b"]),
                ("%a" + "a" * 59_999 + "%", ["a", "b"]),
                ("%" + "a" * 30_000 + "%" + "a" * 30_000 + "_", ["a"]),
                ("%" + "a" * 30_001 + "%" + "a" * 30_000 + "%", []),
                ("a" * 60_000 + "b", ["a"]),
                ("a" * 60_000 + "b%b", []),
            ):
                if "_" in pattern and len(pattern) > 2000:
                    with pytest.raises(bqstore.InvalidInputError, match="without a %"):
                        col.count({"s": {name: pattern}})
                else:
                    assert [r.id for r in col.scroll({"s": {name: pattern}})] == ids, pattern[:5]
        assert [r.id for r in col.scroll({"s": {"$contains": "a" * 50_000 + "b"}})] == ["a"]
        assert col.count({"s": {"$contains": "a" * 60_000}}) == 2 and col.count({"s": {"$contains": "a" * 60_001}}) == 0


def test_an_operator_without_its_dollar():
    with bqstore.open() as col, pytest.raises(bqstore.InvalidInputError, match=r"did you mean '\$gte'"):
        col.count({"year": {"gte": 2003}})


SIGNS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte", "!=": "ne", "==": "eq", "=": "eq"}


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_of_comparison_was_taken_for_a_nested_field(sign):
    words = rf"the filter on 'year' has '{sign}'; did you mean '\${SIGNS[sign]}'\?"
    with bqstore.open() as col, pytest.raises(bqstore.InvalidInputError, match=words):
        col.count({"year": {sign: 2003}})


@pytest.mark.slow
def test_fields_that_no_document_has_kept_columns_for_good(tmp_path):
    n = 2100  # enough for a graph, and so for a snapshot
    quick = {"quantization": {"encoding": "one_bit"}, "hnsw": {"m": 2, "ef_construct": 4}}
    with bqstore.open(tmp_path, **quick) as col:
        col.add(np.random.default_rng(0).random((n, 2)), metadatas=[{"real": i} for i in range(n)])
        assert col.count({"real": 7}) == 1
        for i in range(260):
            assert col.count({f"typo{i}": 1}) == 0
        assert "real" in col.info().columns and len(col.info().columns) <= 256
    with bqstore.open(tmp_path) as col:
        assert list(col.info().columns) == ["real"] and col.count({"real": 7}) == 1
