"""Ctrl-C wherever Python looks for signals: an operation is done or not, the next one works, and nothing comes later.

Also a second one in what answers the first. What is caught is kept in half of the cases, as a console keeps it: what it
interrupted then ends late.
"""

import contextlib
import gc
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.storage import Store
from tests.conftest import HANGS
from tests.ctrl_c import CtrlC, places_of

from .test_concurrency import BITS, check_whole, put, vector_of

pytestmark = [
    pytest.mark.skipif(
        sys.implementation.name != "cpython" or not hasattr(signal, "setitimer"), reason="POSIX, CPython"
    ),
    # an interrupt in a finalizer is only printed
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
State = dict[str, int]
BASE = {"a": 1, "b": 2, "c": 2}
VECTORS = np.array([vector_of(9), vector_of(9)])
TEXTS = ["text 9"] * 2
NINE = {"n": 9, "even": 1}
OPERATIONS: dict[str, tuple[Callable[[bqstore.Collection], object], State]] = {
    "add": (lambda col: put(col, ["x", "y"], [7, 7]), {**BASE, "x": 7, "y": 7}),
    "replace": (lambda col: put(col, ["a", "x"], [7, 7]), {**BASE, "a": 7, "x": 7}),
    "delete": (lambda col: col.delete(["a", "b"]), {"c": 2}),
    "delete by a filter": (lambda col: col.delete(filter={"n": 2}), {"a": 1}),
    "update": (
        lambda col: col.update(["a", "b"], texts=TEXTS, metadatas=[NINE] * 2, vectors=VECTORS),
        {**BASE, "a": 9, "b": 9},
    ),
    "update_metadata": (lambda col: col.update_metadata(["a", "b"], NINE), {**BASE, "a": 9, "b": 9}),
    "compact": (lambda col: col.compact(), BASE),
    "clear": (lambda col: col.clear(), {}),
    "flush": (lambda col: col.flush(), BASE),
    "scroll": (lambda col: list(col.scroll()), BASE),
    "reads": (lambda col: ("a" in col, col.count({"n": 2}), col.search(vector_of(1), 2, filter={"n": 2})), BASE),
    "verify": (lambda col: col.verify(), BASE),
}


def found(col: bqstore.Collection) -> State:
    return {record.id: record.metadata["n"] for record in col.scroll()}


def prepare(col: bqstore.Collection) -> None:
    col.clear()
    put(col, ["a", "b", "c", "d"], [1, 2, 2, 3])
    col.delete(["d"])
    assert found(col) == BASE


def interrupt(col: bqstore.Collection, name: str, places: tuple[int, ...], *, is_kept: bool) -> int:
    """Do an operation with interrupts, and look at what is there; how many came."""
    prepare(col)
    action, after = OPERATIONS[name]
    run = CtrlC(*places)
    kept = run(lambda: action(col))
    assert kept is None or isinstance(kept, KeyboardInterrupt), kept
    was_interrupted = kept is not None
    if not is_kept:
        kept = None
    there = found(col)
    assert there == after or (was_interrupted and there == BASE)
    check_whole(col, there)
    put(col, ["z"], [5])
    col.update_metadata(["c"], NINE)
    there |= {"z": 5} | ({"c": 9} if "c" in there else {})
    assert found(col) == there
    if not is_kept:
        assert not col._engine.lifecycle.turn._is_owned() and not col._engine.core.group.waiting
    return run.came


def check_end(col: bqstore.Collection, path: Path | None) -> None:
    """No lock is kept from other threads, and on disk is what was there."""
    gc.collect()  # a generator that two interrupts have left in a circle keeps the one connection in memory until then
    other = threading.Thread(target=put, args=(col, ["last"], [8]), daemon=True)
    other.start()
    other.join(HANGS)
    there = found(col)
    assert "last" in there and col.verify().ok
    col.close()
    if path is not None:
        with bqstore.open(path) as again:
            assert found(again) == there and again.verify().ok


@pytest.mark.parametrize(
    ("where", "sample"),
    [
        ("memory", 2),
        ("disk", 1),
        *(pytest.param(where, 40, marks=pytest.mark.slow) for where in ("memory", "disk")),
        *(pytest.param(where, 100_000, marks=pytest.mark.torture) for where in ("memory", "disk")),
    ],
)
def test_ctrl_c_at_any_place_leaves_an_operation_done_or_not_done(tmp_path, where, sample):
    path, rng, came = tmp_path if where == "disk" else None, random.Random(sample), 0
    with bqstore.open(path, hnsw=BITS) as col:
        for name, (action, _) in OPERATIONS.items():
            prepare(col)
            action(col)
            prepare(col)
            places = places_of(lambda action=action: action(col))  # type: ignore[misc]
            for place in sorted(rng.sample(places, min(sample, len(places)))):
                came += interrupt(col, name, (place,), is_kept=rng.random() < 0.5)
        assert came >= len(OPERATIONS)
        check_end(col, path)


@pytest.mark.parametrize(
    ("where", "times"),
    [
        ("memory", 20),
        ("disk", 10),
        *(pytest.param(where, 500, marks=pytest.mark.slow) for where in ("memory", "disk")),
        *(pytest.param(where, 50_000, marks=pytest.mark.torture) for where in ("memory", "disk")),
    ],
)
def test_ctrl_c_in_what_answers_another_one(tmp_path, where, times):
    path, rng, length = tmp_path if where == "disk" else None, random.Random(times), 8000
    with bqstore.open(path, hnsw=BITS) as col:
        came = 0
        for i in range(times):
            places = rng.randrange(1, length), 1 + int(rng.expovariate(1 / 100)), 1 + int(rng.expovariate(1 / 100))
            came += interrupt(col, rng.choice(list(OPERATIONS)), places, is_kept=i % 2 == 0)
        assert came > times // 2
        check_end(col, path)


def test_a_read_that_was_interrupted_hid_later_commits_as_long_as_its_traceback_was_kept(tmp_path, monkeypatch):
    """Its thread went on reading the old commit: a console keeps the last traceback."""
    snapshot, left = Store.snapshot, []

    @contextlib.contextmanager
    def interrupted(self, *given):
        """Ctrl-C comes before the end has begun."""
        left.append(snapshot(self, *given))
        yield left[-1].__enter__()
        raise KeyboardInterrupt

    with bqstore.open(tmp_path, hnsw=BITS) as col:
        prepare(col)
        for n, read in enumerate((lambda: "a" in col, lambda: col.get(["a"]), col.verify), 20):
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(Store, "snapshot", interrupted)
                read()
            col.update_metadata(["a"], {"n": n})
            assert found(col) == {**BASE, "a": n} and col.get(["a"])[0].metadata["n"] == n
        left.clear()


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_what_was_committed_before_two_interrupts_was_not_seen(tmp_path, monkeypatch, where):
    """The second one came before its thread had said that it is busy no longer; others waited for that in vain."""
    with bqstore.open(tmp_path if where == "disk" else None, hnsw=BITS) as col:
        prepare(col)
        publisher = col._engine.publisher

        def interrupted(action, *given):
            publisher._behind = True
            action()
            raise KeyboardInterrupt

        class Busy(set[int]):
            def discard(self, _):
                raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(publisher, "_written", interrupted)
            patched.setattr(publisher, "busy", Busy())
            put(col, ["x"], [7])
        publisher.busy = {threading.get_ident()}
        assert found(col) == {**BASE, "x": 7} and len(col) == 4 and not publisher.busy


def test_an_add_that_was_interrupted_twice_was_stored_by_a_later_one(monkeypatch):
    """The second one came before it was taken from those that wait."""

    class Interrupted(deque):
        def remove(self, _):
            raise KeyboardInterrupt

    def interrupted(*_):
        raise KeyboardInterrupt

    with bqstore.open(hnsw=BITS) as col:
        prepare(col)
        group = col._engine.core.group
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(col._engine.publisher, "write", interrupted)
            patched.setattr(group, "waiting", left := Interrupted())
            put(col, ["x"], [7])
        group.waiting.extend(left)
        put(col, ["y"], [8])
        assert found(col) == {**BASE, "y": 8} and not group.waiting
