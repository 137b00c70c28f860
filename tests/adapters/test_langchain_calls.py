"""Calls that people know from langchain-chroma, langchain-qdrant and FAISS."""

import asyncio
import copy
import inspect
import logging
import pickle
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.load import dumps, loads
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from qdrant_client import models as q

import bqstore
from langchain_bqstore import BQRetriever, BQVectorStore, loading
from tests.adapters.langchain_texts import Spelled

TEXTS = ["1 0", "0.9 0.1", "0 1", "-1 0"]
METADATAS: list[dict[str, Any]] = [{"n": 1}, {"n": 2, "tag": "x"}, {"n": 3}, {}]


@pytest.fixture
def store() -> Iterator[BQVectorStore]:
    with BQVectorStore(Spelled()) as made:
        made.add_texts(TEXTS, METADATAS, ids=list("abcd"))
        yield made


def ids(documents: Any) -> list[str]:
    return [each[0].id if isinstance(each, tuple) else each.id for each in documents]


# ---- opening


def test_a_store_on_an_open_collection_leaves_it_open() -> None:
    with bqstore.open() as col:
        for make in (
            lambda: BQVectorStore(Spelled(), collection=col),
            lambda: BQVectorStore.from_collection(col, Spelled()),
        ):
            with make() as store:
                store.add_texts(["1 0"], ids=["a"])
            assert col.ids() == ["a"]
        assert ids(BQVectorStore.from_texts(["0 1"], Spelled(), ids=["b"], collection=col).get_by_ids(["a"])) == ["a"]


@pytest.mark.parametrize("beside", [{"path": "x"}, {"m": 32}, {"read_only": True}, {"distance": "dot"}])
def test_settings_beside_an_open_collection_are_refused(beside: dict[str, Any]) -> None:
    with bqstore.open() as col, pytest.raises(bqstore.InvalidInputError, match="is given beside collection="):
        BQVectorStore(Spelled(), collection=col, **beside)
    with pytest.raises(bqstore.InvalidInputError, match="expected an open"):
        BQVectorStore(Spelled(), collection=5)  # type: ignore[arg-type]


def test_threads_that_open_one_folder_at_once_and_a_cell_run_twice(tmp_path: Any) -> None:
    opened: list[Any] = []

    def open_one(i: int) -> None:
        opened.append(BQVectorStore.from_texts([f"{i} 1"], Spelled(), ids=[str(i)], path=tmp_path))

    threads = [threading.Thread(target=open_one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = BQVectorStore(Spelled(), path=tmp_path)  # the cell is run again, the old store not closed
    assert all(sorted(each.collection.ids()) == list("01234567") for each in [*opened, again])
    for each in [*opened, again]:
        each.close()


def search_elsewhere(store: BQVectorStore) -> list[str | None]:
    return [document.id for document in store.similarity_search("1 0", 1)]


@pytest.mark.slow  # seconds of a process that imports LangChain anew
def test_a_store_and_its_retriever_go_into_a_spawned_pool(tmp_path: Any) -> None:
    with BQVectorStore(Spelled2(), path=tmp_path) as store, get_context("spawn").Pool(1) as pool:
        store.add_texts(TEXTS, ids=list("abcd"))
        assert pool.apply(search_elsewhere, (store,)) == ["a"]
        assert ids(pool.apply(store.as_retriever(k=1).invoke, ("1 0",))) == ["a"]


class Spelled2(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(part) for part in text.split()] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.mark.parametrize(
    ("keyword", "here"),
    [
        ("persist_directory", "here it is path"),
        ("embedding_function", "here it is embedding"),
        ("collection_metadata", 'distance="euclid", m='),
        ("location", "here it is path"),
        ("client_settings", "the folder goes into path="),
        ("content_payload_key", "texts and metadata have their own places"),
        ("docstore", "the folder in path= holds all of it"),
        ("normalize_L2", "cosine"),
        ("client", "collection="),
    ],
)
def test_a_keyword_of_another_store_is_refused_with_the_name_it_has_here(keyword: str, here: str) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match=f"the store has no keyword '{keyword}': .*{here}"):
        BQVectorStore(Spelled(), **{keyword: "x"})


def test_a_store_opened_as_chroma_is_was_told_that_embedding_is_missing_and_no_more() -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match="'embedding_function': here it is embedding"):
        BQVectorStore(embedding_function=Spelled())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'embedding'"):
        BQVectorStore(path="x")  # type: ignore[call-arg]


def test_keywords_of_other_stores_in_calls(store: BQVectorStore) -> None:
    for keyword, here in (("offset", "limit=, offset="), ("explain", r"store\.explain"), ("where", "'filter'")):
        with pytest.raises(bqstore.UnknownKeywordError, match=here):
            store.similarity_search("1 0", **{keyword: {}})
    with pytest.raises(bqstore.UnknownKeywordError, match="here it is filter"):
        store.delete(where={"n": 1})
    assert len(store.collection) == 4


# ---- filters


def test_the_filter_may_be_the_third_argument(store: BQVectorStore) -> None:
    only, vector = {"n": 3}, [1.0, 0.0]
    for found in (
        store.similarity_search("1 0", 2, only),
        store.similarity_search_with_score("1 0", 2, only),
        store.similarity_search_by_vector(vector, 2, only),
        store.similarity_search_with_score_by_vector(vector, 2, only),
        store.similarity_search_by_vector_with_relevance_scores(vector, 2, only),
        store.max_marginal_relevance_search("1 0", 2, 20, 0.5, only),
        store.max_marginal_relevance_search_by_vector(vector, 2, 20, 0.5, only),
        store.max_marginal_relevance_search_with_score("1 0", 2, 20, 0.5, only),
        asyncio.run(store.asimilarity_search("1 0", 2, only)),
        asyncio.run(store.asimilarity_search_with_score("1 0", 2, only)),
    ):
        assert ids(found) == ["c"]


def test_a_function_of_the_metadata_as_faiss_takes_it(store: BQVectorStore) -> None:
    """It raised, and one that asks for a key matched nothing without a word."""
    bound = 1

    class Method:
        def accepts(self, metadata: dict[str, Any]) -> bool:
            return "tag" in metadata

    functions: list[tuple[Any, list[str]]] = [
        (lambda m: m.get("n", 0) > bound, ["b", "c"]),
        (lambda m: "tag" in m, ["b"]),
        (lambda m: "n" in m and m["n"] != 2, ["a", "c"]),
        (lambda m, key="tag": key not in m, ["a", "c", "d"]),
        (lambda m: any(key in m for key in ("tag",)), ["b"]),
        (lambda m: [key for key in m.keys() if key == "tag"], ["b"]),  # noqa: SIM118
        (lambda m: [key for key in m if key == "tag"], ["b"]),  # a Document can be looped over, too
        (lambda m: dict(**m).get("tag"), ["b"]),
        (lambda m: len(m) == 2, ["b"]),
        (Method().accepts, ["b"]),
        (lambda d: d in [Document("1 0", id="a", metadata={"n": 1})], ["a"]),  # of a Document, after all
        (lambda d: "0.9" in d.page_content, ["b"]),
    ]
    for function, wanted in functions:
        assert sorted(ids(store.similarity_search("1 0", filter=function))) == wanted
        both = {"n": {"$gte": 1}, "$and": [function]}
        assert sorted(ids(store.similarity_search("1 0", filter=both))) == [i for i in wanted if i != "d"]
    with pytest.raises(KeyError, match="n"):
        store.similarity_search("1 0", filter=lambda m: m["n"] > 1)
    with pytest.raises(TypeError, match="not supported"):
        store.similarity_search("1 0", filter=lambda d: d.metadata.get("n") > 1)


def test_filters_of_qdrant_and_chroma_in_calls(store: BQVectorStore) -> None:
    given: Any = q.Filter(must=[q.FieldCondition(key="metadata.n", range=q.Range(gte=2))])
    params = q.SearchParams(exact=True, quantization=q.QuantizationSearchParams(oversampling=2.0))
    assert ids(store.similarity_search("1 0", filter=given, search_params=params)) == ["b", "c"]
    assert ids(store.similarity_search("1 0", filter=given, where_document={"$contains": "0 1"})) == ["c"]
    assert ids(store.similarity_search("1 0", where_document={"$not_contains": "0"})) == []
    assert ids(store.as_retriever(where_document={"$contains": "-"}).invoke("1 0")) == ["d"]
    assert store.delete(filter=given) and store.collection.ids() == ["a", "d"]


# ---- searches


def test_mmr_and_vectors_with_scores(store: BQVectorStore) -> None:
    vector = [1.0, 0.0]
    plain = store.max_marginal_relevance_search("1 0", 3, lambda_mult=0.2)
    scores = {document.id: score for document, score in store.similarity_search_with_score("1 0", 4)}
    for scored in (
        store.max_marginal_relevance_search_with_score("1 0", 3, lambda_mult=0.2),
        store.max_marginal_relevance_search_with_score_by_vector(vector, 3, lambda_mult=0.2),
        asyncio.run(store.amax_marginal_relevance_search_with_score("1 0", 3, lambda_mult=0.2)),
        asyncio.run(store.amax_marginal_relevance_search_with_score_by_vector(vector, 3, lambda_mult=0.2)),
    ):
        assert [document for document, _ in scored] == plain
        assert [score for _, score in scored] == pytest.approx([scores[document.id] for document in plain])
    assert ids(plain) != ids(store.similarity_search("1 0", 3))
    relevant = store.similarity_search_with_relevance_scores("1 0", 4, score_threshold=0.5)
    for found in (
        store.similarity_search_by_vector_with_relevance_scores(vector, 4, score_threshold=0.5),
        asyncio.run(store.asimilarity_search_by_vector_with_relevance_scores(vector, 4, score_threshold=0.5)),
    ):
        assert found == relevant and ids(found) == ["a", "b"]


def test_relevance_under_dot_of_vectors_that_are_not_of_unit_length_is_refused() -> None:
    """It was cut to 0 and 1: every document was as relevant as can be."""
    with BQVectorStore(Spelled(), distance="dot") as store:
        store.add_texts(["2 0", "0.6 0.8"], ids=["long", "unit"])
        with pytest.raises(bqstore.InvalidInputError, match=r"a score is 2: .*unit length.*distance=\"cosine\""):
            store.similarity_search_with_relevance_scores("1 0")
        assert ids(store.similarity_search_with_score("1 0", 1)) == ["long"]
        store.delete(["long"])
        ((_, relevance),) = store.similarity_search_with_relevance_scores("1 0")
        assert relevance == pytest.approx(0.6)


def test_how_a_search_is_done(store: BQVectorStore) -> None:
    told = store.explain("1 0", 2, {"n": {"$gte": 2}})
    assert (told.way, told.accepted) == ("exact", 2)


# ---- adding, getting, changing


def test_texts_with_their_vectors(tmp_path: Any) -> None:
    class Never(Spelled):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise AssertionError

    pairs = [("x", [1.0, 0.0]), ("y", np.array([0.0, 1.0]))]
    with BQVectorStore.from_embeddings(iter(pairs), Never(), [{"n": 1}, None], ["a", "b"], path=tmp_path) as store:
        assert store.get_by_ids(["a", "b"]) == [Document("x", id="a", metadata={"n": 1}), Document("y", id="b")]
        assert store.add_embeddings(pairs, ids=["a", "c"], batch_size=1) == ["a", "c"]
        assert asyncio.run(store.aadd_embeddings(pairs[:1], ids=["d"])) == ["d"]
        assert ids(store.similarity_search("0 1", 4))[:2] == ["b", "c"] and len(store.collection) == 4
    how: Any = {"path": tmp_path, "collection_name": "other", "batch_size": 1}
    with asyncio.run(BQVectorStore.afrom_embeddings(pairs, Never(), [{"n": 1}, None], ["a", "b"], **how)) as store:
        assert store.get_by_ids(["a", "b"]) == [Document("x", id="a", metadata={"n": 1}), Document("y", id="b")]
        with pytest.raises(bqstore.InvalidInputError, match=r"text_embeddings\[1\] is a str; expected \(text, vector"):
            store.add_embeddings([("x", [1.0, 0.0]), "y"])  # type: ignore[list-item]


def test_get_returns_columns_as_chroma_does(store: BQVectorStore) -> None:
    assert store.get("b") == {"ids": ["b"], "documents": ["0.9 0.1"], "metadatas": [METADATAS[1]], "embeddings": None}
    assert store.get(limit=2, offset=1)["ids"] == ["b", "c"]
    assert store.get(["d", "unknown", "a", "b"], {"n": {"$lt": 3}})["ids"] == ["a", "b"]
    assert store.get(["d", "c", "a"], limit=1, offset=1)["ids"] == ["c"]
    for wrong in ({"limit": -1}, {"offset": -1}, {"limit": 1.5}, {"offset": True}):  # a slice took them in silence
        for ids in (["a", "b"], None):
            with pytest.raises(bqstore.InvalidInputError, match=f"{next(iter(wrong))} is .*; expected an integer"):
                store.get(ids, **wrong)
    assert store.get(where={"n": 3}, include=[]) == dict.fromkeys(("documents", "metadatas", "embeddings"), None) | {
        "ids": ["c"]
    }
    (vector,) = store.get("b", include=["embeddings"])["embeddings"]
    assert vector.tolist() == pytest.approx([0.9, 0.1])
    assert store.get(where_document={"$contains": "-1"})["ids"] == ["d"]
    with pytest.raises(bqstore.InvalidInputError, match="include has 'distances'; expected some of documents"):
        store.get(include=["distances"])


def test_documents_are_updated(store: BQVectorStore) -> None:
    store.update_document("a", Document("0 -1", metadata={"new": True}))
    asyncio.run(store.aupdate_documents(["b", "unknown"], (Document(text) for text in ("0 -2", "0 -3"))))
    assert store.get_by_ids(["a", "b"]) == [Document("0 -1", id="a", metadata={"new": True}), Document("0 -2", id="b")]
    assert set(ids(store.similarity_search("0 -1", 2))) == {"a", "b"} and len(store.collection) == 4
    assert store.update_metadata(["c"], {"m": 1}) == 1
    assert store.update_metadata(filter=lambda m: "m" in m, metadata={"n": 4}) == 1
    assert store.get("c")["metadatas"] == [{"n": 4, "m": 1}]
    with pytest.raises(bqstore.InvalidInputError, match="ids has 1 entries for 2 texts"):
        store.update_documents(["a"], [Document("1 0"), Document("1 0")])


def test_a_collection_is_reset_and_deleted(tmp_path: Any) -> None:
    store = BQVectorStore.from_texts(["1 0"], Spelled(), path=tmp_path, collection_name="one")
    store.reset_collection()
    store.add_texts(["1 0 0"])  # of another dimension
    with BQVectorStore(Spelled(), path=tmp_path, collection_name="one", read_only=True) as reader:
        with pytest.raises(bqstore.ReadOnlyError):
            reader.delete_collection()
        store.delete_collection()
    assert bqstore.collections(tmp_path) == []
    with pytest.raises(bqstore.ClosedError):
        store.add_texts(["1 0"])
    BQVectorStore(Spelled()).delete_collection()


# ---- retrievers


async def test_a_retriever_puts_the_score_into_the_metadata_on_request(store: BQVectorStore) -> None:
    for search_type, more in (
        ("similarity", {}),
        ("mmr", {"lambda_mult": 1.0}),
        ("similarity_score_threshold", {"score_threshold": 0.1}),
    ):
        retriever = store.as_retriever(search_type=search_type, k=2, score_key="score", **more)
        assert isinstance(retriever, BQRetriever)
        found = retriever.invoke("1 0")
        assert [document.metadata["score"] for document in found] == pytest.approx([1.0, 0.99388], abs=1e-3)
        assert await retriever.ainvoke("1 0") == found
        bare = store.as_retriever(search_type=search_type, k=2, **more).invoke("1 0")
        assert all("score" not in document.metadata for document in bare) and ids(bare) == ids(found)
    assert "score" not in store.get_by_ids(["a"])[0].metadata


def test_as_retriever_takes_every_setting_and_refuses_the_rest(store: BQVectorStore) -> None:
    made = store.as_retriever(
        k=1, filter={"n": 2}, search_kwargs={"k": 3, "exact": True}, tags=["t"], metadata={"m": 1}, name="animals"
    )
    assert made.search_kwargs == {"k": 1, "exact": True, "filter": {"n": 2}}
    assert (made.tags or [])[0] == "t" and made.metadata == {"m": 1} and made.name == "animals"
    assert ids(made.invoke("1 0")) == ["b"] and ids(made.invoke("1 0", filter={"n": 3})) == ["c"]
    with pytest.raises(
        bqstore.UnknownKeywordError, match="as_retriever\\(\\) has no keyword 'top_k'; known: alpha, exact"
    ):
        store.as_retriever(top_k=3)
    again = pickle.loads(pickle.dumps(made))
    assert ids(again.invoke("1 0")) == ["b"]


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_a_chain_is_written_and_loaded_again_without_secrets(tmp_path: Any) -> None:
    """`dumps` wrote "not_implemented", which `load` refuses."""

    class Secret(Spelled):
        api_key = "sk-secret"

    with BQVectorStore(Secret(), path=tmp_path, collection_name="one", oversampling=5.0) as store:
        store.add_texts(TEXTS, METADATAS, ids=list("abcd"))
        retriever = store.as_retriever(k=2, filter={"n": {"$gte": 2}}, score_key="score", tags=["t"])
        prompt = ChatPromptTemplate.from_template("{context} | {question}")
        chain = {"context": retriever, "question": RunnablePassthrough()} | prompt
        written, answer = dumps(chain), chain.invoke("1 0")
    assert "sk-secret" not in written and "not_implemented" not in written
    own: Any = {("langchain_bqstore", "BQRetriever"): ("langchain_bqstore", "BQRetriever")}
    how: dict[str, Any] = {"valid_namespaces": ["langchain_bqstore"], "additional_import_mappings": own}
    if "allowed_objects" in inspect.signature(loads).parameters:  # the first versions load whatever is mapped
        how["allowed_objects"] = "core"
    with pytest.raises(ValueError, match=r"with langchain_bqstore\.loading\(embedding\)"):
        loads(written, **how)
    with loading(Spelled()):
        again = loads(written, **how)
    assert again.invoke("1 0") == answer
    made = again.first.steps__["context"]
    assert (made.search_kwargs, made.score_key, made.tags) == (retriever.search_kwargs, "score", retriever.tags)
    with made.vectorstore as opened:
        assert opened.collection.info().search.oversampling == 5.0
    bqstore.drop(tmp_path, "one")
    with loading(Spelled()), pytest.raises(bqstore.NotFoundError, match="there is no collection 'one'"):
        loads(written, **how)
    assert "not_implemented" in dumps(BQVectorStore(Spelled()).as_retriever())
    twice = copy.deepcopy(BQVectorStore.from_texts(["1 0"], Spelled()).as_retriever(k=1))
    assert len(twice.invoke("1 0")) == 1


# ---- manners


async def test_async_calls_do_not_stall_the_event_loop(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the model was compared, and stored, on the event loop."""
    called: set[int] = set()

    def noted(method: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            called.add(threading.get_ident())
            return method(*given, **named)

        return call

    with BQVectorStore(Spelled(), path=tmp_path, embedding_model="spelled") as store:
        store.add_texts([f"{i} 1" for i in range(3000)])
        store.similarity_search("1 0")
        for name in ("add", "search", "check_model", "max_marginal_relevance", "delete", "update", "get"):
            monkeypatch.setattr(bqstore.Collection, name, noted(getattr(bqstore.Collection, name)))
        spent: list[float] = []

        async def beat() -> None:
            while True:
                before = time.thread_time()  # of the loop's thread: what others do meanwhile takes none of it
                await asyncio.sleep(0.001)
                spent.append(time.thread_time() - before)

        heart = asyncio.create_task(beat())
        searches = [store.asimilarity_search("1 0", filter={"n": {"$exists": False}}) for _ in range(150)]
        adds = [store.aadd_texts(["1 2"], ids=[f"new {i}"]) for i in range(50)]
        before = threading.active_count()
        others = [
            store.adelete(["new 1"]),
            store.aadd_documents([Document("1 3", id="new 2")]),
            store.aupdate_documents(["new 2"], [Document("1 4")]),
            store.aadd_embeddings([("x", [1.0, 0.0])]),
            store.amax_marginal_relevance_search("1 0"),
            store.asimilarity_search_with_relevance_scores("1 0"),
            store.aget_by_ids(["new 2"]),
        ]
        done = await asyncio.gather(*searches, *adds, *others)
        heart.cancel()
        assert all(len(found) == 4 for found in done[:150]) and threading.active_count() < before + 40
        assert called and threading.get_ident() not in called, "the loop's thread did it"
        assert sorted(spent)[len(spent) * 95 // 100] < 0.02


def test_a_root_logger_at_debug_hears_nothing_of_numba(caplog: pytest.LogCaptureFixture, store: BQVectorStore) -> None:
    with caplog.at_level(logging.DEBUG):
        store.add_texts([f"{i} 1" for i in range(300)])
        store.similarity_search("1 0", filter={"n": 1})
    assert len(caplog.records) < 20


def test_ids_come_third_as_in_the_stores_of_others(store: BQVectorStore) -> None:
    assert store.add_texts(["5 5"], [{"n": 5}], ["five"]) == ["five"]
    assert [document.id for document in store.get_by_ids(["five"])] == ["five"]


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("persist", "durable already"),
        ("save_local", "durable already"),
        ("docstore", "store.collection"),
        ("load_local", "opens"),
        ("similarity_search_with_vectors", "with_vectors=True"),
        ("add_images", "add_embeddings"),
        ("hybrid_search", 'mode="hybrid"'),
        ("fork", "bqstore.copy"),
    ],
)
def test_a_method_of_another_store_was_an_attribute_error_without_a_way_on(
    store: BQVectorStore, name: str, here: str
) -> None:
    with pytest.raises(AttributeError, match=f"BQVectorStore has no '{name}': .*{here}"):
        getattr(store, name)
    with pytest.raises(AttributeError, match=f"BQVectorStore has no '{name}': .*{here}"):
        getattr(BQVectorStore, name)  # FAISS.load_local is called on the class
    assert not hasattr(store, name)
    with pytest.raises(AttributeError, match=r"no attribute 'similarity_serch'$"):
        store.similarity_serch("1 0")  # type: ignore[attr-defined]
