"""The suites of LangChain and LlamaIndex on a remote collection, through the same adapters."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests
from llama_index.core.vector_stores.types import BasePydanticVectorStore

import bqstore
import langchain_bqstore
from llama_index.vector_stores.bqstore import BQVectorStore
from llama_index.vector_stores.bqstore.testing import VectorStoreTests

from .conftest import client_of
from .shim import running


class LangChain(VectorStoreIntegrationTests):
    backend = ""

    @pytest.fixture
    def vectorstore(self) -> Iterator[langchain_bqstore.BQVectorStore]:
        client, name = client_of(self.backend), f"bqstore-test-{uuid.uuid4().hex[:12]}"
        with bqstore.open(client, name) as collection:
            yield langchain_bqstore.BQVectorStore(self.get_embeddings(), collection=collection)
        client.delete_collection(name)
        client.close()


class TestLangChainInLocalMode(LangChain):
    backend = "local mode"


@pytest.mark.slow  # what it adds to local mode, tests of the same answers find sooner
class TestLangChainOnTheEngine(LangChain):
    backend = "engine"


class TestLangChainOnAServer(LangChain):
    backend = "server"


class LlamaIndex(VectorStoreTests):
    backend = ""
    known_failures: ClassVar[dict[str, str]] = {
        "test_filters[text-match-insensitive]": "a server compares text by case: refused by name"
    }

    def make_store(self, path: Path) -> BasePydanticVectorStore:
        self.client, self.name = client_of(self.backend), f"bqstore-test-{uuid.uuid4().hex[:12]}"
        return BQVectorStore(collection=bqstore.open(self.client, self.name))

    def reopened(self, store: BasePydanticVectorStore, path: Path) -> BasePydanticVectorStore | None:
        return BQVectorStore(collection=bqstore.open(self.client, self.name))


class TestLlamaIndexInLocalMode(LlamaIndex):
    backend = "local mode"


@pytest.mark.slow
class TestLlamaIndexOnTheEngine(LlamaIndex):
    backend = "engine"


class TestLlamaIndexOnAServer(LlamaIndex):
    backend = "server"


del LangChain, LlamaIndex, VectorStoreIntegrationTests, VectorStoreTests


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_address_of_a_server_in_the_place_of_a_folder() -> None:
    embedding = DeterministicFakeEmbedding(size=8)
    with (
        running() as (shim, address),
        langchain_bqstore.BQVectorStore(embedding, path=f"{address}/notes", m=24, api_key="sesame") as store,
    ):
        store.add_texts(["Cats sleep.", "Dogs bark."], [{"animal": "cat"}, {"animal": "dog"}])
        found = store.similarity_search("Dogs bark.", filter={"animal": "dog"}, oversampling=4.0)
        assert [document.page_content for document in found] == ["Dogs bark."]
        assert store.explain("Dogs bark.").way == "server"
        again = store.reopening()
        assert again is not None and "sesame" not in str(again)
        with langchain_bqstore.BQVectorStore(embedding, **again) as other:
            assert len(other.collection) == 2
        store.delete_collection()
        assert not shim.client.collection_exists("notes")
