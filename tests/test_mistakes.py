"""Mistakes that passed in silence: each is an error by name, or one line in the log."""

import logging

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError, UnknownKeywordError

YEARS = [{"year": 2020, "lang": "en", "author": {"name": "Ada"}}, {"year": 2021, "lang": "de"}]


@pytest.fixture
def col():
    with bqstore.open() as col:
        col.add(np.eye(2), ["a", "b"], texts=["one", "two"], metadatas=YEARS)
        yield col


@pytest.mark.parametrize("call", ["delete", "get"])
def test_a_filter_in_the_place_of_ids_was_read_as_ids(col, call):
    with pytest.raises(InvalidInputError, match="ids is a dict; expected a list; a filter goes into filter="):
        getattr(col, call)({"year": 2020})
    assert len(col) == 2


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"yeer": 2020}, "'yeer' matches nothing: no document has this field; did you mean 'year'?"),
        ({"metadata.year": 2020}, "did you mean 'year'? Fields are named without a prefix"),
        ({"author.nam": "Ada"}, "did you mean 'author.name'?"),
        ({"page_content": {"$contains": "one"}}, "texts are no metadata: test them by a function"),
        ({"_id": "a"}, "no document has this field; ids are no metadata: get(ids) finds documents by them"),
        ({"zzz": 1}, "no document has this field; documents have author, author.name, lang, year"),
        ({"year": "2020"}, "'year' matches nothing: it compares with a string, and documents have a number"),
        ({"year": {"$like": "20%"}}, "it compares with a string, and documents have a number"),
        ({"lang": {"$gt": 5}}, "it compares with a number, and documents have a string"),
        ({"lang": {"$in": [True, None]}}, "it compares with a boolean or null, and documents have a string"),
    ],
)
def test_a_filter_that_can_match_nothing_is_told_of_once(col, caplog, condition, words):
    assert col.search([1.0, 0.0], filter=condition) == [] and col.count(condition) == 0
    col.add([[1.0, 1.0]], ["c"])  # another state
    assert col.count(condition) == 0
    assert [words in record.getMessage() for record in caplog.records] == [True]
    assert caplog.records[0].levelno == logging.WARNING and caplog.records[0].name == "bqstore"


def test_a_field_that_is_written_in_other_code_points_is_told_of(col, caplog):
    composed, decomposed = "\xe9t\xe9", "e\u0301te\u0301"
    col.update_metadata(["a"], {composed: composed})
    assert col.ids({composed: composed}) == ["a"] and col.count({composed: decomposed}) == 0  # nothing is normalized
    assert not caplog.records and col.count({decomposed: composed}) == 0
    assert "no document has this field; they have it in other code points: pass both" in caplog.text


def test_an_order_by_a_field_that_no_document_has_passed_in_silence(col, caplog):
    for _ in range(2):
        assert [record.id for record in col.scroll(order_by="-year")] == ["a", "b"]
    with bqstore.open() as empty:
        assert list(empty.scroll(order_by="yeer")) == []
    assert [record.id for record in col.scroll(order_by="year", descending=True)] == ["b", "a"]
    said = "order_by='-year' orders nothing: no document has this field; did you mean 'year'?"
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [(logging.WARNING, said)]


@pytest.mark.parametrize(
    "condition",
    [{"year": 1999}, {"year": {"$gt": 2020}}, {"$not": {"yeer": 1}}, {"lang": {"$in": [1, "en"]}}, {"lang": "fr"}],
)
def test_a_filter_that_may_match_is_not_told_of(col, caplog, condition):
    col.count(condition)
    with bqstore.open() as empty:
        empty.count({"yeer": 1})
    assert not caplog.records


# ---- opening


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("s", "cosine"), "collection is 'cosine', which is a value of distance: write distance='cosine'"),
        (("s", "L2"), "a value of distance"),
        (("s", "one_bit"), "write encoding='one_bit'"),
        ((None, "dot"), "write distance='dot'"),
        ((":memory:",), "leave path out to keep everything in memory"),
        (("file:x?mode=memory",), "leave path out to keep everything in memory"),
        (("s", 1536), "collection is 1536; expected a name"),
        (("s", "a/b"), "a name has no '/': the folder of the store goes into path="),
        (("s", "x" * 201), "a name of 201 characters"),
        (("s", "日" * 30), "a name of 30 characters; its folder's name would have 270 of at most 200"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_opening(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=words):
        bqstore.open(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_collection_that_has_such_a_name_is_opened(tmp_path):
    bqstore.open(tmp_path, "x").close()
    (tmp_path / "x").rename(tmp_path / "cosine")
    assert bqstore.open(tmp_path, "cosine").info().collection == "cosine"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("chroma.sqlite3", "store of Chroma"),
        ("index.faiss", "store of FAISS"),
        ("docstore.json", "store of LlamaIndex"),
        ("notes.lance", "table of LanceDB"),
    ],
)
def test_the_folder_of_another_store_is_not_taken_for_an_empty_one(tmp_path, caplog, name, other):
    (tmp_path / name).mkdir() if name.endswith(".lance") else (tmp_path / name).write_bytes(b"")
    with pytest.raises(InvalidInputError, match=f"holds {name}, a {other}"):
        bqstore.open(tmp_path)
    for call in (lambda: bqstore.load(tmp_path), lambda: bqstore.drop(tmp_path, "notes")):
        with pytest.raises(bqstore.NotFoundError, match=f"there are: none; it holds {name}, a {other}"):
            call()
    with caplog.at_level(logging.WARNING, logger="bqstore"):
        assert bqstore.collections(tmp_path) == []
    assert f"holds {name}, a {other}, and no collection of bqstore" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_whose_name_ends_like_that_of_a_table_was_taken_for_one(tmp_path):
    (tmp_path / "free.lance").write_bytes(b"")
    with bqstore.open(tmp_path):
        pass


def test_the_folder_of_a_collection_is_not_a_store(tmp_path):
    bqstore.open(tmp_path / "store", "docs").close()
    with pytest.raises(
        InvalidInputError, match=r"is a collection itself; open its store: path='.*store', collection='docs'"
    ):
        bqstore.open(tmp_path / "store" / "docs")
    assert bqstore.collections(tmp_path / "store") == ["docs"]


def test_a_name_that_is_misspelt_is_told_of(tmp_path, caplog):
    caplog.set_level(logging.INFO, "bqstore")
    for name, level, words in (
        ("documents", logging.INFO, "made a new store"),
        ("docments", logging.WARNING, "where there is 'documents' already; bqstore.drop() removes it"),
        ("users", logging.INFO, "beside 2 others"),
        ("tenant 1", logging.INFO, "beside 3 others"),
        ("tenant 12", logging.INFO, "beside 4 others"),  # of a numbered row was told as misspelt
        ("tenent 12", logging.WARNING, "where there is 'tenant 12' already"),
    ):
        caplog.clear()
        bqstore.open(tmp_path, name).close()
        bqstore.open(tmp_path, name).close()  # not new any more
        assert [(record.levelno, words in record.getMessage()) for record in caplog.records] == [(level, True)]
    with pytest.raises(bqstore.NotFoundError, match="did you mean 'users'"):
        bqstore.open(tmp_path, "user", read_only=True)


def test_much_in_memory_alone_is_told_of(caplog, monkeypatch):
    """No path may be meant, or forgotten."""
    from bqstore.engine import writes

    monkeypatch.setattr(writes, "_MUCH", 5)
    with bqstore.open() as col:
        for _ in range(4):
            col.add(np.ones((2, 2)))
    (record,) = caplog.records
    assert "6 documents are in memory alone" in record.getMessage() and record.levelno == logging.WARNING


# ---- adding


def test_what_was_replaced_is_told(col, caplog):
    caplog.set_level(logging.INFO, "bqstore")
    assert col.add(np.eye(2), ["c", "d"]).replaced == 0 and not caplog.records
    added = col.add(np.eye(2)[[0, 1, 0]], ["a", "x", "x"])
    assert added == ["a", "x", "x"] and added.replaced == 1 and added.skipped == []
    (record,) = caplog.records
    assert (
        "added 2 documents, 1 of them in the place of others with their ids; 1 had the id of a later"
        in record.getMessage()
    )
    assert col.get(["a"]) == [bqstore.Record("a", None, {})]


def test_an_error_names_the_document_and_its_place(col):
    for arguments, index, words in (
        ({"vectors": [[1, 0], [np.nan, 0]]}, 1, r"vector 1 holds NaN or infinity.* \(document 'y'\)$"),
        ({"vectors": np.eye(2), "texts": ["t", 5]}, 1, r"text 1 is an int.* \(document 'y'\)$"),
        ({"vectors": np.eye(2), "metadatas": [{"k": 1j}, {}]}, 0, r"metadata 0 .*'k': a complex.* \(document 'x'\)$"),
    ):
        with pytest.raises(InvalidInputError, match=words) as caught:
            col.add(ids=["x", "y"], **arguments)
        assert caught.value.index == index
    with pytest.raises(InvalidInputError, match="id 1 has 0 bytes") as caught:
        col.add(np.eye(2), ids=["x", ""])
    assert caught.value.index == 1 and len(col) == 2


def test_an_error_of_a_change_did_not_name_the_document(col):
    for call in (
        lambda: col.update(["a", "b"], vectors=[[1, 0], [np.nan, 0]]),
        lambda: col.update(["a", "b"], texts=["t", 5]),
        lambda: col.update(["a", "b"], metadatas=[{}, {"k": 1j}]),
        lambda: col.update_metadata(["a", "b"], [{}, {"k": 1j}]),
    ):
        with pytest.raises(InvalidInputError, match=r"^(vector|text|metadata) 1 .* \(document 'b'\)$") as caught:
            call()
        assert caught.value.index == 1
    with pytest.raises(InvalidInputError, match="vector 1 is a str, not a row of numbers"):
        col.add([[1, 0], "of"])  # as many characters as dimensions


@pytest.mark.parametrize("name", ["ids", "texts", "metadatas"])
def test_a_set_gave_documents_the_ids_and_texts_of_others(col, name):
    with pytest.raises(InvalidInputError, match=f"{name} is a set, which has no order; expected a list"):
        col.add(np.eye(2), **{name: {"x", "y"}})
    with pytest.raises(InvalidInputError, match="ids is a frozenset, which has no order"):
        col.update(frozenset(["a", "b"]), texts=["one", "two"])
    with pytest.raises(InvalidInputError, match="ids is a set, which has no order"):
        col.update_metadata({"a", "b"}, [{}, {}])
    for call in (col.update, col.update_metadata):
        with pytest.raises(InvalidInputError, match="ids is a set, which has no order"):
            call({"a", "b"}, expires_at=[60, 3600])
        assert call({"a", "b"}, expires_at=3600) == 2
    assert col.update_metadata({"a", "b"}, {"seen": True}) == 2 == col.delete({"a", "b"})  # for all of them the same


def test_what_is_skipped_is_returned_with_the_reason(col):
    vectors = [[1, 0], [np.inf, 0], [0, 1], [1, 2, 3], [0, 2], "text"]
    metadatas = [{}, {}, {"x": object()}, {}, {"n": 1}, {}]
    added = col.add(vectors, ["p", "q", "r", "s", None, "t"], metadatas=metadatas, on_error="skip")
    assert added[0] == "p" and len(added) == 2 and len(col) == 4
    assert [(each.index, each.id) for each in added.skipped] == [(1, "q"), (2, "r"), (3, "s"), (5, "t")]
    reasons = [each.reason for each in added.skipped]
    assert reasons[0].startswith("vector 1 holds NaN") and reasons[1].startswith(
        "metadata 2 cannot be written as JSON: 'x'"
    )
    assert reasons[2].startswith("vector 3 has 3 dimensions; this collection holds 2")
    assert col.get([added[1]])[0].metadata == {"n": 1}
    with pytest.raises(InvalidInputError, match="ids has 1 entry for 2 vectors"):
        col.add(np.eye(2), ["x"], on_error="skip")
    with pytest.raises(InvalidInputError, match="on_error is 'ignore'; expected one of 'raise', 'skip'"):
        col.add(np.eye(2), on_error="ignore")
    assert col.add([[np.nan, 0]], on_error="skip") == [] and len(col) == 4


def test_skipping_leaves_the_dimension_to_the_first_good_vector():
    with bqstore.open() as col:
        added = col.add([["a"], [1.0, 2.0, 3.0], [1.0, 2.0]], on_error="skip")
        assert len(added) == 1 and col.info().dim == 3 and [each.index for each in added.skipped] == [0, 2]


# ---- keywords


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.search([1.0, 0.0], where_document={"$contains": "x"}), "texts are tested by a function"),
        (lambda c: c.search([1.0, 0.0], fetch_k=20), "fetch_k belongs to max_marginal_relevance"),
        (lambda c: c.search([1.0, 0.0], lambda_mult=0.5), "lambda_mult belongs to max_marginal_relevance"),
        (lambda c: c.search([1.0, 0.0], persist_directory="x"), "path is set when the store is opened"),
        (lambda c: c.search([1.0, 0.0], offset=5), r"offset is a keyword of scroll\(\)"),
        (lambda c: c.search([1.0, 0.0], ids=["a"]), r"more_like\(ids\) searches by documents"),
        (lambda c: c.search(query_texts=["one"]), "embed them first"),
        (lambda c: c.search(query_vectors=[1.0, 0.0]), "did you mean 'vector'"),
        (lambda c: c.search([1.0, 0.0], text_index=True), r"is opened, and changed by set_text_index\(\)"),
        (lambda c: c.search([1.0, 0.0], with_payload=True), "texts and metadata always come"),
        (lambda c: c.add([[1.0, 0.0]], oversampling=4.0), "as the default of searches, of which it is a keyword"),
        (lambda c: c.get(where={"year": 2020}), r"filter is a keyword of scroll\(\), which lists documents"),
        (lambda c: c.get(limit=5), r"limit is a keyword of scroll\(\)"),
        (lambda c: c.scroll(n_results=5), "did you mean 'limit'"),
        (lambda c: c.facets(key="year"), "did you mean 'field'"),
        (lambda c: c.more_like(positive=["a"]), "did you mean 'ids'"),
        (lambda c: bqstore.open(k=5), "k is a keyword of searches"),
        (lambda c: bqstore.open(score_threshold=0.5), "score_threshold is a keyword of searches"),
        (lambda c: bqstore.open(where={}), "filter is a keyword of searches"),
        (lambda c: bqstore.collections(None), "path is None; expected the folder of a store$"),
        (lambda c: bqstore.open(distance="COSINE"), "did you mean 'cosine'"),
    ],
)
def test_a_keyword_that_means_something_elsewhere_says_where(col, call, words):
    with pytest.raises((UnknownKeywordError, InvalidInputError), match=words):
        call(col)


@pytest.mark.parametrize(
    ("path", "listed", "refused", "near"),
    [
        (None, "lock_timeout, m, mode, ", ("api_key", "timeout", "shard_number", "tenant_field"), "'lock_timeout'"),
        ("s", "lock_timeout, m, mode, ", ("api_key", "timeout", "shard_number", "tenant_field"), "'lock_timeout'"),
        ("qdrant://host:1/name", "tenant_field, text_index, timeout", ("lock_timeout", "mode"), "'timeout'"),
    ],
)
def test_keywords_that_are_refused_there_were_listed_as_known(path, listed, refused, near):
    for call in (bqstore.open, bqstore.open_flat):
        with pytest.raises(UnknownKeywordError, match=listed) as caught:
            call(path, nonsense=1)
        assert not set(refused) & set(str(caught.value).split("known: ")[1].split(", "))
        with pytest.raises(UnknownKeywordError, match=f"did you mean {near}"):
            call(path, timeot=1)
    with pytest.raises(UnknownKeywordError, match=r"there is no server.*did you mean 'lock_timeout'"):
        bqstore.open(timeout=1)
