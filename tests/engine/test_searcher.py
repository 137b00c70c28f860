"""A search that is prepared once: it finds what `search` and `search_ids` find, whatever happens to the collection."""

import gc
import pickle
import threading
import weakref
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

import bqstore
from bqstore import clock
from bqstore.engine import options
from tests.conftest import clustered
from tests.engine.given import BITS, let_walk, settle_early
from tests.engine.other_process import other_process

N, DIM = 500, 24
FILTERS = {
    "none": None,
    "half": {"odd": True},
    "few": {"n": {"$lt": 20}},
    "nothing": {"n": -1},
    "a function": lambda record: record.metadata["n"] % 3 == 0,
}
WAYS = {
    "as planned": {},
    "exact": {"exact": True},
    "wide": {"hnsw_ef": 1_000_000},
    "few hits": {"score_threshold": 0.2},
}


def filled(path=None, n=N, **settings):
    col = bqstore.open(path, **{"hnsw": BITS, **settings})
    add(col, n)
    return col


def add(col, n, start=0, seed=0):
    metadatas = [{"n": i, "odd": i % 2 == 1} for i in range(start, start + n)]
    col.add(
        clustered(n, DIM, seed=seed),
        [f"id {i}" for i in range(start, start + n)],
        [f"{i}" for i in range(n)],
        metadatas,
    )


def queries(m=3):
    return clustered(m, DIM, seed=9)


def check_same(searcher, col, **given):
    """The searcher finds what the collection finds."""
    for query in queries():
        ids, scores = searcher.search_ids(query)
        expected, wanted = col.search_ids(query, **given)
        assert ids.tolist() == expected.tolist() and (ids.dtype, ids.shape) == (expected.dtype, expected.shape)
        assert scores.tobytes() == wanted.tobytes() and (scores.dtype, scores.shape) == (wanted.dtype, wanted.shape)
        assert searcher.search(query) == col.search(query, **given)


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("encoding", ["one_bit", "two_bits", "four_bits"])
def test_it_finds_what_searches_find(monkeypatch, encoding, distance):
    settle_early(monkeypatch, 400)
    let_walk(monkeypatch)
    estimator = "sign" if encoding == "one_bit" else "rabitq"
    with filled(distance=distance, encoding=encoding, estimator=estimator, target_recall=0) as col:
        col.delete([f"id {i}" for i in range(0, N, 9)])
        ways = {col.search(queries()[0], explain=True, **way).explanation.way for way in WAYS.values()}
        assert ways == {"walk", "exact", "scan"}
        for i, filter in enumerate(FILTERS.values()):
            for j, way in enumerate(WAYS.values()):
                if filter is None or not callable(filter) or not way:
                    given = {"k": (1, 10, 40, N)[(i + j) % 4], "filter": filter, **way}
                    check_same(col.searcher(**given), col, **given)


@pytest.mark.parametrize("originals", ["float16", "int8", "none"])
def test_it_finds_what_searches_find_in_smaller_originals(tmp_path, originals):
    with filled(tmp_path, originals=originals, target_recall=0) as col:
        check_same(col.searcher(), col)
        if originals != "none":
            with_vectors = col.searcher(3, with_vectors=True).search(queries()[0])
            for one, other in zip(with_vectors, col.search(queries()[0], 3, with_vectors=True), strict=True):
                assert one == other and one.vector.tobytes() == other.vector.tobytes()


@pytest.mark.parametrize("given", [{}, {"filter": {"odd": True}}, {"k": 3, "filter": {"n": {"$gte": 0}}}], ids=str)
def test_it_follows_what_is_done_to_the_collection(tmp_path, given):
    with filled(tmp_path, target_recall=0) as col, bqstore.open(tmp_path, read_only=True) as reader:
        both = [(col.searcher(**given), col), (reader.searcher(**given), reader)]
        best = col.search(queries()[0], **given)[0].id
        for change in (
            lambda: col.update_metadata([best], {"new": [1]}),
            lambda: col.update([best], texts=["another"]),
            lambda: col.add(queries()[:1], ["nearest"], metadatas=[{"n": 1, "odd": True}]),
            lambda: col.update(["nearest"], vectors=-queries()[:1]),
            lambda: col.delete([best]),
            lambda: col.requantize(encoding="two_bits", estimator="rabitq"),
            col.compact,
            lambda: col.tune(0.5),
            col.clear,
            lambda: add(col, 30, seed=3),
        ):
            change()
            for searcher, opening in both:
                check_same(searcher, opening, **given)
        assert both[0][0].search(queries()[0])


def test_it_follows_other_processes(tmp_path):
    with filled(tmp_path, 40) as col, other_process(tmp_path) as other:
        searcher, query = col.searcher(1), queries()[0]
        first = searcher.search(query)[0]
        other(f"col.update([{first.id!r}], texts=['another'])")
        assert searcher.search(query)[0].text == "another"
        other(f"col.delete([{first.id!r}])")
        assert searcher.search_ids(query)[0].tolist() == col.search_ids(query, 1)[0].tolist() != [[first.id]]
        other("col.clear(); col.add([[1.0, 0.0]], ['short'])")
        with pytest.raises(bqstore.InvalidInputError, match=f"has {DIM} dimensions; this collection holds 2"):
            searcher.search_ids(query)
        assert searcher.search_ids([0.0, 1.0])[0].tolist() == [["short"]]


def test_it_finds_no_document_that_is_over(monkeypatch):
    now = [datetime(2026, 1, 1, tzinfo=timezone.utc)]
    monkeypatch.setattr(clock, "now", lambda: int(now[0].timestamp()) * 1_000_000)
    with filled(n=20) as col:
        col.add(queries()[:1], ["soon over"], expires_at=now[0] + timedelta(seconds=10))
        searcher = col.searcher(1)
        assert searcher.search(queries()[0])[0].id == "soon over" == searcher.search_ids(queries()[0])[0][0, 0]
        now[0] += timedelta(seconds=11)
        assert searcher.search(queries()[0])[0].id != "soon over" != searcher.search_ids(queries()[0])[0][0, 0]
        now[0] -= timedelta(seconds=5)  # the clock is set back
        assert searcher.search(queries()[0])[0].id == "soon over"


def test_it_is_right_beside_a_writer(tmp_path):
    """Every answer is of one commit: all or none of the documents of a batch."""
    with filled(tmp_path, 50) as col:
        query = queries()[:1]
        searcher, done, wrong = col.searcher(4), threading.Event(), []

        def read():
            while not done.is_set():
                ids = [id_ for id_ in searcher.search_ids(query[0])[0][0] if id_.startswith("new")]
                texts = {hit.text for hit in searcher.search(query[0]) if hit.id.startswith("new")}
                if len(ids) not in (0, 4) or len(texts) > 1:
                    wrong.append((ids, texts))

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        names = [f"new {i}" for i in range(4)]
        for turn in range(15):
            col.add(np.repeat(query, 4, axis=0), names, [f"of turn {turn}"] * 4)
            col.update(names, texts=[f"changed {turn}"] * 4)
            assert {hit.text for hit in searcher.search(query[0])} == {f"changed {turn}"}
            if turn % 2:
                col.delete(names)
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_function_is_asked_anew_for_each_search():
    wanted = {"id 3"}
    with filled(n=30) as col:
        searcher = col.searcher(5, filter=lambda record: record.id in wanted)
        assert [hit.id for hit in searcher.search(queries()[0])] == ["id 3"]
        wanted.add("id 4")
        assert {hit.id for hit in searcher.search(queries()[0])} == {"id 3", "id 4"}
        assert {id_ for id_ in searcher.search_ids(queries()[0])[0][0] if id_} == {"id 3", "id 4"}


BAD = [
    np.full(DIM, np.nan, np.float32),
    [np.inf] * DIM,
    [1e300] * DIM,
    np.full(DIM, 1e30, np.float32),
    np.full(DIM, 1e-30, np.float32),
    np.ones(DIM + 1, np.float32),
    [1.0] * (DIM - 1),
    np.ones((1, DIM), np.float32),
    [0.5] * (DIM - 1) + ["0.5"],
    [0.5] * (DIM - 1) + [None],
    [0.5] * (DIM - 1) + [[0.5]],
    [0.5] * (DIM - 1) + [np.array([0.5])],
    [0.5] * (DIM - 1) + [0.5j],
    [[0.5] * DIM],
    [True] * DIM,
    [],
    "text",
    None,
    {"a": 1.0},
]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:30])
def test_a_bad_vector_is_the_error_of_a_search(bad, exact):
    with filled(n=20, full_scan_threshold=0, hnsw=None) as col:
        with pytest.raises(bqstore.InvalidInputError) as expected:
            col.search(bad, exact=exact)
        for call in (col.searcher(exact=exact).search, col.searcher(exact=exact).search_ids):
            with pytest.raises(bqstore.InvalidInputError) as caught:
                call(bad)
            assert str(caught.value) == str(expected.value)


def test_settings_that_cannot_be_are_refused_when_it_is_made():
    with filled(n=20, originals="none") as col:
        for given in ({"k": 0}, {"k": True}, {"oversampling": -1}, {"exact": True}, {"filter": {"n": {"$huh": 1}}}):
            with pytest.raises(bqstore.InvalidInputError) as expected:
                col.search(queries()[0], **given)
            with pytest.raises(bqstore.InvalidInputError) as caught:
                col.searcher(**given)
            assert str(caught.value) == str(expected.value)
        with pytest.raises(bqstore.UnknownKeywordError, match=r"searcher\(\) has no keyword 'top_k'; did you mean 'k'"):
            col.searcher(top_k=3)


def test_it_ends_with_its_collection_and_keeps_it_open_until_then():
    searcher = filled(n=20).searcher(3)  # nobody else holds the collection
    gc.collect()
    assert len(searcher.search(queries()[0])) == 3
    with filled(n=20) as col:
        searcher = col.searcher()
    for call in (searcher.search, searcher.search_ids):
        with pytest.raises(bqstore.ClosedError, match="this collection is closed"):
            call(queries()[0])


def test_an_open_collection_that_nobody_holds_any_more_is_closed_at_once():
    """Although states remember searches: by keys of their own, which do not lead back."""
    col = filled(n=20)
    engine, searcher = col._engine, col.searcher()
    searcher.search_ids(queries()[0])
    searcher.search(queries()[0])
    del col, searcher
    assert engine.closed  # without a collection of garbage


def test_one_that_is_not_used_keeps_no_old_state():
    with filled(n=20) as col:
        searcher = col.searcher()
        searcher.search_ids(queries()[0])
        old = weakref.ref(col._engine.publisher.state.data)
        add(col, 300, 20)
        col.compact()
        gc.collect()
        assert old() is None
        check_same(searcher, col)


def test_a_searcher_for_each_query_filled_the_memory_of_a_collection_that_nobody_writes_to():
    with filled(n=20) as col:
        for _ in range(600):
            col.searcher(3).search_ids(queries()[0])
        assert len(col._engine.publisher.state.prepared) <= 256


def test_it_goes_to_another_process_with_its_collection(tmp_path):
    with filled(tmp_path, 30) as col:
        searcher = col.searcher(2, filter={"odd": True})
        again = pickle.loads(pickle.dumps(searcher))
        assert again.search(queries()[0]) == searcher.search(queries()[0])
        assert repr(again).startswith("<Searcher {'k': 2, 'filter': {'odd': True}} of <Collection 'default' ")


def test_a_copy_of_one_without_rescoring_rescored(tmp_path):
    with filled(tmp_path, 300) as col:
        searcher, query = col.searcher(5, rescore=False), queries()[0]
        again = pickle.loads(pickle.dumps(searcher))
        assert again.search(query) == searcher.search(query) != col.search(query, 5)
        assert repr(searcher).startswith("<Searcher {'k': 5, 'rescore': False} of ")


def test_a_filter_that_the_caller_goes_on_to_change_was_that_of_its_copies(tmp_path):
    with filled(tmp_path, 30) as col:
        wanted = {"n": {"$in": [1, 2, 3]}}
        searcher, query = col.searcher(5, filter=wanted), queries()[0]
        wanted["n"]["$in"].append(4)
        again = pickle.loads(pickle.dumps(searcher))
        assert len(again.search(query)) == 3 and again.search(query) == searcher.search(query)
        assert "[1, 2, 3]}}" in repr(searcher)


def test_settings_looked_up_while_a_thread_took_over_new_ones_stayed_for_all_later_calls(monkeypatch):
    with filled(n=20) as col:
        engine, real = col._engine, options.options_of

        def overtaken(*given):
            made = real(*given)
            engine._options.clear()  # as another thread does that takes over new settings
            return made

        monkeypatch.setattr(options, "options_of", overtaken)
        old = engine.options(7)
        monkeypatch.undo()
        assert engine.options(7) is not old and engine.options(7) is engine.options(7)
