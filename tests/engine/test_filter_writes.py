"""Filters while documents come, change and go: columns are kept up, kept on disk, and not believed when out of date."""

import random
import shutil
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import bqstore
from bqstore.engine import graph_builder
from tests.conftest import FULL, often
from tests.engine.given import BITS, ENOUGH, SIGNS, settle_early
from tests.metadata.test_filter_grammar import KEYS, PATHS, agree, some_condition, some_filter, some_metadata
from tests.slow_filters import matches, returned

IDS = [f"i{n}" for n in range(20)] + ["ü", "a\x00b", "'; --", "$eq", "i0.a"]
rngs = st.randoms(use_true_random=False)
names = st.lists(st.sampled_from(IDS), min_size=1, max_size=9, unique=True)


@pytest.fixture(autouse=True)
def linked_early(monkeypatch):
    settle_early(monkeypatch, ENOUGH)


# ---- a dictionary beside it


class FilterMachine(RuleBasedStateMachine):
    """The collection, a reader of the same folder, and the dictionary."""

    on_disk: ClassVar[bool] = True

    @initialize(rng=rngs, keys=st.none() | st.lists(st.sampled_from(PATHS)))
    def begin(self, rng: random.Random, keys: list[str] | None) -> None:
        self.folder = Path(tempfile.mkdtemp()) if self.on_disk else None
        self.col = self.open(self.folder, index_metadata=keys)
        self.reader: bqstore.Collection | None = None
        self.truth: dict[str, dict[str, Any]] = {}
        self.conditions = [some_filter(rng), {rng.choice(KEYS): some_condition(rng)}, {rng.choice(KEYS): 1}]

    def open(self, folder: Path | None, **keywords: Any) -> bqstore.Collection:
        return bqstore.open(folder, hnsw=BITS, quantization=SIGNS, **keywords)

    def teardown(self) -> None:
        if hasattr(self, "col"):
            self.col.close()
            if self.reader is not None:
                self.reader.close()
            if self.folder is not None:
                shutil.rmtree(self.folder)

    @rule(rng=rngs, ids=names)
    def add(self, rng: random.Random, ids: list[str]) -> None:
        new = {id_: some_metadata(rng) for id_ in ids}
        self.col.add(np.ones((len(new), 3)), ids, metadatas=list(new.values()))
        for id_, metadata in new.items():
            self.truth.pop(id_, None)  # a replaced document counts as new
            self.truth[id_] = metadata

    @rule(rng=rngs, ids=names, replace=st.booleans())
    def update(self, rng: random.Random, ids: list[str], replace: bool) -> None:
        changes = [some_metadata(rng) for _ in ids]
        known = self.truth.keys() & set(ids)
        assert self.col.update_metadata(ids, changes, replace=replace) == len(known)
        for id_, change in zip(ids, changes, strict=True):
            if id_ in known:
                self.truth[id_] = change if replace else {**self.truth[id_], **change}

    @rule(ids=names)
    def delete(self, ids: list[str]) -> None:
        self.gone(self.truth.keys() & set(ids), self.col.delete(ids))

    @rule(rng=rngs, ids=st.none() | names)
    def delete_by_filter(self, rng: random.Random, ids: list[str] | None) -> None:
        one, other = ({rng.choice(PATHS): some_condition(rng)} for _ in range(2))
        condition = rng.choice([one, {"$or": [one, other]}, {"$and": [one, other]}, {"$not": one}, {**one, **other}])
        doomed = {i for i, metadata in self.truth.items() if matches(metadata, condition) and (ids is None or i in ids)}
        if len(doomed) <= max(2, len(self.truth) // 2):  # else there would soon be nothing left to filter
            try:
                count = self.col.delete(ids, filter=condition)
            except bqstore.InvalidInputError as error:  # nothing is excluded: {"$nin": []}
                assert "that restricts" in str(error) and ids is None and doomed == set(self.truth)
            else:
                self.gone(doomed, count)

    @rule(rng=rngs)
    def delete_by_function(self, rng: random.Random) -> None:
        doomed = {id_ for id_ in self.truth if rng.randrange(4) == 0}
        self.gone(doomed, self.col.delete(filter=lambda record: record.id in doomed))

    def gone(self, doomed: set[str], count: int) -> None:
        assert count == len(doomed)
        for id_ in doomed:
            del self.truth[id_]

    @rule(rng=rngs)
    def ask(self, rng: random.Random) -> None:
        condition = some_filter(rng)
        for col in filter(None, (self.col, self.reader)):
            agree(col, self.truth, condition)

    @rule(rng=rngs, k=st.integers(1, 30))
    def search(self, rng: random.Random, k: int) -> None:
        condition = some_filter(rng)
        wanted = {id_ for id_, metadata in self.truth.items() if matches(metadata, condition)}
        for col in filter(None, (self.col, self.reader)):
            hits = col.search([1.0, 2.0, 3.0], k, filter=condition)
            assert len(hits) == len({hit.id for hit in hits} & wanted) == min(k, len(wanted))
            assert all(hit.metadata == returned(self.truth[hit.id]) for hit in hits)

    @rule()
    def compact(self) -> None:
        self.col.compact()

    @rule()
    def flush(self) -> None:
        self.col.flush()

    @rule(keys=st.none() | st.lists(st.sampled_from(PATHS), max_size=3))
    def reopen(self, keys: list[str] | None) -> None:
        if self.folder is not None:
            self.col.close()
            self.col = self.open(self.folder, index_metadata=keys)

    @rule()
    def read_along(self) -> None:
        if self.folder is not None:
            if self.reader is not None:
                self.reader.close()
            self.reader = self.open(self.folder, read_only=True)

    @rule()
    def open_what_a_crash_would_leave(self) -> None:
        """Everything acknowledged, and the snapshot of some time ago."""
        if self.folder is not None:
            with tempfile.TemporaryDirectory() as copy:
                shutil.copytree(self.folder, copy, dirs_exist_ok=True)
                with self.open(copy) as col:
                    for condition in self.conditions:
                        agree(col, self.truth, condition)

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "col"):
            for col in filter(None, (self.col, self.reader)):
                for condition in self.conditions:
                    agree(col, self.truth, condition)


@pytest.mark.sampled(1)
@pytest.mark.filterwarnings("ignore:there is no snapshot of the graph:RuntimeWarning")
@pytest.mark.parametrize("worth", [8, 2048], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_filters_agree_with_a_dictionary(monkeypatch, on_disk, worth):
    monkeypatch.setattr(graph_builder, "SMALLEST_GRAPH", worth)
    live_through(on_disk, often(50))


def live_through(on_disk: bool, examples: int) -> None:
    machine = type("Machine", (FilterMachine,), {"on_disk": on_disk})
    given = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=given)


# ---- deleting


def four(col: bqstore.Collection) -> None:
    metadata = [{"x": 1, "s": "one"}, {"x": 2, "s": "two"}, {"x": [1, 3]}, {}]
    col.add(np.eye(4), list("abcd"), ["A", "B", "C", None], metadata)


def ids_of(col: bqstore.Collection) -> str:
    return "".join(record.id for record in col.scroll())


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({"filter": {"x": 1}}, "bd"),
        ({"filter": {"x": {"$exists": False}}}, "abc"),
        ({"filter": {"x": {"$ne": 1}}}, "ac"),
        ({"filter": {"x": {"$in": []}}}, "abcd"),
        ({"filter": {"$or": [{"x": 3}, {"s": {"$like": "t%"}}]}}, "ad"),
        ({"filter": {"$not": {"s": {"$exists": True}}}}, "ab"),
        ({"ids": ["a", "b", "x"], "filter": {"x": 1}}, "bcd"),
        ({"ids": [], "filter": {"x": 1}}, "abcd"),
        ({"ids": ["a", "a", "d"], "filter": {}}, "bc"),
        ({"ids": ["a", "d"], "filter": None}, "bc"),
        ({"ids": ["a", "d"], "filter": {"_bq_id": ["a", "b"]}}, "bcd"),
        ({"filter": lambda record: record.text is not None and record.text > "A"}, "ad"),
        ({"ids": ["b", "d"], "filter": lambda record: "x" in record.metadata}, "acd"),
        ({"filter": lambda record: False}, "abcd"),
    ],
)
def test_delete(arguments, left):
    with bqstore.open() as col:
        four(col)
        assert col.delete(**arguments) == 4 - len(left)
        assert ids_of(col) == left and len(col) == len(left)
        assert col.delete(**arguments) == 0


@pytest.mark.parametrize(
    "condition", [None, {}, {"$and": [{}]}, {"$or": [{"x": 1}, {}]}, {"$and": [{}, {"$and": [{}]}]}]
)
def test_a_filter_that_restricts_nothing_deletes_nothing_by_itself(condition):
    with bqstore.open() as col:
        four(col)
        with pytest.raises(bqstore.InvalidInputError, match=r"clear\(\) deletes everything"):
            col.delete(filter=condition)
        assert ids_of(col) == "abcd" and col.count(condition) == 4
        assert col.delete(["a", "x"], filter=condition) == 1 and ids_of(col) == "bcd"


# ---- functions


def test_a_function_is_given_records(tmp_path):
    for path in (None, tmp_path):
        with bqstore.open(path) as col:
            four(col)
            col.add([[1.0, 1, 1, 1]], ["e"], metadatas=[{"_bq_ref_doc_id": "D", "x": 5}])
            col.delete(["b"])
            col.update_metadata(["d"], {"new": True})
            seen: list[bqstore.Record] = []
            assert col.count(lambda record, seen=seen: seen.append(record) or record.id != "a") == 3
            assert all(type(record) is bqstore.Record for record in seen)
            assert sorted(seen, key=lambda record: record.id) == col.get(["a", "c", "d", "e"])
            assert [r.id for r in col.scroll(lambda record: np.bool_("x" in record.metadata))] == ["a", "c", "e"]
            assert [len(hits) for hits in col.search_batch(np.eye(4), filter=lambda r: r.id in "ac")] == [2] * 4
            assert {*col.search_ids(np.eye(4)[0], 3, filter=lambda r: r.id in "ac")[0][0]} == {"a", "c", None}
            assert {h.id for h in col.max_marginal_relevance(np.eye(4)[0], filter=lambda r: r.id in "ac")} == {"a", "c"}


def test_a_function_is_asked_anew_every_time():
    wanted = {"a"}
    with bqstore.open() as col:
        four(col)

        def chosen(record):
            return record.id in wanted

        assert [r.id for r in col.scroll(chosen)] == ["a"]
        wanted.add("c")
        assert [r.id for r in col.scroll(chosen)] == ["a", "c"] and col.count(chosen) == 2
        wanted.clear()
        assert col.search(np.ones(4), filter=chosen) == [] and col.delete(filter=chosen) == 0


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, bqstore.NotFoundError, KeyboardInterrupt])
def test_what_a_function_raises_comes_through_and_changes_nothing(tmp_path, error):
    def fails(record):
        if record.id == "c":
            raise error("mine")
        return True

    for path in (None, tmp_path):
        with bqstore.open(path) as col:
            four(col)
            for call in (
                lambda: col.delete(filter=fails),
                lambda: col.delete(["a", "c"], filter=fails),
                lambda: col.count(fails),
                lambda: list(col.scroll(fails)),
                lambda: col.search(np.ones(4), filter=fails),
                lambda: col.search_ids(np.ones(4), filter=fails),
                lambda: col.search_batch(np.eye(4), filter=fails),
                lambda: col.max_marginal_relevance(np.ones(4), filter=fails),
            ):
                with pytest.raises(error, match="mine"):
                    call()
                assert ids_of(col) == "abcd" and col.count({"x": 1}) == 2
            assert col.add(np.ones((1, 4)), ["e"]) == ["e"]  # and no lock is held
            assert col.delete(["c"]) == 1 and col.delete(filter=fails) == 4


# ---- columns, their memory, and the disk

N = 2200 if FULL else 700
LANGS = ["en", "de", "fr", None]


def metadata_of(i: int) -> dict[str, Any]:
    return {"lang": LANGS[i % 4], "year": 2000 + i % 30, "tags": [f"t{i % 7}", i], "deep": {"er": i / 2}, "s": f"s{i}"}


CONDITIONS: list[dict[str, Any]] = [
    {"lang": "en"},
    {"year": {"$between": [2003, 2007]}, "lang": {"$ne": "fr"}},
    {"tags": {"$any": ["t3", 11, N - 50]}},
    {"deep.er": {"$gte": 0.41 * N}},
    {"s": {"$like": "s1_0%"}},
    {"late": {"$exists": True}},
]


def filled(path: Any, **keywords: Any) -> tuple[bqstore.Collection, dict[str, dict[str, Any]]]:
    truth = {f"d{i}": metadata_of(i) for i in range(N)}
    col = bqstore.open(path, hnsw=BITS, quantization=SIGNS, **keywords)
    col.add(np.random.default_rng(0).standard_normal((N, 8)), list(truth), metadatas=list(truth.values()))
    return col, truth


def check(col: bqstore.Collection, truth: dict[str, dict[str, Any]]) -> None:
    for condition in CONDITIONS:
        agree(col, truth, condition)


def change(col: bqstore.Collection, truth: dict[str, dict[str, Any]], seed: int) -> None:
    """Some of everything, below and behind what a snapshot knows."""
    rng = random.Random(seed)
    some = rng.sample(sorted(truth), 60)
    col.update_metadata(some[:20], {"lang": "en", "late": seed, "year": "2005"})
    col.update_metadata(some[20:30], {"tags": "t3"}, replace=True)
    for id_ in some[:20]:
        truth[id_] = {**truth[id_], "lang": "en", "late": seed, "year": "2005"}
    truth.update({id_: {"tags": "t3"} for id_ in some[20:30]})
    col.delete(some[30:45])
    new = {id_: {"lang": "new", "s": "s110", "late": None} for id_ in [*some[45:], f"n{seed}", f"m{seed}"]}
    col.add(rng_vectors(len(new), seed), list(new), metadatas=list(new.values()))
    for id_ in some[30:]:
        del truth[id_]
    truth.update(new)


def rng_vectors(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8))


def test_a_column_is_made_by_the_first_filter_on_it():
    col, truth = filled(None)
    with col:
        assert col.info().columns == {}
        check(col, truth)
        columns = col.info().columns
        assert set(columns) == {"lang", "year", "tags", "deep.er", "s", "late"}
        assert all(type(size) is int and size > 0 for size in columns.values())
        assert columns["s"] > columns["lang"]  # all different, and 3
        col.clear()
        assert sum(col.info().columns.values()) < sum(columns.values())
        check(col, {})


def test_columns_that_are_asked_for_are_there_at_once(tmp_path):
    col, truth = filled(tmp_path, index_metadata=["lang", "deep.er", "nobody has it"])
    with col:
        assert set(col.info().columns) == {"lang", "deep.er", "nobody has it"}
        check(col, truth)
    with bqstore.open(tmp_path, read_only=True, index_metadata=("year",)) as reader:
        assert reader.info().columns["year"] > 0
        check(reader, truth)
    with bqstore.open(None, index_metadata=[]) as col:
        assert col.info().columns == {}
    with bqstore.open_flat(None, index_metadata=["a", "a"]) as col:
        col.add(np.eye(2), metadatas=[{"a": 1}, {"b": 1}])
        assert set(col.info().columns) == {"a"} and col.count({"a": 1}) == 1


def test_a_field_that_changes_all_the_time_does_not_keep_all_its_values(tmp_path):
    ids = [f"d{i}" for i in range(20)]
    with bqstore.open(tmp_path) as col, bqstore.open() as all_at_once:
        col.add(np.ones((20, 2)), ids, metadatas=[{"v": ["first"]}] * 20)
        for step in range(300):
            col.update_metadata(ids, [{"v": f"{step} of {i}"} for i in range(20)])
            assert col.count({"v": f"{step} of 3"}) == 1 and col.count({"v": {"$like": f"{step} of %"}}) == 20
        assert col.count({"v": {"$in": [f"{step} of 3" for step in range(299)]}}) == 0
        all_at_once.add(
            np.ones((6000, 2)), metadatas=[{"v": f"{step} of {i}"} for step in range(300) for i in range(20)]
        )
        all_at_once.count({"v": 1})
        assert col.info().columns["v"] < all_at_once.info().columns["v"] / 2


@pytest.mark.parametrize("given", ["lang", b"lang", 3, [3], [None], ["a", "_bq_node"], ["\ud800"], ["$eq"]])
def test_index_metadata_refuses_what_no_filter_can_name(tmp_path, given):
    with pytest.raises(bqstore.InvalidInputError):
        bqstore.open(tmp_path / "store", index_metadata=given)
    assert not (tmp_path / "store").exists()


def test_columns_survive_reopening(tmp_path):
    col, truth = filled(tmp_path)
    with col:
        check(col, truth)
        sizes = col.info().columns
    for _ in range(3):
        with bqstore.open(tmp_path) as col:
            kept = set(col.info().columns)  # no filter was asked yet
            assert kept <= set(sizes) and not any(col.count({key: {"$exists": True}}) for key in set(sizes) - kept)
            check(col, truth)
            change(col, truth, len(truth))
            check(col, truth)
        with bqstore.open(tmp_path, read_only=True) as reader:
            kept = set(reader.info().columns)
            assert kept <= set(sizes) and len(kept) > 2
            assert not any(reader.count({key: {"$exists": True}}) for key in set(sizes) - kept)
            check(reader, truth)


def quietly(path: Path, **keywords: Any) -> bqstore.Collection:
    """Whatever is told about the snapshot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return bqstore.open(path, hnsw=BITS, quantization=SIGNS, **keywords)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
def test_a_crash_leaves_a_snapshot_that_is_behind(tmp_path, read_only):
    """Rows that were changed in place, or died, since it was written."""
    col, truth = filled(tmp_path / "store")
    check(col, truth)
    col.close()
    (kept,) = (tmp_path / "store").rglob("snap-*")
    with bqstore.open(tmp_path / "store", hnsw=BITS) as col:
        for seed in range(3):
            change(col, truth, seed)
            copy = tmp_path / f"copy {seed}"
            shutil.copytree(tmp_path / "store", copy)
            assert [file.name for file in copy.rglob("snap-*")] == [kept.name]
            with quietly(copy, read_only=read_only) as crashed:
                check(crashed, truth)
                if not read_only:
                    theirs = dict(truth)
                    change(crashed, theirs, 10 + seed)
                    crashed.compact()
                    check(crashed, theirs)


def test_an_older_snapshot_in_the_place_of_the_newest_changes_no_answer(tmp_path):
    col, truth = filled(tmp_path)
    check(col, truth)
    col.close()
    (old,) = tmp_path.rglob("snap-*")
    data = old.read_bytes()
    col = quietly(tmp_path)
    change(col, truth, 1)
    more = {f"more{i}": metadata_of(7 * i) for i in range(N)}  # enough for another snapshot
    col.add(rng_vectors(N, 5), list(more), metadatas=list(more.values()))
    truth.update(more)
    check(col, truth)
    col.close()
    (new,) = tmp_path.rglob("snap-*")
    assert new.name != old.name
    for name in (old.name, new.name):  # by its own name, and as if it were the new one
        new.unlink(missing_ok=True)
        (new.parent / name).write_bytes(data)
        for read_only in (True, False):
            with quietly(tmp_path, read_only=read_only) as col:
                check(col, truth)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("damage", ["flip", "cut", "hole"])
def test_a_damaged_snapshot_changes_no_answer(tmp_path, damage):
    col, truth = filled(tmp_path)
    check(col, truth)
    col.close()
    (file,) = tmp_path.rglob("snap-*")
    data, rng = file.read_bytes(), random.Random(damage)
    for place in [70, *(rng.randrange(len(data)) for _ in range(4))]:
        if damage == "flip":
            file.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
        elif damage == "cut":
            file.write_bytes(data[:place])
        else:
            file.write_bytes(data[:place] + bytes(len(data[place : place + 4096])) + data[place + 4096 :])
        with quietly(tmp_path, read_only=True) as reader:
            check(reader, truth)
    with quietly(tmp_path) as col:
        check(col, truth)
        change(col, truth, 1)
        check(col, truth)


# ---- beside a writer


def test_a_reader_follows_every_change(tmp_path):
    col, truth = filled(tmp_path)
    with col, bqstore.open(tmp_path, read_only=True) as reader:
        check(reader, truth)
        for seed in range(4):
            change(col, truth, seed)
            check(reader, truth)
            assert reader.count(lambda record: record.metadata.get("late") == 2) == sum(
                metadata.get("late") == 2 for metadata in truth.values()
            )
        col.compact()
        check(reader, truth)
        col.clear()
        check(reader, {})


@pytest.mark.sampled(1)
@pytest.mark.parametrize("where", ["writer", "reader"])
def test_an_update_is_seen_whole_or_not_at_all(tmp_path, where):
    """Ten at a time change their side; every count that a thread meets is one of whole tens."""
    with bqstore.open(tmp_path) as col:
        ids = [f"d{i}" for i in range(100)]
        col.add(np.ones((100, 2)), ids, metadatas=[{"side": "left", "step": 0}] * 100)
        reader = col if where == "writer" else bqstore.open(tmp_path, read_only=True)
        wrong, stop = [], threading.Event()

        def read():
            while not stop.is_set():
                for condition in (
                    {"side": "left"},
                    {"side": {"$ne": "left"}, "step": {"$gte": 0}},
                    {"step": {"$between": [3, 9]}},
                    {"$not": {"step": {"$in": [1, 5, 6]}}},
                ):
                    count = reader.count(condition)
                    if count % 10:
                        wrong.append((condition, count))
                ids, _ = reader.search_ids([1.0, 2.0], 200, filter={"side": "left"})
                if sum(id_ is not None for id_ in ids[0]) % 10:
                    wrong.append(ids)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for step in range(1, 25):
                some = ids[step % 10 :: 10]
                if step % 4:
                    col.update_metadata(some, {"side": ["left", "right"][step % 2], "step": step})
                else:
                    col.delete(filter={"_bq_id": some})
                    col.add(np.ones((10, 2)), some, metadatas=[{"side": "left", "step": step}] * 10)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        reader.close()
        assert not wrong
