"""What users of LangChain give the store that once passed in silence, or was refused without a word why."""

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

import bqstore
from langchain_bqstore import BQVectorStore
from langchain_bqstore.embeddings import model_of

DIM = 8


class Named(DeterministicFakeEmbedding):
    """An embedding model of LangChain's that tells its name, as most do."""

    model: str = "one"


class HuggingFaceLike(DeterministicFakeEmbedding):
    model_name: str = "two"


class Broken(Embeddings):
    """Returns fewer vectors from the second call on."""

    calls = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        return [[1.0, float(i)] for i in range(len(texts) - (self.calls > 1))]

    def embed_query(self, text: str) -> list[float]:
        return [1.0, 0.0]


class Bad(Broken):
    """A vector of the second batch is not finite."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        return [[1.0, float("nan") if self.calls > 1 and i == 1 else 1.0] for i in range(len(texts))]


def test_another_embedding_model_of_langchain_of_the_same_dimension_is_refused(tmp_path: Any) -> None:
    """It was accepted, and every search answered nonsense."""
    with BQVectorStore(Named(size=DIM), path=tmp_path) as store:
        store.add_texts(["a"])
        assert store.collection.info().embedding_model == "one"
    with pytest.raises(bqstore.SettingsConflictError, match=r"embedding_model='two' contradicts .*'one'"):
        BQVectorStore(HuggingFaceLike(size=DIM), path=tmp_path)
    with BQVectorStore(HuggingFaceLike(size=DIM), path=tmp_path, embedding_model="one") as store:  # it has two names
        assert len(store.similarity_search("a")) == 1
    with BQVectorStore(DeterministicFakeEmbedding(size=DIM), path=tmp_path) as store:  # without a name
        assert len(store.similarity_search("a")) == 1


def test_a_cleared_store_remembers_the_model_of_what_is_added_next(tmp_path: Any) -> None:
    with BQVectorStore(Named(size=DIM), path=tmp_path) as store, bqstore.open(tmp_path) as col:
        store.add_texts(["a"])
        col.clear()
        with BQVectorStore(HuggingFaceLike(size=5), path=tmp_path) as other:
            other.add_texts(["b"])
        assert (col.info().embedding_model, col.info().dim) == ("two", 5)
        with pytest.raises(bqstore.SettingsConflictError):
            store.add_texts(["c"])


def test_names_of_models() -> None:
    def named(name: str = "Embedding", **attributes: Any) -> Any:
        return type(name, (SimpleNamespace,), {})(**attributes)

    assert model_of(named(model_id="amazon.titan")) == "amazon.titan"
    assert model_of(named(model=object(), model_name="name")) == "name"
    assert model_of(named(underlying_embeddings=named(model="inner"))) == "inner"
    assert model_of(named("AzureOpenAIEmbeddings", model="default", deployment="mine")) == "mine"
    assert model_of(named(model="small", deployment="default")) == "small"
    assert model_of(named(model="")) is None and model_of(named()) is None


async def test_too_few_vectors_are_told_as_that() -> None:
    for store in (BQVectorStore(Broken()), BQVectorStore(Broken())):
        store.add_texts(["a", "b"])
        words = r"the embedding model \(Broken\) returned 1 vectors for 2 texts"
        with pytest.raises(bqstore.EmbeddingError, match=words):
            store.add_texts(["c", "d"])
        with pytest.raises(bqstore.EmbeddingError, match=words):
            await store.aadd_texts(["c", "d"])
        assert len(store.collection) == 2


async def test_an_error_of_a_later_batch_names_the_place_in_the_callers_list_and_what_is_stored() -> None:
    texts, ids = list("abcde"), list("ABCDE")
    words = r"vector 1 holds NaN.*\(document 'D'\); it is text 3 of all, in a batch after 2 texts, which are stored"
    store = BQVectorStore(Bad())
    with pytest.raises(bqstore.InvalidInputError, match=words) as caught:
        store.add_texts(texts, ids=ids, batch_size=2)
    assert caught.value.index == 3 and store.collection.ids() == ["A", "B"]
    store = BQVectorStore(Bad())
    with pytest.raises(bqstore.InvalidInputError, match=words):
        await store.aadd_texts(texts, ids=ids, batch_size=2)
    store = BQVectorStore(Broken())
    with pytest.raises(bqstore.EmbeddingError, match="it is in a batch after 2 texts, which are stored"):
        store.add_texts(texts, ids=ids, batch_size=2)


class Limited(Broken):
    """Fails in the second call with an error of its own, as the clients of models do."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("rate limit")
        return [[1.0, 1.0] for _ in texts]


async def test_the_error_of_a_batch_that_was_not_embedded_carries_the_ids_that_were_added() -> None:
    """Documents stayed under ids that nobody was told."""
    texts = list("abcde")
    for way in ("add", "aadd"):
        store = BQVectorStore(Limited())
        with pytest.raises(RuntimeError, match="rate limit") as caught:
            if way == "add":
                store.add_texts(texts, batch_size=2)
            else:
                await store.aadd_texts(texts, batch_size=2)
        added: list[str] = caught.value.added  # type: ignore[attr-defined]
        assert added == store.collection.ids() and len(added) == 2
        store.add_texts(texts, ids=[*added, None, None, None], batch_size=2)  # replaces them
        assert [record.text for record in store.collection.get(store.collection.ids())] == texts
        with pytest.raises(bqstore.InvalidInputError) as refused:
            store.add_texts([1])  # type: ignore[list-item]
        assert refused.value.added == ()


async def test_a_filter_alone_finds_the_first_that_match() -> None:
    store = BQVectorStore(DeterministicFakeEmbedding(size=DIM))
    store.add_texts(list("abc"), [{"n": i} for i in range(3)], ids=list("abc"))
    condition = {"n": {"$gt": 0}}
    for found in (
        store.similarity_search(None, 1, filter=condition),
        await store.asimilarity_search(None, 1, filter=condition),
    ):
        assert [document.id for document in found] == ["b"]
    for scored in (
        store.similarity_search_with_score(None, 1, filter=condition),
        await store.asimilarity_search_with_score(None, 1, filter=condition),
    ):
        assert [(document.id, score) for document, score in scored] == [("b", 0.0)]
    with pytest.raises(bqstore.InvalidInputError, match="the query vector is None"):
        store.similarity_search(None)


def test_a_pickled_store_opens_by_itself(tmp_path: Any) -> None:
    for path in (None, tmp_path):
        with BQVectorStore(DeterministicFakeEmbedding(size=DIM), path=path, oversampling=5.0) as store:
            store.add_texts(["a"], ids=["1"])
            with pickle.loads(pickle.dumps(store)) as again:
                assert [document.id for document in again.similarity_search("a")] == ["1"]
                assert again.collection.info().search.oversampling == 5.0


def test_names_of_collections_are_any_text(tmp_path: Any) -> None:
    with BQVectorStore(DeterministicFakeEmbedding(size=DIM), path=tmp_path, collection_name="日本 docs"):
        assert bqstore.collections(tmp_path) == ["日本 docs"]


def test_an_unknown_keyword_of_a_search_lists_what_is_taken_there_and_nothing_else() -> None:
    store = BQVectorStore(DeterministicFakeEmbedding(size=DIM))
    known = "alpha, exact, filter, fusion, hnsw_ef, ignore_quantization, k, mode, oversampling, rerank, "
    known += "rescore, score_threshold, search_params, syntax, target_recall, text$"
    with pytest.raises(bqstore.UnknownKeywordError, match=f"no keyword 'nonsense'; known: {known}"):
        store.similarity_search("a", nonsense=1)
    with pytest.raises(bqstore.UnknownKeywordError, match="fetch_k belongs to max_marginal_relevance"):
        store.similarity_search("a", fetch_k=20)
    with pytest.raises(bqstore.UnknownKeywordError, match="did you mean 'filter'"):
        store.similarity_search("a", where={})


async def test_what_is_no_document_is_refused_by_name_before_anything_is_embedded() -> None:
    store = BQVectorStore(DeterministicFakeEmbedding(size=DIM))
    store.add_texts(["a"], ids=["1"])
    page: Any = Document("b")
    for wrong, words in (
        ([None], "document 0 is of type NoneType; expected a Document"),
        ([page, {"page_content": "b"}], "document 1 is of type dict"),
        (page, r"documents is a Document; expected a list: \[document\]"),
        ({"page_content": "b"}, "documents is a dict"),
        ("b", "documents is of type str"),
        (None, "documents is of type NoneType"),
    ):
        with pytest.raises(bqstore.InvalidInputError, match=words):
            store.add_documents(wrong)
        with pytest.raises(bqstore.InvalidInputError, match=words):
            await store.aadd_documents(wrong)
        with pytest.raises(bqstore.InvalidInputError, match=words):
            store.update_documents(["1"], wrong)
        with pytest.raises(bqstore.InvalidInputError, match=words):
            await store.aupdate_documents(["1"], wrong)
    assert [found.page_content for found in store.get_by_ids(["1"])] == ["a"] and len(store.collection) == 1


@pytest.mark.parametrize("query", [[1.0, 0.0], {"question": "a"}, b"a", 3])
async def test_a_query_that_is_no_text_was_given_to_the_embedding_model(query: Any) -> None:
    """Which said, at best, that a dict has no attribute of a string's."""
    store = BQVectorStore(Broken())
    store.add_texts(["a"])
    says = rf"query is of type {type(query).__name__}; expected a string"
    for search in (store.similarity_search, store.similarity_search_with_score, store.as_retriever().invoke):
        with pytest.raises(bqstore.InvalidInputError, match=says):
            search(query)
    for search in (store.max_marginal_relevance_search, store.similarity_search_with_relevance_scores, store.explain):
        with pytest.raises(bqstore.InvalidInputError, match=says):
            search(query)
    with pytest.raises(bqstore.InvalidInputError, match=says):
        await store.asimilarity_search(query)


class Unloaded(DeterministicFakeEmbedding):
    """A model whose weights are not there."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[0.0] * self.size for _ in texts]


async def test_a_model_that_returns_only_zeros_was_taken_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with BQVectorStore(Unloaded(size=4)) as store:
        store.add_texts(["a", "b"])
        await store.aadd_texts(["c"])  # told once
        assert len(store.collection) == 3
    (line,) = caplog.messages
    assert line.startswith("all 2 vectors that Unloaded returned are zeros") and "\n" not in line


def test_the_folder_by_position_was_answered_with_a_number_of_arguments(tmp_path: Any) -> None:
    with BQVectorStore(DeterministicFakeEmbedding(size=4), tmp_path, "mine") as store:
        assert store.collection.info().path == str(tmp_path) and bqstore.collections(tmp_path) == ["mine"]
    with pytest.raises(bqstore.InvalidInputError, match=r"embedding is of type str; .*it comes first, then the folder"):
        BQVectorStore(str(tmp_path), DeterministicFakeEmbedding(size=4))  # type: ignore[arg-type]


def test_a_deletion_of_ids_that_are_not_there_is_no_error_and_of_documents_names_their_ids() -> None:
    """As of LangChain's own store, Chroma's and Qdrant's; FAISS's raises."""
    with BQVectorStore(DeterministicFakeEmbedding(size=4)) as store:
        store.add_texts(["a"], ids=["1"])
        assert store.delete(["2"]) and store.collection.delete(["2"]) == 0 and len(store.collection) == 1
        with pytest.raises(bqstore.InvalidInputError, match=r"id 0 is a Document; ids are strings: use its \.id"):
            store.delete(store.get_by_ids(["1"]))  # type: ignore[arg-type]
