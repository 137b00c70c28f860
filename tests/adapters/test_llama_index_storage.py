"""`BQKVStore`, `BQDocumentStore`, `BQIndexStore` beside LlamaIndex's in-memory ones, and a whole StorageContext."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import (
    Document,
    MockEmbedding,
    StorageContext,
    SummaryIndex,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.data_structs import IndexDict
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter, get_leaf_nodes
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.index_store import SimpleIndexStore
from llama_index.core.storage.kvstore import SimpleKVStore

import bqstore
from llama_index.vector_stores.bqstore import BQDocumentStore, BQIndexStore, BQKVStore, BQVectorStore

from ..engine.other_process import other_process

MOCK = MockEmbedding(embed_dim=3)


@pytest.fixture(params=["ours", "simple"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    store = BQKVStore(tmp_path) if request.param == "ours" else SimpleKVStore()
    yield store
    if isinstance(store, BQKVStore):
        store.close()


def test_a_key_value_store_answers_as_the_simple_one(kv: Any) -> None:
    kv.put("a", {"n": 1, "deep": {"list": [1, None, "é\ud800"]}})
    kv.put("a", {"n": 2}, collection="other")
    kv.put_all([("b", {"n": 3}), ("c", {})])
    assert kv.get("a") == {"n": 1, "deep": {"list": [1, None, "é\ud800"]}}
    assert kv.get("a", collection="other") == {"n": 2} and kv.get("z") is None and kv.get("a", "nowhere") is None
    assert {*kv.get_all()} == {"a", "b", "c"} and kv.get_all("nowhere") == {}
    kv.get("b")["n"] = 9
    assert kv.get("b") == {"n": 3}
    assert kv.delete("a") is True and kv.delete("a") is False and kv.get("a", "other") == {"n": 2}


async def test_async_twins_answer_as_the_simple_one(kv: Any) -> None:
    await asyncio.gather(*(kv.aput(str(i), {"n": i}) for i in range(5)))
    await kv.aput_all([("x", {"n": 9}), ("y", {"n": 8})], collection="c")
    assert await kv.aget("3") == {"n": 3} and await kv.aget("3", "c") is None
    assert await kv.aget_all("c") == {"x": {"n": 9}, "y": {"n": 8}}
    assert await kv.adelete("3") is True and await kv.adelete("3") is False


def test_values_that_are_no_json_are_refused_and_none_of_the_call_is_written(tmp_path: Path) -> None:
    kv = BQKVStore(tmp_path)
    with pytest.raises(bqstore.InvalidInputError, match="the value of 'b' cannot be written as JSON"):
        kv.put_all([("a", {"n": 1}), ("b", {"n": object()})])
    assert kv.get_all() == {}
    kv.close()


def nodes() -> list[Any]:
    def source(name: str) -> dict[Any, Any]:
        return {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=name)}

    return [
        TextNode(id_="1", text="one", metadata={"k": [1, 2]}, relationships=source("d1"), embedding=[0.5, 1e-30, 1]),
        TextNode(id_="2", text="two", relationships=source("d1")),
        IndexNode(id_="3", text="three", index_id="other", relationships=source("d2")),
        Document(id_="d3", text="four"),
    ]


def told(store: Any) -> dict[str, Any]:
    """All that a document store says."""
    return {
        "docs": {key: node.to_dict() for key, node in store.docs.items()},
        "kinds": {key: type(node) for key, node in store.docs.items()},
        "ref": {key: info.to_dict() for key, info in (store.get_all_ref_doc_info() or {}).items()},
        "hashes": store.get_all_document_hashes(),
        "there": [store.document_exists(key) for key in ("1", "2", "3", "d3", "none")],
        "refs": [store.ref_doc_exists(key) for key in ("d1", "d2", "d3")],
    }


def test_a_document_store_tells_what_the_simple_one_tells_after_each_step(tmp_path: Path) -> None:
    ours, simple = BQDocumentStore(tmp_path), SimpleDocumentStore()
    steps: list[Any] = [
        lambda store: store.add_documents(nodes()),
        lambda store: store.add_documents([TextNode(id_="1", text="one again")]),
        lambda store: store.set_document_hash("d9", "hash"),
        lambda store: store.set_document_hashes({"d7": "h7", "d8": "h8"}),
        lambda store: store.delete_document("2"),
        lambda store: store.delete_document("none", raise_error=False),
        lambda store: store.add_documents(nodes()[1:2], store_text=False),
        lambda store: store.delete_ref_doc("d1"),
        lambda store: asyncio.run(store.async_add_documents(nodes())),
        lambda store: asyncio.run(store.adelete_document("3")),
        lambda store: asyncio.run(store.adelete_ref_doc("d1")),
    ]
    for i, step in enumerate(steps):
        for store in (ours, simple):
            step(store)
        assert told(ours) == told(simple), i
        with_others = BQDocumentStore(tmp_path, read_only=True)  # and so does another opening
        assert told(with_others) == told(simple), i
        with_others.close()
    for store in (ours, simple):
        with pytest.raises(ValueError, match="already exists"):
            store.add_documents(nodes()[3:], allow_update=False)
        with pytest.raises(ValueError, match="not found"):
            store.delete_document("none")
    ours.persist(str(tmp_path / "anywhere"))
    assert not (tmp_path / "anywhere").exists()
    ours.close()


def test_an_index_store_answers_as_the_simple_one(tmp_path: Path) -> None:
    for store in (BQIndexStore(tmp_path), SimpleIndexStore()):
        one, two = IndexDict(index_id="one"), IndexDict(index_id="two", summary="s")
        one.add_node(TextNode(id_="n"))
        store.add_index_struct(one)
        assert store.get_index_struct() == one
        store.add_index_struct(two)
        assert {each.index_id for each in store.index_structs()} == {"one", "two"}
        assert store.get_index_struct("two") == two and store.get_index_struct("none") is None
        asyncio.run(store.adelete_index_struct("two"))
        store.delete_index_struct("none")
        assert [each.to_dict() for each in store.index_structs()] == [one.to_dict()]
        if isinstance(store, BQIndexStore):
            store.close()


def context(path: Path) -> StorageContext:
    return StorageContext.from_defaults(
        docstore=BQDocumentStore(path), index_store=BQIndexStore(path), vector_store=BQVectorStore(path)
    )


def closed(storage: StorageContext) -> None:
    for store in (storage.docstore, storage.index_store, storage.vector_store):
        store.close()  # type: ignore[attr-defined]


def test_a_whole_storage_context_is_one_durable_place(tmp_path: Path) -> None:
    storage = context(tmp_path)
    vectors = VectorStoreIndex(nodes()[:2], storage_context=storage, embed_model=MOCK, store_nodes_override=True)
    summary = SummaryIndex(nodes()[2:], storage_context=storage)
    storage.persist(str(tmp_path / "persisted"))  # nothing is left to do
    storage.vector_store.collection.backup(tmp_path / "copy")  # type: ignore[attr-defined]
    closed(storage)
    for path in (tmp_path, tmp_path / "copy"):
        again = context(path)
        one = load_index_from_storage(again, index_id=vectors.index_id, embed_model=MOCK, store_nodes_override=True)
        two = load_index_from_storage(again, index_id=summary.index_id)
        assert {found.node_id for found in one.as_retriever(similarity_top_k=9).retrieve("x")} == {"1", "2"}
        assert {found.node_id for found in two.as_retriever().retrieve("x")} == {"3", "d3"}
        assert told(again.docstore)["refs"] == [True, True, False]
        one.delete_ref_doc("d1", delete_from_docstore=True)
        assert told(again.docstore)["refs"] == [False, True, False]
        closed(again)


@pytest.mark.parametrize("strategy", list(DocstoreStrategy))
def test_an_ingestion_pipeline_remembers_documents_after_reopening(tmp_path: Path, strategy: DocstoreStrategy) -> None:
    def run(texts: dict[str, str]) -> int:
        store, docstore = BQVectorStore(tmp_path), BQDocumentStore(tmp_path)
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(), MOCK],
            docstore=docstore,
            vector_store=store,
            docstore_strategy=strategy,
            disable_cache=True,
        )
        made = pipeline.run(documents=[Document(id_=key, text=text) for key, text in texts.items()])
        store.close()
        docstore.close()
        return len(made)

    assert run({"a": "one", "b": "two"}) == 2
    assert run({"a": "one", "b": "two"}) == 0
    assert run({"a": "one", "b": "changed"}) == 1
    with bqstore.open(tmp_path) as col:
        assert len(col) == (3 if strategy == DocstoreStrategy.DUPLICATES_ONLY else 2)


def test_an_ingestion_cache_is_there_after_reopening(tmp_path: Path) -> None:
    made: list[str] = []

    class Counting(MockEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            made.extend(texts)
            return super()._get_text_embeddings(texts)

    for _ in range(2):
        cache = IngestionCache(cache=BQKVStore(tmp_path), collection="cache")
        pipeline = IngestionPipeline(transformations=[Counting(embed_dim=3)], cache=cache)
        (found,) = pipeline.run(documents=[Document(id_="a", text="one")])
        assert found.embedding == [0.5] * 3
        cache.cache.close()  # type: ignore[attr-defined]
    assert len(made) == 1


@pytest.mark.filterwarnings(
    "ignore:Call to deprecated method get_doc_id:DeprecationWarning"
)  # LlamaIndex's, before 0.14.6
def test_parents_are_merged_and_documents_refreshed_from_the_folder(tmp_path: Path) -> None:
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[64, 16], chunk_overlap=0)
    text = " ".join(f"Cats sleep {hours} hours." for hours in range(12))  # older retrievers drop what has the same text
    parsed = parser.get_nodes_from_documents([Document(id_="d", text=text)])
    storage = context(tmp_path)
    storage.docstore.add_documents(parsed)
    VectorStoreIndex(get_leaf_nodes(parsed), storage_context=storage, embed_model=MOCK)
    closed(storage)
    again = context(tmp_path)
    base = VectorStoreIndex.from_vector_store(again.vector_store, embed_model=MOCK).as_retriever(similarity_top_k=50)
    merged = AutoMergingRetriever(base, again).retrieve("x")
    parents = {node.node_id for node in parsed} - {node.node_id for node in get_leaf_nodes(parsed)}
    assert merged and {found.node_id for found in merged} <= parents
    closed(again)

    pages = [Document(id_="p", text="first"), Document(id_="q", text="same")]
    storage = context(tmp_path / "pages")
    index = VectorStoreIndex.from_documents(pages, storage, embed_model=MOCK, store_nodes_override=True)
    closed(storage)
    storage = context(tmp_path / "pages")
    index = load_index_from_storage(storage, embed_model=MOCK, store_nodes_override=True)
    changed = [Document(id_="p", text="second"), Document(id_="q", text="same"), Document(id_="r", text="new")]
    assert index.refresh_ref_docs(changed) == [True, False, True]
    found = {each.get_content() for each in index.as_retriever(similarity_top_k=9).retrieve("x")}
    assert found == {"second", "same", "new"}
    closed(storage)


@pytest.mark.slow  # the framework is imported a second time
def test_another_process_opens_all_of_it(tmp_path: Path) -> None:
    storage = context(tmp_path)
    VectorStoreIndex(nodes()[:2], storage_context=storage, embed_model=MOCK, store_nodes_override=True)
    with other_process(None) as other:
        other("import sys; sys.path.insert(0, 'integrations')")
        other("import llama_index.vector_stores.bqstore as b; from llama_index.core import *")
        other(f"p = {str(tmp_path)!r}; d, i, v = b.BQDocumentStore(p), b.BQIndexStore(p), b.BQVectorStore(p)")
        other("s = StorageContext.from_defaults(docstore=d, index_store=i, vector_store=v)")
        other("x = load_index_from_storage(s, embed_model=MockEmbedding(embed_dim=3))")
        assert sorted(other("[f.node_id for f in x.as_retriever(similarity_top_k=9).retrieve('x')]")) == ["1", "2"]
        other("d.add_documents([__import__('llama_index.core.schema', fromlist=['x']).TextNode(id_='9', text='t')])")
    assert storage.docstore.get_document("9").get_content() == "t"
    closed(storage)


@pytest.mark.parametrize("kind", [BQKVStore, BQDocumentStore, BQIndexStore])
def test_each_is_closed_by_with(tmp_path: Path, kind: Any) -> None:
    with kind(tmp_path) as store:
        assert isinstance(store, kind)
    with pytest.raises(bqstore.ClosedError):
        getattr(store, "_kvstore", store).get("a")


@pytest.mark.parametrize("kind", [BQKVStore, BQDocumentStore, BQIndexStore])
def test_collection_was_answered_with_the_error_of_another_function(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(bqstore.UnknownKeywordError, match="no keyword 'collection': here it is collection_name"):
        kind(tmp_path, collection="x")
    with pytest.raises(bqstore.UnknownKeywordError, match="no keyword 'persist_dir': here it is path"):
        kind(persist_dir=str(tmp_path))
    if kind is not BQKVStore:
        with pytest.raises(bqstore.InvalidInputError, match="namespace is 3; expected a string"):
            kind(tmp_path, namespace=3)
        with pytest.raises(bqstore.UnknownKeywordError, match="'kvstore': leave it out"):
            kind(kvstore=3)
