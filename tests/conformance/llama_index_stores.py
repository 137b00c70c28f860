"""LlamaIndex's contract on the stores of others; run by `python -m tests.conformance`."""

from pathlib import Path
from typing import Any

import pytest
from llama_index.core.vector_stores import SimpleVectorStore

from llama_index.vector_stores.bqstore import BQVectorStore
from llama_index.vector_stores.bqstore.testing import VectorStoreTests


class TestBqstore(VectorStoreTests):
    def make_store(self, path: Path) -> Any:
        return BQVectorStore(path)

    def reopened(self, store: Any, path: Path) -> Any:
        store.close()
        return BQVectorStore(path)


class TestSimple(VectorStoreTests):
    def make_store(self, path: Path) -> Any:
        return SimpleVectorStore()

    def reopened(self, store: Any, path: Path) -> Any:
        store.persist(str(path / "store.json"))
        return SimpleVectorStore.from_persist_path(str(path / "store.json"))


class TestChroma(VectorStoreTests):
    def make_store(self, path: Path) -> Any:
        chromadb = pytest.importorskip("chromadb")
        from llama_index.vector_stores.chroma import ChromaVectorStore

        client = chromadb.PersistentClient(str(path / "chroma"))
        return ChromaVectorStore(chroma_collection=client.get_or_create_collection("nodes"))

    def reopened(self, store: Any, path: Path) -> Any:
        return self.make_store(path)


class TestQdrant(VectorStoreTests):
    """Local mode: one client, which locks its folder. Async calls need a client of their own, in memory here."""

    def make_store(self, path: Path) -> Any:
        qdrant = pytest.importorskip("qdrant_client")
        from llama_index.vector_stores.qdrant import QdrantVectorStore

        return QdrantVectorStore("nodes", client=qdrant.QdrantClient(path=str(path / "qdrant")))

    def reopened(self, store: Any, path: Path) -> Any:
        self.close(store)
        return self.make_store(path)

    def close(self, store: Any) -> None:
        store.client.close()

    @pytest.fixture
    def store(self, tmp_path: Path, _known: None, request: pytest.FixtureRequest) -> Any:
        if "async" not in request.node.name:
            made = self.make_store(tmp_path)
            yield made
            self.close(made)
            return
        from llama_index.vector_stores.qdrant import QdrantVectorStore
        from qdrant_client import AsyncQdrantClient

        yield QdrantVectorStore("nodes", aclient=AsyncQdrantClient(":memory:"))


class TestLanceDB(VectorStoreTests):
    def make_store(self, path: Path) -> Any:
        pytest.importorskip("lancedb")
        from llama_index.vector_stores.lancedb import LanceDBVectorStore

        return LanceDBVectorStore(uri=str(path / "lance"))

    def reopened(self, store: Any, path: Path) -> Any:
        return self.make_store(path)
