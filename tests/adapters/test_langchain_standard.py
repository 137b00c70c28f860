"""LangChain's own suite, all 25 tests, in four set-ups.

With ``full_scan_threshold=0`` the order that it asserts is still right: no test has more than three documents, and
``ceil(k * 3.0)`` candidates are at least three. So every document is a candidate and all are ranked by their original
vectors; codes of six bits alone would not rank them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from langchain_bqstore import BQVectorStore


class TestInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[BQVectorStore]:
        with BQVectorStore(self.get_embeddings()) as store:
            yield store


@pytest.mark.slow  # TestReopened is on disk, too
class TestOnDisk(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[BQVectorStore]:
        with BQVectorStore(self.get_embeddings(), path=tmp_path / "store") as store:
            yield store


class Reopened(BQVectorStore):
    """Closed and opened again after each write."""

    def reopen(self) -> None:
        path = self.collection.info().path
        self.close()
        with pytest.raises(Exception, match="closed"):
            self.collection.count()
        self.__init__(self.embeddings, path=path)  # type: ignore[misc]
        assert self.collection.info().path == path

    def add_texts(self, *args: Any, **kwargs: Any) -> list[str]:
        added = super().add_texts(*args, **kwargs)
        self.reopen()
        return added

    async def aadd_texts(self, *args: Any, **kwargs: Any) -> list[str]:
        added = await super().aadd_texts(*args, **kwargs)
        self.reopen()
        return added

    def delete(self, *args: Any, **kwargs: Any) -> bool:  # the base's adelete comes here too
        done = super().delete(*args, **kwargs)
        self.reopen()
        return done


class TestReopened(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[BQVectorStore]:
        with Reopened(self.get_embeddings(), path=tmp_path / "store") as store:
            yield store


class TestOnBits(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[BQVectorStore]:
        with BQVectorStore(self.get_embeddings(), full_scan_threshold=0) as store:
            yield store


async def test_reopened_does_reopen(tmp_path: Path) -> None:
    with Reopened(VectorStoreIntegrationTests.get_embeddings(), path=tmp_path) as store:
        seen = {store.collection}
        store.add_documents([Document("a")])
        seen.add(store.collection)
        await store.aadd_documents([Document("b")])
        seen.add(store.collection)
        await store.adelete(["a"])
        seen.add(store.collection)
        assert len(seen) == 4


def test_the_bits_are_searched_where_they_are_forced() -> None:
    embedding = VectorStoreIntegrationTests.get_embeddings()
    for threshold, steps in ((0, True), (None, False)):
        with BQVectorStore(embedding, full_scan_threshold=threshold) as store:
            store.add_texts(["foo", "bar", "baz"])
            scores = [score for _, score in store.similarity_search_with_score("new foo", 3, rescore=False)]
        # the cosine of two codes of six signs is a number of thirds
        assert all(abs(score * 3 - round(score * 3)) < 1e-6 for score in scores) is steps
