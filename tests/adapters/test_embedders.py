"""What may make the vectors: the frameworks' own classes, a `bqstore.Embedder` in either framework, nothing else."""

import copy
import pickle
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import Document as LlamaDocument

import bqstore
from langchain_bqstore import BQVectorStore, EmbedderEmbeddings
from llama_index.vector_stores.bqstore import BQVectorStore as LlamaIndexStore
from llama_index.vector_stores.bqstore import EmbedderEmbedding

from ..embeddings.fake_server import Server, serve, vector_of
from .langchain_texts import Spelled


class Toy:
    """A `bqstore.Embedder`; a text is its own vector, a query the opposite of it."""

    model = "toy"

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.threads: set[int] = set()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(len(texts))
        self.threads.add(threading.get_ident())
        return np.array([text.split() for text in texts], np.float32)

    def embed_query(self, text: str) -> np.ndarray:
        self.calls.append("query")
        self.threads.add(threading.get_ident())
        return -self.embed([text])[0]


class Duck:
    """Embeds like LangChain's `Embeddings` without being one; it has no async methods."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return Spelled().embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return Spelled().embed_query(text)


# ---- LangChain


async def test_a_store_takes_an_embedder() -> None:
    toy = Toy()
    with BQVectorStore(toy) as store:
        assert isinstance(store.embeddings, EmbedderEmbeddings) and store.embeddings.embedder is toy
        store.add_texts(["1 0", "0 1"], ids=["a", "b"])
        await store.aadd_texts(["-1 0"], ids=["c"])
        assert toy.calls == [2, 1]
        assert store.similarity_search("1 0", k=1)[0].id == "c"
        assert (await store.asimilarity_search("1 0", k=1))[0].id == "c"
    with BQVectorStore.from_documents([Document("1 0")], toy) as store:
        assert len(store.collection) == 1
    with await BQVectorStore.afrom_texts(["1 0"], toy) as store:
        assert len(store.collection) == 1


def test_the_wrapper_gives_lists_of_python_floats() -> None:
    embeddings = EmbedderEmbeddings(Toy())
    assert isinstance(embeddings, Embeddings)
    assert embeddings.embed_documents(["1 0", "2 0.5"]) == [[1.0, 0.0], [2.0, 0.5]]
    assert embeddings.embed_query("1 3") == [-1.0, -3.0]
    assert {type(value) for value in embeddings.embed_query("1 3")} == {float}


async def test_what_is_like_langchains_embeddings_is_taken_as_it_is() -> None:
    duck = Duck()
    with BQVectorStore(duck) as store:  # type: ignore[arg-type]
        assert store.embeddings is duck
        store.add_texts(["1 0"], ids=["a"])
        await store.aadd_texts(["0 1"], ids=["b"])
        assert store.similarity_search("0 2", k=1)[0].id == "b"
        assert (await store.asimilarity_search("0 2", k=1))[0].id == "b"
        assert (await store.asimilarity_search_with_score("0 2", k=1))[0][0].id == "b"


@pytest.mark.parametrize(
    ("given", "described"),
    [
        (None, "of type NoneType"),
        ("text-embedding-3-small", "of type str"),
        (lambda text: [1.0], "of type function"),
        (Spelled, "the class Spelled"),
        (bqstore.OpenAIEmbedder, "the class OpenAIEmbedder"),
        (type("Half", (), {"embed_query": Duck.embed_query})(), "of type Half"),
    ],
)
async def test_what_cannot_embed_is_refused_before_anything_is_opened(
    tmp_path: Path, given: Any, described: str
) -> None:
    path = tmp_path / "store"
    with pytest.raises(bqstore.InvalidInputError, match=f"embedding is {described}; expected a LangChain Embeddings"):
        BQVectorStore(given, path=path)
    with pytest.raises(bqstore.InvalidInputError, match=described):
        BQVectorStore.from_texts(["1 0"], given, path=path)
    with pytest.raises(bqstore.InvalidInputError, match=described):
        await BQVectorStore.afrom_texts(["1 0"], given, path=path)
    assert not path.exists()


@pytest.mark.parametrize("wrap", [EmbedderEmbeddings, EmbedderEmbedding])
@pytest.mark.parametrize("given", [None, "a model", Duck(), Toy])
def test_the_wrappers_take_embedders_only(wrap: Any, given: Any) -> None:
    with pytest.raises(bqstore.InvalidInputError, match=r"expected a bqstore\.Embedder"):
        wrap(given)


# ---- LlamaIndex


async def test_an_embedder_in_an_index() -> None:
    toy = Toy()
    with LlamaIndexStore() as store:
        embed_model = EmbedderEmbedding(toy)
        index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
        texts = [f"{i + 1} 1" for i in range(700)]
        pipeline = IngestionPipeline(transformations=[embed_model], vector_store=store)
        pipeline.run(documents=[LlamaDocument(id_=text, text=text) for text in texts])
        assert toy.calls == [512, 188]  # not text by text
        toy.threads.clear()
        await pipeline.arun(documents=[LlamaDocument(id_="-1 0", text="-1 0")])
        (found,) = await index.as_retriever(similarity_top_k=1).aretrieve("1 0")
        assert threading.get_ident() not in toy.threads
        assert found.node_id == "-1 0"
        (found,) = index.as_retriever(similarity_top_k=1).retrieve("-1 -1")
        assert found.node_id == "1 1"
    assert embed_model.model_name == "toy"
    assert embed_model.get_text_embedding("1 2") == await embed_model.aget_text_embedding("1 2") == [1.0, 2.0]
    assert embed_model.to_dict()["class_name"] == "EmbedderEmbedding"


# ---- OpenAI's, in both


class TestLangChainsOwnSuite(EmbeddingsIntegrationTests):
    """An `OpenAIEmbedder` made into an `Embeddings`, on a server of this machine."""

    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.url = server.url

    @property
    def embeddings_class(self) -> type[Embeddings]:
        def make(**settings: Any) -> Embeddings:
            return bqstore.OpenAIEmbedder(**settings).as_langchain()

        return make  # type: ignore[return-value]

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "a-model", "api_key": "sk-test", "base_url": self.url, "cache": False}


async def test_an_embedders_own_async_methods_are_used() -> None:
    class Async(Toy):
        async def aembed(self, texts: Sequence[str]) -> np.ndarray:
            self.calls.append("aembed")
            return self.embed(texts)

        async def aembed_query(self, text: str) -> np.ndarray:
            self.calls.append("aembed_query")
            return self.embed_query(text)

    toy = Async()
    embeddings, embed_model = EmbedderEmbeddings(toy), EmbedderEmbedding(toy)
    assert (
        await embeddings.aembed_documents(["1 0"]) == await embed_model.aget_text_embedding_batch(["1 0"]) == [[1, 0]]
    )
    assert await embeddings.aembed_query("1 0") == await embed_model.aget_query_embedding("1 0") == [-1, 0]
    assert await embed_model.aget_text_embedding("1 0") == [1, 0]
    assert toy.calls.count("aembed") == 3 and toy.calls.count("aembed_query") == 2
    assert toy.threads == {threading.get_ident()}


async def test_one_embedder_for_both_frameworks(tmp_path: Path, server: Server) -> None:
    made = bqstore.OpenAIEmbedder("a-model", api_key="sk-test", base_url=server.url, cache=tmp_path / "cache")
    with made as embedder:
        embeddings, embed_model = embedder.as_langchain(), embedder.as_llama_index()
        assert isinstance(embeddings, EmbedderEmbeddings) and isinstance(embed_model, EmbedderEmbedding)
        expected = embeddings.embed_documents(["cats", "dogs"])
        assert await embeddings.aembed_documents(["cats", "dogs"]) == expected
        assert embed_model.get_text_embedding_batch(["cats", "dogs"]) == expected
        assert await embed_model.aget_query_embedding("cats") == await embeddings.aembed_query("cats") == expected[0]
        assert len(server.requests) == 1


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


def test_openai_feeds_both_frameworks(tmp_path: Path, server: Server) -> None:
    keys = {"api_key": "sk-test", "base_url": server.url, "cache": False}
    with bqstore.OpenAIEmbedder(model="a-model", **keys) as embedder:
        with BQVectorStore(embedder, path=tmp_path) as store:
            store.add_texts(["cats", "dogs"], ids=["c", "d"])
            ((document, score),) = store.similarity_search_with_score("dogs", k=1)
            assert (document.id, score) == ("d", pytest.approx(1.0, abs=1e-6))
            np.testing.assert_allclose(store.collection.get(["c"], with_vectors=True)[0].vector, vector_of("cats"))
        with LlamaIndexStore(tmp_path, embedding_model=embedder.model) as vectors:
            index = VectorStoreIndex.from_vector_store(vectors, embed_model=EmbedderEmbedding(embedder))
            (found,) = index.as_retriever(similarity_top_k=1).retrieve("cats")
            assert found.node_id == "c"


class Another(Toy):
    model = "another"


class AsIs(Toy):
    """Its vectors are arrays that have no list of themselves."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        class Array(np.ndarray):
            def tolist(self) -> Any:
                raise AssertionError("a list was made")

        return super().embed(texts).view(Array)


async def test_an_embedders_vectors_go_into_the_store_as_they_are() -> None:
    with BQVectorStore(AsIs()) as store:
        store.add_texts(["1 0"], ids=["a"])
        await store.aadd_texts(["0 1"], ids=["b"])
        np.testing.assert_array_equal(store.collection.get(["b"], with_vectors=True)[0].vector, [0, 1])


def test_langchain_refuses_another_model(tmp_path: Path) -> None:
    with BQVectorStore(Toy(), path=tmp_path) as store:
        store.add_texts(["1 0"])
        assert store.collection.info().embedding_model == "toy"
    with pytest.raises(bqstore.SettingsConflictError, match=r"'another'.*'toy'"):
        BQVectorStore(Another(), path=tmp_path)
    with pytest.raises(bqstore.SettingsConflictError, match=r"'another'.*'toy'"):
        BQVectorStore(EmbedderEmbeddings(Another()), path=tmp_path, read_only=True)
    with BQVectorStore(Another(), path=tmp_path, embedding_model="toy"):
        pass  # another name for the same


@pytest.mark.filterwarnings("ignore:Call to deprecated method get_doc_id")  # LlamaIndex's, before 0.14.6
async def test_llama_index_refuses_a_query_of_another_model(tmp_path: Path) -> None:
    toy = EmbedderEmbedding(Toy())
    with LlamaIndexStore(tmp_path, embedding_model=toy.model_name) as store:
        index = VectorStoreIndex.from_vector_store(store, embed_model=toy)
        index.insert(LlamaDocument(text="1 0"))
    with LlamaIndexStore(tmp_path, read_only=True) as store:
        assert len(VectorStoreIndex.from_vector_store(store, embed_model=toy).as_retriever().retrieve("1 0")) == 1
        other = VectorStoreIndex.from_vector_store(store, embed_model=EmbedderEmbedding(Another()))
        for mode in ("default", "mmr"):
            with pytest.raises(bqstore.SettingsConflictError, match=r"'toy'.*'another'"):
                other.as_retriever(vector_store_query_mode=mode).retrieve("1 0")
        with pytest.raises(bqstore.SettingsConflictError, match=r"'toy'.*'another'"):
            await other.as_retriever().aretrieve("1 0")


def test_a_query_that_says_its_model_is_a_list_that_travels() -> None:
    vector = EmbedderEmbedding(Toy()).get_query_embedding("1 0.5")
    again = pickle.loads(pickle.dumps(vector))
    assert vector == again == [-1.0, -0.5] and isinstance(again, list) and again.model == "toy"


def test_langchain_refuses_another_dimension_and_a_read_only_store_before_anything_is_sent(
    tmp_path: Path, server: Server
) -> None:
    def make(dimensions: int) -> bqstore.OpenAIEmbedder:
        return bqstore.OpenAIEmbedder("own", dimensions=dimensions, api_key="sk-x", base_url=server.url, cache=False)

    with BQVectorStore(make(8), path=tmp_path) as store:
        store.add_texts(["1 0"])
    sent = len(server.requests)
    with pytest.raises(bqstore.SettingsConflictError, match=r"\(8 dimensions\).*\(4 dimensions\)"):
        BQVectorStore(make(4), path=tmp_path)
    with BQVectorStore(make(8), path=tmp_path, read_only=True) as store, pytest.raises(bqstore.ReadOnlyError):
        store.add_texts(["0 1"])
    assert len(server.requests) == sent


def test_an_embed_model_that_cannot_be_pickled_says_so(server: Server) -> None:
    embedder = bqstore.OpenAIEmbedder("own", api_key="sk-x", base_url=server.url, cache=False)
    embed_model = embedder.as_llama_index()
    with pytest.raises(TypeError, match="without num_workers"):
        pickle.dumps(embed_model)
    assert copy.deepcopy(embed_model).get_query_embedding("a") == embed_model.get_query_embedding("a")
    assert pickle.loads(pickle.dumps(EmbedderEmbedding(Plain()))).get_query_embedding("a") == [1.0, 2.0]


class Plain:
    """An embedder that travels."""

    model = "plain"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[1.0, 2.0] for _ in texts], np.float32)

    def embed_query(self, text: str) -> np.ndarray:
        return self.embed([text])[0]
