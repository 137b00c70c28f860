"""Async calls of LangChain's `BQVectorStore`: the event loop goes on, and cancelling leaves nothing half done."""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bqstore
from langchain_bqstore import BQVectorStore
from tests.conftest import HANGS

from .heartbeat import never_stalls
from .langchain_texts import Spelled

DIM, N = 64, 2000
TEXTS = [" ".join(f"{x:.2f}" for x in line) for line in np.random.default_rng(8).standard_normal((N, DIM))]
IDS = [f"n{i}" for i in range(N)]


def filled(path: Path | None = None) -> BQVectorStore:
    store = BQVectorStore(Spelled(), path=path)
    store.add_texts(TEXTS, [{"i": i} for i in range(N)], ids=IDS)
    return store


@pytest.mark.slow
async def test_two_hundred_calls_at_once_do_not_stall_the_loop(tmp_path: Path) -> None:
    """The best of some rounds, less what the machine itself makes a heartbeat late: it may be busy."""
    with filled(tmp_path) as store:
        bqstore.warm_up()
        vectors = store.embeddings.embed_documents(TEXTS[:500])
        pairs = list(zip(TEXTS, vectors, strict=False))

        def each(call: Callable[[int], Awaitable[Any]], count: int = 200) -> Callable[[], Awaitable[Any]]:
            return lambda: asyncio.gather(*(call(i) for i in range(count)))

        above: Callable[[int], dict[str, Any]] = lambda i: {"i": {"$gt": i}}  # noqa: E731
        works = {
            "searches": each(lambda i: store.asimilarity_search_with_score_by_vector(vectors[i], 5)),
            "texts": each(lambda i: store.asimilarity_search(TEXTS[i], 5)),
            "filters": each(lambda i: store.asimilarity_search_by_vector(vectors[i], 20, filter=above(i))),
            "mmr": each(lambda i: store.amax_marginal_relevance_search_by_vector(vectors[i], 5)),
            "reads": each(lambda i: store.aget_by_ids(IDS[i : i + 2])),
            "adds": each(lambda i: store.aadd_embeddings(pairs[i : i + 1], ids=[IDS[i]]), 40),
            "deletes": each(lambda i: store.adelete([IDS[i + 1000]]), 40),
            "one large add": lambda: store.aadd_embeddings(pairs, ids=IDS[:500]),
        }
        await never_stalls(works)


async def test_calls_take_turns_in_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    with BQVectorStore(Spelled()) as store:
        store.add_texts(TEXTS[:200], ids=IDS[:200])
        running, most = {"search": 0, "get": 0, "add": 0, "delete": 0}, dict[str, int]()
        counting = threading.Lock()
        for name in running:
            method = getattr(bqstore.Collection, name)

            def counted(*args: Any, _name: str = name, _method: Any = method, **given: Any) -> Any:
                with counting:
                    running[_name] += 1
                    most[_name] = max(most.get(_name, 0), running[_name])
                time.sleep(0.001)
                try:
                    return _method(*args, **given)
                finally:
                    with counting:
                        running[_name] -= 1

            monkeypatch.setattr(bqstore.Collection, name, counted)
        vector = store.embeddings.embed_query(TEXTS[0])
        calls: list[Callable[[int], Any]] = [
            lambda i: store.asimilarity_search(TEXTS[i], 1),
            lambda i: store.asimilarity_search_by_vector(vector, 1),
            lambda i: store.asimilarity_search_with_relevance_scores(TEXTS[i], 1),
            lambda i: store.aget_by_ids(IDS[i : i + 1]),
            lambda i: store.aadd_texts(TEXTS[i : i + 1], ids=IDS[i : i + 1]),
            lambda i: store.adelete(["unknown"]),
        ]
        found = await asyncio.gather(*(calls[i % 6](i) for i in range(180)))
        assert [each[0].id for each in found[::6]] == [IDS[i] for i in range(0, 180, 6)]
        assert most["search"] <= (os.cpu_count() or 1) and most["get"] <= (os.cpu_count() or 1)
        assert 0 < most["add"] + most["delete"] <= 6


async def test_a_cancelled_add_is_whole_or_not_at_all(tmp_path: Path) -> None:
    with BQVectorStore(Spelled(), path=tmp_path) as store:
        names = [[f"{i}:{j}" for j in range(20)] for i in range(40)]
        tasks = [asyncio.create_task(store.aadd_texts(TEXTS[:20], ids=names[i])) for i in range(40)]
        for i in range(0, 40, 2):
            await asyncio.sleep(0.001)
            tasks[i].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()  # the threads of those that were cancelled
        counts = [len(store.get_by_ids(names[i])) for i in range(40)]
        assert set(counts) <= {0, 20} and store.collection.verify().ok
        assert all(counts[i] == 20 for i, result in enumerate(results) if isinstance(result, list))
        assert any(isinstance(result, asyncio.CancelledError) for result in results)
    with BQVectorStore(Spelled(), path=tmp_path) as store:
        assert len(store.collection) == sum(counts)


async def test_a_filter_that_raises_stop_iteration_ends_the_call() -> None:
    """A future cannot hold a StopIteration: the call was waited for without end."""
    with BQVectorStore(Spelled()) as store:
        store.add_texts(TEXTS[:3])
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(store.asimilarity_search(TEXTS[0], filter=lambda document: next(iter(()))), HANGS)
