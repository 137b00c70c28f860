"""Async calls of LlamaIndex's `BQVectorStore`: the event loop goes on, and cancelling leaves nothing half done."""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery

import bqstore
from llama_index.vector_stores.bqstore import BQVectorStore
from tests.conftest import HANGS

from .heartbeat import never_stalls

DIM = 64
VECTORS = np.random.default_rng(8).standard_normal((2000, DIM))


def nodes(start: int, stop: int, prefix: str = "n") -> list[TextNode]:
    return [
        TextNode(id_=f"{prefix}{i}", text=f"text {i}", metadata={"i": i}, embedding=VECTORS[i].tolist())
        for i in range(start, stop)
    ]


def ask(i: int, k: int = 5, **given: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=VECTORS[i].tolist(), similarity_top_k=k, **given)


def above(i: int) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key="i", value=i, operator=FilterOperator.GT)])


@pytest.mark.slow
async def test_two_hundred_calls_at_once_stalled_the_loop_for_a_third_of_a_second(tmp_path: Path) -> None:
    """Submitting to threads that all compute waited for each of them.

    The best of some rounds, less what the machine itself makes a heartbeat late: it may be busy.
    """
    with BQVectorStore(tmp_path) as store:
        given = nodes(0, 2000)
        store.add(given)
        bqstore.warm_up()
        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "queries": lambda: asyncio.gather(*(store.aquery(ask(i)) for i in range(200))),
            "filters": lambda: asyncio.gather(*(store.aquery(ask(i, 20, filters=above(i))) for i in range(200))),
            "reads": lambda: asyncio.gather(*(store.aget_nodes([f"n{i}", f"n{i + 1}"]) for i in range(200))),
            "adds": lambda: asyncio.gather(*(store.async_add(given[i : i + 1]) for i in range(0, 200, 5))),
            "one large add": lambda: store.async_add(given[:500]),
        }
        await never_stalls(works)


async def test_calls_take_turns_in_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    with BQVectorStore() as store:
        store.add(nodes(0, 300))
        running, most, counting = {"search": 0, "add": 0}, {"search": 0, "add": 0}, threading.Lock()
        for name in running:
            method = getattr(bqstore.Collection, name)

            def counted(*args: Any, _name: str = name, _method: Any = method, **kwargs: Any) -> Any:
                with counting:
                    running[_name] += 1
                    most[_name] = max(most[_name], running[_name])
                time.sleep(0.001)
                try:
                    return _method(*args, **kwargs)
                finally:
                    with counting:
                        running[_name] -= 1

            monkeypatch.setattr(bqstore.Collection, name, counted)
        before = threading.active_count()
        calls = [store.aquery(ask(i, 1)) if i % 4 else store.async_add(nodes(i, i + 1, "m")) for i in range(200)]
        found = await asyncio.gather(*calls)
        assert all(each.ids == [f"n{i}"] if i % 4 else each == [f"m{i}"] for i, each in enumerate(found))
        assert most["search"] <= (os.cpu_count() or 1) and most["add"] <= 3
        assert threading.active_count() - before <= (os.cpu_count() or 1) + 4


async def test_a_writer_that_waits_keeps_no_reader_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BQVectorStore(tmp_path) as store:
        store.add(nodes(0, 10))
        may_write, add = threading.Event(), bqstore.Collection.add

        def waiting(*args: Any, **kwargs: Any) -> Any:
            may_write.wait(HANGS)  # as for the lock of another process
            return add(*args, **kwargs)

        monkeypatch.setattr(bqstore.Collection, "add", waiting)
        writers = [asyncio.create_task(store.async_add(nodes(i, i + 1, "m"))) for i in range(50)]
        await asyncio.sleep(0.01)
        found = await asyncio.wait_for(asyncio.gather(*(store.aquery(ask(i, 1)) for i in range(10))), HANGS / 2)
        assert [each.ids for each in found] == [[f"n{i}"] for i in range(10)]
        may_write.set()
        await asyncio.gather(*writers)
        assert len(store.collection) == 60


async def test_a_cancelled_add_is_whole_or_not_at_all(tmp_path: Path) -> None:
    with BQVectorStore(tmp_path) as store:
        store.add(nodes(0, 1))
        tasks = [asyncio.create_task(store.async_add(nodes(0, 20, f"{i}:"))) for i in range(40)]
        for i in range(0, 40, 2):
            await asyncio.sleep(0.001)
            tasks[i].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()  # the threads of those that were cancelled
        counts = [store.collection.count(lambda record, i=i: record.id.startswith(f"{i}:")) for i in range(40)]
        assert set(counts) <= {0, 20}
        assert all(counts[i] == 20 for i, result in enumerate(results) if isinstance(result, list))
        assert any(isinstance(result, asyncio.CancelledError) for result in results)
        assert store.collection.verify().ok
    with BQVectorStore(tmp_path) as store:
        assert len(store.collection) == 1 + sum(counts)


async def test_calls_that_are_cancelled_give_their_turns_back() -> None:
    with BQVectorStore() as store:
        store.add(nodes(0, 50))
        for _ in range(5):
            tasks = [asyncio.create_task(store.aquery(ask(i))) for i in range(50)]
            tasks += [asyncio.create_task(store.async_add(nodes(i, i + 1))) for i in range(50)]
            await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert (await asyncio.wait_for(store.aquery(ask(3, 1)), HANGS)).ids == ["n3"]
        assert await asyncio.wait_for(store.async_add(nodes(60, 61)), HANGS) == ["n60"]


def test_a_loop_that_is_closed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with BQVectorStore(tmp_path) as store:
        began, may_write, written, add = threading.Event(), threading.Event(), threading.Event(), bqstore.Collection.add

        def waiting(*args: Any, **kwargs: Any) -> Any:
            began.set()
            may_write.wait(HANGS)
            try:
                return add(*args, **kwargs)
            finally:
                written.set()

        monkeypatch.setattr(bqstore.Collection, "add", waiting)
        loop = asyncio.new_event_loop()
        task = loop.create_task(store.async_add(nodes(0, 5)))
        assert loop.run_until_complete(asyncio.to_thread(began.wait, HANGS))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()
        may_write.set()
        assert written.wait(HANGS)
        for _ in range(2):  # other loops go on with the same store
            assert asyncio.run(store.aquery(ask(0, 1))).ids == ["n0"]
        assert len(store.collection) == 5 and not caplog.records
