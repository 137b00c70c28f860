"""`add_stream`: documents of an iterable, in portions that are durable before the next is asked for."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore.errors import InvalidInputError, UnknownKeywordError

VECTORS = np.random.default_rng(0).standard_normal((250, 8)).astype(np.float32)


def documents(n, start=0):
    for i in range(start, n):
        yield {"vector": VECTORS[i], "id": f"d{i}", "text": f"text {i}", "metadata": {"i": i}}


def test_a_stream_gives_what_one_add_gives(tmp_path):
    names = [f"d{i}" for i in range(250)]
    texts, metadatas = [f"text {i}" for i in range(250)], [{"i": i} for i in range(250)]
    with bqstore.open() as whole, bqstore.open(tmp_path) as col:
        whole.add(VECTORS, names, texts, metadatas)
        assert col.add_stream(documents(250), batch_size=60) == bqstore.StreamReport(250, 0, [])
        assert list(col.scroll(with_vectors=True)) == list(whole.scroll(with_vectors=True))
        np.testing.assert_array_equal(next(col.scroll(with_vectors=True)).vector, VECTORS[0])
        assert col.add_stream(documents(100), batch_size=60).replaced == 100
    with bqstore.open(tmp_path) as col:
        assert len(col) == 250 and col.verify().ok


@pytest.mark.parametrize(
    "form", [iter, list, np.array, lambda rows: (row.tolist() for row in rows), lambda rows: map(tuple, rows)]
)
def test_vectors_alone(form):
    with bqstore.open() as col:
        assert col.add_stream(form(VECTORS[:25]), batch_size=10).added == len(col) == 25
        hit = col.search(VECTORS[17], 1, with_vectors=True)[0]
        np.testing.assert_array_equal(hit.vector, VECTORS[17])


def test_one_collection_is_streamed_into_another():
    with bqstore.open() as col, bqstore.open(distance="dot") as other:
        col.add_stream(documents(250))
        other.add_stream(col.scroll(with_vectors=True), batch_size=100)
        assert list(other.scroll()) == list(col.scroll())
        assert other.add_stream(col.search(VECTORS[0], 5, with_vectors=True)).replaced == 5
        with pytest.raises(InvalidInputError, match=r"document 0 has no vector; .*with_vectors=True"):
            other.add_stream(col.scroll())


def test_no_more_is_read_than_is_stored_before():
    """What is asked for next may depend on it, and memory holds a portion."""
    with bqstore.open() as col:
        lengths = []

        def looking():
            for each in documents(25):
                lengths.append(len(col))
                yield each

        col.add_stream(looking(), batch_size=10)
        assert lengths == [0] * 10 + [10] * 10 + [20] * 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_ends_the_iterable_leaves_earlier_portions(tmp_path, error):
    def ends():
        yield from documents(25)
        raise error("of the source")

    with bqstore.open(tmp_path) as col:
        with pytest.raises(error, match="of the source"):
            col.add_stream(ends(), batch_size=10)
        assert len(col) == 20
        assert col.add_stream(documents(25), batch_size=10) == bqstore.StreamReport(25, 20, [])


def test_a_bad_document_is_named_by_its_place_in_the_stream():
    bad = VECTORS.copy()
    bad[23, 3] = np.nan
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError, match=r"the portion behind the first 20, which are stored\)") as info:
            col.add_stream(bad, batch_size=10)
        assert info.value.index == 23 and len(col) == 20
        report = col.add_stream(bad, batch_size=10, on_error="skip")
        assert (report.added, [each.index for each in report.skipped]) == (249, [23])


def test_what_is_no_vector_was_refused_where_bad_documents_are_skipped():
    given = [{"id": "none"}, [1.0, 0.0], 7.0, np.ones((3, 2)), {"vector": [0.0, 1.0], "id": "good"}]
    with bqstore.open() as col:
        report = col.add_stream(given, batch_size=2, on_error="skip")
        assert (report.added, [(each.index, each.id) for each in report.skipped]) == (
            2,
            [(0, "none"), (2, None), (3, None)],
        )
        with pytest.raises(UnknownKeywordError, match="document 0 has no keyword"):
            col.add_stream([{"vectr": [1.0, 0.0]}], on_error="skip")


def test_times_when_documents_are_over_come_along():
    with bqstore.open() as col, bqstore.open() as other:
        col.add_stream([{"vector": [1.0, 0.0], "id": "a", "expires_at": 3600}, {"vector": [0.0, 1.0], "id": "b"}])
        other.add_stream(col.scroll(with_vectors=True))
        for each in (col, other):
            assert {r.id: bqstore.EXPIRES_AT_KEY in r.metadata for r in each.scroll()} == {"a": True, "b": False}
        assert list(other.scroll()) == list(col.scroll())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("text", "documents is of type str; expected an iterable of vectors, records or dicts"),
        ({"vector": [1.0]}, "documents is of type dict"),
        (None, "documents is of type NoneType"),
        ([1.0, 2.0], "document 0 has a number in the place of a vector"),
        (iter([np.ones((5, 2))]), r"document 0 has an array of shape \(5, 2\).*chain.from_iterable"),
        ([{"id": "a"}], "document 0 has no vector"),
        (SimpleNamespace(columns=["vector"]), "documents is a SimpleNamespace; .*its rows as dicts"),  # as frames have
        (["one", "two"], "vectors holds text; embed it first"),
        ([[1.0, 0.0], [1.0]], "document 1|vector 1"),
    ],
)
def test_what_is_no_stream_is_refused_by_name(given, said):
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError, match=said):
            col.add_stream(given)
        assert len(col) == 0


def test_keywords_and_parts_are_checked():
    async def asynchronous():
        yield [1.0]

    with bqstore.open() as col:
        with pytest.raises(UnknownKeywordError, match="document 1 has no keyword 'embedding'; did you mean 'vector'"):
            col.add_stream([{"vector": [1.0]}, {"embedding": [1.0]}])
        with pytest.raises(UnknownKeywordError, match="did you mean 'batch_size'"):
            col.add_stream([], chunk_size=3)
        for wrong in (0, True, 2.5):
            with pytest.raises(InvalidInputError, match="batch_size is"):
                col.add_stream([], batch_size=wrong)
        with pytest.raises(InvalidInputError, match=r"asynchronous.*await bqstore.writing"):
            col.add_stream(asynchronous())
        assert col.add_stream([]) == bqstore.StreamReport(0, 0, [])
    with pytest.raises(bqstore.ClosedError):
        col.add_stream([])


def test_blocks_are_chained():
    with bqstore.open() as col:
        assert col.add_stream(itertools.chain.from_iterable([VECTORS[:100], VECTORS[100:]])).added == 250
