"""Minutes of kills, interrupts, damage and threads while graphs are linked, saved, found again and compacted."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

import bqstore
from bqstore.engine import graph_builder
from tests.engine.given import BITS, SIGNS, data_of, filled, let_walk
from tests.engine.test_graph_background import BASE, N, ended
from tests.engine.test_graph_threads import Life, checker, live, run_all
from tests.engine.test_graph_writing import GraphMachine

NO_SNAPSHOT = "ignore:there is no snapshot of the graph:RuntimeWarning"
pytestmark = [pytest.mark.torture, pytest.mark.filterwarnings(NO_SNAPSHOT)]
ROOT = Path(bqstore.__file__).parents[1]
DIM = 32


@pytest.fixture(autouse=True)
def walk(monkeypatch):
    let_walk(monkeypatch)


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
@pytest.mark.parametrize("tail", [0, 30])
def test_a_collection_with_a_graph_agrees_with_a_dictionary(monkeypatch, on_disk, tail):
    monkeypatch.setattr(graph_builder, "SMALLEST_GRAPH", 20)
    monkeypatch.setattr(graph_builder, "TAIL", tail)
    machine = type("Machine", (GraphMachine,), {"on_disk": on_disk})
    many = settings(max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=many)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("where", ["memory", "disk", "reader"])
def test_searches_while_one_writes(tmp_path, monkeypatch, where, seed):
    monkeypatch.setattr(graph_builder, "TAIL", 100)
    life = Life(None if where == "memory" else tmp_path)
    with life.col as col:
        if where == "reader":
            with bqstore.open(tmp_path, read_only=True, hnsw=BITS, quantization=SIGNS) as reader:
                run_all(live(life, 200, seed), *(checker(life, reader, i) for i in range(5)))
                assert len(reader) == len(col) and reader.verify().ok
        else:
            run_all(live(life, 200, seed), *(checker(life, col, i) for i in range(5)))
        assert col.verify().ok and len(col) == 2 * len(life.living) + 2


# ---- kills

Operation = tuple[str, Any]


def operations(seed: int) -> Iterator[Operation]:
    """Adds of many sizes, upserts, deletes, compactions and snapshots, without end. A document is its number."""
    rng = random.Random(seed)
    known: dict[str, int] = {}
    yield from [("add", {f"d{i}": i for i in range(200)})]
    known.update({f"d{i}": i for i in range(200)})
    for step in range(1, 10**9):
        kind = rng.choices(["add", "upsert", "delete", "compact", "flush"], [50, 20, 15, 8, 7])[0]
        some = rng.sample(sorted(known), min(len(known), rng.choice([1, 5, 40])))
        operation: Operation = (kind, None)
        if kind == "add":
            count = rng.choice([1, 1, 3, 30, 200])
            operation = ("add", {f"{step}-{i}": rng.randrange(10**12) for i in range(count)})
        elif kind == "upsert":
            operation = ("add", {id_: rng.randrange(10**12) for id_ in some})
        elif kind == "delete":
            operation = ("delete", some)
        apply(known, operation)
        yield operation


def apply(known: dict[str, int], operation: Operation) -> None:
    kind, what = operation
    if kind == "add":
        known.update(what)
    elif kind == "delete":
        for id_ in what:
            known.pop(id_, None)


def vectors_of(numbers) -> np.ndarray:
    return np.array([np.random.default_rng(n).standard_normal(DIM) for n in numbers], np.float32)


def do(col: bqstore.Collection, operation: Operation) -> None:
    kind, what = operation
    if kind == "add":
        col.add(vectors_of(what.values()), list(what), metadatas=[{"n": n} for n in what.values()])
    elif kind == "delete":
        col.delete(what)
    else:
        getattr(col, kind)()


def settings_of_a_child() -> None:
    """Everything that is seldom is often."""
    graph_builder.SMALLEST_GRAPH, graph_builder.TAIL, graph_builder.TAIL_PART = 100, 150, 0.0


CHILD = """
import os, sys
import bqstore
from tests.torture.test_graph import BITS, SIGNS, do, operations, settings_of_a_child
settings_of_a_child()
path, seed, skip = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
col = bqstore.open(path, hnsw=BITS, quantization=SIGNS)
for number, operation in enumerate(operations(seed)):
    if number >= skip:
        os.write(1, b"begin %d\\n" % number)
        do(col, operation)
        os.write(1, b"done %d\\n" % number)
"""


def check(col: bqstore.Collection, known: dict[str, int], linked: bool) -> None:
    assert {record.id: record.metadata["n"] for record in col.scroll()} == known
    some = list(known)[:: max(1, len(known) // 60)]
    if some:
        ids, scores = col.search_ids(vectors_of(known[id_] for id_ in some), 1, oversampling=20)
        assert ids[:, 0].tolist() == some
        np.testing.assert_allclose(scores, 1, atol=1e-5)
    ids, _ = col.search_ids(vectors_of([1]), 10_000)
    assert {id_ for id_ in ids[0] if id_} == known.keys()
    info = col.info()
    assert (
        not linked
        or info.linked == info.count + info.deleted
        or info.count + info.deleted < graph_builder.SMALLEST_GRAPH
    )


@pytest.mark.parametrize("seed", range(12))
def test_kill(tmp_path, monkeypatch, seed):
    """Several times in one life: what was acknowledged is there, and the graph is found or made again."""
    for name in ("SMALLEST_GRAPH", "TAIL", "TAIL_PART"):
        monkeypatch.setattr(graph_builder, name, getattr(graph_builder, name))
    settings_of_a_child()
    rng, done, restored = random.Random(seed), 0, 0
    for _ in range(4):
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(seed), str(done)]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            lines = [process.stdout.readline() for _ in range(rng.randint(1, 250))]
            for _ in range(rng.randint(0, 200_000)):  # anywhere in an operation, not just behind an answer
                pass
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
            assert process.stderr.read() == ""
        begun = 1 + max(int(line.split()[1]) for line in lines if line.startswith("begin"))
        done = max([done, *(1 + int(line.split()[1]) for line in lines if line.startswith("done"))])
        known: dict[str, int] = {}
        for operation in islice(operations(seed), done):
            apply(known, operation)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing that is there is damaged
            warnings.filterwarnings("ignore", "there is no snapshot of the graph")
            col = bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS)
        with col:
            report = col.verify()
            assert report.ok, report.problems
            found = {record.id: record.metadata["n"] for record in col.scroll()}
            if begun > done and found != known:
                apply(known, next(islice(operations(seed), done, None)))
                done += 1
            restored += col.info().linked > 0
            check(col, known, linked=False)
            col._engine.graph.save_at_close = lambda: None  # the next one finds what the kill has left
    with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
        col.flush()
        check(col, known, linked=True)
        col.compact()
        check(col, known, linked=True)
    assert restored


# ---- interrupts


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_ctrl_c_at_any_moment(tmp_path, monkeypatch, where, seed):
    """Each operation is done or not; whatever is interrupted, the next one works."""
    for name in ("SMALLEST_GRAPH", "TAIL", "TAIL_PART"):
        monkeypatch.setattr(graph_builder, name, getattr(graph_builder, name))
    settings_of_a_child()
    bqstore.warm_up()
    rng, interrupted = np.random.default_rng(seed), 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with bqstore.open(
            None if where == "memory" else tmp_path, hnsw=BITS, quantization=SIGNS, threads=1 + seed % 2
        ) as col:
            known: dict[str, int] = {}
            for number, operation in enumerate(operations(seed)):
                if number >= 500 and interrupted > 10:
                    break
                after = dict(known)
                apply(after, operation)
                try:
                    signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-5, 1.5e-2)))
                    do(col, operation)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    for _ in range(2):
                        pass
                    known = after
                except (KeyboardInterrupt, RuntimeError) as error:
                    # Condition.wait of a future answers an interrupt at the wrong moment with this
                    assert isinstance(error, KeyboardInterrupt) or "un-acquired lock" in str(error)
                    interrupted += 1
                    found = {record.id: record.metadata["n"] for record in col.scroll()}
                    assert found in (known, after)
                    known = found
                if rng.random() < 0.1:
                    check(col, known, linked=False)
            signal.setitimer(signal.ITIMER_REAL, 0)
            col.flush()
            check(col, known, linked=True)
            assert col.verify().ok
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if where == "disk":
        with bqstore.open(tmp_path, hnsw=BITS, quantization=SIGNS) as col:
            check(col, known, linked=True)


# ---- damage


@pytest.mark.parametrize("damage", ["flip", "cut", "hole"])
def test_a_snapshot_damaged_anywhere(tmp_path, damage):
    base, queries = data_of(2100, DIM, queries=10)
    filled(tmp_path / "store", base).close()
    (file,) = (tmp_path / "store").rglob("snap-*")
    data = file.read_bytes()
    with bqstore.open(tmp_path / "store", hnsw=BITS, quantization=SIGNS) as col:
        truth, _ = col.search_ids(queries, 10, oversampling=50)
    rng, told = random.Random(0), 0
    for _ in range(150):
        place = rng.choice([rng.randrange(1024), rng.randrange(len(data))])
        if damage == "flip":
            changed = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        elif damage == "cut":
            changed = data[:place]
        else:
            changed = data[:place] + bytes(len(data[place : place + 4096])) + data[place + 4096 :]
        file.write_bytes(changed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with bqstore.open(tmp_path / "store", hnsw=BITS, quantization=SIGNS, read_only=True) as col:
                told += len(caught)
                assert col.info().linked == (0 if caught else 2100) and col.verify().ok == (not caught)
                ids, _ = col.search_ids(queries, 10, oversampling=50)
                assert ids.tolist() == truth.tolist()
        assert all("rebuilt" in str(warning.message) for warning in caught)
    assert told > 120


# ---- the end of the process


@pytest.mark.parametrize(
    "how", ["plain", "exit", "reader", "alone", "at exit", "write at exit", "fork", "fork and end"]
)
def test_a_process_ends_quietly_at_any_moment(tmp_path, how):
    filled(tmp_path / "store", BASE).close()
    rng = random.Random(how)
    for _ in range(15):
        for snapshot in (tmp_path / "store").rglob("snap-*"):
            snapshot.unlink()
        run = ended(tmp_path / "store", how, rng.randint(1, N - 100))
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_opening_and_closing_while_another_process_writes_and_compacts(tmp_path):
    """A reader's opening meets commits, snapshots that vanish, and generations that end."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), "5", "0"], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() and process.stdout.readline() == "done 0\n"
        threading.Thread(target=process.stdout.read, daemon=True).start()
        for _ in range(150):
            with bqstore.open(tmp_path, read_only=True, hnsw=BITS, quantization=SIGNS) as reader:
                for _ in range(3):
                    hits = reader.search(vectors_of([1])[0], 20, with_vectors=True)
                    assert len({hit.id for hit in hits}) == min(20, len(hits))
                    for hit in hits:
                        np.testing.assert_array_equal(hit.vector, vectors_of([hit.metadata["n"]])[0])
                    ids, _ = reader.search_ids(vectors_of([2]), 10_000)
                    assert len({id_ for id_ in ids[0] if id_}) == (ids[0] != None).sum()  # noqa: E711
                assert reader.verify().ok
        assert process.poll() is None
        process.kill()
    shutil.rmtree(tmp_path / "default")
