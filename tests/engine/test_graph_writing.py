"""What is added is linked when `add` returns, however it came; what is replaced or deleted is found no more."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import bqstore
from bqstore.engine import graph_builder
from tests.conftest import FULL, often
from tests.engine.given import (
    BITS,
    ENOUGH,
    SIGNS,
    data_of,
    filled,
    hammings,
    let_walk,
    recall,
    recall_on_bits,
    settle_early,
)

N, DIM, K = ENOUGH + 552, 96, 10


@pytest.fixture(autouse=True)
def walk(monkeypatch):
    let_walk(monkeypatch)
    settle_early(monkeypatch, ENOUGH)


def in_steps(col, base, step):
    for at in range(0, len(base), step):
        col.add(base[at : at + step], [f"d{i}" for i in range(at, min(at + step, len(base)))])


# ---- one by one, some, all


def test_recall_does_not_depend_on_how_the_documents_came():
    base, queries = data_of(N, DIM, queries=200)
    distances, found = hammings(base, queries), {}
    for step in (1, 64, 1000, N):
        with bqstore.open(hnsw=BITS, quantization=SIGNS) as col:
            in_steps(col, base, step)
            info = col.info()
            assert (info.linked, info.way, info.count) == (N, "walk", N)
            found[step] = recall_on_bits(col.search_ids(queries, K, rescore=False, hnsw_ef=32)[0], distances)
    assert max(found.values()) - min(found.values()) <= 0.01 and min(found.values()) >= 0.98, found


@pytest.mark.parametrize("step", [1, 7, 64])
def test_every_row_is_found_by_its_own_vector_as_soon_as_it_is_added(tmp_path, step):
    first = ENOUGH - 48
    base, _ = data_of(first + 500, DIM)
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        col.add(base[:first], [f"d{i}" for i in range(first)])
        stop = first + min(500, 60 * step)
        for at in range(first, stop, step):  # past where the graph begins
            new = range(at, min(at + step, stop))
            col.add(base[new.start : new.stop], [f"d{i}" for i in new])
            ids, scores = col.search_ids(base[new.start : new.stop], 1, hnsw_ef=64)
            assert ids[:, 0].tolist() == [f"d{i}" for i in new]
            np.testing.assert_allclose(scores, 1, atol=1e-5)
            assert col.info().linked == (new.stop if new.stop >= graph_builder.SMALLEST_GRAPH else 0)
        ids, _ = col.search_ids(base[:stop], 1)
        assert (ids[:, 0] == [f"d{i}" for i in range(stop)]).mean() >= 0.999


def test_the_graph_begins_when_it_is_worth_it():
    base, queries = data_of(graph_builder.SMALLEST_GRAPH + 1, 64, queries=1)
    with bqstore.open(hnsw=BITS, quantization=SIGNS) as col:
        col.add(base[:-2])
        assert (col.info().linked, col.info().way, col.info().graph_bytes) == (0, "scan", 0)
        col.add(base[-2:-1])
        info = col.info()
        assert (info.linked, info.way) == (graph_builder.SMALLEST_GRAPH, "walk")
        assert graph_builder.SMALLEST_GRAPH * 32 * 4 < info.graph_bytes < graph_builder.SMALLEST_GRAPH * 150
        assert info.memory_bytes == info.graph_bytes + graph_builder.SMALLEST_GRAPH * 8
        col.add(base[-1:])
        assert col.info().linked == graph_builder.SMALLEST_GRAPH + 1
        assert col.search(queries[0], explain=True).explanation.tail == 0


def test_the_same_calls_give_the_same_graph_on_any_number_of_threads(tmp_path):
    base, _ = data_of(N, DIM)
    files = []
    for threads in (1, 2, 5):
        with bqstore.open(tmp_path / str(threads), hnsw=BITS, quantization=SIGNS, threads=threads) as col:
            in_steps(col, base, 700)
            files.append(col._engine.graph.builder.graph.parts())
    for numbers, arrays in files[1:]:
        assert numbers == files[0][0]
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, files[0][1][name])


# ---- replaced and deleted


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["openai_3small_1536", "minilm_l6_v2_384", "clustered"])
def test_recall_after_replacing_a_third_is_that_of_a_fresh_build(request, tmp_path, name):
    if name == "clustered":
        base, queries = data_of(4000, DIM, queries=200)
    else:
        base, queries = request.getfixturevalue("embeddings")(f"{name}.npz")
        base, queries = base[: 3000 if FULL else 1500], queries[:300]
    n = len(base)
    rng = np.random.default_rng(0)
    changed = rng.permutation(n)[: n * 3 // 10]
    old = base.copy()
    old[changed] = base[rng.permutation(n)[: len(changed)]] + 0.3 * base.std() * rng.standard_normal(
        (len(changed), base.shape[1])
    ).astype(np.float32)
    with filled(None, old) as col, filled(None, base) as fresh:
        for at in range(0, len(changed), 200):
            some = changed[at : at + 200]
            col.add(base[some], [f"d{i}" for i in some])
        info = col.info()
        assert (info.count, info.deleted, info.linked) == (n, len(changed), n + len(changed))
        truth, _ = fresh.search_ids(queries, K, exact=True)
        for ef in (32, 64, None):
            got, best = (recall(c.search_ids(queries, K, hnsw_ef=ef, threads=2)[0], truth) for c in (col, fresh))
            assert got >= best - 0.01, (ef, got, best)
            bits, best = (
                recall_on_bits(c.search_ids(queries, K, hnsw_ef=ef, rescore=False)[0], hammings(base, queries))
                for c in (col, fresh)
            )
            assert bits >= best - 0.01, (ef, bits, best)
        assert col.search(queries[0], explain=True).explanation.way == "walk"


def test_a_replaced_document_is_found_by_its_new_vector_only(tmp_path):
    base, other = data_of(2300, DIM, queries=100)
    with filled(tmp_path, base) as col:
        for i in range(100):
            col.add(other[i : i + 1], [f"d{i}"], [f"new {i}"], [{"i": -i}])
            hit = col.search(other[i], 1)[0]
            assert (hit.id, hit.text, hit.metadata) == (f"d{i}", f"new {i}", {"i": -i})
            near = col.search(base[i], 20)
            assert sum(hit.id == f"d{i}" for hit in near) <= 1
            assert near[0].score < 0.999 and len({hit.id for hit in near}) == 20
        assert len(col) == 2300


def test_what_is_deleted_is_found_no_more_and_the_rest_is(tmp_path):
    base, queries = data_of(2400, DIM, queries=20)
    rng = np.random.default_rng(0)
    order, live = rng.permutation(2400), np.ones(2400, bool)
    distances = hammings(base, queries)
    with filled(tmp_path, base) as col:
        for at in range(0, 2400, 300):
            gone = order[at : at + 300]
            live[gone] = False
            assert col.delete([f"d{i}" for i in gone]) == 300
            for k in (1, 10, 300, 3000):
                ids, _ = col.search_ids(queries, k, rescore=False)
                for row in ids:
                    found = [int(id_[1:]) for id_ in row if id_ is not None]
                    assert len(set(found)) == len(found) == min(k, live.sum()) and live[found].all()
            if live.sum() >= K:
                ids, _ = col.search_ids(queries, K, rescore=False)
                assert recall_on_bits(ids, np.where(live, distances, 10**6)) >= 0.95
            ids, _ = col.search_ids(base[gone[:50]], 1)
            assert not set(ids[:, 0]) & {f"d{i}" for i in gone}
        assert len(col) == 0 and col.info().linked == 2400  # they route still
        in_steps(col, base[:10], 3)
        assert {hit.id for hit in col.search(queries[0], 50)} == {f"d{i}" for i in range(10)}


def test_clear_begins_a_new_graph(tmp_path):
    base, queries = data_of(2200, DIM, queries=5)
    with filled(tmp_path, base) as col:
        col.clear()
        assert (col.info().linked, col.info().graph_bytes, len(col)) == (0, 0, 0)
        assert col.search(queries[0]) == []
        col.add(base[:50], [f"d{i}" for i in range(50)])
        assert col.info().linked == 0 and len(col.search(queries[0], 100)) == 50
        col.add(base, [f"d{i}" for i in range(2200)])
        assert col.info().linked == 2250
        ids, _ = col.search_ids(queries, K, rescore=False)
        assert recall_on_bits(ids, hammings(base, queries)) >= 0.98


def test_metadata_changes_while_the_graph_stays(tmp_path):
    base, queries = data_of(2200, DIM, queries=1)
    with filled(tmp_path, base) as col:
        graph = col._engine.publisher.current().data.graph
        col.update_metadata([f"d{i}" for i in range(1000)], {"new": True})
        assert col._engine.publisher.current().data.graph is graph
        assert len(col.search(queries[0], 2000, filter={"new": True})) == 1000
        assert col.search(queries[0], 5, filter={"new": True}, explain=True).explanation.way == "walk"


# ---- a dictionary

SMALL = 8
NAMES = [f"n{i}" for i in range(60)]
vectors = st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).standard_normal(SMALL).astype(np.float32))


class GraphMachine(RuleBasedStateMachine):
    """A collection whose graph begins at twenty, a reader beside it, and a dictionary."""

    on_disk = True

    @initialize(m=st.sampled_from([2, 4, 16]), originals=st.sampled_from(["float32", "none"]))
    def begin(self, m: int, originals: str) -> None:
        self.folder = Path(tempfile.mkdtemp()) if self.on_disk else None
        self.settings: dict[str, Any] = {"hnsw": {"full_scan_threshold": 0, "m": m, "ef_construct": 4 * m}}
        self.settings["originals"] = originals
        self.col = bqstore.open(self.folder, **self.settings)
        self.reader: bqstore.Collection | None = None
        self.truth: dict[str, np.ndarray] = {}

    def teardown(self) -> None:
        if hasattr(self, "col"):
            self.col.close()
            if self.reader is not None:
                self.reader.close()
            if self.folder is not None:
                shutil.rmtree(self.folder)

    @rule(batch=st.lists(st.tuples(st.sampled_from(NAMES), vectors), min_size=1, max_size=40))
    def add(self, batch: list[tuple[str, np.ndarray]]) -> None:
        self.col.add([vector for _, vector in batch], [name for name, _ in batch])
        for name, vector in batch:
            self.truth[name] = vector

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=25))
    def delete(self, names: list[str]) -> None:
        gone = self.truth.keys() & set(names)
        assert self.col.delete(names) == len(gone)
        for name in gone:
            del self.truth[name]

    @rule()
    def compact(self) -> None:
        self.col.compact()
        info = self.col.info()
        assert info.deleted == 0 and info.linked == (
            len(self.truth) if len(self.truth) >= graph_builder.SMALLEST_GRAPH else 0
        )

    @rule()
    def flush(self) -> None:
        self.col.flush()

    @rule()
    def clear(self) -> None:
        self.col.clear()
        self.truth.clear()

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        if self.folder is not None:
            if crash:  # no snapshot at the end
                self.col._engine.graph.save_at_close = lambda: None
            self.col.close()
            self.col = bqstore.open(self.folder, **self.settings)

    @rule()
    def read_along(self) -> None:
        if self.folder is not None:
            if self.reader is not None:
                self.reader.close()
            self.reader = bqstore.open(self.folder, read_only=True, **self.settings)

    @rule(query=vectors, k=st.integers(1, 70), ef=st.none() | st.integers(1, 60), encoding=st.booleans())
    def search(self, query: np.ndarray, k: int, ef: int | None, encoding: bool) -> None:
        for col in filter(None, (self.col, self.reader)):
            ids, scores = col.search_ids(query, k, hnsw_ef=ef)
            found = [id_ for id_ in ids[0] if id_ is not None]
            assert len(found) == len(set(found)) == min(k, len(self.truth)) and set(found) <= self.truth.keys()
            assert [hit.id for hit in col.search(query, k, hnsw_ef=ef)] == found
            if self.settings["originals"] == "none" or not found:
                continue
            exact = {name: self.cosine(query, name) for name in self.truth}
            np.testing.assert_allclose(scores[0, : len(found)], [exact[name] for name in found], atol=1e-5)
            hits = col.search(query, k, exact=True)
            best = sorted(exact.values(), reverse=True)[:k]
            np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-5)

    def cosine(self, query: np.ndarray, name: str) -> float:
        vector = self.truth[name]
        return float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query))

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "col"):
            return
        for col in filter(None, (self.col, self.reader)):
            info = col.info()
            assert len(col) == info.count == len(self.truth) and info.linked <= info.count + info.deleted
            assert {record.id for record in col.scroll()} == self.truth.keys()
            if (linking := col._engine.graph.builder._thread) is not None:
                linking.join()  # while it is at work, rows lead to nodes that the state does not have yet
            data = col._engine.publisher.current().data
            if data is not None and data.graph is not None:
                assert bqstore.kernels.api.check_graph(data.graph) == 0

    @rule()
    def verify(self) -> None:
        report = self.col.verify()
        assert report.ok, report.problems


@pytest.mark.filterwarnings("ignore:there is no snapshot of the graph:RuntimeWarning")
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
@pytest.mark.parametrize("tail", [0, 30], ids=["always saved", "seldom"])
def test_a_collection_with_a_graph_agrees_with_a_dictionary(monkeypatch, on_disk, tail):
    monkeypatch.setattr(graph_builder, "SMALLEST_GRAPH", 20)
    monkeypatch.setattr(graph_builder, "TAIL", tail)
    machine = type("Machine", (GraphMachine,), {"on_disk": on_disk})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=often(12), stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
