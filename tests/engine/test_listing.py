"""Documents without a vector: ids, scroll and its order, facets, the first that match; several vectors at once."""

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqstore
from bqstore import InvalidInputError
from tests.conftest import often

UTC = datetime.timezone.utc
DAY = datetime.date(2024, 5, 6)


@pytest.fixture(params=["memory", "disk"])
def col(request, tmp_path):
    with bqstore.open(None if request.param == "memory" else tmp_path) as col:
        metadatas = [
            {"n": 3, "tags": ["x", "y", "x"]},
            {"n": "b", "tags": ["x"]},
            {"n": 2.5, "tags": "y"},
            {"tags": [1, True, None]},
            {"n": None},
            {"n": "a", "tags": {"k": 1}},
        ]
        col.add(np.eye(6, 3) + 0.1, list("abcdef"), texts=list("ABCDEF"), metadatas=metadatas)
        yield col


def scrolled(col, **arguments):
    return "".join(record.id for record in col.scroll(**arguments))


def test_ids_and_iteration(col):
    assert col.ids() == list(col) == list("abcdef") and col.ids({"tags": "x"}) == ["a", "b"]
    assert all(id_ in col for id_ in col) and col.ids(lambda record: record.text in "CD") == ["c", "d"]
    col.delete(["b"])
    assert col.ids() == list("acdef")


def test_scroll_takes_a_part_in_an_order(col):
    assert scrolled(col, limit=2) == "ab" and scrolled(col, limit=2, offset=3) == "de" and scrolled(col, offset=9) == ""
    assert scrolled(col, order_by="n") == "cafbed"  # numbers, strings, null, missing
    assert scrolled(col, order_by="n", descending=True) == "ebfacd"
    assert scrolled(col, order_by="n", limit=2, offset=1, batch=1) == "af"
    assert scrolled(col, filter={"n": {"$exists": True}}, order_by="n", limit=3) == "caf"
    assert scrolled(col, order_by="nothing") == "abcdef"
    assert [record.vector.tolist() for record in col.scroll(limit=1, with_vectors=True)] == [
        np.float32([1.1, 0.1, 0.1]).tolist()
    ]
    for arguments, words in (
        ({"limit": -1}, "limit is -1"),
        ({"offset": 1.5}, "offset is 1.5"),
        ({"order_by": "$n"}, r"order_by is '\$n'; expected the name of a metadata field"),
        ({"order_by": 3}, "order_by is 3"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            col.scroll(**arguments)


def test_facets_and_distinct(col):
    assert col.facets("tags") == [("x", 2), ("y", 2), (1, 1), (None, 1), (True, 1)]
    assert col.facets("tags", {"n": {"$gt": 0}}) == [("y", 2), ("x", 1)] and col.facets("tags", limit=1) == [("x", 2)]
    assert col.distinct("n") == [2.5, 3, "a", "b", None] and col.distinct("nothing") == []
    assert [type(value) for value in col.distinct("tags")] == [int, str, str, bool, type(None)]
    col.update_metadata(["a", "b"], {"when": datetime.datetime(2024, 5, 6, 9, tzinfo=UTC)})
    col.update_metadata(["c"], {"when": DAY})
    assert col.distinct("when") == ["2024-05-06", datetime.datetime(2024, 5, 6, 9, tzinfo=UTC)]
    with pytest.raises(InvalidInputError, match="expected a dict"):
        col.facets("n", lambda record: True)
    col.update_metadata(["a"], {"n": "x" * 70_000})
    with pytest.raises(InvalidInputError, match="65,536 characters"):
        col.facets("n")


values = st.sampled_from([0, 1, 1.0, True, False, "a", "b", None, 2.5])


@settings(max_examples=often(30), deadline=None)
@given(
    st.lists(
        st.one_of(st.just({}), values.map(lambda v: {"x": v}), st.lists(values, max_size=3).map(lambda v: {"x": v}))
    )
)
def test_facets_and_order_agree_with_reading_documents(metadatas):
    with bqstore.open() as col:
        names = [f"{i}" for i in range(len(metadatas))]
        col.add(np.ones((len(metadatas), 2)), names, metadatas=metadatas)
        wanted = {}
        for metadata in metadatas:
            found = metadata.get("x", [])
            for key in {(isinstance(v, bool), v) for v in (found if isinstance(found, list) else [found])}:
                wanted[key] = wanted.get(key, 0) + 1
        assert {(isinstance(value, bool), value): count for value, count in col.facets("x")} == wanted

        def place(i):
            value = metadatas[i].get("x", ...)
            classes = [
                (... is value, 9),
                (isinstance(value, list), 5),
                (value is None, 4),
                (isinstance(value, bool), 3),
            ]
            for is_it, rank in classes:
                if is_it:
                    return rank, value if rank == 3 else 0
            return (1, value) if isinstance(value, str) else (0, value)

        expected = [names[i] for i in sorted(range(len(metadatas)), key=place)]
        assert [record.id for record in col.scroll(order_by="x")] == expected


def test_a_filter_alone_finds_the_first_that_match(col):
    hits = col.search(None, 2, filter={"tags": ["x", "y"]}, with_vectors=True)
    assert [(hit.id, hit.score, hit.text) for hit in hits] == [("a", 0.0, "A"), ("b", 0.0, "B")]
    assert hits[1].vector.tolist() == np.float32([0.1, 1.1, 0.1]).tolist()
    ids, scores = col.search_ids(None, 3, filter={"tags": "x"})
    assert ids.tolist() == [["a", "b", None]] and scores[0, :2].tolist() == [0, 0] and np.isnan(scores[0, 2])
    assert [hit.id for hit in col.search(None, 1, filter={})] == ["a"] and col.search(None, filter={"n": 99}) == []
    assert [hit.id for hit in col.search(None, filter=lambda record: record.text == "F")] == ["f"]
    assert col.search(None, filter={}, score_threshold=0.5) == []
    with pytest.raises(InvalidInputError, match="the query vector is None"):
        col.search(None)


def test_more_like_documents_and_vectors():
    with bqstore.open() as col:
        angles = np.linspace(0, np.pi / 2, 10)
        col.add(np.stack([np.cos(angles), np.sin(angles)], 1) * np.arange(1, 11)[:, None], [f"{i}" for i in range(10)])
        assert (
            [hit.id for hit in col.more_like(["0"], 3)] == [hit.id for hit in col.more_like("0", 3)] == ["1", "2", "3"]
        )
        assert {hit.id for hit in col.more_like(["0", "9"], 2)} == {"4", "5"}  # between them, whatever their lengths
        assert {hit.id for hit in col.more_like(["0", "9"], 2, combine="best")} == {"1", "8"}
        found = col.more_like(["0"], 2, vectors=[[0.0, 1.0]], combine="best", filter={"x": {"$exists": False}})
        assert {hit.id for hit in found} == {"9", "1"} and found[0].score >= found[1].score
        assert len(col.more_like(["0"], 100)) == 9
        with pytest.raises(bqstore.NotFoundError, match="no document 'z'"):
            col.more_like(["z"])
        for arguments, words in (
            ({}, "needs ids or vectors"),
            ({"vectors": [[1.0]]}, "1 dimension"),
            ({"ids": ["0"], "combine": "max"}, "combine is 'max'"),
        ):
            with pytest.raises(InvalidInputError, match=words):
                col.more_like(**arguments)


# ---- changing parts


def test_update_changes_what_is_given_and_leaves_the_rest(col):
    before = {record.id: record for record in col.scroll(with_vectors=True)}
    assert col.update(["a", "zz", "b"], texts=["new", "?", None], metadatas=[None, {}, {"m": 1}]) == 2
    assert col.get(["a"]) == [bqstore.Record("a", "new", before["a"].metadata)]
    assert col.get(["b"]) == [bqstore.Record("b", "B", {**before["b"].metadata, "m": 1})]
    assert col.update(["c", "d"], vectors=[[0, 0, 9], [0, 9, 0]]) == 2
    (hit,) = col.search([0, 0, 1], 1, with_vectors=True)
    assert (hit.id, hit.text, hit.metadata, hit.vector.tolist()) == ("c", "C", before["c"].metadata, [0, 0, 9])
    assert col.update(["e"], vectors=[[9, 9, 0]], texts=["E2"], metadatas=[{"k": DAY}], replace=True) == 1
    assert col.get(["e"]) == [bqstore.Record("e", "E2", {"k": DAY})] and len(col) == 6 and col.verify().ok
    assert col.count({"m": 1}) == col.count({"k": DAY}) == 1 and sorted(col) == list("abcdef")
    assert col.update([], texts=[]) == 0 and col.update(["zz"], vectors=[[1, 1, 1]]) == 0
    for arguments, words in (
        ({}, "nothing to change"),
        ({"texts": ["x", "y"]}, "texts has 2 entries for 1 id"),
        ({"vectors": [[1, 2]]}, "vector 0 has 2 dimensions"),
        ({"vectors": [[1, 2, 3], [1, 2, 3]]}, "vectors has 2 entries for 1 id; expected one each"),
        ({"texts": [5]}, "text 0 is an int"),
        ({"metadatas": [{"x": 1j}]}, "metadata 0 cannot"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            col.update(["a"], **arguments)


def test_metadata_is_changed_by_a_filter(col):
    assert col.update_metadata(metadata={"old": True}, filter={"tags": "x"}) == 2
    assert col.update_metadata(["b", "c"], {"old": False}, filter={"tags": "x"}) == 1
    assert col.ids({"old": True}) == ["a"] and col.ids({"old": False}) == ["b"]
    assert col.update_metadata(metadata={"only": 1}, filter=lambda record: record.id == "f", replace=True) == 1
    assert col.get(["f"])[0].metadata == {"only": 1}
    for arguments, words in (
        ({"metadata": {"x": 1}}, "needs ids or a filter"),
        ({"metadata": [{}], "filter": {"a": 1}}, "expected one dict"),
        ({"metadata": {"x": 1j}, "filter": {"a": 1}}, "cannot be written"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            col.update_metadata(**arguments)


def test_a_cleared_collection_takes_another_dimension_and_model(tmp_path):
    """It kept both, and had to be made under another name."""
    with bqstore.open(tmp_path, embedding_model="old", dim=3) as col:
        col.add(np.eye(3))
        col.clear()
        assert col.info().dim is None and col.info().embedding_model == "old"
        col.check_model("new", 2, remember=True)
        with pytest.raises(bqstore.SettingsConflictError), bqstore.open(tmp_path) as other:
            other.add(np.eye(2), ["x", "y"])
            other.check_model("newer")
        col.clear()
        col.add(np.eye(2), ["a", "b"])
        assert col.search([1.0, 0.0], 1)[0].id == "a"
    with bqstore.open(tmp_path, embedding_model="new", dim=2) as col:
        assert len(col) == 2 and col.verify().ok
        col.clear()
    with bqstore.open(tmp_path, embedding_model="newest", dim=5) as col:
        assert (col.info().embedding_model, col.info().dim) == ("newest", 5)


def test_a_notebook_shows_settings_and_nothing_of_documents(tmp_path):
    with bqstore.open(tmp_path, "<b>", embedding_model="m<") as col:
        col.add(np.eye(2), texts=["secret", "secret"], metadatas=[{"secret": 1}, {}])
        shown = col._repr_html_()
    assert "&lt;b&gt;" in shown and "m&lt;" in shown and "secret" not in shown and "secret" not in repr(col)
    assert "closed" in col._repr_html_()
