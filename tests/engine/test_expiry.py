"""Documents that expire: never returned once over, by any path, in any process, with a clock that is moved."""

import math
import pickle
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bqstore
from bqstore import InvalidInputError, NotFoundError, clock
from bqstore.engine import accept
from bqstore.importers import export, import_from
from bqstore.metadata import expiry
from bqstore.storage import head as heads
from tests.conftest import often
from tests.engine.given import settle_early
from tests.engine.other_process import other_process

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
DIM = 4


class Clock:
    """The clock of this process, moved by the test."""

    def __init__(self):
        self.at = START

    def __call__(self):
        return (self.at - EPOCH) // timedelta(microseconds=1)


@pytest.fixture
def moved(monkeypatch):
    clock_ = Clock()
    monkeypatch.setattr(clock, "now", clock_)
    return clock_


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM), dtype=np.float32)


def everything(col, ids):
    """What each path finds, as sets of ids."""
    query = np.ones(DIM, np.float32)
    words = {} if col.info().text_index is None else {"text": "word"}
    n = len(ids)
    found = {
        "search": [hit.id for hit in col.search(query, k=n)],
        "exact": [hit.id for hit in col.search(query, k=n, exact=True)],
        "batch": [hit.id for hit in col.search_batch([query], k=n)[0]],
        "ids of search": [id_ for id_ in col.search_ids(query, k=n)[0][0] if id_ is not None],
        "filter": [hit.id for hit in col.search(query, k=n, filter={"n": {"$gte": 0}})],
        "function": [hit.id for hit in col.search(query, k=n, filter=lambda record: True)],
        "filter alone": [hit.id for hit in col.search(k=n, filter={"n": {"$gte": 0}})],
        "ids of filter alone": [id_ for id_ in col.search_ids(k=n, filter={"n": {"$gte": 0}})[0][0] if id_ is not None],
        "damaged": [hit.id for hit in col.search(query, k=n, allow_damaged=True)],
        "damaged, filter": [hit.id for hit in col.search(query, k=n, filter={"n": {"$gte": 0}}, allow_damaged=True)],
        "mmr": [hit.id for hit in col.max_marginal_relevance(query, k=n)],
        "more like": [hit.id for hit in col.more_like(vectors=[query], k=n)],
        "get": [record.id for record in col.get(ids)],
        "get, vectors": [record.id for record in col.get(ids, with_vectors=True)],
        "scroll": [record.id for record in col.scroll()],
        "scroll in order": [record.id for record in col.scroll(order_by="n")],
        "ids": col.ids(),
        "iteration": list(col),
        "in": [id_ for id_ in ids if id_ in col],
    }
    if words:
        found["text"] = [hit.id for hit in col.search(k=n, **words)]
        found["text, filter"] = [hit.id for hit in col.search(k=n, filter={"n": {"$gte": 0}}, **words)]
        found["hybrid"] = [hit.id for hit in col.search(query, k=n, **words)]
        found["hybrid ids"] = [id_ for id_ in col.search_ids(query, k=n, texts="word")[0][0] if id_ is not None]
    assert all(len(each) == len(set(each)) for each in found.values())
    sets = {name: set(each) for name, each in found.items()}
    sizes = {len(col), col.count(), col.count({"n": {"$gte": 0}}), col.info().count, len(col.distinct("n"))}
    sizes |= {sum(count for _, count in col.facets("n"))}
    assert sizes == {len(sets["get"])}
    assert f" {len(sets['get']):,} documents" in repr(col)
    return sets


def check(col, ids, wanted):
    for name, found in everything(col, ids).items():
        assert found == set(wanted), name


def filled(path, n=8, **opening):
    """Documents 0 to n-1: of each second one the time is over after as many minutes as its number says."""
    col = bqstore.open(path, **opening)
    ids = [str(i) for i in range(n)]
    times = [timedelta(minutes=i) if i % 2 else None for i in range(n)]
    col.add(vectors(n), ids, [f"word {i}" for i in range(n)], [{"n": i} for i in range(n)], expires_at=times)
    return col, ids


@pytest.mark.parametrize("opening", [{}, {"text_index": True, "hnsw": {"full_scan_threshold": 0}}])
@pytest.mark.parametrize("place", [None, "folder"])
def test_what_is_over_is_found_by_no_path(tmp_path, moved, opening, place):
    col, ids = filled(place and tmp_path, **opening)
    check(col, ids, ids)
    for minute in range(9):
        moved.at = START + timedelta(minutes=minute)
        check(col, ids, [id_ for id_ in ids if int(id_) % 2 == 0 or int(id_) > minute])
    col.close()


def test_the_last_microsecond_counts_and_the_next_does_not(moved):
    with bqstore.open() as col:
        col.add(vectors(1), ["a"], expires_at=START + timedelta(seconds=1))
        moved.at = START + timedelta(microseconds=999_999)
        assert "a" in col and col.search(vectors(1)[0])
        moved.at += timedelta(microseconds=1)
        assert "a" not in col and not col.search(vectors(1)[0])
        assert col.expire() == 1


def test_k_results_are_min_of_k_and_what_is_left(moved):
    with bqstore.open(hnsw={"full_scan_threshold": 0}) as col:
        col.add(vectors(900), [str(i) for i in range(900)], expires_at=[60 if i % 3 else None for i in range(900)])
        query = vectors(1, seed=1)[0]
        before = [hit.id for hit in col.search(query, k=900, exact=True)]
        moved.at += timedelta(minutes=2)
        left = [id_ for id_ in before if int(id_) % 3 == 0]
        assert [hit.id for hit in col.search(query, k=10, exact=True)] == left[:10]
        assert len(col.search(query, k=10)) == 10
        assert {hit.id for hit in col.search(query, k=800)} == set(left)


def test_what_is_over_is_not_there_for_writes(moved):
    with bqstore.open() as col:
        col.add(vectors(4), list("abcd"), metadatas=[{"n": i} for i in range(4)], expires_at=[60, 60, 60, None])
        moved.at += timedelta(minutes=2)
        assert col.update(["a"], texts=["x"]) == col.update_metadata(["b"], {"n": 9}) == 0
        assert col.update_metadata(metadata={"m": 1}, filter={"n": {"$gte": 0}}) == 1
        assert col.delete(["a"]) == 0 and col.delete(filter={"n": {"$lt": 3}}) == 0
        with pytest.raises(NotFoundError):
            col.more_like(["c"])
        assert col.add(vectors(2), ["a", "d"]).replaced == 1  # "a" was not there any more
        assert col.ids() == ["a", "d"] and col.expire() == 2
        assert col.expire() == 0


def test_a_time_can_be_changed_and_taken_away(moved):
    with bqstore.open() as col:
        col.add(vectors(3), list("abc"), expires_at=60)
        assert [r.metadata for r in col.get(["a"])] == [{bqstore.EXPIRES_AT_KEY: START + timedelta(minutes=1)}]
        assert col.update_metadata(["a"], {"n": 1}) == 1  # the time stays
        assert col.update_metadata(["b"], expires_at=math.inf) == 1
        assert col.update(["c"], expires_at=[timedelta(hours=1)]) == 1
        assert col.update_metadata(["c"], {"n": 2}, replace=True) == 1  # and stays, as keys of adapters do
        moved.at += timedelta(minutes=30)
        assert col.ids() == ["b", "c"] and col.get(["b"])[0].metadata == {}
        assert col.update_metadata(metadata=None, expires_at=math.inf, filter={"n": 2}) == 1
        moved.at += timedelta(days=30)
        assert col.ids() == ["b", "c"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (datetime(2030, 1, 1), "which has no time zone"),
        (0, "above 0"),
        (-5.0, "above 0"),
        (math.nan, "above 0"),
        (timedelta(0), "above 0"),
        (1e15, "beyond the year 9999"),
        (True, "a bool"),
        pytest.param(10**400, "an int beyond all times", id="401 digits"),
        (np.array(60.0), "a ndarray"),
        (np.timedelta64("NaT"), "above 0"),
        (np.timedelta64(1, "M"), "above 0"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "not within the years 1 to 9999"),
        ("soon", "'soon'; expected a datetime"),
        ({}, "a dict"),
        ([60, "soon"], "expires_at 1 is 'soon'"),
        ([60], "has 1 entry for 2 documents"),
    ],
)
def test_a_time_that_is_none_is_refused_by_name(given, said):
    with bqstore.open() as col:
        for call in (
            lambda: col.add(vectors(2), expires_at=given),
            lambda: col.update_metadata(["a", "b"], expires_at=given),
            lambda: bqstore.check_documents(2, expires_at=given),
        ):
            with pytest.raises(InvalidInputError, match="expires_at") as error:
                call()
            assert said in str(error.value)
        with pytest.raises(InvalidInputError, match="has no time zone"):
            col.add(vectors(1), metadatas=[{bqstore.EXPIRES_AT_KEY: datetime(2030, 1, 1)}])
        assert len(col) == 0 and col.info().format_version == 1


def test_a_filter_on_the_time_was_told_that_the_key_is_the_adapters(moved):
    with bqstore.open() as col:
        col.add(vectors(1), expires_at=60)
        for given in ({bqstore.EXPIRES_AT_KEY: {"$gt": moved.at}}, {"$not": {bqstore.EXPIRES_AT_KEY: 1}}):
            with pytest.raises(InvalidInputError, match=r"time at which .* expires.* field of your own"):
                col.search(vectors(1)[0], filter=given)
        with pytest.raises(InvalidInputError, match="the time at which a document expires"):
            col.facets(bqstore.EXPIRES_AT_KEY)


def test_skipping_bad_times_keeps_the_others(moved):
    with bqstore.open() as col:
        added = col.add(vectors(3), list("abc"), expires_at=[60, None, 60], on_error="skip")
        assert added == ["a", "b", "c"]
        moved.at += timedelta(minutes=2)
        assert col.ids() == ["b"]
        added = col.add(vectors(3), list("xyz"), expires_at=[60, True, "soon"], on_error="skip")
        assert added == ["x"] and [(each.index, each.id) for each in added.skipped] == [(1, "y"), (2, "z")]
        assert "a bool; expected a datetime" in added.skipped[0].reason
        with pytest.raises(InvalidInputError, match="expires_at is a bool"):
            col.add(vectors(2), expires_at=True, on_error="skip")


def test_seconds_are_those_of_numpys_units_and_are_counted_from_one_moment(monkeypatch):
    ticking = iter(range(10**15, 10**16))
    monkeypatch.setattr(clock, "now", lambda: next(ticking))
    metadatas = expiry.with_times([{}] * 3, [60, np.timedelta64(1, "m"), np.timedelta64(60 * 10**9, "ns")])
    assert len({each[bqstore.EXPIRES_AT_KEY] for each in metadatas}) == 1
    assert metadatas[0][bqstore.EXPIRES_AT_KEY] == EPOCH + timedelta(microseconds=10**15, minutes=1)


def test_a_time_that_utc_does_not_have_is_refused_and_its_document_can_be_changed_later():
    late = datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError, match="not within the years 1 to 9999"):
            col.add(vectors(1), ["a"], metadatas=[{bqstore.EXPIRES_AT_KEY: late}])
        col.add(vectors(1), ["a"], expires_at=datetime.max.replace(tzinfo=timezone.utc))
        assert col.update_metadata(["a"], {"n": 1}) == 1 and col.ids({"n": 1}) == ["a"]


def test_a_clock_set_back_shows_what_is_there_and_not_what_was_deleted(tmp_path, moved):
    col, ids = filled(tmp_path)
    moved.at += timedelta(hours=1)
    check(col, ids, ["0", "2", "4", "6"])
    moved.at = START
    check(col, ids, ids)  # nothing was deleted: the rule is the clock of the moment
    moved.at += timedelta(minutes=3)
    assert col.expire() == 2
    moved.at = START - timedelta(days=1)
    check(col, ids, ["0", "2", "4", "5", "6", "7"])
    moved.at += timedelta(days=2)
    col.compact()
    moved.at = START - timedelta(days=1)
    check(col, ids, ["0", "2", "4", "6"])
    assert col.info().deleted == 0
    col.close()
    with bqstore.open(tmp_path) as again:
        check(again, ids, ["0", "2", "4", "6"])


def test_two_processes_each_by_its_clock(tmp_path, moved):
    col, ids = filled(tmp_path)
    moves = "bqstore.clock.now = lambda: {} * 10**6".format
    with other_process(None) as other, other_process(None) as reader:
        for each, how in ((other, ""), (reader, ", read_only=True")):
            each("import bqstore, bqstore.clock")
            each(moves(START.timestamp()))
            each(f"col = bqstore.open({str(tmp_path)!r}{how})")
            assert each("col.ids()") == ids
            each(moves(START.timestamp() + 240))
            assert each("col.ids()") == ["0", "2", "4", "5", "6", "7"] == each("[r.id for r in col.get(col.ids())]")
        assert col.ids() == ids  # the clock of this one has not moved
        other("col.add([[1, 0, 0, 0]], ['new'], expires_at=60)")
        assert "new" in col and reader("'new' in col")
        reader(moves(START.timestamp() + 300))
        assert not reader("'new' in col") and other("'new' in col")
        assert col.update_metadata(["new"], expires_at=math.inf) == 1
        assert reader("'new' in col")
        assert other("col.expire()") == 2
        assert col.ids() == ["0", "2", "4", "5", "6", "7", "new"] and reader("len(col)") == 6
    col.close()


def test_the_first_time_that_another_process_gives_is_seen(tmp_path, moved):
    with bqstore.open(tmp_path) as col, other_process(tmp_path) as other:
        col.add(vectors(2), ["a", "b"])
        assert col.search(vectors(1)[0]) and col.info().format_version == 1
        other("col.update_metadata(['a'], expires_at=3600)")
        moved.at = datetime.now(timezone.utc)
        assert col.ids() == ["a", "b"] and col.info().format_version == 6
        moved.at += timedelta(hours=2)
        assert col.ids() == ["b"] and other("col.ids()") == ["a", "b"]


def test_a_query_that_loads_columns_is_decided_by_one_reading(tmp_path, moved, monkeypatch):
    """A column that is loaded brings a newer state: the answer must not hold what is over in that one."""
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path) as second:
        col.add(vectors(2), ["a", "b"], metadatas=[{"n": 1}, {"n": 1}], expires_at=3600)
        assert len(col) == 2
        loaded, late = accept.with_columns, []

        def loading(store, state, keys):
            found = loaded(store, state, keys)
            if "n" in keys and not late:
                late.append(True)
                second.add(vectors(1), ["c"], metadatas=[{"n": 1}], expires_at=60)
                moved.at += timedelta(minutes=2)
            return found

        monkeypatch.setattr(accept, "with_columns", loading)
        assert [record.id for record in col.scroll({"n": 1})] == ["a", "b"] and late
        assert col.ids({"n": 1}) == ["a", "b"]


def test_every_copy_keeps_the_times(tmp_path, moved):
    col, ids = filled(tmp_path / "store", text_index=True)
    col.backup(tmp_path / "backup")
    col.save(tmp_path / "saved")
    assert export(col, tmp_path / "all.jsonl") == 8
    import_from(tmp_path / "all.jsonl", tmp_path / "imported")
    memory = bqstore.load(tmp_path / "store")
    copies = [memory, pickle.loads(pickle.dumps(memory))]
    copies += [bqstore.open(tmp_path / name) for name in ("backup", "saved", "imported")]
    col.close()
    report = bqstore.repair(tmp_path / "store", tmp_path / "repaired")
    assert report.documents == 8 and not report.lost
    copies.append(bqstore.open(tmp_path / "repaired"))
    for copy in copies:
        assert set(copy.ids()) == set(ids) and copy.info().format_version == 6
        assert {record.id: record.metadata for record in copy.scroll()} == {
            id_: {"n": int(id_)}
            | ({bqstore.EXPIRES_AT_KEY: START + timedelta(minutes=int(id_))} if int(id_) % 2 else {})
            for id_ in ids
        }
    moved.at += timedelta(minutes=4)
    for copy in copies:
        check(copy, ids, ["0", "2", "4", "5", "6", "7"])
        copy.close()


def test_what_is_over_when_it_is_imported_is_told_of_and_is_no_difference(tmp_path, moved):
    col, _ = filled(tmp_path / "store")
    export(col, tmp_path / "all.jsonl")
    col.close()
    moved.at += timedelta(minutes=4)
    report = import_from(tmp_path / "all.jsonl", tmp_path / "imported")
    assert [(each.id, each.reason) for each in report.skipped] == [("1", "it has expired"), ("3", "it has expired")]
    assert report.ok and (report.added, report.compared, report.neighbors) == (6, 6, 1.0)


def test_new_vectors_and_codes_leave_what_is_over_out(moved):
    class Lengths:
        model = "lengths"
        asked: ClassVar[list[str]] = []

        def embed(self, texts):
            self.asked += texts
            return np.array([[len(text), 1, 1] for text in texts], np.float32)

        def embed_query(self, text):
            return self.embed([text])[0]

    col, _ = filled(None)
    moved.at += timedelta(minutes=4)
    assert col.reembed_plan(Lengths()).documents == 6
    assert col.reembed(Lengths()).documents == 6 and len(Lengths.asked) == 6
    moved.at += timedelta(minutes=2)
    col.requantize(encoding="two_bits")
    assert col.ids() == ["0", "2", "4", "6", "7"] and col.recall(k=2).documents == 5
    col.close()


def test_a_snapshot_keeps_the_column_and_others_are_dropped_before_it(tmp_path, moved, monkeypatch):
    n = 500
    settle_early(monkeypatch, 450)
    with bqstore.open(tmp_path, hnsw={"full_scan_threshold": 0}, target_recall=0) as col:
        col.add(vectors(n), [str(i) for i in range(n)], expires_at=[60 + i for i in range(n)])
        assert len(col) == n
    moved.at += timedelta(seconds=60 + 200)
    with bqstore.open(tmp_path) as col:
        assert bqstore.EXPIRES_AT_KEY in col._engine.publisher.state.columns  # nothing was read for it
        assert len(col) == n - 201
        monkeypatch.setattr(accept, "_COLUMNS", 2)
        for key in "abcdef":
            assert col.count({key: 1}) == 0
        assert bqstore.EXPIRES_AT_KEY in col._engine.publisher.state.columns


def test_without_times_nothing_is_marked_and_with_them_older_releases_refuse(tmp_path, moved, monkeypatch):
    with bqstore.open(tmp_path) as col:
        col.add(vectors(2), ["a", "b"], metadatas=[{"deep": {bqstore.EXPIRES_AT_KEY: "x"}}, {"n": 1}])
        col.update_metadata(["b"], expires_at=math.inf)
        col.clear()
        col.add(vectors(2), ["a", "b"])
        assert col.info().format_version == 1
        col.update_metadata(["b"], expires_at=60)
        assert col.info().format_version == 6
        with closing(sqlite3.connect(tmp_path / "default" / "meta.db")) as db:
            assert db.execute("SELECT format FROM head").fetchone() == (6,)
    monkeypatch.setattr(heads, "FORMAT_VERSION", 5)
    with pytest.raises(bqstore.FormatVersionError, match=r"format 6; .* upgrade bqstore"):
        bqstore.open(tmp_path)
    monkeypatch.undo()
    with bqstore.open(tmp_path) as col:
        col.clear()
        assert col.info().format_version == 1


# ---- against a dictionary

STEP = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("abcdef"), st.sampled_from([None, 30, 60, 90, math.inf])),
    st.tuples(st.just("change"), st.sampled_from("abcdef"), st.sampled_from([30, 60, math.inf])),
    st.tuples(st.just("delete"), st.sampled_from("abcdef"), st.none()),
    st.tuples(st.just("move"), st.sampled_from([-70, -20, 20, 40, 100]), st.none()),
    st.tuples(st.sampled_from(["expire", "compact", "flush"]), st.none(), st.none()),
)


@settings(max_examples=often(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, max_size=12))
def test_any_writes_and_any_clock_as_a_dictionary(moved, steps):
    moved.at, known = START, {}  # id to when it is over
    with bqstore.open() as col:
        for what, which, seconds in steps:
            there = {id_ for id_, at in known.items() if at is None or at > moved.at}
            at = None if seconds in (None, math.inf) else moved.at + timedelta(seconds=seconds)
            if what == "add":
                col.add(vectors(1), [which], metadatas=[{"n": 1}], expires_at=seconds)
                known[which] = at
            elif what == "change":
                assert col.update_metadata([which], expires_at=seconds) == (which in there)
                if which in there:
                    known[which] = at
            elif what == "delete":
                assert col.delete([which]) == (which in there)
                if which in there:
                    del known[which]
            elif what == "move":
                moved.at += timedelta(seconds=which)
            elif what == "flush":
                col.flush()
            else:
                over = len(known) - len(there)
                assert col.expire() == over if what == "expire" else col.compact() is None
                known = {id_: known[id_] for id_ in there}
            left = {id_ for id_, end in known.items() if end is None or end > moved.at}
            assert set(col.ids()) == left == {hit.id for hit in col.search(np.ones(DIM), k=9)}
            assert col.count({"n": 1}) == len(left)


def test_a_time_of_none_is_never_and_what_is_stored_and_no_time_comes_back_as_it_is():
    with bqstore.open() as col:
        col.add(vectors(1), ["a"], metadatas=[{bqstore.EXPIRES_AT_KEY: None, "n": 1}])
        assert col.get(["a"])[0].metadata == {"n": 1} and col.info().format_version == 1
    assert expiry.shown_as(10**18) == 10**18 and expiry.shown_as("x") == "x"  # beyond the year 9999
