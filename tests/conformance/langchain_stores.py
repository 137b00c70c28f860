"""LangChain's standard suite on the stores of others; run by `python -m tests.conformance`."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from langchain_bqstore import BQVectorStore

DIM = len(VectorStoreIntegrationTests.get_embeddings().embed_query("x"))


class TestBqstore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Any:
        with BQVectorStore(self.get_embeddings(), path=tmp_path / "store") as store:
            yield store


class TestInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Any:
        return InMemoryVectorStore(self.get_embeddings())


class TestChroma(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Any:
        chroma = pytest.importorskip("langchain_chroma")
        return chroma.Chroma("texts", self.get_embeddings(), persist_directory=str(tmp_path))


class TestQdrant(VectorStoreIntegrationTests):
    """Local mode, in memory."""

    @pytest.fixture
    def vectorstore(self) -> Any:
        langchain_qdrant = pytest.importorskip("langchain_qdrant")
        from qdrant_client import QdrantClient
        from qdrant_client.models import Distance, VectorParams

        client = QdrantClient(":memory:")
        client.create_collection("c", VectorParams(size=DIM, distance=Distance.COSINE))
        return langchain_qdrant.QdrantVectorStore(client, "c", self.get_embeddings())


class TestFAISS(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Any:
        faiss = pytest.importorskip("faiss")
        from langchain_community.docstore.in_memory import InMemoryDocstore
        from langchain_community.vectorstores import FAISS

        return FAISS(self.get_embeddings(), faiss.IndexFlatL2(DIM), InMemoryDocstore(), {})


class TestLanceDB(VectorStoreIntegrationTests):
    """As in langchain-community; its default mode, "overwrite", would forget what was added before."""

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Any:
        pytest.importorskip("lancedb")
        from langchain_community.vectorstores import LanceDB

        return LanceDB(uri=str(tmp_path), embedding=self.get_embeddings(), mode="append")
