"""Adds of an event loop share commits, though its threads are few: they are prepared, and wait without a thread."""

import asyncio
import gc
import inspect
import time
import weakref
from collections.abc import Callable
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np
import pytest

import bqstore
from bqstore.engine import writes
from bqstore.errors import ClosedError, InvalidInputError, LockedError, StorageError, UnknownKeywordError
from bqstore.storage import Store
from tests.conftest import HANGS

EYE = np.eye(128, dtype=np.float32)


def commits_of(col: bqstore.Collection) -> int:
    return col._engine.store.head.seq


async def add(col: bqstore.Collection, i: int, id_: str | None = None, **given: Any) -> bqstore.AddResult:
    return await bqstore.writing(col.add, EYE[i : i + 1], [id_ or f"n{i}"], **given)


async def all_of(*calls: Any) -> list[Any]:
    """What they return or raise; a hang fails."""
    return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), HANGS)


async def until(so: Callable[[], bool]) -> None:
    """Wait until something is so; a hang fails."""
    end = time.monotonic() + HANGS
    while not so():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def are_waiting(col: bqstore.Collection, n: int) -> None:
    await until(lambda: len(col._engine.core.group.waiting) >= n)


async def test_a_hundred_adds_under_way_took_a_commit_for_every_three(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(EYE[:1], ["first"])
        before = commits_of(col)
        added = await all_of(*(add(col, i, texts=[f"text {i}"], metadatas=[{"i": i}]) for i in range(100)))
        assert added == [[f"n{i}"] for i in range(100)]
        assert commits_of(col) - before < 10
        for i in range(100):
            record = col.get([f"n{i}"], with_vectors=True)[0]
            assert record.text == f"text {i}" and record.metadata == {"i": i}
            assert record.vector.tolist() == EYE[i].tolist()
        assert not col._engine.core.group.waiting
    with bqstore.open(tmp_path) as col:
        assert len(col) == 101 and col.verify().ok


async def test_each_add_is_told_what_it_has_replaced_and_what_was_left_out():
    with bqstore.open() as col:
        col.add(EYE[:2], ["n0", "n1"])
        bad = bqstore.writing(col.add, [EYE[5], EYE[5] * np.nan], ["good", "bad"], on_error="skip")
        *added, skipped = await all_of(*(add(col, i) for i in range(4)), bad)
        assert [each.replaced for each in added] == [1, 1, 0, 0]
        assert skipped == ["good"] and skipped.skipped[0].id == "bad"
        assert await bqstore.writing(partial(col.add, EYE[:1]), ids=["p"]) == ["p"]
        assert await bqstore.writing(bqstore.Collection.add, col, EYE[:1], ["unbound"]) == ["unbound"]
        none = await bqstore.writing(col.add, [EYE[5] * np.nan], ["bad"], on_error="skip")
        assert none == [] and none.skipped[0].id == "bad" and len(col) == 7


async def test_a_wrong_call_is_refused_alone():
    with bqstore.open() as col:
        col.add(EYE[:1], ["first"])
        right, wrong, unknown = await all_of(
            add(col, 1), bqstore.writing(col.add, [[1.0]], ["short"]), add(col, 2, txts=["text"])
        )
        assert right == ["n1"] and isinstance(wrong, InvalidInputError) and isinstance(unknown, UnknownKeywordError)
        assert str(unknown).startswith("Collection.add()") and sorted(col.ids()) == ["first", "n1"]


async def test_what_is_large_is_prepared_when_it_is_its_turn(monkeypatch):
    """Else all vectors of a hundred large adds would be in memory at once."""
    with bqstore.open() as col:
        col.add(EYE[:1], ["first"])
        waiting, listed = [], col._engine.core.group.listed
        monkeypatch.setattr(col._engine.core.group, "listed", lambda mine: (waiting.append(mine), listed(mine))[1])
        large = np.tile(EYE[:1], (writes._SMALL + 1, 1))
        added = await all_of(bqstore.writing(col.add, large), bqstore.writing(col.add, large[1:]))
        assert [len(each) for each in added] == [writes._SMALL + 1, writes._SMALL] and len(col) == 2 * writes._SMALL + 2
        assert [len(mine.rows.ids) for mine in waiting] == [writes._SMALL]


async def test_an_add_that_is_cancelled_while_it_waits_is_not_stored_later(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(EYE[:1], ["first"])
        with col._engine.lifecycle.turn:  # a thread of the loop waits for it, and the others have none
            tasks = [asyncio.create_task(add(col, i)) for i in range(20)]
            await are_waiting(col, 20)
            for task in tasks[10:]:
                task.cancel()
            await all_of(*tasks[10:])
        assert await all_of(*tasks[:10]) == [[f"n{i}"] for i in range(10)]
        assert await add(col, 20) == ["n20"]
        assert sorted(col.ids()) == sorted(["first", "n20", *(f"n{i}" for i in range(10))])
        assert not col._engine.core.group.waiting


async def test_a_thread_that_commits_takes_along_what_waits_in_a_loop(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(EYE[:1], ["n0"])
        before = commits_of(col)
        with col._engine.lifecycle.turn:
            thread = asyncio.create_task(asyncio.to_thread(col.add, EYE[50:51], ["thread"]))
            await are_waiting(col, 1)
            tasks = [asyncio.create_task(add(col, i)) for i in range(20)]
            await are_waiting(col, 21)
        thread_added, *added = await all_of(thread, *tasks)
        assert thread_added == ["thread"] and added == [[f"n{i}"] for i in range(20)]
        assert [each.replaced for each in added] == [1, *[0] * 19]
        assert commits_of(col) == before + 1 and col.verify().ok


@pytest.mark.parametrize("fails", [1, 1000])
async def test_a_failed_commit_is_told_to_the_adds_that_were_in_it(tmp_path, monkeypatch, fails):
    """To the one whose thread it was; the others try again."""
    with bqstore.open(tmp_path) as col:
        col.add(EYE[:1], ["first"])
        append, tried = Store.append, []

        def failing(self, *given):
            tried.append(None)
            if len(tried) <= fails:
                raise StorageError(28, "the disk is full")
            return append(self, *given)

        monkeypatch.setattr(Store, "append", failing)
        outcomes = await all_of(*(add(col, i) for i in range(20)))
        refused = [i for i, each in enumerate(outcomes) if isinstance(each, StorageError)]
        assert len(refused) == min(fails, 20)
        assert sorted(col.ids()) == sorted(["first", *(f"n{i}" for i in range(20) if i not in refused)])
        assert not col._engine.core.group.waiting


async def test_adds_that_wait_for_another_process_waited_one_after_the_other(tmp_path, monkeypatch):
    """Thirty of them for ten times the timeout, as they had three threads. Each counts from when it was prepared."""
    with bqstore.open(tmp_path, lock_timeout=500) as col:
        col.add(EYE[:1], ["first"])
        waited, monotonic = [], time.monotonic

        def wait(self, file, timeout):
            waited.append(timeout)
            raise LockedError("another process writes")

        monkeypatch.setattr(Store, "wait_for_lock", wait)
        monkeypatch.setattr(writes, "time", SimpleNamespace(monotonic=lambda: monotonic() + 500 * len(waited)))
        outcomes = await all_of(*(add(col, i) for i in range(30)))
        assert all(isinstance(each, LockedError) for each in outcomes) and list(col.ids()) == ["first"]
        assert len(waited) == 30 and sum(each > 0 for each in waited) <= 3, "two may be prepared beside the first wait"


async def test_a_collection_that_is_closed_meanwhile_says_so(tmp_path):
    col = bqstore.open(tmp_path)
    col.add(EYE[:1], ["first"])
    with col._engine.lifecycle.turn:
        tasks = [asyncio.create_task(add(col, i)) for i in range(10)]
        await are_waiting(col, 10)
        closing = asyncio.create_task(asyncio.to_thread(col.close))
        await asyncio.sleep(0.01)
    outcomes = await all_of(*tasks, closing)
    added = [each[0] for each in outcomes[:10] if isinstance(each, list)]
    assert all(isinstance(each, (list, ClosedError)) for each in outcomes[:10]) and outcomes[10] is None
    with bqstore.open(tmp_path) as col:
        assert sorted(col.ids()) == sorted(["first", *added])


def test_a_loop_that_has_ended_leaves_nothing_that_is_added_later(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(EYE[:1], ["first"])

        async def interrupted():
            with col._engine.lifecycle.turn:
                tasks = [asyncio.create_task(add(col, i)) for i in range(10)]
                await are_waiting(col, 10)
                del tasks
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(interrupted())
        assert not col._engine.core.group.waiting
        col.delete(["first"])
        stored = set(col.ids())
        col.add(EYE[:1], ["last"])
        assert set(col.ids()) == stored | {"last"}


def test_each_opening_and_each_loop_has_turns_of_its_own(tmp_path):
    with bqstore.open(tmp_path) as one, bqstore.open(tmp_path, lock_timeout=0) as other:
        one.add(EYE[:1], ["first"])

        async def both(loop: int) -> list[Any]:
            calls = [add(col, i, f"{loop} {i} {name}") for i in range(10) for name, col in (("a", one), ("b", other))]
            return await all_of(*calls)

        assert all(isinstance(each, list) for loop in range(3) for each in asyncio.run(both(loop)))
        assert len(one) == 61 and one.verify().ok


@pytest.mark.parametrize("n", [1, 1001])
async def test_an_add_that_was_cancelled_in_its_thread_overwrote_a_later_one(n):
    """Its thread waited on, off the list, and committed behind one that had been acknowledged meanwhile."""
    with bqstore.open() as col:
        col.add(EYE[:1], ["first"])
        ids, vectors = [f"n{i}" for i in range(n)], np.ones((n, 128))
        with col._engine.lifecycle.turn:
            thread = asyncio.create_task(asyncio.to_thread(col.add, EYE[50:51], ["thread"]))
            await are_waiting(col, 1)
            old = asyncio.create_task(bqstore.writing(col.add, vectors, ids, ["old"] * n))
            waiting = col._engine.core.group.waiting
            await until(lambda: any(each.rows.ids == ids and each.thread for each in list(waiting)))
            old.cancel()
            assert isinstance((await all_of(old))[0], asyncio.CancelledError)
            new = asyncio.create_task(bqstore.writing(col.add, vectors, ids, ["new"] * n))
            await until(lambda: sum(each.rows.ids == ids for each in list(waiting)) >= 2 - (n == 1))
        outcomes = await all_of(thread, new)
        assert outcomes == [["thread"], ids] and outcomes[1].replaced == 0
        await asyncio.get_running_loop().shutdown_default_executor()  # the thread of the cancelled one ends
        assert {record.text for record in col.get(ids)} == {"new"} and not col._engine.core.group.waiting


def test_of_equal_ids_the_later_add_lost_whose_thread_committed_both():
    """It put its own documents first; the earlier one may be that of a loop that goes on later."""
    with bqstore.open() as col:
        col.add(EYE[:1], ["first"])
        early = bqstore.Collection.add.prepare(col, EYE[1:2], ["same"], ["old"])
        with col._engine.core.group.listed(early.mine):
            assert col.add(EYE[1:2], ["same"], ["new"]) == ["same"]
        assert early.mine.is_done and col.get(["same"])[0].text == "new"


def test_adds_of_a_loop_that_was_stopped_came_along_with_a_later_add():
    """As after Ctrl-C in `run_until_complete`: what was deleted since came back."""
    with bqstore.open() as col:
        col.add(EYE[:1], ["first"])
        loop, tasks = asyncio.new_event_loop(), []

        async def interrupted():
            with col._engine.lifecycle.turn:
                tasks.extend(asyncio.create_task(add(col, i)) for i in range(10))
                await are_waiting(col, 10)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(interrupted())
        col.add(EYE[:1], ["second"])
        assert len(col) <= 3, "one of them had a thread"
        assert loop.run_until_complete(all_of(*tasks)) == [[f"n{i}"] for i in range(10)]
        assert len(col) == 12
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def test_adds_that_waited_kept_all_their_vectors_in_memory(monkeypatch):
    """A thousand adds of a hundred documents: they wait with the documents of one commit."""
    with bqstore.open() as col:
        col.add(EYE[:1], ["first"])
        most, waiting = [0], col._engine.core.group.waiting
        listed = col._engine.core.group.listed

        def counted(mine):
            most[0] = max(most[0], len(mine.rows.ids) + sum(len(each.rows.ids) for each in list(waiting)))
            return listed(mine)

        monkeypatch.setattr(col._engine.core.group, "listed", counted)
        hundred = np.tile(EYE[:1], (writes._SMALL, 1))
        before = commits_of(col)
        added = await all_of(*(bqstore.writing(col.add, hundred) for _ in range(18)))
        assert all(len(each) == writes._SMALL for each in added)
        assert len(col) == 18 * writes._SMALL + 1 and most[0] <= 1300, "three threads prepare at once"
        assert commits_of(col) - before < 15


async def test_a_decorated_add_was_passed_by(monkeypatch):
    """As tools for tracing make them, by `functools.wraps`."""
    calls, plain = [], bqstore.Collection.add

    @wraps(plain)
    def traced(*args, **kwargs):
        calls.append(args)
        return plain(*args, **kwargs)

    monkeypatch.setattr(bqstore.Collection, "add", traced)
    with bqstore.open() as col:
        assert await add(col, 0) == ["n0"] and len(calls) == 1


def test_loops_that_have_ended_were_kept():
    with bqstore.open() as col:

        async def many():
            await all_of(*(bqstore.writing(col.count) for _ in range(9)), *(add(col, i) for i in range(9)))
            return weakref.ref(asyncio.get_running_loop())

        loops = [asyncio.run(many()) for _ in range(3)]
        gc.collect()
        assert sum(loop() is not None for loop in loops) <= 1


def test_the_types_of_an_add_are_those_of_the_call():
    assert get_type_hints(bqstore.Collection.add)["return"] is bqstore.AddResult
    assert str(inspect.signature(bqstore.Collection.add).return_annotation) == "AddResult"


@pytest.mark.parametrize("dim", [None, 128])
async def test_the_first_adds_of_a_collection_were_a_commit_each(dim):
    """All that were prepared before it had codes; likewise after each change of the encoding."""
    with bqstore.open(dim=dim) as col:
        with col._engine.lifecycle.turn:
            tasks = [asyncio.create_task(add(col, i)) for i in range(50)]
            await are_waiting(col, 50)
        short = bqstore.writing(col.add, np.ones((1, 64)), ["short"])
        *added, short = await all_of(*tasks, short)
        assert added == [[f"n{i}"] for i in range(50)] and isinstance(short, InvalidInputError)
        assert commits_of(col) < 8
        before = commits_of(col)
        early = bqstore.Collection.add.prepare(col, EYE[51:52], ["before"])
        with col._engine.core.group.listed(early.mine):
            col.requantize(encoding="two_bits")
            assert await add(col, 52, "after") == ["after"]
            assert early.finish() == ["before"] and commits_of(col) <= before + 3
        for i, id_ in [(51, "before"), (52, "after"), *((i, f"n{i}") for i in range(50))]:
            assert col.search(EYE[i], k=1)[0].id == id_
        assert col.verify().ok


def test_of_equal_new_ids_the_later_add_was_told_that_it_replaced_none():
    with bqstore.open() as col:
        col.add(EYE[:1], ["first"])
        early = bqstore.Collection.add.prepare(col, EYE[1:3], ["same", "first"])
        with col._engine.core.group.listed(early.mine):
            assert col.add(EYE[1:3], ["same", "other"]).replaced == 1
        assert early.finish().replaced == 1


async def test_adds_of_a_commit_said_all_or_none_that_much_is_in_memory_alone(monkeypatch, caplog):
    monkeypatch.setattr(writes, "_MUCH", 5)
    with bqstore.open() as col:
        col.add(EYE[:1], ["first"])
        with col._engine.lifecycle.turn:
            tasks = [asyncio.create_task(bqstore.writing(col.add, EYE[i * 5 : i * 5 + 5])) for i in range(4)]
            await are_waiting(col, 4)
        assert [len(each) for each in await all_of(*tasks)] == [5] * 4
        await all_of(*(add(col, i) for i in range(4)))
    assert sum("in memory alone" in record.getMessage() for record in caplog.records) == 1
