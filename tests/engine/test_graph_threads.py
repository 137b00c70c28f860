"""Many threads walk a graph while one changes it: every answer is of one commit, and of the living only."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.engine import graph_builder
from bqstore.engine.prepared_search import PreparedSearch
from tests.conftest import FULL, HANGS, child
from tests.engine.given import BITS, ENOUGH, SIGNS, let_walk, settle_early

ROOT = Path(bqstore.__file__).parents[1]
DIM, START = 64, ENOUGH + 52


@pytest.fixture(autouse=True)
def walk(monkeypatch):
    let_walk(monkeypatch)
    settle_early(monkeypatch, ENOUGH)


def vectors_of(numbers) -> np.ndarray:
    """The vector that belongs to each number."""
    return np.array([np.random.default_rng(n).standard_normal(DIM) for n in numbers], np.float32)


class Life:
    """A collection that changes, and what may be found in it.

    Ids are "pN" for a number N. They come and go by pairs, 2N and 2N + 1, and one that went never comes again.
    Two more, "x" and "y", change places in one commit, over and over: one of them lies at each of two places.
    """

    def __init__(self, path: Path | None) -> None:
        self.col = bqstore.open(path, hnsw=BITS, quantization=SIGNS)
        self.places = vectors_of([10**6, 10**6 + 1])
        self.next = 0
        self.living: list[int] = []
        self.gone: frozenset[str] = frozenset()  # acknowledged
        self.add(START // 2)
        self.swap(0)

    def add(self, pairs: int) -> None:
        numbers = range(2 * self.next, 2 * (self.next + pairs))
        self.next += pairs
        data = [{"n": n, "five": n // 2 % 5} for n in numbers]
        self.col.add(vectors_of(numbers), [f"p{n}" for n in numbers], [f"text {n}" for n in numbers], data)
        self.living += [n // 2 for n in numbers if n % 2 == 0]

    def swap(self, step: int) -> None:
        names = ["x", "y"] if step % 2 else ["y", "x"]
        self.col.add(self.places, names, ["text 0"] * 2, [{"five": -1, "at": i} for i in range(2)])

    def delete(self, pairs: list[int]) -> None:
        names = [f"p{n}" for pair in pairs for n in (2 * pair, 2 * pair + 1)]
        assert self.col.delete(names) == len(names)
        self.living = [pair for pair in self.living if pair not in set(pairs)]
        self.gone = self.gone | set(names)

    def step(self, step: int, rng: np.random.Generator) -> None:
        """One commit."""
        kind = step % 8
        if kind in (0, 4):
            self.add(int(rng.integers(1, 60)))
        elif kind in (1, 3, 5):
            self.swap(step // 2)
        elif kind == 2:
            self.delete(rng.choice(self.living, 20, replace=False).tolist())
        elif kind == 6:
            some = [f"p{2 * pair}" for pair in rng.choice(self.living, 5, replace=False)]
            self.col.update_metadata(some, {"seen": step})
        else:
            self.col.compact()

    def check(self, col: bqstore.Collection, rng: np.random.Generator, follows: bool) -> None:
        """One search of some kind; ``follows``: what was acknowledged before it is known to it."""
        gone = self.gone if follows else frozenset()
        kind = rng.integers(0, 6)
        query = rng.standard_normal(DIM).astype(np.float32)
        if kind == 0:
            hits = col.search(query, 15, with_vectors=True)
            assert len({hit.id for hit in hits}) == 15 and not gone & {hit.id for hit in hits}
            self.check_hits(query, hits)
        elif kind == 1:
            five = int(rng.integers(0, 5))
            hits = col.search(query, 10, filter={"five": five}, with_vectors=True)
            assert len(hits) == 10 and all(hit.metadata["five"] == five for hit in hits)
            assert not gone & {hit.id for hit in hits}
            self.check_hits(query, hits)
        elif kind == 2:
            ids, scores = col.search_ids(self.places, 1, oversampling=10, threads=int(rng.integers(1, 3)))
            assert sorted(ids[:, 0]) == ["x", "y"], ids  # both queries of one state
            np.testing.assert_allclose(scores, 1, atol=1e-5)
        elif kind == 3:
            first, second = col.search_batch(self.places, 3, oversampling=10, threads=2)
            assert {first[0].id, second[0].id} == {"x", "y"}
            assert (first[0].metadata["at"], second[0].metadata["at"]) == (0, 1)
        elif kind == 4:  # everything, by ids only: pairs are whole
            ids, _ = col.search_ids(query, 10_000)
            found = [id_ for id_ in ids[0] if id_ is not None]
            assert len(found) == len(set(found)) and not gone & set(found)
            numbers = {int(id_[1:]) for id_ in found if id_[0] == "p"}
            assert {n ^ 1 for n in numbers} == numbers and {"x", "y"} <= set(found)
        else:
            five = int(rng.integers(0, 5))
            assert col.count({"five": five}) % 2 == 0
            ids, _ = col.search_ids(query, 10_000, filter={"five": five})
            numbers = {int(id_[1:]) for id_ in ids[0] if id_ is not None}
            assert {n ^ 1 for n in numbers} == numbers and all(n // 2 % 5 == five for n in numbers)

    def check_hits(self, query: np.ndarray, hits: list[bqstore.Hit]) -> None:
        scores = [hit.vector @ query / np.linalg.norm(hit.vector) / np.linalg.norm(query) for hit in hits]
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-5)
        for hit in hits:
            if hit.id[0] == "p":
                n = int(hit.id[1:])
                assert hit.text == f"text {n}" and hit.metadata["n"] == n
                np.testing.assert_array_equal(hit.vector, vectors_of([n])[0])


def run_all(lead: Callable[[], None], *others: Callable[[], None]) -> None:
    """Run one task while the others are repeated, each at least once, in threads of their own."""
    done = threading.Event()

    def repeat(task: Callable[[], None]) -> None:
        try:
            while True:
                task()
                if done.is_set():
                    return
        except BaseException:
            done.set()
            raise

    with ThreadPoolExecutor(len(others) + 1) as pool:
        futures = [pool.submit(repeat, task) for task in others]
        try:
            lead()
        finally:
            done.set()
    for future in futures:
        future.result()


def live(life: Life, rounds: int, seed: int = 0) -> Callable[[], None]:
    def lead() -> None:
        rng = np.random.default_rng(seed)
        for step in range(rounds):
            life.step(step, rng)

    return lead


def checker(life: Life, col: bqstore.Collection, seed: int, follows: bool = True) -> Callable[[], None]:
    rng = np.random.default_rng(seed)
    return lambda: life.check(col, rng, follows)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("where", "tail"), [("memory", 8192), ("disk", 8192), ("disk", 100)])
def test_searches_while_one_writes_links_and_compacts(tmp_path, monkeypatch, where, tail):
    monkeypatch.setattr(graph_builder, "TAIL", tail)
    life = Life(None if where == "memory" else tmp_path)
    with life.col as col:
        run_all(live(life, 24), *(checker(life, col, seed) for seed in range(3)))
        assert col.verify().ok and len(col) == 2 * len(life.living) + 2
        info = col.info()
        assert info.linked == info.count + info.deleted and info.generation == 3
        ids, _ = col.search_ids(vectors_of([2 * pair for pair in life.living[::20]]), 1)
        assert ids[:, 0].tolist() == [f"p{2 * pair}" for pair in life.living[::20]]


def test_adding_one_by_one_under_many_searches(tmp_path):
    """Rows are written in place while others read them: the shortest batches, the most of them."""
    life = Life(tmp_path)
    with life.col as col:

        def lead() -> None:
            for _ in range(60 if FULL else 20):
                life.add(1)
                n = 2 * life.next - 1
                assert col.search_ids(vectors_of([n]), 1)[0][0, 0] == f"p{n}"

        run_all(lead, *(checker(life, col, seed) for seed in range(3)))
        assert col.info().linked == len(col) and col.verify().ok


def test_searches_while_the_first_graph_is_built_and_grows_much(tmp_path):
    """From no graph to one, with every array replaced by a larger one under the searches."""
    first, step, most = (1000, 500, 9000) if FULL else (400, 200, 3600)
    base = vectors_of(range(first))
    with bqstore.open(hnsw=BITS, quantization=SIGNS) as col:
        col.add(base, [f"p{n}" for n in range(first)])

        def lead() -> None:
            for at in range(first, most, step):
                more = base[:step] + np.float32(at) / first
                col.add(more, [f"p{n}" for n in range(at, at + step)])

        def search() -> None:
            known = len(col)
            ids, scores = col.search_ids(base[:20], 1, oversampling=5)
            assert ids[:, 0].tolist() == [f"p{n}" for n in range(20)]
            np.testing.assert_allclose(scores, 1, atol=1e-5)
            ids, _ = col.search_ids(base[0], 10_000)
            assert (ids[0] != None).sum() >= known  # noqa: E711
            got = col.search(base[0], 5, explain=True).explanation
            assert got.accepted >= known
            assert got.way != "walk" or got.linked + got.tail == got.accepted

        run_all(lead, search, search, search)
        assert col.info().linked == most


def test_several_writers_and_searchers(tmp_path):
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        col.add(vectors_of(range(START)), [f"p{n}" for n in range(START)])

        def writer(number: int) -> Callable[[], None]:
            def write() -> None:
                rng = np.random.default_rng(10**7 + number)
                for step in range(12):
                    names = [f"w{number}-{step}-{i}" for i in range(10)]
                    vectors = rng.standard_normal((10, DIM)).astype(np.float32)
                    col.add(vectors, names)
                    assert col.search_ids(vectors, 1)[0][:, 0].tolist() == names
                    assert col.delete(names[:4]) == 4
                    assert not set(names[:4]) & set(col.search_ids(vectors, 3)[0].ravel())
                    if step == 6:
                        col.compact()

            return write

        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(writer(number)) for number in range(3)]:
                future.result()
        assert len(col) == START + 3 * 12 * 6 and col.verify().ok
        info = col.info()
        assert info.linked == info.count + info.deleted


@pytest.mark.sampled(1)
@pytest.mark.parametrize("tail", [100, 8192], ids=["often saved", "never saved"])
def test_a_reader_in_the_same_process_follows(tmp_path, monkeypatch, tail):
    monkeypatch.setattr(graph_builder, "TAIL", tail)
    life = Life(tmp_path)
    with life.col as col, bqstore.open(tmp_path, read_only=True, hnsw=BITS, quantization=SIGNS) as reader:
        run_all(live(life, 24, seed=1), *(checker(life, reader, seed) for seed in range(3)))
        assert {record.id for record in reader.scroll()} == {record.id for record in col.scroll()}
        assert reader.info().generation == col.info().generation and reader.verify().ok


FOLLOW = """
import sys
from pathlib import Path
import numpy as np, bqstore
from bqstore.engine import graph_builder
from bqstore.engine.prepared_search import PreparedSearch
from bqstore.index import planner
from tests.engine.test_graph_threads import Life, vectors_of
graph_builder.TAIL, planner._SCAN_CODE = 100, 1e12
graph_builder.SMALLEST_GRAPH = int(sys.argv[2])
col = bqstore.open(sys.argv[1], read_only=True, hnsw={"full_scan_threshold": 0})
life = Life.__new__(Life)
life.gone, life.places = frozenset(), vectors_of([10**6, 10**6 + 1])
rng = np.random.default_rng(0)
print("ready", flush=True)
rounds, ways, linked, enough = 0, set(), set(), ["enough"]
while "stop" not in col:
    life.check(col, rng, False)
    rounds += 1
    got = col.search(life.places[0], explain=True).explanation
    ways.add(got.way)
    linked.add(got.linked)
    if rounds > 5 and "walk" in ways and len(linked) > 2 and enough:
        print(enough.pop(), flush=True)
assert col.verify().ok and not enough
"""


def test_a_reader_in_another_process_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "TAIL", 100)
    life = Life(tmp_path)
    command = [sys.executable, "-c", FOLLOW, str(tmp_path), str(ENOUGH)]
    options = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with life.col as col:
        with ThreadPoolExecutor(1) as pool, child(command, **options, **pipes) as process:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            said = pool.submit(process.stdout.readline)
            live(life, 32 if FULL else 16, seed=2)()
            while not said.done():  # the reader may be slow
                life.add(30)
                life.delete(life.living[:30])  # else they become more than the 10,000 that it looks for
                wait([said], 0.1)
            col.add(life.places[:1], ["stop"])
            out, errors = process.communicate(timeout=HANGS)
        assert (process.returncode, said.result(), out, errors) == (0, "enough\n", "", "")


@pytest.mark.parametrize("call", ["search", "search_ids"])
def test_a_search_whose_graph_doubles_meanwhile_is_made_again(monkeypatch, call):
    """A thread held up in a graph of 22 nodes found no way to one of them: its links were those of later nodes."""
    real, seen = PreparedSearch.nearest, []

    def while_it_grows(self, *arguments):
        found = real(self, *arguments)
        seen.append(self.search.data.linked)
        if len(seen) == 1:
            with ThreadPoolExecutor(1) as pool:
                more = range(START, 3 * START)
                pool.submit(col.add, vectors_of(more), [f"p{n}" for n in more]).result()
        return found

    with bqstore.open(hnsw=BITS, quantization=SIGNS, target_recall=0) as col:
        col.add(vectors_of(range(START)), [f"p{n}" for n in range(START)])
        monkeypatch.setattr(PreparedSearch, "nearest", while_it_grows)
        found = getattr(col, call)(vectors_of([7])[0], 1)
        assert (found[0].id if call == "search" else found[0][0, 0]) == "p7"
    assert seen == [START, 3 * START]
