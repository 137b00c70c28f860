"""LangChain's `index()`: a record manager beside the store, with each kind of clean-up, on a store on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index

from langchain_bqstore import BQVectorStore

from .langchain_texts import Spelled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BQVectorStore]:
    with BQVectorStore(Spelled(), path=tmp_path) as store:
        yield store


@pytest.fixture
def records() -> InMemoryRecordManager:
    manager = InMemoryRecordManager(namespace="bqstore")
    manager.create_schema()
    return manager


def document(text: str, source: str) -> Document:
    return Document(text, metadata={"source": source})


def texts(store: BQVectorStore) -> set[str | None]:
    return {record.text for record in store.collection.scroll()}


def counts(**given: int) -> dict[str, int]:
    return {"num_added": 0, "num_updated": 0, "num_skipped": 0, "num_deleted": 0, **given}


def run(documents: list[Document], records: Any, store: BQVectorStore, cleanup: Any, **more: Any) -> dict[str, int]:
    result = index(documents, records, store, cleanup=cleanup, source_id_key="source", key_encoder="sha256", **more)
    return dict(result)


FIRST = [document("1 0", "a"), document("0 1", "a"), document("1 1", "b")]
THEN = [document("1 0", "a"), document("2 1", "a")]  # "0 1" is gone from a; b is not looked at


@pytest.mark.parametrize(
    ("cleanup", "left", "deleted"),
    [
        (None, {"1 0", "0 1", "1 1", "2 1"}, 0),
        ("incremental", {"1 0", "2 1", "1 1"}, 1),
        ("scoped_full", {"1 0", "2 1", "1 1"}, 1),
        ("full", {"1 0", "2 1"}, 2),
    ],
)
@pytest.mark.parametrize("batch_size", [2, 100])
def test_cleanups(
    store: BQVectorStore, records: Any, cleanup: Any, left: set[str], deleted: int, batch_size: int
) -> None:
    assert run(FIRST, records, store, cleanup, batch_size=batch_size) == counts(num_added=3)
    assert run(FIRST, records, store, cleanup, batch_size=batch_size) == counts(num_skipped=3)
    wanted = counts(num_added=1, num_skipped=1, num_deleted=deleted)
    assert run(THEN, records, store, cleanup, batch_size=batch_size) == wanted
    assert texts(store) == left


def test_full_cleanup_with_nothing_left_deletes_all(store: BQVectorStore, records: Any) -> None:
    run(FIRST, records, store, "full")
    assert run([], records, store, "full") == counts(num_deleted=3)
    assert len(store.collection) == 0


def test_what_the_store_has_lost_meanwhile_is_no_failure(store: BQVectorStore, records: Any) -> None:
    run(FIRST, records, store, "full")
    store.collection.clear()
    assert run([], records, store, "full") == counts(num_deleted=3)


def test_forced_updates_replace(store: BQVectorStore, records: Any) -> None:
    run(FIRST, records, store, "full")
    assert run(FIRST, records, store, "full", force_update=True) == counts(num_updated=3)
    assert len(store.collection) == 3


def test_duplicates_are_added_once(store: BQVectorStore, records: Any) -> None:
    assert run([*FIRST, *FIRST], records, store, None)["num_added"] == 3
    assert len(store.collection) == 3


async def test_aindex(store: BQVectorStore, records: Any) -> None:
    for documents, wanted in (
        (FIRST, counts(num_added=3)),
        (FIRST, counts(num_skipped=3)),
        (THEN, counts(num_added=1, num_skipped=1, num_deleted=2)),
    ):
        result = await aindex(
            documents, records, store, cleanup="full", source_id_key="source", key_encoder="sha256", batch_size=2
        )
        assert result == wanted
    assert texts(store) == {"1 0", "2 1"}


def test_the_embedder_sees_only_what_is_new(tmp_path: Path, records: Any) -> None:
    embedding = Spelled()
    with BQVectorStore(embedding, path=tmp_path) as store:
        run(FIRST, records, store, "full")
        embedding.calls.clear()
        run(THEN, records, store, "full")
    assert embedding.calls == [("documents", 1)]
